/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The kernel's header, for drivers that need no table. Those of hardware take DMA blocks out of the list, and are only
 * compiled again, with this folder in front of the kernel's; soft ones look pages up in it, as rxe.patch and siw.patch
 * show.
 *
 * In sgt_append there is then one entry in all, if the memory lies in one piece. Else nents is 0, and the first entry has
 * the first page, and its address.
 */
#include_next <rdma/ib_umem.h>

#ifndef IB_UMEM_LIST

/* A flag of `access`, beside those of enum ib_access_flags: the driver reads no table. */
#define IB_UMEM_LIST (1 << 30)

#define ib_umem_get_va(device, addr, size, access) \
	ib_umem_get_va(device, addr, size, (access) | IB_UMEM_LIST)
#define ib_umem_get_desc(device, desc, access) \
	ib_umem_get_desc(device, desc, (access) | IB_UMEM_LIST)
#define ib_umem_get_attr(device, attrs, id, size, access) \
	ib_umem_get_attr(device, attrs, id, size, (access) | IB_UMEM_LIST)
#define ib_umem_get_attr_or_va(device, attrs, id, addr, size, access) \
	ib_umem_get_attr_or_va(device, attrs, id, addr, size, (access) | IB_UMEM_LIST)
#define ib_umem_get_cq_buf(device, attrs, size, access) \
	ib_umem_get_cq_buf(device, attrs, size, (access) | IB_UMEM_LIST)
#define ib_umem_get_cq_buf_or_va(device, attrs, addr, size, access) \
	ib_umem_get_cq_buf_or_va(device, attrs, addr, size, (access) | IB_UMEM_LIST)

/*
 * The page that holds byte `offset` of a registration that is pinned; NULL behind the last page. May be called in any
 * context, and allocates nothing.
 */
struct page *ib_umem_page(struct ib_umem *umem, size_t offset);

/*
 * The page that holds byte `offset`, and how many bytes from there on are contiguous: 0 behind the last page. So:
 *
 *	for (size_t at = 0, len; (len = ib_umem_run(umem, at, &page)); at += len)
 */
size_t ib_umem_run(struct ib_umem *umem, size_t offset, struct page **page);

/* The same for a device, where nents is 0: the address of byte `offset`, and how many bytes continue it. */
u64 ib_umem_dma_run(struct ib_umem *umem, size_t offset, u64 *len);

#endif
