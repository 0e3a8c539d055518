// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Has its memory pinned by the test module, and compares what the module says with what the kernel
 * says: the frames with /proc/self/pagemap, the charges with /proc/self/status, the pins with
 * /proc/vmstat. After each test nothing may be left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PIN = 1, RUNS, UNPIN, READ, WRITE, DOMAIN, DMA, PGTABLE, CHARGE, UNCHARGE, RACES, FORGET,
	BELOW, WAIT, MANAGED, BOUNCE, KEEP, LET_GO, WALKED, CACHES,
};

enum { F_WRITE = 1, F_LONGTERM = 2, F_LOCKED = 1 << 16, F_USER = 1 << 17 };

struct command {
	uint64_t what, at, len, flags, answer, answer_len;
};

struct run {
	uint64_t start, count;
};

static const uint64_t mib = 1 << 20;
/* A page, and what a transparent huge page has. */
static uint64_t page, huge;
static const char *test = "start";
static int file;

static void fail(const char *format, ...)
{
	va_list args;

	printf("test: selftest: FAILED: %s: ", test);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" (%s)\n", strerror(errno));
	exit(1);
}

#define check(what) do { if (!(what)) fail("line %d: %s", __LINE__, #what); } while (0)

static int ask(struct command command)
{
	return write(file, &command, sizeof(command)) == sizeof(command) ? 0 : errno;
}

static int pin(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ PIN, (uintptr_t)at, len, flags, 0, 0 });
}

static int unpin(void)
{
	return ask((struct command){ UNPIN, 0, 0, 0, 0, 0 });
}

/* The number behind `name` at the beginning of a line of a file. */
static long number(const char *path, const char *name)
{
	char line[256];
	long found = -1;
	FILE *in = fopen(path, "r");

	while (in && fgets(line, sizeof(line), in))
		if (!strncmp(line, name, strlen(name)))
			found = strtol(line + strlen(name), NULL, 0);
	if (in)
		fclose(in);
	return found;
}

static void put(const char *path, const char *text)
{
	int out = open(path, O_WRONLY);

	if (out < 0 || write(out, text, strlen(text)) < 0)
		fail("cannot write %s to %s", text, path);
	close(out);
}

/* Pages that are pinned, in the whole machine. */
static long pinned(void)
{
	/* The counters are kept per CPU until they are read. */
	put("/proc/sys/vm/stat_refresh", "1");
	return number("/proc/vmstat", "nr_foll_pin_acquired") -
	       number("/proc/vmstat", "nr_foll_pin_released");
}

static void nothing_is_pinned(void)
{
	check(pinned() == 0);
	check(number("/proc/self/status", "VmPin:") == 0);
	check(number("/proc/self/status", "VmLck:") == 0);
}

static void nothing_left(void)
{
	check(unpin() == ENOENT);
	nothing_is_pinned();
}

static uint64_t frame(const void *at)
{
	static int pagemap = -1;
	static pid_t owner;
	uint64_t entry = 0;

	if (owner != getpid()) {
		owner = getpid();
		pagemap = open("/proc/self/pagemap", O_RDONLY);
	}
	if (pread(pagemap, &entry, 8, (uintptr_t)at / page * 8) != 8 || !(entry >> 63))
		fail("nothing is mapped at %p", at);
	return entry & ((1ull << 55) - 1);
}

/* Of hugetlbfs: 2 MiB, and as large as a transparent one. */
static const char hugetlb[] = "hugetlb of 2 MiB", largest[] = "hugetlb";

/* Memory of one kind, aligned to a huge page, touched from its end to its beginning. */
static unsigned char *memory(const char *kind, uint64_t len)
{
	int shared = !strcmp(kind, "memfd");
	int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	int fd = shared ? memfd_create("test", 0) : -1;
	uint64_t more = huge;
	unsigned char *all;

	if (kind == hugetlb || kind == largest) {
		flags |= MAP_HUGETLB;
		flags |= __builtin_ctzl(kind == largest ? huge : 2 * mib) << MAP_HUGE_SHIFT;
		more = 0;
	}
	if (shared)
		check(!ftruncate(fd, len + more));
	all = mmap(NULL, len + more, PROT_READ | PROT_WRITE, flags, fd, 0);
	check(all != MAP_FAILED);
	if (more)
		all = (void *)(((uintptr_t)all + huge - 1) & ~(huge - 1));
	if (!strcmp(kind, "base"))
		madvise(all, len, MADV_NOHUGEPAGE);
	else if (!strcmp(kind, "mixed"))
		madvise(all + len / 2 / huge * huge, huge, MADV_NOHUGEPAGE);
	for (uint64_t at = len / page; at--;)
		all[at * page] = at * 7 + 1;
	return all;
}

