/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The kernel's header, for drivers that need no table: see ib_umem.h. */
#include_next <rdma/iter.h>

#ifndef IB_UMEM_BLOCKS
#define IB_UMEM_BLOCKS

/*
 * Blocks of the list. Of the members of an iterator, __sg_numblocks counts the blocks that are left, and __sg_advance
 * those of them that continue the one before.
 */
static inline void ib_umem_start_blocks(struct ib_umem *umem, struct ib_block_iter *iter,
					unsigned long size)
{
	__rdma_umem_block_iter_start(iter, umem, size);
	if (!umem->sgt_append.sgt.nents)
		iter->__sg_advance = 0;
}

static inline bool ib_umem_next_block(struct ib_umem *umem, struct ib_block_iter *iter)
{
	const u64 size = BIT_ULL(iter->__pg_bit);
	u64 done, at, len;

	if (umem->sgt_append.sgt.nents)
		return __rdma_umem_block_iter_next(iter);
	if (!iter->__sg_numblocks)
		return false;
	if (iter->__sg_advance) {
		iter->__sg_advance--;
		iter->__dma_addr += size;
	} else {
		done = ib_umem_num_dma_blocks(umem, size) - iter->__sg_numblocks;
		at = done ? done * size - ib_umem_dma_offset(umem, size) : 0;
		iter->__dma_addr = ib_umem_dma_run(umem, at, &len);
		if (!len)
			return false;
		len += iter->__dma_addr & (size - 1);
		iter->__sg_advance = min((len - 1) >> iter->__pg_bit, (u64)UINT_MAX);
	}
	iter->__sg_numblocks--;
	return true;
}

#undef rdma_umem_for_each_dma_block
#define rdma_umem_for_each_dma_block(umem, iter, size)		\
	for (ib_umem_start_blocks(umem, iter, size);		\
	     ib_umem_next_block(umem, iter);)

#endif
