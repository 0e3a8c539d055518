// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Has calls.ko ask for page sizes, blocks and copies of memory of each kind, ragged and not, for devices that see all
 * of it at once, that see it in parts, behind an IOMMU and not, and that need no DMA.
 *
 * usage: rdma_blocks
 */
#include "verbs.h"

static const struct {
	const char *name;
	uint64_t offset, len;
} cuts[] = {
	{ "all", 0, 4 * MIB }, { "ragged", 100, 3 * MIB + 1000 }, { "a huge page of it", 2 * MIB, 2 * MIB },
	{ "across huge pages", MIB, 2 * MIB }, { "a page", 5 * PAGE, PAGE }, { "a byte", 4095, 1 },
	{ "two bytes on two pages", 2 * MIB - 1, 2 }, { "64 KiB", 64 << 10, 64 << 10 },
};

static void blocks(const char *kind, const uint8_t *at)
{
	static const uint64_t devices[][2] = {
		{ 0, 0 }, { 64 << 10, 0 }, { 2 << 20, 0 }, { 0xfffff000, 0 }, { 64 << 10, 1 }, { 0xfffff000, 1 },
	};
	static uint64_t seed;
	int asked = 0, copied = 0;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++)
		for (size_t j = 0; j < sizeof(devices) / sizeof(*devices); j++) {
			uint64_t request[] = { (uintptr_t)at + cuts[i].offset, cuts[i].len, devices[j][0], devices[j][1], ++seed };
			int file = open("/sys/kernel/debug/rdma_calls", O_WRONLY);

			check(file >= 0);
			if (write(file, request, sizeof(request)) != sizeof(request)) {
				printf("test: FAILED: blocks of %s: %s, %#lx bytes at a time%s (%s)\n", kind, cuts[i].name,
				       devices[j][0], devices[j][1] ? " behind the IOMMU" : "", strerror(errno));
				exit(1);
			}
			close(file);
			check(!charged() && !pinned());
			asked++;
			copied += devices[j][1];
		}
	printf("test: blocks of %s: %d times 200 page sizes, 19 sizes of blocks, 50 copies, as the pages lie; ", kind, asked);
	printf("edu has copied %d times\n", copied);
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
	return 0;
}