/* The runs that the module has, against the maximal runs of what pagemap says. */
static uint64_t runs_are_true(unsigned char *start, uint64_t len)
{
	uint64_t pages = len / page, known = 0;
	uint64_t *answer = malloc(8 + pages * sizeof(struct run));
	struct run *run = (void *)(answer + 1);

	check(!ask((struct command){ RUNS, 0, 0, 0, (uintptr_t)answer, 8 + pages * sizeof(*run) }));
	for (uint64_t at = 0; at < pages; known++) {
		uint64_t first = frame(start + at * page), count = 1;

		while (at + count < pages && frame(start + (at + count) * page) == first + count)
			count++;
		if (known >= answer[0] || run[known].start != first || run[known].count != count)
			fail("run %lu: %#lx+%lu, not %#lx+%lu", known, run[known].start,
			     run[known].count, first, count);
		at += count;
	}
	check(known == answer[0]);
	free(answer);
	return known;
}

/* So many huge pages, or two if they are larger than 2 MiB. */
static uint64_t few(uint64_t count)
{
	return (huge == 2 * mib ? count : 2) * huge;
}

static void test_kind(const char *kind, uint64_t len, uint64_t flags)
{
	unsigned char *at = memory(kind, len), bytes[9000], back[9000];
	const char *counter = flags & F_LOCKED ? "VmLck:" : "VmPin:";
	uint64_t runs;

	test = kind;
	check(!pin(at, len, flags));
	check(pinned() == (long)(len / page));
	check(number("/proc/self/status", counter) == (long)(len / 1024));
	check(pin(at, len, flags) == EBUSY);
	runs = runs_are_true(at, len);
	check(strcmp(kind, "thp") || runs <= len / huge);

	/* By the CPU, through the kernel's own addresses, across borders of pages. */
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * 13 + 5;
	if (flags & F_WRITE) {
		check(!ask((struct command){
			WRITE, page - 100, sizeof(bytes), 0, (uintptr_t)bytes, 0 }));
		check(!memcmp(at + page - 100, bytes, sizeof(bytes)));
	} else {
		check(ask((struct command){ WRITE, 0, 1, 0, (uintptr_t)bytes, 0 }) == EPERM);
	}
	check(!ask((struct command){ READ, page - 100, sizeof(back), 0, (uintptr_t)back, 0 }));
	check(!memcmp(at + page - 100, back, sizeof(back)));
	check(ask((struct command){ READ, len - 1, 2, 0, (uintptr_t)back, 0 }) == EINVAL);

	/* What is pinned stays, whatever the process does with its addresses. */
	memcpy(bytes, at, sizeof(bytes));
	munmap(at, len);
	check(!ask((struct command){ READ, 0, sizeof(back), 0, (uintptr_t)back, 0 }));
	check(!memcmp(bytes, back, sizeof(back)));
	check(!unpin());
	nothing_left();
	printf("test: selftest: %s: %lu pages in %lu runs\n", kind, len / page, runs);
}

static void test_partial_pages(void)
{
	unsigned char *at = memory("base", 4 * page);

	test = "partial pages";
	check(!pin(at + page - 1, page + 2, F_LONGTERM));
	check(pinned() == 3);
	check(!unpin());
	munmap(at, 4 * page);
	nothing_left();
	puts("test: selftest: partial pages count whole");
}

