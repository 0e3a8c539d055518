// SPDX-License-Identifier: GPL-2.0
/*
 * What ib_umem needs from C: the symbols that it exports, inline functions of rdma/ib_verbs.h, and the members of
 * `struct ib_umem` that are bits. `ffi.rs` declares each function of this file for Rust. Nothing is decided here. What a
 * new `struct ib_umem` has in it follows Linux's own umem.c.
 */
#include <linux/capability.h>
#include <linux/dma-mapping.h>
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/unroll.h>
#include <rdma/ib_umem_odp.h>
#include <rdma/ib_verbs.h>

#include "glue.h"
#include "include/rdma/ib_umem.h"
#include "recent.h"

/* What a registration is that has a list. */
struct listed {
	struct ib_umem umem;
	/* Which Rust has. */
	u64 flags;
	struct ib_umem_recent recent;
};

/* As abi.rs has it. */
static_assert(offsetof(struct ib_umem, ibdev) == 0 && offsetof(struct ib_umem, owning_mm) == 8 &&
	      offsetof(struct ib_umem, iova) == 16 && offsetof(struct ib_umem, length) == 24 &&
	      offsetof(struct ib_umem, address) == 32 && offsetof(struct ib_umem, dma_attrs) == 40 &&
	      offsetof(struct ib_umem, sgt_append) == 56 && sizeof(struct ib_umem) == 88);
static_assert(IB_ACCESS_ON_DEMAND == 1 << 6);
static_assert(offsetof(struct listed, recent) == 96 && sizeof(struct ib_umem_recent) == 152);
/* As ffi.rs has it. */
static_assert(offsetof(struct dma_iova_state, addr) == 0 && sizeof(struct dma_iova_state) == 16);

EXPORT_SYMBOL(ib_umem_release);
EXPORT_SYMBOL(ib_umem_copy_from);
EXPORT_SYMBOL(ib_umem_find_best_pgsz);
EXPORT_SYMBOL(ib_umem_dma_run);

bool ib_umem_is_pinned(struct ib_umem *umem)
{
	return !umem->is_dmabuf && !umem->is_odp;
}

/* Of a byte that is in no recent run. */
static noinline u64 look_up(struct listed *listed, u64 at, u64 *phys)
{
	struct ib_umem_recent *recent = &listed->recent, found = {};
	u64 next = READ_ONCE(recent->begin) + READ_ONCE(recent->bytes);
	size_t count = ib_umem_find(&listed->umem, at, at == next, &found);

	if (!count)
		return 0;
	/* So that no other looks everything up for as long as this is not running. */
	preempt_disable();
	ib_umem_remember(recent, &found, count);
	preempt_enable();
	return ib_umem_recall(&found, at, phys);
}

/* How many bytes from byte `offset` on are contiguous, and the physical address of that; 0 behind the last page. */
static __always_inline u64 phys_at(struct ib_umem *umem, size_t offset, u64 *phys)
{
	const struct sg_table *table = &umem->sgt_append.sgt;
	struct listed *listed = (struct listed *)umem;
	/* From the first page on. Bytes before the first one are in its page, too. */
	u64 at = offset + offset_in_page(umem->address), found, len;

	if (unlikely(!ib_umem_is_pinned(umem)))
		return 0;
	/* All of them lie side by side. */
	if (table->orig_nents == 1) {
		*phys = sg_phys(table->sgl) + at;
		return at < table->sgl->length ? table->sgl->length - at : 0;
	}
	len = ib_umem_recall(&listed->recent, at, phys);
	if (likely(len))
		return len;
	/* Not `phys` itself, which stays in a register. */
	len = look_up(listed, at, &found);
	*phys = found;
	return len;
}

struct page *ib_umem_page(struct ib_umem *umem, size_t offset)
{
	u64 phys;

	return phys_at(umem, offset, &phys) ? pfn_to_page(PHYS_PFN(phys)) : NULL;
}
EXPORT_SYMBOL(ib_umem_page);

size_t ib_umem_run(struct ib_umem *umem, size_t offset, struct page **page)
{
	u64 phys, len = phys_at(umem, offset, &phys);

	if (len)
		*page = pfn_to_page(PHYS_PFN(phys));
	return len;
}
EXPORT_SYMBOL(ib_umem_run);

bool ib_umem_bounces(struct ib_device *device)
{
	return device->cc_dma_bounce;
}

bool ib_umem_is_virtual(struct ib_device *device)
{
	return ib_uses_virt_dma(device);
}

u64 ib_umem_virtual(u64 phys)
{
	return (uintptr_t)phys_to_virt(phys);
}

