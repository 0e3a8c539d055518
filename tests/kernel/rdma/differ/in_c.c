// SPDX-License-Identifier: GPL-2.0
/* The kernel's umem.c, unmodified, under other names. */
#include "names.h"
#include "umem.c"

#include "differ.h"

/* No dma-buf is registered by it. */
void c_umem_dmabuf_release(struct ib_umem_dmabuf *umem_dmabuf)
{
}

const struct umem_ops in_c = {
	.get = c_umem_get_va,
	.release = c_umem_release,
	.copy_from = c_umem_copy_from,
	.best = c_umem_find_best_pgsz,
};
