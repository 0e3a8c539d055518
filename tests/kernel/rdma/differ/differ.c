// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What ib_umem.ko answers, beside what the kernel's umem.c answers in the same machine: for random ranges of memory of
 * every kind, the error, what is charged, the table entry by entry, page sizes, blocks, and bytes. With `measure=1`, how
 * long both take.
 *
 * The devices are made up: no driver is behind them, and nothing is transferred. One translates nothing, as the soft
 * ones; others have addresses of the DMA API, and limits of their own; the last ones are behind an IOMMU.
 */
#define pr_fmt(fmt) "test: umem: " fmt

#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/prandom.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <rdma/ib_verbs.h>

#include "differ.h"
#include "rdma/ib_umem.h"
#include "rdma/iter.h"

static uint rounds = 200;
module_param(rounds, uint, 0444);
static uint seed = 1;
module_param(seed, uint, 0444);
static uint measure;
module_param(measure, uint, 0444);

/* As a driver has them: these names are those of ib_umem.ko. */
static const struct umem_ops in_rust = {
	.get = ib_umem_get_va,
	.release = ib_umem_release,
	.copy_from = ib_umem_copy_from,
	.best = ib_umem_find_best_pgsz,
};

/* As a driver has them that reads no table. */
static struct ib_umem *get_list(struct ib_device *device, unsigned long addr, size_t size, int access)
{
	return ib_umem_get_va(device, addr, size, access);
}

static struct rnd_state random;
static unsigned int failed;
/* Whether pages are asked for by threads, too, which takes a while. */
static bool at_once;

static u64 below(u64 limit)
{
	return (((u64)prandom_u32_state(&random) << 32) | prandom_u32_state(&random)) % limit;
}

