// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How long registering and deregistering take, by size and kind of page: the fastest of some rounds, where a
 * nanosecond is an instruction. And how much memory the kernel has for each.
 *
 * usage: rdma_measure DEVICE
 */
#include "verbs.h"
#include <time.h>

static struct verbs verbs;
static const char *device;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Bytes of the machine's pages that are allocated, counted as they go and come back. */
static long allocated(void)
{
	char name[64];
	long value, pages = 0;
	FILE *in = fopen("/proc/vmstat", "r");

	check(in);
	while (fscanf(in, "%63s %ld", name, &value) == 2)
		if (!strncmp(name, "pgalloc_", 8))
			pages += value;
		else if (!strcmp(name, "pgfree"))
			pages -= value;
	fclose(in);
	return pages * (long)PAGE;
}

/* What a registration takes of it, of as many at once as make a page little. */
static long bytes(const uint8_t *at, uint64_t len)
{
	const int count = len <= 2 * MIB ? 1000 : 8;
	uint32_t regions[1000];
	long before = allocated(), each;

	for (int i = 0; i < count; i++) {
		errno = verbs_register(&verbs, (uintptr_t)at, len, 0, ALL, &regions[i]);
		check(!errno);
	}
	each = (allocated() - before) / count;
	for (int i = 0; i < count; i++)
		check(!verbs_deregister(&verbs, regions[i]));
	return each;
}

static void measure(const char *kind, const uint8_t *at, uint64_t len)
{
	uint64_t best[2] = { UINT64_MAX, UINT64_MAX };

	for (int round = 0; round < 3; round++) {
		uint64_t begin = now(), middle, end;
		uint32_t region;

		errno = verbs_register(&verbs, (uintptr_t)at, len, 0, ALL, &region);
		check(!errno);
		middle = now();
		errno = verbs_deregister(&verbs, region);
		check(!errno);
		end = now();
		best[0] = middle - begin < best[0] ? middle - begin : best[0];
		best[1] = end - middle < best[1] ? end - middle : best[1];
	}
	printf("%s: %s, %lu KiB: register %lu, deregister %lu; %ld bytes\n", device, kind, len / 1024, best[0],
	       best[1], bytes(at, len));
}

/* Every other page of a memory twice as large, taken in turns with those of another: no two lie side by side. */
static uint8_t *scattered(uint64_t len)
{
	uint8_t *at = map(len, PROT_READ | PROT_WRITE, 0), *other = map(len, PROT_READ | PROT_WRITE, 0);

	madvise(at, len, MADV_NOHUGEPAGE);
	madvise(other, len, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < len; i += PAGE)
		at[i] = other[i] = 1;
	return at;
}

int main(int argc, char **argv)
{
	static const uint64_t sizes[] = { PAGE, 2 * MIB, 64 * MIB };
	uint8_t *huge, *small, *apart;

	check(argc == 2);
	device = argv[1];
	setvbuf(stdout, NULL, _IONBF, 0);
	verbs = verbs_open(device);
	/* Pages come as they lie in the machine while nothing else is freed: the scattered ones last. */
	huge = memory(1024 * MIB, MADV_HUGEPAGE);
	small = memory(64 * MIB, MADV_NOHUGEPAGE);
	apart = scattered(64 * MIB);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		measure("pages of 2 MiB", huge, sizes[i]);
		measure("pages of 4 KiB as they came", small, sizes[i]);
		measure("pages of 4 KiB apart", apart, sizes[i]);
	}
	measure("pages of 2 MiB", huge, 1024 * MIB);
	return 0;
}