static void test_bad_input(void)
{
	unsigned char *at = memory("base", 64 * page);

	test = "bad input";
	check(pin(at, 0, F_LONGTERM) == EINVAL);
	check(pin(at, -(uint64_t)page, F_LONGTERM) == EOVERFLOW);
	check(pin((void *)page, page, F_LONGTERM) == EFAULT);
	check(pin((void *)0xffff888000000000, page, F_LONGTERM) == EFAULT);
	check(pin((void *)-page, page, F_LONGTERM) == EOVERFLOW);
	check(pin(at, page, F_LONGTERM | 1 << 5) == EINVAL);
	check(pin(at, page, F_LONGTERM | 1 << 15) == EINVAL);
	mprotect(at + 40 * page, page, PROT_READ);
	check(pin(at, 64 * page, F_LONGTERM | F_WRITE) == EFAULT);
	check(!pin(at, 64 * page, F_LONGTERM) && !unpin());
	mprotect(at + 40 * page, page, PROT_NONE);
	check(pin(at, 64 * page, F_LONGTERM) == EFAULT);
	munmap(at + 50 * page, page);
	check(pin(at + 48 * page, 16 * page, F_LONGTERM) == EFAULT);
	munmap(at, 64 * page);
	nothing_left();
	puts("test: selftest: bad input is refused");
}

static int charge(uint64_t pages, uint64_t flags)
{
	return ask((struct command){ CHARGE, 0, pages, flags, 0, 0 });
}

/* In a child without privileges, with a limit of 16 pages; also where a kernel thread charges them to it. */
static void test_limit(uint64_t counter)
{
	int status;

	test = "limit";
	if (!fork()) {
		struct rlimit limit = { 16 * page, 16 * page };
		unsigned char *at = memory("base", 17 * page);

		check(!setrlimit(RLIMIT_MEMLOCK, &limit));
		check(!setresuid(1000, 1000, 1000));
		check(pin(at, 17 * page, F_LONGTERM | counter) == ENOMEM);
		check(!pin(at, 16 * page, F_LONGTERM | counter));
		check(charge(1, counter) == ENOMEM);
		check(!unpin());
		check(charge(17, counter) == ENOMEM);
		check(!charge(16, counter));
		/* What another process of the same user has charged counts here where the user is counted. */
		if (!fork()) {
			check(!pin(at, 16 * page, F_LONGTERM | counter));
			_exit(0);
		}
		check(wait(&status) > 0 && status == 0);
		check(charge(1, counter) == (counter == F_USER ? ENOMEM : 0));
		check(!unpin());
		check(!charge(16, counter));
		exit(0);
	}
	check(wait(&status) > 0 && status == 0);
	nothing_left();
	check(!ask((struct command){ UNCHARGE, 0, 0, counter, 0, 0 }));
	check(!ask((struct command){ BELOW, 0, 0, counter, 0, 0 }));
	/* No limit with CAP_IPC_LOCK; that of a user holds for all its processes. */
	check(charge(1 << 30, counter) == (counter == F_USER ? ENOMEM : 0));
	nothing_left();
	printf("test: selftest: the limit of %s is exact, whichever thread charges\n",
	       counter == F_USER ? "the user" : counter ? "locked_vm" : "pinned_vm");
}

