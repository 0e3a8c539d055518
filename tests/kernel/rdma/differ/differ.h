/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef UMEM_DIFFER_H
#define UMEM_DIFFER_H

#include <linux/types.h>

struct ib_device;
struct ib_umem;

struct umem_ops {
	struct ib_umem *(*get)(struct ib_device *device, unsigned long addr, size_t size,
			       int access);
	void (*release)(struct ib_umem *umem);
	int (*copy_from)(void *dst, struct ib_umem *umem, size_t offset, size_t length);
	unsigned long (*best)(struct ib_umem *umem, unsigned long sizes, u64 virt);
};

extern const struct umem_ops in_c;

/* Memory of the process that loads the module. */
enum kind { HUGE, SMALL, SCATTERED, READ_ONLY, HOLES, NEVER_TOUCHED, KINDS };

struct memory {
	const char *name;
	unsigned long start, len;
};

/* Maps `len` bytes of each kind. */
int memory_map(struct memory memory[KINDS], unsigned long len);

#endif
