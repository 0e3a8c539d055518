// SPDX-License-Identifier: MIT OR Apache-2.0
/* Memory of the process that loads the module, of every kind: goes with the process. */
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>

#include "differ.h"

static const char *const names[KINDS] = {
	[HUGE] = "huge",
	[SMALL] = "small",
	[SCATTERED] = "scattered",
	[READ_ONLY] = "read-only",
	[HOLES] = "with holes",
	[NEVER_TOUCHED] = "never touched",
};

/* Memory that begins where a huge page would; a stack has none. */
static unsigned long map(unsigned long len, unsigned long prot, unsigned long flags)
{
	unsigned long at =
		vm_mmap(NULL, 0, len + SZ_2M, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, 0);

	return IS_ERR_VALUE(at) ? at : ALIGN(at, SZ_2M);
}

static int touch(unsigned long at)
{
	return put_user((u64)at, (u64 __user *)at);
}

int memory_map(struct memory memory[KINDS], unsigned long len)
{
	unsigned long beside = map(len, PROT_READ | PROT_WRITE, MAP_STACK);
	int error = 0;

	for (int kind = 0; kind < KINDS; kind++) {
		unsigned long prot = PROT_READ | (kind == READ_ONLY ? 0 : PROT_WRITE);
		unsigned long at = map(len, prot, kind == HUGE || kind == HOLES ? 0 : MAP_STACK);

		if (IS_ERR_VALUE(at) || IS_ERR_VALUE(beside))
			return -ENOMEM;
		memory[kind] = (struct memory){ names[kind], at, len };
		for (unsigned long page = 0; page < len && !error; page += PAGE_SIZE) {
			if (kind == READ_ONLY || kind == NEVER_TOUCHED)
				break;
			/* Two that are touched in turns, from behind: no page continues the one before. */
			if (kind == SCATTERED || kind == SMALL) {
				unsigned long back = kind == SMALL ? page : len - PAGE_SIZE - page;

				error = touch(at + back);
				if (kind == SCATTERED)
					error |= touch(beside + back);
			} else {
				error = touch(at + page);
			}
		}
		/* Each seventh page, and the places of huge pages with them. */
		for (unsigned long page = 6; kind == HOLES && page * PAGE_SIZE < len; page += 7)
			error |= vm_munmap(at + page * PAGE_SIZE, PAGE_SIZE);
	}
	return error ? -EFAULT : 0;
}
