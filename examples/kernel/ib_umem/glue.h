/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef IB_UMEM_GLUE_H
#define IB_UMEM_GLUE_H

#include <linux/types.h>

struct dma_iova_state;
struct ib_device;
struct ib_umem;
struct ib_umem_recent;
struct mm_struct;
struct scatterlist;
struct sg_table;

/* In Rust, beside what rdma/ib_umem.h declares; the name is that in the kernel's umem.c, which calls it. */
struct ib_umem *__ib_umem_get_va(struct ib_device *device, unsigned long addr, size_t size,
				 int access);

/*
 * The run that holds byte `at` of a list, counted from the first page, into `found`, which is zero, and how many runs these
 * are: none behind the last page, some of those behind it if packets `go_on` in order, and all if they are few.
 */
size_t ib_umem_find(struct ib_umem *umem, u64 at, bool go_on, struct ib_umem_recent *found);
/* Where the device sees a byte, and how many bytes from there on continue it: 0, if there is a table. */
u64 ib_umem_dma_run(struct ib_umem *umem, size_t offset, u64 *len);

/* In C. */

/* Whether the device cannot reach memory of programs at all. */
bool ib_umem_bounces(struct ib_device *device);
/* Whether it translates nothing, and what stands in for addresses of the DMA API then. */
bool ib_umem_is_virtual(struct ib_device *device);
u64 ib_umem_virtual(u64 phys);
/* The bytes of an entry at most. */
unsigned int ib_umem_max_segment(struct ib_device *device);
bool ib_umem_may_lock(void);
bool ib_umem_writable(int access);

/* Fills what is zero. */
void ib_umem_init(struct ib_umem *umem, struct ib_device *device, struct mm_struct *mm,
		  unsigned long addr, size_t size, int access);
/* Whether it was made here, and not by the kernel's C, for a dma-buf or on demand. */
bool ib_umem_is_pinned(struct ib_umem *umem);
/* Releases one that was made by the kernel's C. */
void ib_umem_release_other(struct ib_umem *umem);
/* The size of its pages, if it is memory on demand; or zero. */
unsigned long ib_umem_demand_page(struct ib_umem *umem);

/*
 * So many entries, from `sg` on: their first frames and their bytes. Returns the entry behind them, and which is the last
 * one of them.
 */
struct scatterlist *ib_umem_fill(struct scatterlist *sg, const u64 *pfns, const u32 *lens,
				 size_t count, struct scatterlist **last);
/* A table of one entry, which is zero. */
void ib_umem_entry(struct scatterlist *sg, u64 pfn, u64 pages);
/* Where the device sees it. */
void ib_umem_set_dma(struct scatterlist *sg, u64 at);
/* The first frame of an entry, and how many pages it has. */
u64 ib_umem_entry_pages(struct scatterlist *sg, u64 *pages);
/* The address of an entry, and how many bytes it has. */
u64 ib_umem_entry_phys(struct scatterlist *sg, u64 *len);
/* The address at which the device sees an entry, and its bytes; goes to the next one. */
u64 ib_umem_dma_entry(struct scatterlist **sg, u64 *len);
int ib_umem_map(struct ib_device *device, struct sg_table *table, unsigned long attrs);
void ib_umem_unmap(struct ib_device *device, struct sg_table *table, unsigned long attrs);

/*
 * Addresses side by side for as many bytes, if the device has an IOMMU that the DMA API maps in; memory at an offset in
 * them; the first bytes, when all are there; to unmap the first bytes, and to free the addresses.
 */
bool ib_umem_space(struct ib_device *device, struct dma_iova_state *space, size_t len);
int ib_umem_link(struct ib_device *device, struct dma_iova_state *space, u64 phys, size_t at,
		 size_t len, unsigned long attrs);
int ib_umem_sync(struct ib_device *device, struct dma_iova_state *space, size_t len);
void ib_umem_unlink(struct ib_device *device, struct dma_iova_state *space, size_t len,
		    unsigned long attrs);
/* Memory by itself: where the device sees it, or all ones. */
u64 ib_umem_map_run(struct ib_device *device, u64 phys, size_t len, unsigned long attrs);
void ib_umem_unmap_run(struct ib_device *device, u64 at, size_t len, unsigned long attrs);

#endif