#define differs(what, ...)                                                                        \
	do {                                                                                      \
		if (failed++ < 20)                                                                \
			pr_err("DIFFERS: " what "\n", ##__VA_ARGS__);                             \
	} while (0)

#define same(c, r, what, ...)                                                                     \
	({                                                                                        \
		bool _same = (c) == (r);                                                          \
		if (!_same)                                                                       \
			differs(what ": %lld in C, %lld in Rust", ##__VA_ARGS__, (long long)(c),  \
				(long long)(r));                                                  \
		_same;                                                                            \
	})

static long long pinned(void)
{
	return atomic64_read(&current->mm->pinned_vm);
}

/* Behind an IOMMU, the same memory has addresses of its own each time: they begin at a multiple of this. */
static u64 own_addresses(struct ib_umem *umem)
{
	if (!umem->ibdev->dma_device || !dev_is_pci(umem->ibdev->dma_device))
		return 0;
	return max(roundup_pow_of_two(PAGE_ALIGN(ib_umem_offset(umem) + umem->length)), PAGE_SIZE);
}

static u64 address_in(struct ib_umem *umem, u64 at)
{
	return own_addresses(umem) ? at - sg_dma_address(umem->sgt_append.sgt.sgl) : at;
}

/* Entry by entry, from the first one on. */
static void same_table(struct ib_umem *c, struct ib_umem *r)
{
	struct sg_table *in_c = &c->sgt_append.sgt, *in_r = &r->sgt_append.sgt;
	struct scatterlist *a = in_c->sgl, *b = in_r->sgl;

	if (!same(in_c->orig_nents, in_r->orig_nents, "entries") ||
	    !same(in_c->nents, in_r->nents, "entries of the device"))
		return;
	for (unsigned int i = 0; i < in_c->orig_nents; i++, a = sg_next(a), b = sg_next(b)) {
		if (!same(page_to_pfn(sg_page(a)), page_to_pfn(sg_page(b)), "frame of %u", i) ||
		    !same(a->length, b->length, "length of %u", i) ||
		    !same(a->offset, b->offset, "offset of %u", i) ||
		    !same(!!sg_is_last(a), !!sg_is_last(b), "end at %u", i))
			return;
		if (i < in_c->nents && (!same(address_in(c, sg_dma_address(a)), address_in(r, sg_dma_address(b)),
					      "address of %u", i) ||
					!same(sg_dma_len(a), sg_dma_len(b), "bytes of %u", i)))
			return;
	}
}

static void same_blocks(struct ib_umem *c, struct ib_umem *r, unsigned long size)
{
	struct ib_block_iter a, b;

	__rdma_umem_block_iter_start(&a, c, size);
	ib_umem_start_blocks(r, &b, size);
	while (__rdma_umem_block_iter_next(&a)) {
		if (!ib_umem_next_block(r, &b)) {
			differs("blocks of %lu end", size);
			return;
		}
		if (!same(address_in(c, rdma_block_iter_dma_address(&a)), address_in(r, rdma_block_iter_dma_address(&b)),
			  "block of %lu", size))
			return;
	}
	if (ib_umem_next_block(r, &b))
		differs("blocks of %lu do not end", size);
}

static void same_page_sizes(struct ib_umem *c, struct ib_umem *r)
{
	for (int i = 0; i < 6; i++) {
		unsigned long sizes = (below(2) ? ULONG_MAX : below(ULONG_MAX)) & ~(below(4) ? PAGE_SIZE / 2 - 1 : 0);
		u64 virt = below(3) ? c->address : below(ULONG_MAX);
		u64 own = own_addresses(c);
		unsigned long best;

		if (below(2))
			virt = (virt & ~(SZ_2M - 1)) | (sg_dma_address(c->sgt_append.sgt.sgl) & (SZ_2M - 1)) | (c->address & (PAGE_SIZE - 1));
		if (!below(8))
			virt = below(2) ? 0 : -(u64)below(SZ_2M);
		/* Larger ones depend on where the addresses begin. */
		if (own)
			sizes &= own | (own - 1);
		best = in_c.best(c, sizes, virt);
		same(best, in_rust.best(r, sizes, virt), "page size of %lx at %llx, %zu bytes", sizes, virt,
		     c->length);
		same(c->iova, r->iova, "iova");
		if (best && c->length)
			same_blocks(c, r, best);
	}
}

static void same_bytes(struct ib_umem *c, struct ib_umem *r, u8 *a, u8 *b)
{
	for (int i = 0; i < 3; i++) {
		size_t offset = below(c->length + 2), len = below(4) ? below(3 * PAGE_SIZE) : below(8);

		/* Past the end only now and then: each leaves two lines in the log. */
		if (below(256)) {
			offset = min(offset, c->length);
			len = min(len, c->length - offset);
		}
		memset(a, 0x5a, len);
		memset(b, 0x5a, len);
		/* An error may leave bytes behind. */
		if (same(in_c.copy_from(a, c, offset, len), in_rust.copy_from(b, r, offset, len),
			 "copy of %zu at %zu", len, offset) &&
		    memcmp(a, b, len))
			differs("bytes, %zu at %zu of %zu", len, offset, c->length);
	}
}

static void same_members(struct ib_umem *c, struct ib_umem *r)
{
	same((long)c->ibdev, (long)r->ibdev, "device");
	same((long)c->owning_mm, (long)r->owning_mm, "mm");
	same(c->iova, r->iova, "iova");
	same(c->length, r->length, "length");
	same(c->address, r->address, "address");
	same(c->dma_attrs, r->dma_attrs, "attributes");
	same(c->writable, r->writable, "writable");
	same(c->is_odp, r->is_odp, "on demand");
	same(c->is_dmabuf, r->is_dmabuf, "dma-buf");
}

/* Pages of one list, asked for by threads and by a timer at once: `pages` is where C has them. */
struct at_once {
	struct ib_umem *list;
	struct page **pages;
	size_t count;
	atomic_t wrong, interrupts;
	struct hrtimer timer;
};

static void ask(struct at_once *asked, u64 number)
{
	u64 first = offset_in_page(asked->list->address), at = max(number * PAGE_SIZE, first);

	if (ib_umem_page(asked->list, at - first) != asked->pages[number])
		atomic_inc(&asked->wrong);
}

static u64 next_of(u64 *state, u64 count)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return mul_u64_u64_shr(*state, count, 64);
}

static int ask_in_order(void *data)
{
	struct at_once *asked = data;

	for (u64 i = 0; !kthread_should_stop(); i = i + 1 < asked->count ? i + 1 : 0) {
		ask(asked, i);
		cond_resched();
	}
	return 0;
}

static int ask_anywhere(void *data)
{
	struct at_once *asked = data;
	u64 state = 1;

	while (!kthread_should_stop()) {
		ask(asked, next_of(&state, asked->count));
		cond_resched();
	}
	return 0;
}

/* In a hard interrupt: in the middle of whatever the threads do. */
static enum hrtimer_restart ask_in_interrupt(struct hrtimer *timer)
{
	struct at_once *asked = container_of(timer, struct at_once, timer);
	u64 state = atomic_inc_return(&asked->interrupts);

