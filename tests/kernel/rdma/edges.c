// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What registering memory answers at its edges, and what the process is charged for meanwhile: a table by which two
 * implementations are compared, line by line.
 *
 * usage: rdma_edges DEVICE
 */
#include "verbs.h"
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct verbs verbs;
static const char *device;

static void try_at(const char *name, uint64_t start, uint64_t len, uint64_t iova, int access)
{
	long before = charged();
	uint32_t region;
	int error = verbs_register(&verbs, start, len, iova, access, &region);

	printf("%s: %s: %s, VmPin %+ld kB", device, name, error ? strerrorname_np(error) : "registered", charged() - before);
	if (!error) {
		errno = verbs_deregister(&verbs, region);
		check(!errno);
		printf(", then %+ld kB", charged() - before);
	}
	puts("");
}

static void try(const char *name, const void *start, uint64_t len, int access)
{
	try_at(name, (uintptr_t)start, len, (uintptr_t)start, access);
}

/* Twice each: to be written to, and only to be read from. */
static void try_both(const char *name, const void *start, uint64_t len)
{
	char to_read[80];

	snprintf(to_read, sizeof(to_read), "%s, only read", name);
	try(name, start, len, ALL);
	try(to_read, start, len, 0);
}

static void lengths(void)
{
	uint8_t *at = map(64 * PAGE, PROT_READ | PROT_WRITE, 0);

	try("no bytes, at a page", at, 0, ALL);
	try("no bytes, within a page", at + 8, 0, ALL);
	try("one byte", at + 8, 1, ALL);
	try("a page less a byte, from its second on", at + 1, PAGE - 1, ALL);
	try("a page, from its second byte on", at + 1, PAGE, ALL);
	try("two bytes, two pages", at + PAGE - 1, 2, ALL);
	try_both("64 pages", at, 64 * PAGE);
	try_both("64 pages, ragged", at + 1, 64 * PAGE - 2);
	try("64 pages, written from here alone", at, 64 * PAGE, LOCAL_WRITE);
	try("64 pages, read from afar alone", at, 64 * PAGE, REMOTE_READ);
	try("64 pages, written from afar alone", at, 64 * PAGE, REMOTE_WRITE);
	try("64 pages, relaxed ordering", at, 64 * PAGE, ALL | RELAXED);
	try("64 pages, on demand", at, 64 * PAGE, ALL | ON_DEMAND);
	try("all memory, on demand", NULL, UINT64_MAX, ALL | ON_DEMAND);
	try("64 pages, said to be hugetlb", at, 64 * PAGE, ALL | HUGETLB);
	try("64 pages, access that there is none", at, 64 * PAGE, 1 << 19);
	try_at("64 pages, at zero for the device", (uintptr_t)at, 64 * PAGE, 0, ALL);
	try_at("64 pages, at the end for the device", (uintptr_t)at, 64 * PAGE, -64 * PAGE, ALL);
	try_at("64 pages, past the end for the device", (uintptr_t)at, 64 * PAGE, -32 * PAGE, ALL);
	try_at("64 pages, at another byte for the device", (uintptr_t)at, 64 * PAGE, (uintptr_t)at + 1, ALL);
}

static void addresses(void)
{
	uint8_t *at = map(64 * PAGE, PROT_READ | PROT_WRITE, 0);

	try("wraps", at, UINT64_MAX - (uintptr_t)at - 10, ALL);
	try("wraps by one", at, UINT64_MAX - (uintptr_t)at + 1, ALL);
	try("to the end of addresses", (void *)(-PAGE), PAGE - 1, ALL);
	try("no bytes, at the last page", (void *)(-PAGE), 0, ALL);
	try("no bytes, in the last page", (void *)(-PAGE + 1), 0, ALL);
	try("null", NULL, PAGE, ALL);
	try_both("the kernel's", (void *)0xffff888000000000, PAGE);
	try_both("no address", (void *)0x0000800000000000, PAGE);
	try_both("into what is no address", (void *)(0x0000800000000000 - PAGE), 2 * PAGE);
	try_both("the page for vsyscall", (void *)0xffffffffff600000, PAGE);
	try_both("the vDSO", (void *)getauxval(AT_SYSINFO_EHDR), PAGE);
	try("64 GiB of nothing", at, (uint64_t)1 << 36, ALL);
	/* More pages than 32 bits count: siw allocates by their number first, and the kernel complains of that. */
	if (!strncmp(device, "rxe", 3)) {
		try("16 TiB of nothing", at, (uint64_t)1 << 44, ALL);
		try("wraps to itself", at + 1, UINT64_MAX, ALL);
	}
	munmap(at + 32 * PAGE, PAGE);
	try("a hole", at, 64 * PAGE, ALL);
	try("up to a hole", at, 32 * PAGE, ALL);
	try("a hole after 600 pages", map(600 * PAGE, PROT_READ | PROT_WRITE, 0), 4096 * MIB, ALL);
}

static void protections(void)
{
	uint8_t *at = map(4 * PAGE, PROT_READ | PROT_WRITE, 0);

	try_both("no access", map(4 * PAGE, PROT_NONE, 0), 4 * PAGE);
	try_both("read-only", map(4 * PAGE, PROT_READ, 0), 4 * PAGE);
	try_both("never touched", map(4 * PAGE, PROT_READ | PROT_WRITE, 0), 4 * PAGE);
	mprotect(at, PAGE, PROT_READ);
	try_both("first page read-only", at, 2 * PAGE);
	mprotect(at, PAGE, PROT_READ | PROT_WRITE);
	mprotect(at + 3 * PAGE, PAGE, PROT_NONE);
	try_both("last page without access", at, 4 * PAGE);
}

