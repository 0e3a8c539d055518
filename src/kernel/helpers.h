/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef PINNED_SGL_HELPERS_H
#define PINNED_SGL_HELPERS_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;
struct iommu_domain;
struct iommu_iotlb_gather;
struct mm_struct;
struct page;
struct pinned_sgl_attached;
struct scatterlist;
struct sg_table;
struct task_struct;
struct user_struct;

/* Pins up to `count` pages (as many as an int counts) from `start` on: how many, or an errno. */
long pinned_sgl_pin(struct mm_struct *mm, unsigned long start, size_t count, u32 flags,
		    struct page **pages);
/*
 * How many of `count` pages (one at least) continue each other, and what they are: `provider` is 0
 * for ordinary memory. The next run may continue this one.
 */
size_t pinned_sgl_first_run(struct page *const *pages, size_t count, u64 *pfn, u64 *provider);
/*
 * The frames of up to `count` pages behind the first one of `pages`, as long as none continues the
 * one before, and all are ordinary memory: how many.
 */
size_t pinned_sgl_singles(struct page *const *pages, size_t count, u64 *pfns);
void pinned_sgl_unpin_pages(struct page **pages, size_t count);
void pinned_sgl_unpin_run(u64 pfn, u64 count, bool dirty);
/* Warns in the log of pins that stay for ever. */
/* The same for single pages that need not lie side by side, 16 at the most. */
void pinned_sgl_unpin_singles(const u64 *pfns, size_t count, bool dirty);
void pinned_sgl_leaked(u64 user, u64 pfn, u64 count);

/* Whether current may lock as much as it likes. */
bool pinned_sgl_is_unlimited(void);
/* The user of current, with a reference: for free_uid(). */
struct user_struct *pinned_sgl_current_user(void);
/*
 * Charges `pages` in one of the counters of `Counter`, within the limit of `task`, which is none without one: ENOMEM
 * beyond the limit, with what is counted, and the limit; EINTR if current is killed while it waits.
 */
int pinned_sgl_charge(u32 counter, struct mm_struct *mm, struct user_struct *user,
		      struct task_struct *task, u64 pages, u64 *charged, u64 *limit);
void pinned_sgl_uncharge(u32 counter, struct mm_struct *mm, struct user_struct *user, u64 pages);

/* Warns in the log of a caller that gives back what it does not have. */
void pinned_sgl_not_charged(u64 pages);

void pinned_sgl_read_phys(u64 phys, void *to, size_t len);
void pinned_sgl_write_phys(u64 phys, const void *from, size_t len);

/* Makes a domain with the device in it; an errno as a pointer, where that cannot be. */
struct pinned_sgl_attached *pinned_sgl_domain_attach(struct device *device, gfp_t gfp,
						     struct iommu_domain **made);
/* Takes the device out and frees the domain: before the driver is unbound, or as a resource that is younger. */
void pinned_sgl_domain_detach(struct pinned_sgl_attached *attached, struct device *device);
/* The addresses that a device cannot use: first and last of at most `most`; how many there are. */
size_t pinned_sgl_reserved(struct device *device, u64 ranges[][2], size_t most);
/* Maps all of it or nothing: EADDRINUSE and others where there is something already. */
int pinned_sgl_map(struct iommu_domain *domain, unsigned long iova, u64 phys, size_t len, u32 prot,
		   gfp_t gfp);
/*
 * Maps runs one behind the other, all or none. Their `page_link` is the number of the first frame, and is
 * another one afterwards.
 */
int pinned_sgl_map_runs(struct iommu_domain *domain, unsigned long iova, struct scatterlist *runs,
			size_t count, size_t len, u32 prot, gfp_t gfp);
void pinned_sgl_gather_init(struct iommu_iotlb_gather *gather);
void pinned_sgl_iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather);

/* The bytes of a segment at most, and the mask that its first and last byte must agree beyond. */
void pinned_sgl_dma_limits(struct device *device, u64 *max_len, u64 *boundary_mask);
/* Fills one entry of a table, and goes to the next; EINVAL if there is none, or no struct page. */
int pinned_sgl_sg_set(struct scatterlist **at, u64 phys, u32 len);
/* Fills a table with the pages of memory of the DMA API: for sg_free_table(). */
int pinned_sgl_coherent_table(struct device *device, struct sg_table *table, void *memory,
			      u64 first, size_t size);
void pinned_sgl_sync_for_cpu(struct device *device, struct sg_table *table,
			     enum dma_data_direction direction);
void pinned_sgl_sync_for_device(struct device *device, struct sg_table *table,
				enum dma_data_direction direction);

#endif
