/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * For drivers whose device translates nothing: they look pages up in the list, and no table is made. rxe.patch and
 * siw.patch show how.
 */
#ifndef IB_UMEM_SGL_H
#define IB_UMEM_SGL_H

#include <rdma/ib_umem.h>

/*
 * As ib_umem_get_va(), for a device with ib_uses_virt_dma(): others get EINVAL. If the memory does not lie in one piece,
 * there are no entries in sgt_append.
 */
struct ib_umem *ib_umem_get_list(struct ib_device *device, unsigned long addr, size_t size,
				 int access);

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

#endif