static void kinds(void)
{
	uint8_t *at = map(4 * MIB, PROT_READ | PROT_WRITE, MAP_HUGETLB);
	int file = memfd_create("edges", 0), secret = syscall(SYS_memfd_secret, 0), mem = open("/dev/mem", O_RDWR);

	memset(at, 1, 4 * MIB);
	try_both("hugetlb", at, 4 * MIB);
	try("hugetlb, a part", at + PAGE + 1, 2 * MIB, ALL);
	try("hugetlb, a page of it", at + 5 * PAGE, PAGE, ALL);
	try_both("a huge page", memory(4 * MIB, MADV_HUGEPAGE), 4 * MIB);
	try_both("small pages", memory(4 * MIB, MADV_NOHUGEPAGE), 4 * MIB);
	check(file >= 0 && secret >= 0 && mem >= 0 && !ftruncate(file, 8 * PAGE) && !ftruncate(secret, 8 * PAGE));
	at = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	try_both("memfd", at, 8 * PAGE);
	try_both("memfd, past its end", at, 16 * PAGE);
	try_both("memfd, read-only", mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, file, 0), 8 * PAGE);
	try_both("memfd, private", mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0), 8 * PAGE);
	try_both("a secret", mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, secret, 0), 8 * PAGE);
	at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0xf0000);
	check(at != MAP_FAILED);
	try_both("what is no memory", at, PAGE);
	close(file);
	close(secret);
	close(mem);
	file = open("/proc/self/exe", O_RDONLY);
	try_both("a program", mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0), PAGE);
	close(file);
}

/* The same memory at once: each registration counts, and what is gone from the process stays charged. */
static void twice(void)
{
	uint8_t *at = map(16 * PAGE, PROT_READ | PROT_WRITE, 0);
	long before = charged();
	uint32_t one, two;

	check(!verbs_register(&verbs, (uintptr_t)at, 16 * PAGE, 0, ALL, &one));
	check(!verbs_register(&verbs, (uintptr_t)at, 8 * PAGE, 0, ALL, &two));
	printf("%s: twice: VmPin %+ld kB\n", device, charged() - before);
	munmap(at, 16 * PAGE);
	printf("%s: unmapped: VmPin %+ld kB\n", device, charged() - before);
	check(!verbs_deregister(&verbs, two));
	printf("%s: one is gone: VmPin %+ld kB\n", device, charged() - before);
	check(!verbs_deregister(&verbs, one));
	printf("%s: both are gone: VmPin %+ld kB\n", device, charged() - before);
}

static void change(const char *name, int before, int after)
{
	uint8_t *at = map(PAGE, PROT_READ | PROT_WRITE, 0);
	uint32_t region;
	int error;

	check(!verbs_register(&verbs, (uintptr_t)at, PAGE, 0, before, &region));
	error = verbs_change_access(&verbs, region, after);
	printf("%s: access changed, %s: %s\n", device, name, error ? strerrorname_np(error) : "done");
	check(!verbs_deregister(&verbs, region));
}

static void limit(uint64_t bytes)
{
	struct rlimit limit = { bytes, bytes };

	check(!setrlimit(RLIMIT_MEMLOCK, &limit));
}

/* In a process of its own, which opens the device itself: a limit, without privileges, on what it has pinned. */
static void limits(void)
{
	uint8_t *at = map(64 * PAGE, PROT_READ | PROT_WRITE, 0);
	uint32_t region;

	verbs = verbs_open(device);
	limit(0);
	try("privileged, a limit of zero", at, 64 * PAGE, ALL);
	limit(64 * MIB);
	check(!setuid(65534));
	verbs = verbs_open(device);
	try("unprivileged", at, 64 * PAGE, ALL);
	try("64 MiB and a page of nothing", at, 64 * MIB + PAGE, ALL);
	limit(16 * PAGE + PAGE - 1);
	try_both("at the limit", at, 16 * PAGE);
	try_both("past the limit", at, 17 * PAGE);
	try("past the limit by its last byte", at + PAGE - 1, 16 * PAGE, ALL);
	try("past the limit, and nothing there", at, 1024 * MIB, ALL);
	try("past the limit, on demand", at, 64 * PAGE, ALL | ON_DEMAND);
	check(!verbs_register(&verbs, (uintptr_t)at, 10 * PAGE, 0, ALL, &region));
	try("up to the limit", at, 6 * PAGE, ALL);
	try("the same pages count again", at, 7 * PAGE, ALL);
	limit(4 * PAGE);
	try("a limit below what is charged", at, PAGE, ALL);
	check(!verbs_deregister(&verbs, region));
	limit(PAGE - 1);
	try("a limit of less than a page", at, PAGE, ALL);
	try("a limit of less than a page, no bytes", at, 0, ALL);
	limit(0);
	try_both("a limit of zero", at, PAGE);
	try("a limit of zero, no bytes", at, 0, ALL);
	try("a limit of zero, on demand", at, PAGE, ALL | ON_DEMAND);
	try("a limit of zero, wraps", at, UINT64_MAX - (uintptr_t)at - 10, ALL);
	try("a limit of zero, the kernel's", (void *)0xffff888000000000, PAGE, ALL);
}

int main(int argc, char **argv)
{
	int status;

	check(argc == 2);
	device = argv[1];
	setvbuf(stdout, NULL, _IONBF, 0);
	verbs = verbs_open(device);
	lengths();
	addresses();
	protections();
	kinds();
	twice();
	change("to be written to", 0, ALL);
	change("to be read from", ALL, 0);
	change("as it is", ALL, ALL);
	if (!fork()) {
		limits();
		exit(0);
	}
	check(wait(&status) > 0 && !status);
	check(!charged());
	return 0;
}
