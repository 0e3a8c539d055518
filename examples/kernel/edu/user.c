// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Copies memory of this program with the `edu` device, in both ways of its driver: small pages in no
 * order, transparent huge pages, and huge pages of hugetlbfs. The bytes must arrive, nothing around
 * them may change, and nothing stays pinned, also where the program is killed meanwhile, or the driver
 * unbound. (Where the driver chooses the addresses, it tries again after it has unmapped, at the
 * beginning of the region.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct request {
	uint64_t from, to, len, offset, count;
};

static const uint64_t mib = 1 << 20;
/* A page, and what a transparent huge page has. */
static uint64_t page, huge;

static void die(const char *what)
{
	printf("test: edu: FAILED: %s: %s\n", what, strerror(errno));
	exit(1);
}

/*
 * Small pages that are touched last to first, so that their frames are in no order; or memory in whose middle two huge
 * pages meet: transparent ones, or of 2 MiB.
 */
static unsigned char *memory(const char *kind, uint64_t len)
{
	int of_hugetlb = !strcmp(kind, "hugetlb");
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (of_hugetlb ? MAP_HUGETLB | 21 << MAP_HUGE_SHIFT : 0);
	uint64_t all = of_hugetlb ? len : len + 3 * huge;
	unsigned char *at = mmap(NULL, all, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (at == MAP_FAILED)
		die(kind);
	if (!of_hugetlb) {
		madvise(at, all, strcmp(kind, "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
		at = (void *)(((uintptr_t)at + len / 2 + 2 * huge - 1) & ~(huge - 1)) - len / 2 / page * page;
	}
	for (uint64_t i = len / page; i--;)
		at[i * page] = 0;
	return at;
}

static uint64_t huge_page(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	uint64_t size;

	if (!file || fscanf(file, "%lu", &size) != 1)
		die("transparent huge pages");
	fclose(file);
	return size;
}

static int edu(const char *way, struct request *request)
{
	char path[64];
	int file, done;

	snprintf(path, sizeof(path), "/sys/kernel/debug/edu/%s", way);
	file = open(path, O_WRONLY);
	if (file < 0)
		die(path);
	done = write(file, request, sizeof(*request)) == sizeof(*request) ? 0 : -errno;
	close(file);
	return done;
}

/* What the driver has charged to this process. */
static void nothing_is_pinned(const char *way)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[128];
	long pinned = -1;

	while (status && fgets(line, sizeof(line), status))
		sscanf(line, "VmPin: %ld", &pinned);
	if (pinned) {
		printf("test: edu: FAILED: %s: %ld kB are pinned\n", way, pinned);
		exit(1);
	}
	fclose(status);
}

/* In a process of its own, since huge pages may be most of the memory. */
static void round_trip(const char *way, const char *from_kind, const char *to_kind, uint64_t len,
		       uint64_t offset, uint64_t count)
{
	int status;

	fflush(stdout);
	if (fork()) {
		if (wait(&status) < 0 || status)
			exit(1);
		return;
	}

	unsigned char *from = memory(from_kind, len), *to = memory(to_kind, len);
	struct request request = { (uintptr_t)from, (uintptr_t)to, len, offset, count };

	for (uint64_t i = 0; i < len; i++) {
		from[i] = i * 31 + i / page + 7;
		to[i] = 0x5a;
	}
	errno = -edu(way, &request);
	if (errno)
		die(way);
	for (uint64_t i = 0; i < len; i++) {
		int inside = i >= offset && i < offset + count;

		if (to[i] != (inside ? from[i] : 0x5a)) {
			printf("test: edu: FAILED: %s, %s to %s: byte %#lx is %#x\n", way,
			       from_kind, to_kind, i, to[i]);
			exit(1);
		}
	}
	nothing_is_pinned(way);
	printf("test: edu: %s, %s to %s: %lu bytes at %#lx of %#lx arrived\n", way, from_kind,
	       to_kind, count, offset, len);
	exit(0);
}

static void refused(const char *way, struct request request, int expected, const char *what)
{
	int got = edu(way, &request);

	if (got != -expected) {
		printf("test: edu: FAILED: %s, %s: %d, not %d\n", way, what, got, -expected);
		exit(1);
	}
	nothing_is_pinned(way);
}

static void bad_requests(const char *way)
{
	unsigned char *ok = memory("base", 2 * page);
	uint64_t at = (uintptr_t)ok;

	refused(way, (struct request){ at, at, page, 0, page + 1 }, EINVAL, "beyond the region");
	refused(way, (struct request){ at, at, 0, 0, 0 }, EINVAL, "no bytes");
	refused(way, (struct request){ page, at, page, 0, 1 }, EFAULT, "nothing there");
	mprotect(ok, 2 * page, PROT_READ);
	refused(way, (struct request){ at, at, page, 0, 1 }, EFAULT, "written, but read-only");
	printf("test: edu: %s: bad requests are refused\n", way);
}

/* Pages that are pinned, in the whole machine. */
static long pinned(void)
{
	long acquired = 0, released = 0;
	char line[128];
	int refresh = open("/proc/sys/vm/stat_refresh", O_WRONLY);
	FILE *stat;

	/* The counters are kept per CPU until they are read. */
	if (write(refresh, "1", 1) < 0)
		die("stat_refresh");
	close(refresh);
	stat = fopen("/proc/vmstat", "r");
	while (stat && fgets(line, sizeof(line), stat)) {
		sscanf(line, "nr_foll_pin_acquired %ld", &acquired);
		sscanf(line, "nr_foll_pin_released %ld", &released);
	}
	fclose(stat);
	return acquired - released;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void bind(const char *what, const char *name)
{
	char path[64];
	int file;

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/edu/%s", what);
	file = open(path, O_WRONLY);
	if (file < 0 || write(file, name, strlen(name)) < 0)
		die(path);
	close(file);
}

/*
 * Killed while the device copies: the process is gone at once, and its memory stays pinned until the device has
 * finished; or until the driver is unbound, which waits for one transfer, and not for all of them.
 */
static void killed(const char *way, const char *device)
{
	/* 64 transfers take a tenth of a second each. */
	const uint64_t len = 32 * 4096;
	unsigned char *at = memory("base", 2 * len);
	struct request request = { (uintptr_t)at, (uintptr_t)at + len, len, 0, len };
	pid_t child = fork();
	double start, gone, left;
	long pins;

	if (!child) {
		edu(way, &request);
		_exit(0);
	}
	while (!pinned())
		usleep(1000);
	usleep(300000);
	start = now();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	gone = now() - start;
	pins = pinned();
	if (device) {
		bind("unbind", device);
		if (pinned()) {
			printf("test: edu: FAILED: %s: unbound, and pinned\n", way);
			exit(1);
		}
		bind("bind", device);
	}
	while (pinned() && now() - start < 60)
		usleep(10000);
	left = now() - start;
	if (pins != (long)(2 * len / page) || gone > 1 || (device ? left > 2 : left < 3 || left > 60)) {
		printf("test: edu: FAILED: %s: %ld pages pinned after %f s, let go after %f s\n", way,
		       pins, gone, left);
		exit(1);
	}
	printf("test: edu: %s: killed, and %s: %ld pages let go\n", way,
	       device ? "unbound at once" : "the device has finished", pins);
	munmap(at, 2 * len);
}

/* Keeps the device off the bus, until its driver is bound again: no interrupt arrives, so that no transfer ever ends. */
static void keep_off_the_bus(const char *device)
{
	uint16_t command;
	char path[64];
	int config;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", device);
	config = open(path, O_RDWR);
	if (config < 0 || pread(config, &command, 2, 4) != 2)
		die(path);
	/* Neither a message nor its line. */
	command = (command & ~4) | 1 << 10;
	if (pwrite(config, &command, 2, 4) != 2)
		die(path);
	close(config);
}

/* The device does not end: its memory stays pinned, until the driver is unbound and has lost patience. */
static void hung(const char *way, const char *device)
{
	unsigned char *at = memory("base", 2 * page);
	struct request request = { (uintptr_t)at, (uintptr_t)at + page, page, 0, 4096 };
	double start;
	pid_t child;

	keep_off_the_bus(device);
	child = fork();
	if (!child) {
		edu(way, &request);
		_exit(0);
	}
	sleep(2);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (pinned() != 2) {
		printf("test: edu: FAILED: %s: %ld pages are pinned for a device that hangs\n", way, pinned());
		exit(1);
	}
	start = now();
	bind("unbind", device);
	if (pinned() || now() - start > 8) {
		printf("test: edu: FAILED: %s: %ld pages are pinned %f s after\n", way, pinned(), now() - start);
		exit(1);
	}
	bind("bind", device);
	printf("test: edu: %s: the device hangs, and is stopped\n", way);
}

int main(int argc, char **argv)
{
	static const char *const ways[] = { "copy_dma", "copy" };

	page = sysconf(_SC_PAGESIZE);
	huge = huge_page();

	/* Where a device does not see the caches of the CPU, only the DMA API serves it. */
	if (argc > 1 && !strcmp(argv[1], "incoherent")) {
		uint64_t region = (uintptr_t)memory("base", page);

		refused("copy", (struct request){ region, region, page, 0, 1 }, EOPNOTSUPP, "not coherent");
		round_trip("copy_dma", "base", "base", 64 * page, 6 * page - 0x800, 4096);
		round_trip("copy_dma", "hugetlb", "base", 4 * mib, 2 * mib - 7001, 9000);
		return 0;
	}
	/* Twice, so that each way comes after the other. */
	for (int i = 0; i < 4; i++) {
		const char *way = ways[i % 2];

		/* Across the border of two pages that are not adjacent in memory. */
		round_trip(way, "base", "base", 64 * page, 6 * page - 0x800, 4096);
		if (i >= 2)
			continue;
		/* Across the border of two huge pages. */
		round_trip(way, "thp", "thp", 4 * mib, 2 * mib - 0x800, 5000);
		round_trip(way, "hugetlb", "hugetlb", 4 * mib, 2 * mib - 1000, 2000);
		/* More than the device's buffer, and borders in other places here than there. */
		round_trip(way, "base", "thp", 4 * mib, 2 * mib - 5000, 10001);
		round_trip(way, "hugetlb", "base", 4 * mib, 2 * mib - 7001, 9000);
		bad_requests(way);
	}
	/* An IOMMU maps whole pages. (The DMA API maps the pages around the bytes, too.) */
	uint64_t at = (uintptr_t)memory("base", 2 * page);

	refused("copy", (struct request){ at + 1, at, page, 0, 1 }, EINVAL, "not a page");

	glob_t devices;

	if (glob("/sys/bus/pci/drivers/edu/0000:*", 0, NULL, &devices) || devices.gl_pathc != 1)
		die("the device");
	const char *device = strrchr(devices.gl_pathv[0], '/') + 1;

	for (int i = 0; i < 4; i++)
		killed(ways[i % 2], i < 2 ? NULL : device);
	for (int i = 0; i < 2; i++)
		hung(ways[i], device);
	/* And all is as before. */
	for (int i = 0; i < 2; i++)
		round_trip(ways[i], "base", "base", 64 * page, 6 * page - 0x800, 4096);
	return 0;
}
