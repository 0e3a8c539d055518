// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Pages of user space that are pinned for devices, and loops over each of them: see gup.rs.
 */

#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include "helpers.h"

/* So many page structures lie side by side: those of a section of memory, or of all of it. */
#if defined(CONFIG_SPARSEMEM) && !defined(CONFIG_SPARSEMEM_VMEMMAP)
#define GUP_SIDE_BY_SIDE ((u64)PAGES_PER_SECTION)
#else
#define GUP_SIDE_BY_SIDE ((u64)1 << 15)
#endif

/*
 * Blocks of so many pages have their page structures side by side in every memory model, and are of
 * one kind: memory of devices comes and goes by at least as much.
 */
#ifndef SUBSECTION_SHIFT
#define SUBSECTION_SHIFT 21
#endif
#define GUP_BLOCK (1UL << (SUBSECTION_SHIFT - PAGE_SHIFT))

/* Pins up to `count` pages (as many as an int counts) from `start` on: how many, or an errno. */
__rust_helper long rust_helper_gup_pin(struct mm_struct *mm, unsigned long start, size_t count,
				       unsigned int flags, struct page **pages)
{
	int locked = 1;
	long pinned;

	count = min_t(size_t, count, INT_MAX);

	/* The fast path of GUP looks for neither, and a large region takes it for a long time. */
	cond_resched();
	if (fatal_signal_pending(current))
		return -EINTR;
	if (mm == current->mm)
		return pin_user_pages_fast(start, count, flags, pages);

	/* Another process: its address space must not go away in the middle. */
	if (!mmget_not_zero(mm))
		return -ESRCH;
	pinned = mmap_read_lock_killable(mm);
	if (!pinned) {
		pinned = pin_user_pages_remote(mm, start, count, flags, pages, &locked);
		if (locked)
			mmap_read_unlock(mm);
	}
	mmput(mm);
	return pinned;
}

/*
 * How many of `count` pages (one at least) continue each other, and what they are: `provider` is 0
 * for ordinary memory. The next run may continue this one.
 */
__rust_helper size_t rust_helper_gup_first_run(struct page *const *pages, size_t count, u64 *pfn,
					       u64 *provider)
{
	struct page *first = pages[0];
	unsigned long frame = page_to_pfn(first);
	size_t same = 1, end = min_t(size_t, count, GUP_BLOCK - (frame & (GUP_BLOCK - 1)));

	*pfn = frame;
	*provider = is_zone_device_page(first) ? (unsigned long)page_pgmap(first) : 0;
	while (same < end && pages[same] == first + same)
		same++;
	return same;
}

/*
 * The frames of up to `count` pages behind the first one of `pages`, as long as none continues the
 * one before, and all are ordinary memory: how many.
 */
__rust_helper size_t rust_helper_gup_singles(struct page *const *pages, size_t count, u64 *pfns)
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

static noinline void gup_unpin_pages(u64 pfn, u64 count, bool dirty)
{
	while (count) {
		/* Never across a boundary of this size; and a run of a terabyte lets others run. */
		u64 most = GUP_SIDE_BY_SIDE - (pfn & (GUP_SIDE_BY_SIDE - 1));
		u64 some = count < most ? count : most;

		unpin_user_page_range_dirty_lock(pfn_to_page(pfn), some, dirty);
		cond_resched();
		pfn += some;
		count -= some;
	}
}

/* Runs of a page come by the million: they are spared what there is to do for others. */
__rust_helper void rust_helper_gup_unpin_run(u64 pfn, u64 count, bool dirty)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	if (count != 1 || (dirty && !folio_test_dirty(folio)) || need_resched())
		gup_unpin_pages(pfn, count, dirty);
	else
		unpin_user_folio(folio, 1);
}

__rust_helper void rust_helper_gup_copy_from(u64 phys, void *to, size_t len)
{
	while (len) {
		size_t some = min_t(size_t, len, PAGE_SIZE - offset_in_page(phys));

		memcpy_from_page(to, pfn_to_page(PHYS_PFN(phys)), offset_in_page(phys), some);
		phys += some;
		to += some;
		len -= some;
	}
}

__rust_helper void rust_helper_gup_copy_to(u64 phys, const void *from, size_t len)
{
	while (len) {
		size_t some = min_t(size_t, len, PAGE_SIZE - offset_in_page(phys));

		memcpy_to_page(pfn_to_page(PHYS_PFN(phys)), offset_in_page(phys), from, some);
		phys += some;
		from += some;
		len -= some;
	}
}

/* Warns in the log of pins that stay for ever. */
__rust_helper void rust_helper_gup_report_leak(u64 user, u64 pfn, u64 count)
{
	pr_warn("gup: %llu pages from frame %#llx on, pinned for user address %#llx, stay pinned for ever\n",
		count, pfn, user);
}
