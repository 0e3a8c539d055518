// SPDX-License-Identifier: GPL-2.0
/* Memory of a dma-buf: the kernel's own file. */
#include "umem_dmabuf.c"
