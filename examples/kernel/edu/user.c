// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Copies memory of this program with the `edu` device: small pages in no order, transparent huge
 * pages, and huge pages of hugetlbfs. The bytes must arrive, and nothing around them may change:
 * the driver's second try, after it has unmapped, is at the beginning of the region.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct request {
	uint64_t from, to, len, offset, count;
};

static const uint64_t mib = 1 << 20;

static void die(const char *what)
{
	printf("test: edu: FAILED: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Small pages that are touched last to first, so that their frames are in no order. */
static unsigned char *memory(const char *kind, uint64_t len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (!strcmp(kind, "hugetlb") ? MAP_HUGETLB : 0);
	unsigned char *all = mmap(NULL, len + 2 * mib, PROT_READ | PROT_WRITE, flags, -1, 0);
	unsigned char *at = (void *)(((uintptr_t)all + 2 * mib - 1) & ~(2 * mib - 1));

	if (all == MAP_FAILED)
		die(kind);
	if (!strcmp(kind, "4k"))
		madvise(at, len, MADV_NOHUGEPAGE);
	else if (!strcmp(kind, "thp"))
		madvise(at, len, MADV_HUGEPAGE);
	for (uint64_t page = len / 4096; page--;)
		at[page * 4096] = 0;
	return at;
}

static int edu(struct request *request)
{
	int file = open("/sys/kernel/debug/edu/copy", O_WRONLY);
	int done;

	if (file < 0)
		die("/sys/kernel/debug/edu/copy");
	done = write(file, request, sizeof(*request)) == sizeof(*request) ? 0 : -errno;
	close(file);
	return done;
}

static void round_trip(const char *kind, uint64_t len, uint64_t offset, uint64_t count)
{
	unsigned char *from = memory(kind, len), *to = memory(kind, len);
	struct request request = { (uintptr_t)from, (uintptr_t)to, len, offset, count };

	for (uint64_t i = 0; i < len; i++) {
		from[i] = i * 31 + (i >> 12) + 7;
		to[i] = 0x5a;
	}
	errno = -edu(&request);
	if (errno)
		die(kind);
	for (uint64_t i = 0; i < len; i++) {
		int inside = i >= offset && i < offset + count;

		if (to[i] != (inside ? from[i] : 0x5a)) {
			printf("test: edu: FAILED: %s: byte %#lx is %#x\n", kind, i, to[i]);
			exit(1);
		}
	}
	printf("test: edu: %s: %lu bytes at %#lx of %#lx arrived\n", kind, count, offset, len);
}

static void refused(struct request request, int expected, const char *what)
{
	int got = edu(&request);

	if (got != -expected) {
		printf("test: edu: FAILED: %s: %d, not %d\n", what, got, -expected);
		exit(1);
	}
}

int main(void)
{
	/* Across the border of two pages that are no neighbours in memory. */
	round_trip("4k", 64 * 4096, 5 * 4096 + 0x800, 4096);
	/* Across the border of two huge pages. */
	round_trip("thp", 4 * mib, 2 * mib - 0x800, 5000);
	round_trip("hugetlb", 4 * mib, 2 * mib - 1000, 2000);

	unsigned char *ok = memory("4k", 8192);
	uint64_t at = (uintptr_t)ok;

	refused((struct request){ at, at, 4096, 0, 4097 }, EINVAL, "beyond the region");
	refused((struct request){ at, at, 0, 0, 0 }, EINVAL, "no bytes");
	refused((struct request){ at + 1, at, 4096, 0, 1 }, EINVAL, "not a page");
	refused((struct request){ 4096, at, 4096, 0, 1 }, EFAULT, "nothing there");
	mprotect(ok, 8192, PROT_READ);
	refused((struct request){ at, at, 4096, 0, 1 }, EFAULT, "written, but read-only");
	puts("test: edu: bad requests are refused");
	return 0;
}