/* Killed while it waits for the lock of its address space, to charge: it does not wait any longer. */
static void test_kill_charge(void)
{
	struct timespec before, after;
	pid_t child;
	int status;

	test = "kill charge";
	child = fork();
	if (!child)
		_exit(ask((struct command){ WAIT, 0, 0, F_LOCKED, 0, 0 }));
	usleep(1000000);
	check(waitpid(child, &status, WNOHANG) == 0);
	clock_gettime(CLOCK_MONOTONIC, &before);
	kill(child, SIGKILL);
	check(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	clock_gettime(CLOCK_MONOTONIC, &after);
	check(after.tv_sec - before.tv_sec < 4);
	nothing_left();
	puts("test: selftest: killed while waiting to charge, at once");
}

/* The process is gone, its memory is not, and its mm_struct takes the charge back. */
static void test_exit(uint64_t counter)
{
	int status;

	test = "exit";
	if (!fork()) {
		check(!pin(memory("base", 100 * page), 100 * page, F_LONGTERM | F_WRITE | counter));
		_exit(0);
	}
	check(wait(&status) > 0 && status == 0);
	check(pinned() == 100);
	check(!unpin());
	nothing_left();
	puts("test: selftest: pins outlive their process");
}

/* Killed somewhere on the way: in the middle of GUP, or between batches. */
static void test_kill(void)
{
	const uint64_t len = 160 * mib;
	int killed = 0;

	test = "kill";
	for (int round = 0; round < 12; round++) {
		unsigned char *at = mmap(NULL, len, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pid_t child;
		int status;

		madvise(at, len, MADV_NOHUGEPAGE);
		child = fork();
		if (!child) {
			pin(at, len, F_LONGTERM | F_WRITE);
			_exit(0);
		}
		usleep(2000 << round % 6);
		kill(child, SIGKILL);
		check(waitpid(child, &status, 0) == child);
		if (unpin() == ENOENT)
			killed++;
		munmap(at, len);
		nothing_left();
	}
	check(killed);
	printf("test: selftest: killed %d times while pinning, nothing left\n", killed);
}

/* Memory in the frames `first..last`, which must be able to move, moves away before it is pinned. */
static void moves_away(const char *from, uint64_t first, uint64_t last)
{
	const uint64_t len = 8 * mib;
	unsigned char *at = memory("base", len);
	uint64_t before = 0, after = 0;

	for (uint64_t i = 0; i < len; i += page)
		before += frame(at + i) >= first && frame(at + i) < last;
	check(!pin(at, len, F_LONGTERM | F_WRITE));
	for (uint64_t i = 0; i < len; i += page) {
		after += frame(at + i) >= first && frame(at + i) < last;
		check(at[i] == (unsigned char)(i / page * 7 + 1));
	}
	check(before > 0 && after == 0);
	runs_are_true(at, len);
	check(!unpin());
	munmap(at, len);
	nothing_left();
	printf("test: selftest: %lu pages moved out of %s\n", before, from);
}

static void test_movable(void)
{
	uint64_t first = 0, last = 0;
	char line[256];
	FILE *zones = fopen("/proc/zoneinfo", "r");
	int movable = 0;

	test = "movable";
	while (fgets(line, sizeof(line), zones)) {
		char *spanned = strstr(line, "spanned"), *start = strstr(line, "start_pfn:");

		if (strstr(line, "Node"))
			movable = !!strstr(line, "Movable");
		if (movable && spanned)
			last = strtoul(spanned + 7, NULL, 0);
		if (movable && start)
			first = strtoul(start + 10, NULL, 0);
	}
	fclose(zones);
	last += first;
	check(first && last > first);
	moves_away("ZONE_MOVABLE", first, last);
}

/* Linux takes from the area of `cma=` when memory has become scarce elsewhere. */
static void test_cma(void)
{
	uint64_t first = number("/sys/kernel/debug/cma/reserved/ranges/0/base_pfn", "");
	uint64_t last = first + number("/sys/kernel/debug/cma/reserved/count", "");
	const uint64_t most = sysconf(_SC_PHYS_PAGES) * page;
	unsigned char *other = mmap(NULL, most, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t touched = 0;

	test = "cma";
	check(first != -1ul && last > first && other != MAP_FAILED);
	madvise(other, most, MADV_NOHUGEPAGE);
	do {
		check(touched < most);
		other[touched] = 1;
		touched += page;
	} while (frame(other + touched - page) < first || frame(other + touched - page) >= last);
	moves_away("CMA", first, last);
	munmap(other, most);
}

static int domain(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ DOMAIN, (uintptr_t)at, len, flags, 0, 0 });
}

static int dma(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ DMA, (uintptr_t)at, len, flags, 0, 0 });
}

static int page_table(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ PGTABLE, (uintptr_t)at, len, flags, 0, 0 });
}

static int walked(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ WALKED, (uintptr_t)at, len, flags, 0, 0 });
}

static int caches(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ CACHES, (uintptr_t)at, len, flags, 0, 0 });
}

/* A page table of a driver that the IOMMU walks, where it has that format: Arm's. */
static void test_walked(void)
{
#ifdef __aarch64__
	const int expected = 0;
#else
	const int expected = ENODEV;
#endif
	uint64_t len = 16 * mib;
	unsigned char *at = memory("thp", len);

	test = "walked";
	errno = walked(at, len, F_LONGTERM | F_WRITE);
	check(errno == expected);
	printf("test: selftest: a page table of a driver is %s\n",
	       errno ? "of another format than the IOMMU's" : "walked by the IOMMU, for a device");
	munmap(at, len);
	nothing_left();
}

/* Pages of page tables of IOMMUs, in the whole machine. */
static long tables(void)
{
	put("/proc/sys/vm/stat_refresh", "1");
	return number("/proc/vmstat", "nr_iommu_pages");
}

