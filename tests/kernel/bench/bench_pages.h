/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_PAGES_H
#define BENCH_PAGES_H

#include <linux/types.h>

struct iommu_domain;
struct page;

/* Fills the array of `count` pages, a multiple of 512: 0 contiguous, 1 runs of 512, 2 every page a run. */
struct page **bench_fill(unsigned int shape, size_t count);
void bench_free(void);
/* Builds a scatterlist of the array, and frees it: nanoseconds to build it, entries, bytes. */
int bench_scatterlist(u64 *nanoseconds, u64 *entries, u64 *bytes);
/*
 * Looks bytes of the array up in a scatterlist of it, entry by entry as there is no other way:
 * nanoseconds, and the sum of the addresses.
 */
int bench_scatterlist_lookup(size_t lookups, u64 *nanoseconds, u64 *sum);
/* The offset that is looked up. */
u64 bench_offset(size_t lookup);
u64 bench_now(void);

/* A domain with the page table of this machine's IOMMU, in which no device is; null if there is none. */
struct iommu_domain *bench_domain(void);
/* Maps so many pages one by one, looks them up, and unmaps them one by one: nanoseconds of each. */
int bench_calls(struct iommu_domain *domain, u64 iova, size_t calls, u64 nanoseconds[3]);

#endif