	for (u64 i = 0, number = next_of(&state, asked->count); i < 20; i++)
		ask(asked, (number + i) % asked->count);
	hrtimer_forward_now(timer, us_to_ktime(500));
	return HRTIMER_RESTART;
}

static void same_at_once(struct ib_umem *list, struct page **pages, size_t count)
{
	struct at_once asked = { .list = list, .pages = pages, .count = count };
	struct task_struct *threads[3];

	hrtimer_setup_on_stack(&asked.timer, ask_in_interrupt, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = kthread_run(i ? ask_in_order : ask_anywhere, &asked, "asks-%d", i);
	hrtimer_start(&asked.timer, us_to_ktime(500), HRTIMER_MODE_REL_HARD);
	msleep(200);
	hrtimer_cancel(&asked.timer);
	destroy_hrtimer_on_stack(&asked.timer);
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		if (IS_ERR(threads[i]) || kthread_stop(threads[i]))
			differs("there is no thread");
	if (!atomic_read(&asked.interrupts))
		differs("there was no interrupt");
	same(0, atomic_read(&asked.wrong), "pages, where threads ask at once");
}

/* A list without a table: each page where C has it, the runs in order, and what drivers of hardware ask for. */
static void same_list(struct ib_umem *c, unsigned long addr, size_t size, int access, u8 *bytes)
{
	struct ib_umem *list = get_list(c->ibdev, addr, size, access);
	size_t first = offset_in_page(addr), at = 0, len = 0;
	/* And at least one: not ib_umem_num_pages(), which counts from where the page size was looked for. */
	size_t pages = max(DIV_ROUND_UP(first + size, PAGE_SIZE), (size_t)1);
	struct page *page = NULL, **all;
	struct sg_page_iter in_c;

	if (IS_ERR(list)) {
		differs("a list of %zu bytes: %ld", size, PTR_ERR(list));
		return;
	}
	all = kvmalloc_array(pages, sizeof(*all), GFP_KERNEL);
	if (!all) {
		differs("no memory for %zu pages", pages);
		goto out;
	}
	__sg_page_iter_start(&in_c, c->sgt_append.sgt.sgl, c->sgt_append.sgt.orig_nents, 0);
	for (size_t i = 0; i < pages; i++) {
		size_t offset = (i << PAGE_SHIFT) + (i ? below(PAGE_SIZE) : first + below(PAGE_SIZE - first)) - first;
		struct page *there = ib_umem_page(list, offset);

		__sg_page_iter_next(&in_c);
		all[i] = sg_page_iter_page(&in_c);
		if (there != all[i]) {
			differs("page %zu of %zu in the list", i, pages);
			goto out;
		}
		/* Runs are as long as they can be, and begin where the one before has ended. */
		if (i && offset_in_page(at + first)) {
			differs("a run ends within a page");
			goto out;
		}
		if (!i || at == (i << PAGE_SHIFT) - first) {
			struct page *before = page ? page + (len >> PAGE_SHIFT) : NULL;

			len = ib_umem_run(list, at, &page);
			if (!len || page != there || page == before) {
				differs("a run at %zu", at);
				goto out;
			}
			at += len;
			len = round_up(len, PAGE_SIZE);
		}
	}
	same(at, (pages << PAGE_SHIFT) - first, "bytes of all runs");
	same((long)ib_umem_page(list, (pages << PAGE_SHIFT) - first), 0, "behind the last page");
	for (int i = 0; i < 64; i++) {
		size_t number = below(pages);

		if (ib_umem_page(list, (number << PAGE_SHIFT) + PAGE_SIZE - 1 - first) != all[number])
			differs("page %zu of %zu at random", number, pages);
	}
	if (at_once)
		same_at_once(list, all, pages);
	/* Nothing here needs one. */
	if (list->sgt_append.sgt.orig_nents > 1)
		differs("a list has a table of %u entries", list->sgt_append.sgt.orig_nents);
	same(offset_in_page(ib_umem_start_dma_addr(list)), first, "offset of the first byte");
	same_page_sizes(c, list);
	same_bytes(c, list, bytes, bytes + 4 * PAGE_SIZE);
out:
	kvfree(all);
	in_rust.release(list);
}

/* Registers the same in both ways, and compares; returns C's errno. */
static int try(struct ib_device *device, unsigned long addr, size_t size, int access, u8 *bytes)
{
	long long before = pinned(), between;
	struct ib_umem *c = in_c.get(device, addr, size, access);
	long long charged = pinned() - before;
	struct ib_umem *r = in_rust.get(device, addr, size, access);

	between = pinned() - before;
	if (!same(PTR_ERR_OR_ZERO(c), PTR_ERR_OR_ZERO(r), "error at %lx, %zu bytes, access %x", addr, size,
		  access)) {
		in_c.release(c);
		in_rust.release(r);
		return 0;
	}
	same(charged, between - charged, "pages charged");
	if (IS_ERR(c))
		return PTR_ERR(c);
	same_members(c, r);
	same_table(c, r);
	same_page_sizes(c, r);
	same_bytes(c, r, bytes, bytes + 4 * PAGE_SIZE);
	same_list(c, addr, size, access, bytes);
	in_rust.release(r);
	same(charged, pinned() - before, "pages left to C");
	/* It gives back what lies between this and its end, which is not what it has charged. */
	c->iova = c->address;
	in_c.release(c);
	same(before, pinned(), "pages charged behind");
	return 0;
}

/* The same limit for each, as what one of them has pinned counts for the other. */
static int error_of(const struct umem_ops *ops, struct ib_device *device, unsigned long addr, size_t size)
{
	struct ib_umem *umem = ops->get(device, addr, size, IB_ACCESS_LOCAL_WRITE);
	int error = PTR_ERR_OR_ZERO(umem);

	ops->release(umem);
	return error;
}

static void try_limits(struct ib_device *device, unsigned long addr)
{
	struct rlimit *limit = &current->signal->rlim[RLIMIT_MEMLOCK], was = *limit;
	struct cred *fewer = prepare_creds();
	const struct cred *old;

	if (!fewer)
		return;
	cap_lower(fewer->cap_effective, CAP_IPC_LOCK);
	for (int privileged = 0; privileged < 2; privileged++) {
		if (!privileged)
			old = override_creds(fewer);
		for (int pages = 0; pages < 5; pages++) {
			limit->rlim_cur = pages * PAGE_SIZE;
			for (int len = 0; len < 5; len++)
				same(error_of(&in_c, device, addr, len * PAGE_SIZE),
				     error_of(&in_rust, device, addr, len * PAGE_SIZE), "%d pages of %d", len, pages);
		}
		if (!privileged)
			revert_creds(old);
	}
	*limit = was;
	put_cred(fewer);
}

static void try_all(struct ib_device *device, const struct memory memory[KINDS], u8 *bytes)
{
	static const int accesses[] = { 0, IB_ACCESS_LOCAL_WRITE, IB_ACCESS_REMOTE_WRITE, IB_ACCESS_REMOTE_READ,
		IB_ACCESS_REMOTE_ATOMIC, IB_ACCESS_MW_BIND, IB_ACCESS_ON_DEMAND, IB_ACCESS_RELAXED_ORDERING,
		IB_ACCESS_RELAXED_ORDERING | IB_ACCESS_LOCAL_WRITE };
	unsigned int worked = 0;

	for (unsigned int round = 0; round < rounds && failed < 20; round++) {
		const struct memory *from = &memory[below(KINDS)];
		int access = accesses[below(ARRAY_SIZE(accesses))];
		size_t at = below(from->len), size = below(4) ? below(64 * PAGE_SIZE) : below(from->len - at);

		if (!below(4))
			at &= ~(SZ_2M - 1);
		if (!below(8))
			size = below(3);
		worked += !try(device, from->start + at, size, access, bytes);
	}
	for (int kind = 0; kind < KINDS; kind++) {
		unsigned long start = memory[kind].start, len = memory[kind].len;

		at_once = !device->dma_device;
		try(device, start, len, IB_ACCESS_LOCAL_WRITE, bytes);
		try(device, start + 8, len - 8, IB_ACCESS_LOCAL_WRITE, bytes);
		at_once = false;
		try(device, start, 0, 0, bytes);
		try(device, start + 1, 0, 0, bytes);
		try(device, start + len - 1, PAGE_SIZE, 0, bytes);
	}
	try(device, 0, PAGE_SIZE, 0, bytes);
	try(device, -PAGE_SIZE, PAGE_SIZE, 0, bytes);
	try(device, -PAGE_SIZE, PAGE_SIZE - 1, 0, bytes);
	try(device, -2 * PAGE_SIZE, PAGE_SIZE, 0, bytes);
	try(device, -1, 1, 0, bytes);
	try(device, 1, -1, 0, bytes);
	try(device, 4096, -8192, 0, bytes);
	try(device, (unsigned long)bytes, PAGE_SIZE, 0, bytes);
	try(device, memory[0].start, (size_t)UINT_MAX << PAGE_SHIFT, 0, bytes);
	try(device, memory[0].start, ((size_t)UINT_MAX << PAGE_SHIFT) + 1, 0, bytes);
	try_limits(device, memory[SMALL].start + 8);
	pr_info("%u rounds, %u registered, %u differences\n", rounds, worked, failed);
}

/* The least of some rounds, to register and to release. */
static void time_of(const struct umem_ops *ops, struct ib_device *device, unsigned long at, size_t len, u64 least[2])
{
	least[0] = least[1] = U64_MAX;
	for (int round = 0; round < 7; round++) {
		u64 begin = ktime_get_ns(), middle;
		struct ib_umem *umem = ops->get(device, at, len, IB_ACCESS_LOCAL_WRITE);

		if (IS_ERR(umem)) {
			differs("%zu bytes cannot be registered", len);
			return;
		}
		middle = ktime_get_ns();
		ops->release(umem);
		least[0] = min(least[0], middle - begin);
		least[1] = min(least[1], ktime_get_ns() - middle);
	}
}

static void measure_all(struct ib_device *device, const struct memory memory[KINDS])
{
	static const struct umem_ops listed = { .get = get_list, .release = ib_umem_release };
	static const int kinds[] = { HUGE, SMALL, SCATTERED };
	static const size_t lens[] = { SZ_4K, SZ_32K, SZ_2M, SZ_64M };

	for (int i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct memory *from = &memory[kinds[i]];

		for (int j = 0; j < ARRAY_SIZE(lens); j++) {
			u64 c[2], r[2], list[2];

			time_of(&in_c, device, from->start, lens[j], c);
			time_of(&in_rust, device, from->start, lens[j], r);
			time_of(&listed, device, from->start, lens[j], list);
			pr_info("measure %s, %zu KiB: register %llu in C, %llu in Rust, %llu without a table; release %llu, %llu, %llu\n",
				from->name, lens[j] >> 10, c[0], r[0], list[0], c[1], r[1], list[1]);
		}
	}
}

static struct platform_device *platform;
/* Behind an IOMMU. */
static struct pci_dev *edu;

static int __init differ_init(void)
{
	static const unsigned int segments[] = { 0, 16 * PAGE_SIZE, PAGE_SIZE, SZ_1M + 512, SZ_2G };
	static struct device_dma_parameters params;
	struct memory memory[KINDS];
	struct ib_device *device;
	int error = -ENOMEM;
	u8 *bytes;

	edu = pci_get_device(0x1234, 0x11e8, NULL);
	if (!edu || !device_iommu_mapped(&edu->dev)) {
		pci_dev_put(edu);
		return -ENODEV;
	}
	prandom_seed_state(&random, seed);
	device = kvzalloc(sizeof(*device), GFP_KERNEL);
	bytes = vmalloc(8 * PAGE_SIZE);
	if (!device || !bytes)
		goto out;
	platform = platform_device_register_simple("umem_differ", PLATFORM_DEVID_NONE, NULL, 0);
	error = PTR_ERR_OR_ZERO(platform);
	if (error)
		goto out;
	platform->dev.dma_parms = &params;
	dev_set_dma_coherent(&platform->dev);
	error = dma_coerce_mask_and_coherent(&platform->dev, DMA_BIT_MASK(64)) ?: dma_set_mask(&edu->dev, DMA_BIT_MASK(28));
	if (!error)
		error = memory_map(memory, measure ? SZ_64M : SZ_8M);
	if (error)
		goto unregister;
	if (measure)
		measure_all(device, memory);
	for (int i = 0; i < 2 * ARRAY_SIZE(segments) && !measure; i++) {
		unsigned int segment = segments[i / 2];

		/* The first one translates nothing. */
		device->dma_device = !segment ? NULL : i % 2 ? &edu->dev : &platform->dev;
		if (segment)
			dma_set_max_seg_size(device->dma_device, segment);
		try_all(device, memory, bytes);
	}
	if (failed)
		error = -EIO;
unregister:
	platform_device_unregister(platform);
out:
	pci_dev_put(edu);
	kvfree(device);
	vfree(bytes);
	return error ?: -EAGAIN;
}
module_init(differ_init);

MODULE_DESCRIPTION("ib_umem beside the kernel's own");
MODULE_LICENSE("GPL");