/* What is mapped is what was pinned, in whatever way; the module compares, and unmaps. */
static void test_mapping(const char *what, int (*act)(void *, uint64_t, uint64_t))
{
	const struct {
		const char *kind;
		uint64_t len, flags;
	} cases[] = {
		{ "base", 512 * page, F_LONGTERM | F_WRITE },
		{ "base", 64 * page, F_LONGTERM },
		{ "thp", few(4), F_LONGTERM | F_WRITE },
		{ "mixed", few(4), F_LONGTERM },
		{ hugetlb, 8 * mib, F_LONGTERM | F_WRITE },
		{ largest, few(4), F_LONGTERM | F_WRITE },
		{ NULL }
	};

	test = what;
	for (size_t i = 0; cases[i].kind; i++) {
		unsigned char *at = memory(cases[i].kind, cases[i].len);
		const char *to = "";
		long before = tables();

		if (cases[i].flags & F_WRITE)
			to = ", to write";
		errno = act(at, cases[i].len, cases[i].flags);
		check(!errno);
		/* The DMA API keeps what tables it has. */
		check(act == dma || act == caches || tables() == before);
		munmap(at, cases[i].len);
		nothing_left();
		printf("test: selftest: %s is what was pinned: %s%s\n", what, cases[i].kind, to);
	}
}

/*
 * Every allocation on the way fails once: the first, the second, and so on, until none is left.
 * What fails must fail as a whole, for lack of memory, and leave nothing.
 */
static void test_memory(const char *what, int (*act)(void *, uint64_t, uint64_t), uint64_t len)
{
	unsigned char *at = memory("base", len);
	char text[32];
	int nth, failed = 0, left = 0, done;
	int fd = open("/proc/thread-self/fail-nth", O_RDWR);

	test = what;
	check(fd >= 0);
	for (nth = 1; !left && nth < 2000; nth++) {
		snprintf(text, sizeof(text), "%d", nth);
		check(pwrite(fd, text, strlen(text), 0) > 0);
		done = act(at, len, F_LONGTERM | F_WRITE);
		memset(text, 0, sizeof(text));
		check(pread(fd, text, sizeof(text) - 1, 0) > 0);
		left = atoi(text);
		check(pwrite(fd, "0", 1, 0) > 0);
		errno = done;
		check(!done || done == ENOMEM);
		failed += done == ENOMEM;
		if (!done)
			unpin();
		check(pinned() == 0);
	}
	close(fd);
	check(left);
	check(failed);
	munmap(at, len);
	nothing_left();
	printf("test: selftest: %s: %d of %d allocations fail, nothing left\n", what, failed,
	       nth - 2);
}

/*
 * The debugging aid of the DMA API switches itself off when it has no memory to note a mapping, in
 * nodes of a radix tree. Those do not fail, so that it still sees what is left at the end: Linux
 * warns when the module is unloaded.
 */
static void test_memory_of_dma(void)
{
	glob_t caches;
	char answer = 0;
	int disabled;

	test = "dma";
	check(!glob("/sys/kernel/slab/*/failslab", 0, NULL, &caches));
	for (size_t i = 0; i < caches.gl_pathc; i++)
		if (!strstr(caches.gl_pathv[i], "/radix_tree_node/"))
			put(caches.gl_pathv[i], "1");
	globfree(&caches);
	put("/sys/kernel/debug/failslab/cache-filter", "Y");
	test_memory("dma", dma, mib);
	disabled = open("/sys/kernel/debug/dma-api/disabled", O_RDONLY);
	check(disabled >= 0 && read(disabled, &answer, 1) == 1 && answer == 'N');
	close(disabled);
}

static void test_races(void)
{
	long before = tables();

	test = "races";
	check(!ask((struct command){ RACES, 0, 0, 0, 0, 0 }));
	check(tables() == before);
	puts("test: selftest: threads that map and read the same addresses take turns");
}

static void test_managed(void)
{
	test = "managed";
	errno = ask((struct command){ MANAGED, 0, 0, 0, 0, 0 });
	check(!errno);
	puts("test: selftest: a device whose driver manages DMA is claimed, not taken from others");
}

