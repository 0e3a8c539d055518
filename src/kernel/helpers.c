// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the feature `kernel` needs from C: inline functions and macros, which bindgen does not see,
 * and loops that call them for every page. `ffi.rs` declares each of them for Rust.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>

#include "helpers.h"

/* So many page structures lie side by side: those of a section of memory, or of all of it. */
#if defined(CONFIG_SPARSEMEM) && !defined(CONFIG_SPARSEMEM_VMEMMAP)
#define SIDE_BY_SIDE ((u64)PAGES_PER_SECTION)
#else
#define SIDE_BY_SIDE ((u64)1 << 15)
#endif

/*
 * Blocks of so many pages have their page structures side by side in every memory model, and are of
 * one kind: memory of devices comes and goes by at least as much.
 */
#ifndef SUBSECTION_SHIFT
#define SUBSECTION_SHIFT 21
#endif
#define BLOCK (1UL << (SUBSECTION_SHIFT - PAGE_SHIFT))

/* As many single pages as are unpinned at once, as pinned_pages.rs has it. */
#define SINGLES 16

/* The bits of `PinFlags`, which are not those of GUP. */
static unsigned int gup_flags(u32 flags)
{
	return (flags & 1 ? FOLL_WRITE : 0) | (flags & 2 ? FOLL_LONGTERM : 0) |
	       (flags & 4 ? FOLL_FORCE : 0) | (flags & 8 ? FOLL_NOFAULT : 0);
}

long pinned_sgl_pin(struct mm_struct *mm, unsigned long start, size_t count, u32 flags,
		    struct page **pages)
{
	int locked = 1;
	long pinned;

	count = min_t(size_t, count, INT_MAX);

	/* The fast path of GUP looks for neither, and a large region takes it for a long time. */
	cond_resched();
	if (fatal_signal_pending(current))
		return -EINTR;
	if (mm == current->mm)
		return pin_user_pages_fast(start, count, gup_flags(flags), pages);

	/* Another process: its address space must not go away in the middle. */
	if (!mmget_not_zero(mm))
		return -ESRCH;
	pinned = mmap_read_lock_killable(mm);
	if (!pinned) {
		pinned = pin_user_pages_remote(mm, start, count, gup_flags(flags), pages, &locked);
		if (locked)
			mmap_read_unlock(mm);
	}
	mmput(mm);
	return pinned;
}

size_t pinned_sgl_first_run(struct page *const *pages, size_t count, u64 *pfn, u64 *provider)
{
	struct page *first = pages[0];
	unsigned long frame = page_to_pfn(first);
	size_t same = 1, end = min_t(size_t, count, BLOCK - (frame & (BLOCK - 1)));

	*pfn = frame;
	*provider = is_zone_device_page(first) ? (unsigned long)page_pgmap(first) : 0;
	while (same < end && pages[same] == first + same)
		same++;
	return same;
}

size_t pinned_sgl_singles(struct page *const *pages, size_t count, u64 *pfns)
{
	/* Numbers are compared, and no pointers: any two pages may be neighbours here. */
	unsigned long before = page_to_pfn(pages[0]);
	size_t found = 0;

	for (; found < count; found++) {
		struct page *page = pages[found + 1];
		unsigned long pfn = page_to_pfn(page);

		if (pfn == before + 1 || is_zone_device_page(page))
			break;
		before = pfn;
		pfns[found] = pfn;
	}
	return found;
}

void pinned_sgl_unpin_pages(struct page **pages, size_t count)
{
	unpin_user_pages(pages, count);
}

void pinned_sgl_unpin_run(u64 pfn, u64 count, bool dirty)
{
	while (count) {
		/* Never across a boundary of this size; and a run of a terabyte lets others run. */
		u64 most = SIDE_BY_SIDE - (pfn & (SIDE_BY_SIDE - 1));
		u64 some = count < most ? count : most;

		unpin_user_page_range_dirty_lock(pfn_to_page(pfn), some, dirty);
		/* Runs of a page come by the million: asked before it is called. */
		if (need_resched())
			cond_resched();
		pfn += some;
		count -= some;
	}
}

void pinned_sgl_unpin_singles(const u64 *pfns, size_t count, bool dirty)
{
	struct page *pages[SINGLES];

	for (size_t i = 0; i < count; i++)
		pages[i] = pfn_to_page(pfns[i]);
	unpin_user_pages_dirty_lock(pages, count, dirty);
	cond_resched();
}

void pinned_sgl_leaked(u64 user, u64 pfn, u64 count)
{
	pr_warn("%llu pages from frame %#llx on, pinned for user address %#llx, stay pinned for ever\n",
		count, pfn, user);
}

bool pinned_sgl_is_unlimited(void)
{
	return capable(CAP_IPC_LOCK);
}

struct user_struct *pinned_sgl_current_user(void)
{
	return get_uid(current_user());
}

/* The variants of `Counter`. */
enum { COUNT_PINNED, COUNT_LOCKED, COUNT_USER };

static bool fits(u64 counted, u64 pages, u64 limit, u64 *sum)
{
	return !check_add_overflow(counted, pages, sum) && *sum <= limit && *sum <= S64_MAX;
}

static int charge_pinned(struct mm_struct *mm, u64 pages, u64 limit, u64 *charged)
{
	s64 old = atomic64_read(&mm->pinned_vm);
	u64 sum;

	do {
		*charged = old;
		if (!fits(old, pages, limit, &sum))
			return -ENOMEM;
	} while (!atomic64_try_cmpxchg(&mm->pinned_vm, &old, sum));
	return 0;
}

