/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What C does for the files of Rust beside it, declared for them by ffi.rs. In a kernel's tree it is part of
 * rust/helpers, which bindgen reads.
 */
#ifndef PINNED_SGL_HELPERS_H
#define PINNED_SGL_HELPERS_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;
struct iommu_domain;
struct iommu_iotlb_gather;
struct mm_struct;
struct page;
struct scatterlist;
struct sg_table;
struct task_struct;
struct user_struct;

#define __rust_helper

long rust_helper_gup_pin(struct mm_struct *mm, unsigned long start, size_t count,
			 unsigned int flags, struct page **pages);
size_t rust_helper_gup_first_run(struct page *const *pages, size_t count, u64 *pfn, u64 *provider);
size_t rust_helper_gup_singles(struct page *const *pages, size_t count, u64 *pfns);
void rust_helper_gup_unpin_run(u64 pfn, u64 count, bool dirty);
void rust_helper_gup_copy_from(u64 phys, void *to, size_t len);
void rust_helper_gup_copy_to(u64 phys, const void *from, size_t len);
void rust_helper_gup_report_leak(u64 user, u64 pfn, u64 count);

bool rust_helper_memlock_is_unlimited(void);
struct user_struct *rust_helper_memlock_current_user(void);
int rust_helper_memlock_charge(u32 counter, struct mm_struct *mm, struct user_struct *user,
			       struct task_struct *task, u64 pages, u64 *charged, u64 *limit);
void rust_helper_memlock_uncharge(u32 counter, struct mm_struct *mm, struct user_struct *user,
				  u64 pages);
void rust_helper_memlock_report_excess(u64 pages);

void *rust_helper_iommu_domain_attach(struct device *device, gfp_t gfp, struct iommu_domain **made);
void rust_helper_iommu_domain_detach(void *resource, struct device *device);
size_t rust_helper_iommu_domain_reserved(struct device *device, u64 ranges[][2], size_t most);
int rust_helper_iommu_domain_map(struct iommu_domain *domain, unsigned long iova, u64 phys,
				 size_t len, u32 prot, gfp_t gfp);
int rust_helper_iommu_domain_map_runs(struct iommu_domain *domain, unsigned long iova,
				      struct scatterlist *runs, size_t count, size_t len, u32 prot,
				      gfp_t gfp);
void rust_helper_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather);
void rust_helper_iommu_iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather);

void rust_helper_run_table_limits(struct device *device, u64 *max_len, u64 *boundary_mask);
int rust_helper_run_table_set(struct scatterlist **at, u64 phys, u32 len);
u64 rust_helper_run_table_phys(struct scatterlist *entry);
void rust_helper_dma_sync_sgtable_for_cpu(struct device *device, struct sg_table *table,
					  enum dma_data_direction direction);
void rust_helper_dma_sync_sgtable_for_device(struct device *device, struct sg_table *table,
					     enum dma_data_direction direction);
int rust_helper_dma_get_sgtable(struct device *device, struct sg_table *table, void *memory,
				u64 first, size_t size);

#endif
