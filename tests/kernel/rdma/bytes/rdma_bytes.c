// SPDX-License-Identifier: GPL-2.0
/*
 * What a process has from the kernel's allocators, and has not given back: objects of slabs with all that they take
 * there, and pages. Counted from when it opens /sys/kernel/debug/rdma_bytes until it closes it, which it may read
 * meanwhile: the bytes, and how often it was given some.
 */
#include <linux/debugfs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>

static unsigned int opened;
static struct task_struct *counted;
/* Of allocators that are called by others, the outermost counts. */
static int depth;
static long bytes, calls;
static size_t (*size_of)(const void *object);

/* Whether the process itself asks, and no interrupt on top of it. A probe may be an exception, which counts as one. */
static bool asks(void)
{
	return current == counted && !in_serving_softirq() && hardirq_count() <= (in_nmi() ? HARDIRQ_OFFSET : 0);
}

/* And whether no other allocator is around this one. */
static bool outermost(void)
{
	return asks() && depth == 0;
}

static void given(long more)
{
	bytes += more;
	calls += more > 0;
}

struct pages {
	long bytes;
};

static int enter(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (!asks())
		return 1;
	depth++;
	return 0;
}

static int leave_object(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	void *object = (void *)regs_return_value(regs);

	depth--;
	if (outermost() && !ZERO_OR_NULL_PTR(object))
		given(size_of(object));
	return 0;
}

static int enter_pages(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	((struct pages *)instance->data)->bytes = PAGE_SIZE << regs_get_kernel_argument(regs, 1);
	return enter(instance, regs);
}

static int leave_pages(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	depth--;
	if (outermost() && regs_return_value(regs))
		given(((struct pages *)instance->data)->bytes);
	return 0;
}

static int leave_bulk(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	depth--;
	if (outermost() && regs_return_value(regs))
		given(regs_return_value(regs) * PAGE_SIZE);
	return 0;
}

static int leave(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	depth--;
	return 0;
}

static int enter_free(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const void *object = (const void *)regs_get_kernel_argument(regs, 0);

	if (outermost() && !ZERO_OR_NULL_PTR(object))
		given(-(long)size_of(object));
	return enter(instance, regs);
}

static int enter_cache_free(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (outermost())
		given(-(long)size_of((const void *)regs_get_kernel_argument(regs, 1)));
	return enter(instance, regs);
}

static int enter_pages_free(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (outermost())
		given(-(long)(PAGE_SIZE << regs_get_kernel_argument(regs, 1)));
	return enter(instance, regs);
}

#define PROBE(name, from, to) \
	{ .kp.symbol_name = name, .entry_handler = from, .handler = to, .data_size = sizeof(struct pages), .maxactive = 64 }

static struct kretprobe probes[] = {
	PROBE("__kmalloc_noprof", enter, leave_object),
	PROBE("__kmalloc_node_noprof", enter, leave_object),
	PROBE("__kmalloc_cache_noprof", enter, leave_object),
	PROBE("__kmalloc_cache_node_noprof", enter, leave_object),
	PROBE("__kmalloc_node_track_caller_noprof", enter, leave_object),
	PROBE("__kmalloc_large_noprof", enter, leave_object),
	PROBE("__kmalloc_large_node_noprof", enter, leave_object),
	PROBE("kmem_cache_alloc_noprof", enter, leave_object),
	PROBE("kmem_cache_alloc_lru_noprof", enter, leave_object),
	PROBE("kmem_cache_alloc_node_noprof", enter, leave_object),
	PROBE("__alloc_frozen_pages_noprof", enter_pages, leave_pages),
	PROBE("alloc_pages_bulk_noprof", enter, leave_bulk),
	PROBE("kfree", enter_free, leave),
	PROBE("kmem_cache_free", enter_cache_free, leave),
	PROBE("__free_frozen_pages", enter_pages_free, leave),
};

static struct kretprobe *probed[ARRAY_SIZE(probes)];

static int bytes_open(struct inode *inode, struct file *file)
{
	int ret;

	if (xchg(&opened, 1))
		return -EBUSY;
	/* As if they had never been registered. */
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++) {
		probes[i].kp.addr = NULL;
		probes[i].kp.flags = 0;
	}
	/* Not longer than that: what is probed takes longer. */
	ret = register_kretprobes(probed, ARRAY_SIZE(probed));
	bytes = calls = depth = 0;
	WRITE_ONCE(counted, ret ? NULL : current);
	opened = !ret;
	return ret;
}

static ssize_t bytes_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	char text[64];
	int all = scnprintf(text, sizeof(text), "%ld %ld\n", bytes, calls);

	return simple_read_from_buffer(to, len, pos, text, all);
}

static int bytes_release(struct inode *inode, struct file *file)
{
	WRITE_ONCE(counted, NULL);
	unregister_kretprobes(probed, ARRAY_SIZE(probed));
	opened = 0;
	return 0;
}

static const struct file_operations bytes_operations = {
	.owner = THIS_MODULE, .open = bytes_open, .read = bytes_read, .release = bytes_release,
};
static struct dentry *entry;

static int __init bytes_init(void)
{
	struct kprobe where = { .symbol_name = "ksize" };
	int ret = register_kprobe(&where);

	if (ret)
		return ret;
	size_of = (void *)where.addr;
	unregister_kprobe(&where);
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
		probed[i] = &probes[i];
	entry = debugfs_create_file("rdma_bytes", 0400, NULL, NULL, &bytes_operations);
	return 0;
}

static void __exit bytes_exit(void)
{
	debugfs_remove(entry);
}

module_init(bytes_init);
module_exit(bytes_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("What a process has from the kernel's allocators");