unsigned int ib_umem_max_segment(struct ib_device *device)
{
	return ib_dma_max_seg_size(device);
}

bool ib_umem_may_lock(void)
{
	return can_do_mlock();
}

bool ib_umem_writable(int access)
{
	return ib_access_writable(access);
}

void ib_umem_init(struct ib_umem *umem, struct ib_device *device, struct mm_struct *mm,
		  unsigned long addr, size_t size, int access)
{
	umem->ibdev = device;
	umem->owning_mm = mm;
	umem->iova = addr;
	umem->length = size;
	umem->address = addr;
	umem->writable = ib_access_writable(access);
	umem->dma_attrs = DMA_ATTR_REQUIRE_COHERENT;
	if (access & IB_ACCESS_RELAXED_ORDERING)
		umem->dma_attrs |= DMA_ATTR_WEAK_ORDERING;
}

void ib_umem_release_other(struct ib_umem *umem)
{
	if (umem->is_dmabuf)
		ib_umem_dmabuf_release(to_ib_umem_dmabuf(umem));
	else
		ib_umem_odp_release(to_ib_umem_odp(umem));
}

unsigned long ib_umem_demand_page(struct ib_umem *umem)
{
	return umem->is_odp ? BIT(to_ib_umem_odp(umem)->page_shift) : 0;
}

struct scatterlist *ib_umem_fill(struct scatterlist *sg, const u64 *pfns, const u32 *lens,
				 size_t count, struct scatterlist **last)
{
	for (size_t i = 0; i < count; i++) {
		sg_set_page(sg, pfn_to_page(pfns[i]), lens[i], 0);
		*last = sg;
		sg = sg_next(sg);
	}
	cond_resched();
	return sg;
}

void ib_umem_entry(struct scatterlist *sg, u64 pfn, u64 pages)
{
	sg_init_marker(sg, 1);
	sg_set_page(sg, pfn_to_page(pfn), pages << PAGE_SHIFT, 0);
}

u64 ib_umem_entry_pages(struct scatterlist *sg, u64 *pages)
{
	*pages = sg->length >> PAGE_SHIFT;
	return page_to_pfn(sg_page(sg));
}

u64 ib_umem_entry_phys(struct scatterlist *sg, u64 *len)
{
	*len = sg->length;
	return page_to_phys(sg_page(sg));
}

void ib_umem_set_dma(struct scatterlist *sg, u64 at)
{
	sg_dma_address(sg) = at;
	sg_dma_len(sg) = sg->length;
}

u64 ib_umem_dma_entry(struct scatterlist **sg, u64 *len)
{
	u64 at = sg_dma_address(*sg);

	*len = sg_dma_len(*sg);
	*sg = sg_next(*sg);
	return at;
}

int ib_umem_map(struct ib_device *device, struct sg_table *table, unsigned long attrs)
{
	return ib_dma_map_sgtable_attrs(device, table, DMA_BIDIRECTIONAL, attrs);
}

void ib_umem_unmap(struct ib_device *device, struct sg_table *table, unsigned long attrs)
{
	ib_dma_unmap_sgtable_attrs(device, table, DMA_BIDIRECTIONAL, attrs);
}

bool ib_umem_space(struct ib_device *device, struct dma_iova_state *space, size_t len)
{
	return dma_iova_try_alloc(device->dma_device, space, 0, len);
}

int ib_umem_link(struct ib_device *device, struct dma_iova_state *space, u64 phys, size_t at,
		 size_t len, unsigned long attrs)
{
	cond_resched();
	return dma_iova_link(device->dma_device, space, phys, at, len, DMA_BIDIRECTIONAL, attrs);
}

int ib_umem_sync(struct ib_device *device, struct dma_iova_state *space, size_t len)
{
	return dma_iova_sync(device->dma_device, space, 0, len);
}

void ib_umem_unlink(struct ib_device *device, struct dma_iova_state *space, size_t len,
		    unsigned long attrs)
{
	dma_iova_destroy(device->dma_device, space, len, DMA_BIDIRECTIONAL, attrs);
}

u64 ib_umem_map_run(struct ib_device *device, u64 phys, size_t len, unsigned long attrs)
{
	dma_addr_t at = dma_map_phys(device->dma_device, phys, len, DMA_BIDIRECTIONAL, attrs);

	cond_resched();
	return dma_mapping_error(device->dma_device, at) ? U64_MAX : at;
}

void ib_umem_unmap_run(struct ib_device *device, u64 at, size_t len, unsigned long attrs)
{
	dma_unmap_phys(device->dma_device, at, len, DMA_BIDIRECTIONAL, attrs);
	cond_resched();
}