static int charge_locked(struct mm_struct *mm, u64 pages, u64 limit, u64 *charged)
{
	int error = mmap_write_lock_killable(mm);
	u64 sum;

	if (error)
		return error;
	*charged = mm->locked_vm;
	if (fits(mm->locked_vm, pages, limit, &sum))
		mm->locked_vm = sum;
	else
		error = -ENOMEM;
	mmap_write_unlock(mm);
	return error;
}

static int charge_user(struct user_struct *user, u64 pages, u64 limit, u64 *charged)
{
	long old = atomic_long_read(&user->locked_vm);
	u64 sum;

	do {
		*charged = old;
		if (!fits(old, pages, limit, &sum))
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &old, sum));
	return 0;
}

int pinned_sgl_charge(u32 counter, struct mm_struct *mm, struct user_struct *user,
		      struct task_struct *task, u64 pages, u64 *charged, u64 *limit)
{
	int error;

	*limit = task ? task_rlimit(task, RLIMIT_MEMLOCK) >> PAGE_SHIFT : U64_MAX;
	switch (counter) {
	case COUNT_PINNED:
		return charge_pinned(mm, pages, *limit, charged);
	case COUNT_LOCKED:
		return charge_locked(mm, pages, *limit, charged);
	}
	error = charge_user(user, pages, *limit, charged);
	/* Where it is shown, and not limited. */
	if (!error)
		atomic64_add(pages, &mm->pinned_vm);
	return error;
}

/* What is left: nothing at the least. If less is counted than was charged, others have taken it. */
static s64 less(s64 counted, u64 pages)
{
	return counted > (s64)pages ? counted - (s64)pages : min(counted, 0);
}

static void report_missing(const char *of, s64 counted, u64 pages)
{
	if (counted < (s64)pages)
		pr_warn_ratelimited("%llu pages were charged, and %s has only %lld\n", pages, of,
				    counted);
}

static void uncharge_pinned(struct mm_struct *mm, u64 pages)
{
	s64 old = atomic64_read(&mm->pinned_vm);

	while (!atomic64_try_cmpxchg(&mm->pinned_vm, &old, less(old, pages)))
		;
	report_missing("pinned_vm", old, pages);
}

static void uncharge_user(struct user_struct *user, u64 pages)
{
	long old = atomic_long_read(&user->locked_vm);

	while (!atomic_long_try_cmpxchg(&user->locked_vm, &old, less(old, pages)))
		;
	report_missing("locked_vm of the user", old, pages);
}

void pinned_sgl_uncharge(u32 counter, struct mm_struct *mm, struct user_struct *user, u64 pages)
{
	if (counter == COUNT_LOCKED) {
		/* Not killable: what was charged must go back. */
		mmap_write_lock(mm);
		report_missing("locked_vm", mm->locked_vm, pages);
		mm->locked_vm = less(mm->locked_vm, pages);
		mmap_write_unlock(mm);
		return;
	}
	if (counter == COUNT_USER)
		uncharge_user(user, pages);
	uncharge_pinned(mm, pages);
}

void pinned_sgl_not_charged(u64 pages)
{
	pr_warn_ratelimited("%llu pages more than were charged were to be uncharged\n", pages);
}

void pinned_sgl_read_phys(u64 phys, void *to, size_t len)
{
	while (len) {
		size_t some = min_t(size_t, len, PAGE_SIZE - offset_in_page(phys));

		memcpy_from_page(to, pfn_to_page(PHYS_PFN(phys)), offset_in_page(phys), some);
		phys += some;
		to += some;
		len -= some;
	}
}

void pinned_sgl_write_phys(u64 phys, const void *from, size_t len)
{
	while (len) {
		size_t some = min_t(size_t, len, PAGE_SIZE - offset_in_page(phys));

		memcpy_to_page(pfn_to_page(PHYS_PFN(phys)), offset_in_page(phys), from, some);
		phys += some;
		from += some;
		len -= some;
	}
}

void pinned_sgl_dma_limits(struct device *device, u64 *max_len, u64 *boundary_mask)
{
	/* Bounce buffers may have less room than the device takes in a segment. */
	*max_len = min_t(u64, dma_get_max_seg_size(device), dma_max_mapping_size(device));
	*boundary_mask = dma_get_seg_boundary(device);
	/* On 32 bits it is what an address has, and no boundary. */
	if (*boundary_mask == ULONG_MAX)
		*boundary_mask = U64_MAX;
}

int pinned_sgl_sg_set(struct scatterlist **at, u64 phys, u32 len)
{
	if (!*at || !len || !pfn_valid(PHYS_PFN(phys)) || !pfn_valid(PHYS_PFN(phys + (len - 1))))
		return -EINVAL;
	sg_set_page(*at, pfn_to_page(PHYS_PFN(phys)), len, offset_in_page(phys));
	*at = sg_next(*at);
	cond_resched();
	return 0;
}

void pinned_sgl_sync_for_cpu(struct device *device, struct sg_table *table,
			     enum dma_data_direction direction)
{
	dma_sync_sgtable_for_cpu(device, table, direction);
}

void pinned_sgl_sync_for_device(struct device *device, struct sg_table *table,
				enum dma_data_direction direction)
{
	dma_sync_sgtable_for_device(device, table, direction);
}

int pinned_sgl_coherent_table(struct device *device, struct sg_table *table, void *memory,
			      u64 first, size_t size)
{
	return dma_get_sgtable(device, table, memory, first, size);
}
