/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef CACHES_H
#define CACHES_H

#include <linux/types.h>

struct selftest_range {
	u64 phys, len;
};

/* Looks at what the calling task does from now on; -ENOENT where no device is kept apart from caches. */
int selftest_caches_watch(void);
/* What was written back for the device, or forgotten for the CPU, since the last call; none if there was too much. */
u32 selftest_caches_seen(bool for_cpu, const struct selftest_range **ranges);
void selftest_caches_stop(void);

#endif