/* A driver that forgets the domain in which its device is: no driver is bound to the device after it. */
static void test_forget(void)
{
	const char *folder = "/sys/bus/pci/drivers/selftest/";
	char path[128], *name;
	glob_t devices;
	int bind;

	test = "forget";
	snprintf(path, sizeof(path), "%s0000:*", folder);
	check(!glob(path, 0, NULL, &devices) && devices.gl_pathc == 1);
	name = strrchr(devices.gl_pathv[0], '/') + 1;
	/* It can be bound as often as one likes, until the domain is forgotten. */
	for (int in_a_domain = 0; in_a_domain < 2; in_a_domain++) {
		unsigned char *at = memory("base", 4 * page);

		check(!ask((struct command){ KEEP, (uintptr_t)at, 4 * page, in_a_domain, 0, 0 }));
		check(pinned() == 4);
		close(file);
		put("/sys/bus/pci/drivers/selftest/unbind", name);
		nothing_is_pinned();
		put("/sys/bus/pci/drivers/selftest/bind", name);
		file = open("/sys/kernel/debug/pinned-sgl/command", O_WRONLY);
		check(!ask((struct command){ LET_GO, 0, 0, 0, 0, 0 }));
	}
	check(!ask((struct command){ FORGET, 0, 0, 0, 0, 0 }));
	close(file);
	put("/sys/bus/pci/drivers/selftest/unbind", name);
	bind = open("/sys/bus/pci/drivers/selftest/bind", O_WRONLY);
	check(bind >= 0 && write(bind, name, strlen(name)) < 0 && errno == EBUSY);
	close(bind);
	globfree(&devices);
	puts("test: selftest: a device that was left in a domain takes no driver");
}

static int bounce(void *at, uint64_t len, uint64_t flags)
{
	return ask((struct command){ BOUNCE, (uintptr_t)at, len, flags, 0, 0 });
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	page = sysconf(_SC_PAGESIZE);
	huge = number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "");
	file = open("/sys/kernel/debug/pinned-sgl/command", O_WRONLY);
	check(file >= 0);
	nothing_left();
	if (argc > 1 && !strcmp(argv[1], "forget")) {
		test_forget();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "bounce")) {
		test_mapping("what is synced", bounce);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "incoherent")) {
		test = "incoherent";
		check(domain(memory("base", page), page, F_LONGTERM) == EOPNOTSUPP);
		puts("test: selftest: a device that is not coherent is in no domain of a driver");
		test_mapping("what the DMA API maps", dma);
		test_mapping("what the caches write back, and forget,", caches);
		return 0;
	}

	test_kind("base", 1024 * page, F_LONGTERM | F_WRITE);
	test_kind("base", 1024 * page, F_LONGTERM);
	test_kind("base", 1024 * page, F_WRITE | F_LOCKED);
	test_kind("thp", few(8), F_LONGTERM | F_WRITE);
	test_kind("mixed", few(4), F_LONGTERM | F_WRITE | F_LOCKED);
	/* Within the limit that a user has from the beginning. */
	test_kind("base", 4 * mib, F_LONGTERM | F_USER);
	test_kind(hugetlb, 8 * mib, F_LONGTERM | F_WRITE);
	test_kind(largest, few(4), F_LONGTERM | F_WRITE);
	test_kind("memfd", 1024 * page, F_LONGTERM | F_WRITE);
	test_partial_pages();
	test_bad_input();
	test_limit(0);
	test_limit(F_LOCKED);
	test_limit(F_USER);
	test_kill_charge();
	test_exit(0);
	test_exit(F_LOCKED);
	test_exit(F_USER);
	test_movable();
	test_cma();
	test_kill();

	test_races();
	test_managed();
	test_mapping("a domain", domain);
	test_mapping("what the DMA API maps", dma);
	test_mapping("a page table of a driver", page_table);
	test_walked();

	put("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/failslab/verbose", "0");
	put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	put("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	test_memory("pin", pin, 768 * page);
	test_memory("map", domain, 256 * page);
	test_memory("page table", page_table, mib);
	test_memory_of_dma();

	/* The module is taken out with a region pinned: see guest.sh. */
	test = "unload";
	check(!pin(memory("base", 10 * page), 10 * page, F_LONGTERM));
	puts("test: selftest: passed");
	return 0;
}
