// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Has calls.ko ask for page sizes, blocks and copies of memory of each kind, ragged and not, for devices that see all
 * of it at once, that see it in parts, behind an IOMMU, behind a bus with two windows and not, and that need no DMA; and
 * of such that see none. And every allocation fails once meanwhile.
 *
 * usage: rdma_blocks
 */
#include "verbs.h"

/* As calls.c has them. */
enum { DIRECT, IOMMU, WINDOWS, NOWHERE };
static const char *const places[] = { "", " behind the IOMMU", " in two windows", " of which it sees none" };

/* What the DMA API knows of as mapped, in the whole machine. */
static long mapped(void)
{
	return number("/sys/kernel/debug/dma-api/nr_total_entries", "") - number("/sys/kernel/debug/dma-api/num_free_entries", "");
}

/* An errno, or 0: nothing is left of it, whatever has happened. The nth allocation fails, and *nth is what is left of it. */
static int ask(const uint8_t *at, uint64_t len, uint64_t segment, uint64_t place, int *nth)
{
	static uint64_t seed;
	const uint64_t request[] = { (uintptr_t)at, len, segment, place, ++seed };
	const long before = mapped();
	int file = open("/sys/kernel/debug/rdma_calls", O_WRONLY), error;

	check(file >= 0);
	if (nth)
		fails(*nth);
	error = write(file, request, sizeof(request)) == sizeof(request) ? 0 : errno;
	if (nth)
		*nth = fails(0);
	close(file);
	check(!charged() && !pinned() && mapped() == before);
	return error;
}

static void blocks(const char *kind, const uint8_t *at)
{
	const struct {
		const char *name;
		uint64_t offset, len;
	} cuts[] = {
		{ "all", 0, 4 * MIB }, { "ragged", 100, 3 * MIB + 1000 }, { "a huge page of it", 2 * MIB, 2 * MIB },
		{ "across huge pages", MIB, 2 * MIB }, { "a page", 5 * PAGE, PAGE }, { "a byte", 4095, 1 },
		{ "two bytes on two pages", 2 * MIB - 1, 2 }, { "64 KiB", 64 << 10, 64 << 10 },
	};
	static const uint64_t devices[][2] = {
		{ 0, DIRECT }, { 64 << 10, DIRECT }, { 2 << 20, DIRECT }, { 0xfffff000, DIRECT }, { 64 << 10, IOMMU },
		{ 0xfffff000, IOMMU }, { 64 << 10, WINDOWS }, { 0xfffff000, WINDOWS }, { 0xfffff000, NOWHERE },
	};
	int asked = 0, copied = 0;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++)
		for (size_t j = 0; j < sizeof(devices) / sizeof(*devices); j++) {
			const uint64_t place = devices[j][1];
			int error = ask(at + cuts[i].offset, cuts[i].len, devices[j][0], place, NULL);

			if (error != (place == NOWHERE ? EIO : 0)) {
				printf("test: FAILED: blocks of %s: %s, %#lx bytes at a time%s (%s)\n", kind, cuts[i].name,
				       devices[j][0], places[place], strerror(error));
				exit(1);
			}
			asked++;
			copied += place == IOMMU;
		}
	printf("test: blocks of %s: %d times 200 page sizes, 19 sizes of blocks, 50 copies, as the pages lie; ", kind, asked);
	printf("edu has copied %d times\n", copied);
}

/* Spares the nodes by which the DMA API keeps watch, which it would give up. */
static void spare_nodes(void)
{
	glob_t caches;

	check(!glob("/sys/kernel/slab/*/failslab", 0, NULL, &caches));
	for (size_t i = 0; i < caches.gl_pathc; i++)
		if (!strstr(caches.gl_pathv[i], "/radix_tree_node/"))
			put(caches.gl_pathv[i], "1");
	globfree(&caches);
	put("/sys/kernel/debug/failslab/cache-filter", "Y");
}

/* Every allocation fails once, of the test itself, too. */
static void without_memory(const uint8_t *at, uint64_t place)
{
	int failed = 0, left = 0, nth;

	for (nth = 1; !left; nth++) {
		check(nth < 5000);
		left = nth;
		errno = ask(at, 4 * MIB, 64 << 10, place, &left);
		check(!errno || errno == ENOMEM);
		failed += errno == ENOMEM;
	}
	check(failed);
	printf("test: blocks of pages apart%s: %d allocations have failed, %d of them for good; nothing is left\n",
	       places[place], nth - 2, failed);
}

int main(void)
{
	uint8_t *huge = map(6 * MIB, PROT_READ | PROT_WRITE, MAP_HUGETLB), *mixed = memory(4 * MIB, MADV_HUGEPAGE);
	uint8_t *one = map(4 * MIB, PROT_READ | PROT_WRITE, 0), *other = map(4 * MIB, PROT_READ | PROT_WRITE, 0);

	memset(huge, 1, 6 * MIB);
	blocks("hugetlb", huge);
	blocks("huge pages", mixed);
	/* The second half anew, in small pages. */
	madvise(mixed + 2 * MIB, 2 * MIB, MADV_DONTNEED);
	madvise(mixed + 2 * MIB, 2 * MIB, MADV_NOHUGEPAGE);
	memset(mixed + 2 * MIB, 2, 2 * MIB);
	blocks("huge pages and small ones", mixed);
	blocks("small pages", memory(4 * MIB, MADV_NOHUGEPAGE));
	/* Taken in turns, so that no two of one of them lie side by side. */
	madvise(one, 4 * MIB, MADV_NOHUGEPAGE);
	madvise(other, 4 * MIB, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 4 * MIB; i += PAGE)
		one[i] = other[i] = i / PAGE;
	blocks("pages apart", one);
	let_memory_fail();
	spare_nodes();
	without_memory(one, DIRECT);
	without_memory(one, IOMMU);
	without_memory(one, WINDOWS);
	check(number("/sys/kernel/debug/dma-api/disabled", "N") == 0);
	return 0;
}
