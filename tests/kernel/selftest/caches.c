// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the DMA API has the caches of the CPU do for a device that does not see them. QEMU has no caches, so that it
 * cannot be seen in memory: here are the calls themselves, those of the task that looks.
 */
#include <linux/dma-direction.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/sched.h>

#include "caches.h"

static struct task_struct *watcher;
static struct selftest_range seen[2][4096];
static u32 counts[2];

/* Called with an address, a length, and a direction: nothing is forgotten of what the device only reads. */
static int called(struct kprobe *probe, struct pt_regs *regs);

static struct kprobe probes[2] = {
	{ .symbol_name = "arch_sync_dma_for_device", .pre_handler = called },
	{ .symbol_name = "arch_sync_dma_for_cpu", .pre_handler = called },
};

static int called(struct kprobe *probe, struct pt_regs *regs)
{
	u64 phys = regs_get_kernel_argument(regs, 0);
	int for_cpu = probe == probes + 1;

	/* An IOMMU that is not coherent either has the entries of its table written back, and those are not pinned. */
	if (current != watcher || !folio_maybe_dma_pinned(pfn_folio(PHYS_PFN(phys))))
		return 0;
	if (for_cpu && regs_get_kernel_argument(regs, 2) == DMA_TO_DEVICE)
		return 0;
	if (counts[for_cpu] < ARRAY_SIZE(seen[0]))
		seen[for_cpu][counts[for_cpu]] = (struct selftest_range){
			phys, regs_get_kernel_argument(regs, 1) };
	counts[for_cpu]++;
	return 0;
}

int selftest_caches_watch(void)
{
	int error = register_kprobe(probes);

	if (error)
		return error;
	error = register_kprobe(probes + 1);
	if (error)
		unregister_kprobe(probes);
	else
		watcher = current;
	return error;
}

u32 selftest_caches_seen(bool for_cpu, const struct selftest_range **ranges)
{
	u32 count = counts[for_cpu];

	counts[for_cpu] = 0;
	*ranges = seen[for_cpu];
	return count <= ARRAY_SIZE(seen[0]) ? count : 0;
}

void selftest_caches_stop(void)
{
	watcher = NULL;
	for (int i = 0; i < 2; i++) {
		unregister_kprobe(probes + i);
		/* It may be registered again. */
		probes[i].addr = NULL;
		probes[i].flags = 0;
		counts[i] = 0;
	}
}
