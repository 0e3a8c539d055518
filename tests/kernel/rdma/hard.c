// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Registering memory where it is hard: without memory for it, killed meanwhile, across fork(), in many threads, of
 * pages that must move first. After each of it nothing is pinned, and nothing charged.
 *
 * usage: rdma_hard DEVICE [TEST]
 */
#include "verbs.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static struct verbs verbs;
static const char *device;

static void nothing_left(void)
{
	check(charged() == 0);
	check(pinned() == 0);
}

static uint64_t frame(const void *at)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	check(pread(pagemap, &entry, 8, (uintptr_t)at / PAGE * 8) == 8 && entry >> 63);
	close(pagemap);
	return entry & ((1ull << 55) - 1);
}

static uint32_t registered(void *at, uint64_t len)
{
	uint32_t region;

	errno = verbs_register(&verbs, (uintptr_t)at, len, (uintptr_t)at, ALL, &region);
	check(!errno);
	return region;
}

static void deregistered(uint32_t region)
{
	errno = verbs_deregister(&verbs, region);
	check(!errno);
}

/* Every allocation fails once, of registering and of deregistering; memory that is there, or comes meanwhile. */
static void test_memory(const char *kind, uint64_t len, int there)
{
	uint8_t *at = memory(len, MADV_NOHUGEPAGE);
	int failed[2] = { 0 }, left = 0;

	for (int nth = 1; !left; nth++) {
		uint32_t region = 0;
		int error;

		check(nth < 5000);
		if (!there)
			madvise(at, len, MADV_DONTNEED);
		fails(nth);
		error = verbs_register(&verbs, (uintptr_t)at, len, (uintptr_t)at, ALL, &region);
		left = fails(0);
		errno = error;
		check(!error || error == ENOMEM);
		failed[0] += error == ENOMEM;
		if (error) {
			nothing_left();
			continue;
		}
		check(charged() == (long)(len / 1024));
		fails(nth);
		error = verbs_deregister(&verbs, region);
		fails(0);
		/* It has failed as a whole, then, and can be done again. */
		if (error) {
			check(error == ENOMEM && charged() == (long)(len / 1024));
			failed[1]++;
			deregistered(region);
		}
		nothing_left();
	}
	check(failed[0]);
	munmap(at, len);
	printf("test: %s: of registering %s %d allocations have failed, %d of deregistering; nothing is left\n", device, kind,
	       failed[0], failed[1]);
}

