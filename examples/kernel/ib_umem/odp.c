// SPDX-License-Identifier: GPL-2.0
/* Memory on demand: the kernel's own file. */
#include "umem_odp.c"
