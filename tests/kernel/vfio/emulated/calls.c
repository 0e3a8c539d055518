// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/* How often the IOMMU is asked where an address leads, since this was loaded. */
#include <linux/kprobes.h>
#include <linux/module.h>

/* One thread at a time maps and unmaps while it is read. */
static unsigned long calls;
module_param(calls, ulong, 0444);

static int count(struct kprobe *probe, struct pt_regs *regs)
{
	calls++;
	return 0;
}

static struct kprobe probe = {
	.symbol_name = "iommu_iova_to_phys",
	.pre_handler = count,
};

static int __init calls_init(void)
{
	return register_kprobe(&probe);
}

static void __exit calls_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(calls_init);
module_exit(calls_exit);
MODULE_DESCRIPTION("Calls of iommu_iova_to_phys()");
MODULE_LICENSE("GPL");