static void test_fail_nth(void)
{
	/* siw forgets what is registered when it has no memory for its own record of it, whatever is below. */
	if (strncmp(device, "rxe", 3))
		return;
	let_memory_fail();
	test_memory("a page", PAGE, 1);
	test_memory("3 MiB", 3 * MIB, 1);
	test_memory("256 KiB that come meanwhile", MIB / 4, 0);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Killed while it registers 1 GiB, at some moments; if `there`, of pages that are there already. */
static void test_kill(int there)
{
	const uint64_t len = 1024 * MIB;
	double longest = 0;
	int unfinished = 0;

	for (int round = 0; round < 5; round++) {
		int begins[2], ends[2];
		char byte;
		pid_t child;
		double killed;

		check(!pipe(begins) && !pipe(ends));
		child = fork();
		if (!child) {
			uint8_t *at = there ? memory(len, MADV_HUGEPAGE) : map(len, PROT_READ | PROT_WRITE, 0);

			if (!there)
				madvise(at, len, MADV_NOHUGEPAGE);
			verbs = verbs_open(device);
			check(write(begins[1], "", 1) == 1);
			registered(at, len);
			check(write(ends[1], "", 1) == 1);
			pause();
		}
		close(ends[1]);
		check(read(begins[0], &byte, 1) == 1);
		usleep(there ? 100 << 2 * round : 20000 << round);
		killed = now();
		kill(child, SIGKILL);
		check(waitpid(child, NULL, 0) == child);
		if (now() - killed > longest)
			longest = now() - killed;
		unfinished += read(ends[0], &byte, 1) == 0;
		close(begins[0]);
		close(begins[1]);
		close(ends[0]);
		nothing_left();
	}
	check(unfinished);
	check(longest < 30);
	printf("test: %s: killed while it registers 1 GiB%s, %d times of 5: gone within %.1f s, nothing is left\n", device,
	       there ? " of huge pages" : " that comes meanwhile", unfinished, longest);
}

/* How many of the pages at `at` are in the frames `first..last`. */
static uint64_t pages_in(const uint8_t *at, uint64_t len, uint64_t first, uint64_t last)
{
	uint64_t found = 0;

	for (uint64_t i = 0; i < len; i += PAGE)
		found += frame(at + i) >= first && frame(at + i) < last;
	return found;
}

/* Pages in the frames `first..last`, which must be able to move, move away before they are pinned. */
static void moves_away(const char *from, uint8_t *at, uint64_t len, uint64_t first, uint64_t last)
{
	uint64_t before = pages_in(at, len, first, last);
	uint32_t region = registered(at, len);

	check(before > 0);
	check(pages_in(at, len, first, last) == 0);
	for (uint64_t i = 0; i < len; i += PAGE)
		check(at[i] == (uint8_t)(i / PAGE * 7 + 1));
	deregistered(region);
	nothing_left();
	printf("test: %s: %lu pages have moved out of %s\n", device, before, from);
}

static void test_movable(void)
{
	uint64_t first = 0, last = 0;
	char line[256];
	FILE *zones = fopen("/proc/zoneinfo", "r");
	uint8_t *at;
	int movable = 0;

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
	at = memory(8 * MIB, MADV_NOHUGEPAGE);
	moves_away("ZONE_MOVABLE", at, 8 * MIB, first, last);
	munmap(at, 8 * MIB);
}

/*
 * Linux takes from the area of `cma=` in turns when most of what is free is there: the rest goes in huge pages first.
 * Compaction takes from there as well, so that the frames are looked at where there is less left.
 */
static void test_cma(void)
{
	uint64_t first = number("/sys/kernel/debug/cma/reserved/ranges/0/base_pfn", "");
	uint64_t last = first + number("/sys/kernel/debug/cma/reserved/count", "");
	const uint64_t most = 4096 * MIB, len = 8 * MIB;
	uint8_t *all = map(most, PROT_READ | PROT_WRITE, MAP_NORESERVE), *at = all - len;
	long before;

	check(first != -1ul && last > first);
	do {
		at += len;
		check(at < all + most);
		if (number("/proc/meminfo", "MemFree:") < 512 << 10)
			madvise(at, all + most - at, MADV_NOHUGEPAGE);
		before = number("/proc/meminfo", "CmaFree:");
		for (uint64_t i = 0; i < len; i += PAGE)
			at[i] = i / PAGE * 7 + 1;
	} while (number("/proc/meminfo", "CmaFree:") >= before || pages_in(at, len, first, last) < 256);
	moves_away("CMA", at, len, first, last);
	munmap(all, most);
}

/* Without lists rxe has 16 bytes a page in one allocation, which Linux refuses with a warning. */
static void test_large(void)
{
	const uint64_t len = 1536 * MIB;
	uint8_t *at = map(len, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	uint32_t region;

	madvise(at, len, MADV_NOHUGEPAGE);
	region = registered(at, len);
	check(charged() == (long)(len / 1024) && pinned() == (long)(len / PAGE));
	deregistered(region);
	munmap(at, len);
	nothing_left();
	printf("test: %s: 1.5 GiB registered, in pages of 4 KiB\n", device);
}

/* The parent keeps the frames that the device has, whatever both write. */
static void test_fork(void)
{
	uint8_t *at = memory(16 * PAGE, MADV_NOHUGEPAGE);
	uint64_t frames[16];
	pid_t child;
	int status;

	registered(at, 16 * PAGE);
	for (int i = 0; i < 16; i++)
		frames[i] = frame(at + i * PAGE);
	if (!fork()) {
		check(charged() == 0);
		for (int i = 0; i < 16; i++) {
			check(frame(at + i * PAGE) != frames[i] && at[i * PAGE] == (uint8_t)(i * 7 + 1));
			at[i * PAGE] = 0;
		}
		exit(0);
	}
	check(wait(&status) > 0 && !status);
	for (int i = 0; i < 16; i++) {
		check(at[i * PAGE] == (uint8_t)(i * 7 + 1));
		at[i * PAGE] = 0xff;
		check(frame(at + i * PAGE) == frames[i]);
	}
	/* The file is open elsewhere when this process closes it: what this one is charged for ends with that one. */
	child = fork();
	if (!child)
		pause();
	close(verbs.file);
	check(charged() == 64 && pinned() == 16);
	kill(child, SIGKILL);
	check(waitpid(child, NULL, 0) == child);
	nothing_left();
	munmap(at, 16 * PAGE);

	/* The process that has registered is gone, and has left its file here. */
	child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!child) {
		verbs = verbs_open(device);
		registered(memory(100 * PAGE, MADV_NOHUGEPAGE), 100 * PAGE);
		_exit(verbs.file);
	}
	check(waitpid(child, &status, 0) == child && WIFEXITED(status));
	check(pinned() == 100 && charged() == 0);
	close(WEXITSTATUS(status));
	nothing_left();
	verbs = verbs_open(device);
	printf("test: %s: fork: the frames stay with the process that has registered; the last file gives them back\n", device);
}

/* Many threads, the same pages and others, near a limit: what is charged never exceeds it, and is zero in the end. */
static uint8_t *shared;
static int refused;

static void *registers(void *seed)
{
	unsigned int random = (uintptr_t)seed;

	for (int i = 0; i < 300; i++) {
		uint64_t first = rand_r(&random) % 64, count = 1 + rand_r(&random) % 8;
		uint32_t region;
		int error = verbs_register(&verbs, (uintptr_t)shared + first * PAGE, count * PAGE, first * PAGE, ALL, &region);

		check(!error || error == ENOMEM);
		if (error)
			__atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
		else
			deregistered(region);
	}
	return NULL;
}

static void test_threads(void)
{
	int status;

	if (!fork()) {
		struct rlimit limit = { 20 * PAGE, 20 * PAGE };
		pthread_t threads[4];

		check(!setrlimit(RLIMIT_MEMLOCK, &limit) && !setuid(65534));
		verbs = verbs_open(device);
		shared = memory(72 * PAGE, MADV_NOHUGEPAGE);
		for (uintptr_t i = 0; i < 4; i++)
			check(!pthread_create(&threads[i], NULL, registers, (void *)(i + 1)));
		for (int i = 0; i < 4; i++)
			check(!pthread_join(threads[i], NULL));
		check(!charged());
		printf("test: %s: four threads: 1200 regions, %d of them refused\n", device, refused);
		fflush(stdout);
		_exit(0);
	}
	check(wait(&status) > 0 && !status);
	nothing_left();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "fail-nth", test_fail_nth }, { "fork", test_fork }, { "threads", test_threads },
		{ "movable", test_movable }, { "cma", test_cma },
	};

	check(argc == 2 || argc == 3);
	device = argv[1];
	setvbuf(stdout, NULL, _IONBF, 0);
	verbs = verbs_open(device);
	nothing_left();
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		if (argc == 2 || !strcmp(argv[2], tests[i].name))
			tests[i].run();
	if (argc == 3 && !strcmp(argv[2], "large"))
		test_large();
	for (int there = 0; there < 2; there++)
		if (argc == 2 || !strcmp(argv[2], "kill"))
			test_kill(there);
	return 0;
}
