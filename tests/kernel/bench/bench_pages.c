// SPDX-License-Identifier: MIT OR Apache-2.0
/* The array of pages that both lists are built from, and the scatterlist. */
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "bench_pages.h"

/* 256 MiB, at 256 MiB: only the page structures are used, and only their addresses. */
#define PAGES ((size_t)65536)
#define FIRST 65536
#define BATCH ((size_t)512)

static struct page **pages;

size_t bench_fill(unsigned int shape)
{
	if (!pages)
		pages = kvmalloc_array(PAGES, sizeof(*pages), GFP_KERNEL);
	if (!pages || !pfn_valid(FIRST) || !pfn_valid(FIRST + PAGES - 1))
		return 0;
	for (size_t i = 0; i < PAGES; i++) {
		size_t block = i / BATCH, at = i;

		/* Odd factors: every page once, and no two neighbours behind each other. */
		if (shape == 1)
			at = block * 37 % (PAGES / BATCH) * BATCH + i % BATCH;
		else if (shape == 2)
			at = i * 4099 % PAGES;
		pages[i] = pfn_to_page(FIRST + at);
	}
	return PAGES;
}

void bench_free(void)
{
	kvfree(pages);
	pages = NULL;
}

void bench_frames(size_t first, size_t count, u64 *frames)
{
	for (size_t i = 0; i < count; i++)
		frames[i] = page_to_pfn(pages[first + i]);
}

u64 bench_now(void)
{
	return ktime_get_ns();
}

/* As a driver does it that pins in batches. */
static int build(struct sg_append_table *table)
{
	int error = 0;

	for (size_t i = 0; i < PAGES && !error; i += BATCH)
		error = sg_alloc_append_table_from_pages(table, pages + i, BATCH, 0,
							 BATCH * PAGE_SIZE, UINT_MAX,
							 PAGES - i - BATCH, GFP_KERNEL);
	return error;
}

int bench_scatterlist(u64 *nanoseconds, u64 *entries, u64 *bytes)
{
	struct sg_append_table table = {};
	u64 start = ktime_get_ns();
	size_t per_page = SG_MAX_SINGLE_ALLOC, count;
	int error = build(&table);

	*nanoseconds = ktime_get_ns() - start;
	count = table.sgt.orig_nents;
	*entries = count;
	/* One entry of each full page is the link to the next. */
	*bytes = (count + count / per_page) * sizeof(struct scatterlist);
	sg_free_append_table(&table);
	return error;
}

u64 bench_offset(size_t lookup)
{
	return lookup * 0x9e3779b97f4a7c15 % (PAGES * PAGE_SIZE);
}

int bench_scatterlist_lookup(size_t lookups, u64 *nanoseconds, u64 *sum)
{
	struct sg_append_table table = {};
	struct scatterlist *entry;
	unsigned int i;
	u64 start, all = 0;
	int error = build(&table);

	start = ktime_get_ns();
	for (size_t lookup = 0; lookup < lookups && !error; lookup++) {
		u64 offset = bench_offset(lookup);

		for_each_sgtable_sg(&table.sgt, entry, i) {
			if (offset < entry->length) {
				all += sg_phys(entry) + offset;
				break;
			}
			offset -= entry->length;
		}
	}
	*nanoseconds = ktime_get_ns() - start;
	*sum = all;
	sg_free_append_table(&table);
	return error;
}
