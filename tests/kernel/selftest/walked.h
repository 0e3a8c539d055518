/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef WALKED_H
#define WALKED_H

#include <linux/types.h>

/* The IOMMU walks this table, for `edu`; -ENODEV where it is not one of this format. */
int selftest_walk_start(u64 table, u32 granule, u32 bits);
void selftest_walk_flush(void);
/* The device copies bytes to its buffer, or from there. */
int selftest_walk_copy(u64 iova, u32 count, bool to_memory);
void selftest_walk_stop(void);

#endif
