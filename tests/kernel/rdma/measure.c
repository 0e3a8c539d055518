// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How long registering and deregistering take, by size and kind of page: the fastest of some rounds, where a
 * nanosecond is an instruction. And how much memory the kernel has for each; what finding a page in it takes.
 *
 * usage: rdma_measure DEVICE...
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

/* What a registration takes of the kernel's memory, and how many pieces of it: of some that are there at once. */
static void bytes(const uint8_t *at, uint64_t len, long each[2])
{
	const int count = len <= 2 * MIB ? 100 : 4;
	uint32_t regions[100];
	char text[64] = "";
	int file = open("/sys/kernel/debug/rdma_bytes", O_RDONLY);

	check(file >= 0);
	for (int i = 0; i < count; i++) {
		errno = verbs_register(&verbs, (uintptr_t)at, len, 0, ALL, &regions[i]);
		check(!errno);
	}
	check(read(file, text, sizeof(text) - 1) > 0 && sscanf(text, "%ld %ld", &each[0], &each[1]) == 2);
	close(file);
	for (int i = 0; i < count; i++)
		check(!verbs_deregister(&verbs, regions[i]));
	each[0] /= count;
	each[1] /= count;
}

/* What finding a page takes, where there are lists. */
static void lookups(const char *kind, const uint8_t *at, uint64_t len)
{
	const uint64_t request[] = { (uintptr_t)at, len };
	int file = open("/sys/kernel/debug/rdma_lookup", O_RDWR);
	char text[256] = "";

	if (file < 0 && errno == ENOENT)
		return;
	check(file >= 0 && write(file, request, sizeof(request)) == sizeof(request));
	check(pread(file, text, sizeof(text) - 1, 0) > 0);
	close(file);
	printf("%s, %lu KiB: %s", kind, len / 1024, text);
}

static void measure(const char *kind, const uint8_t *at, uint64_t len)
{
	uint64_t best[2] = { UINT64_MAX, UINT64_MAX };
	long taken[2];

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
	bytes(at, len, taken);
	printf("%s: %s, %lu KiB: register %lu, deregister %lu; %ld bytes, memory given %ld times\n", device, kind,
	       len / 1024, best[0], best[1], taken[0], taken[1]);
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
	const uint64_t sizes[] = { PAGE, 2 * MIB, 64 * MIB };
	uint8_t *huge, *small, *apart;

	setvbuf(stdout, NULL, _IONBF, 0);
	/* Pages come as they lie in the machine while nothing else is freed: the scattered ones last. */
	huge = memory(1024 * MIB, MADV_HUGEPAGE);
	small = memory(64 * MIB, MADV_NOHUGEPAGE);
	apart = scattered(1024 * MIB);
	for (int i = 1; i < argc; i++) {
		device = argv[i];
		verbs = verbs_open(device);
		for (size_t j = 0; j < sizeof(sizes) / sizeof(*sizes); j++) {
			measure("pages of 2 MiB", huge, sizes[j]);
			measure("pages of 4 KiB as they came", small, sizes[j]);
			measure("pages of 4 KiB apart", apart, sizes[j]);
		}
		measure("pages of 2 MiB", huge, 1024 * MIB);
		measure("pages of 4 KiB apart", apart, 1024 * MIB);
	}
	lookups("pages of 2 MiB", huge, 1024 * MIB);
	lookups("pages of 4 KiB as they came", small, 64 * MIB);
	lookups("pages of 4 KiB apart", apart, 1024 * MIB);
	return 0;
}
