// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Moves memory of this program to and from two disks with the driver here, in both of its ways and formats: from every
 * address that NVMe allows, from one sector to as many as the controller takes at once. What should be on the disk is
 * kept beside it, and what is there is looked at by the kernel's own driver, before and after. Nothing around the
 * bytes may change, and nothing stays pinned, also where the program is killed meanwhile, or the driver unbound.
 *
 * The first disk is fast; the second one is slow, and has other sectors.
 *
 * usage: nvme                  where there is an IOMMU
 *        nvme bounce           where there is none, and the DMA API copies: by that way alone
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct request {
	uint64_t addr, len, lba, flags;
};

enum { WRITE = 1, SGL = 2, AGAIN = 4 };

struct disk {
	char device[16];
	uint64_t sector, sectors, max;
	/* What should be on it. */
	unsigned char *bytes;
};

static const uint64_t kib = 1 << 10, mib = 1 << 20;
/* A page of the controller, and one of this machine. */
static const uint64_t page = 4096;
static uint64_t base;
static const char *const ways[] = { "dma_api", "paging" };
static int way_count = 2;
static const char *const kinds[] = { "base", "thp", "hugetlb" };

static void fail(const char *format, ...)
{
	va_list arguments;

	printf("test: nvme: FAILED: ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" (%s)\n", strerror(errno));
	exit(1);
}

static uint64_t number(uint64_t below)
{
	static uint64_t state = 88172645463325252;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static void fill(unsigned char *at, uint64_t len)
{
	uint64_t seed = number(1ull << 56) | 1, word;

	for (uint64_t i = 0; i < len; i += 4) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		word = seed >> 32;
		memcpy(at + i, &word, 4);
	}
}

/* Small pages that are touched last to first, so that their frames are in no order. */
static unsigned char *memory(const char *kind, uint64_t len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (!strcmp(kind, "hugetlb") ? MAP_HUGETLB : 0);
	unsigned char *all = mmap(NULL, len + 2 * mib, PROT_READ | PROT_WRITE, flags, -1, 0);
	unsigned char *at = (void *)(((uintptr_t)all + 2 * mib - 1) & ~(2 * mib - 1));

	if (all == MAP_FAILED)
		fail("%s", kind);
	if (!strcmp(kind, "base"))
		madvise(at, len, MADV_NOHUGEPAGE);
	else if (!strcmp(kind, "thp"))
		madvise(at, len, MADV_HUGEPAGE);
	for (uint64_t at_page = len / base; at_page--;)
		at[at_page * base] = 0;
	return at;
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);

	if (file < 0 || write(file, text, strlen(text)) < 0)
		fail("%s", path);
	close(file);
}

static int nvme(const struct disk *disk, const char *way, struct request request)
{
	char path[64];
	int file, done;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", disk->device, way);
	file = open(path, O_WRONLY);
	if (file < 0)
		fail("%s", path);
	done = write(file, &request, sizeof(request)) == sizeof(request) ? 0 : -errno;
	close(file);
	return done;
}

/* What the driver has charged to this process. */
static void nothing_is_pinned(const char *what)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[128];
	long pinned = -1;

	while (status && fgets(line, sizeof(line), status))
		sscanf(line, "VmPin: %ld", &pinned);
	if (pinned)
		fail("%s: %ld kB are pinned", what, pinned);
	fclose(status);
}

/* Pages that are pinned, in the whole machine. */
static long pinned(void)
{
	long acquired = 0, released = 0;
	char line[128];
	FILE *stat;

	/* The counters are kept per CPU until they are read. */
	write_file("/proc/sys/vm/stat_refresh", "1");
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

static void bind(const char *driver, const char *what, const struct disk *disk)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/%s", driver, what);
	write_file(path, disk->device);
}

/* All of the disk, by the kernel's own driver, which is bound. */
static void by_the_kernel(const struct disk *disk, unsigned char *bytes, int writes)
{
	uint64_t len = disk->sector * disk->sectors, done = 0;
	char path[96];
	glob_t found;
	int file;

	/* It is there some time after the driver is bound. */
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/nvme/nvme*/nvme*n1", disk->device);
	for (double start = now(); glob(path, 0, NULL, &found); globfree(&found), usleep(10000))
		if (now() - start > 20)
			fail("%s: no disk", disk->device);
	snprintf(path, sizeof(path), "/dev/%s", strrchr(found.gl_pathv[0], '/') + 1);
	globfree(&found);
	while ((file = open(path, O_RDWR | O_CLOEXEC)) < 0)
		usleep(10000);
	while (done < len) {
		ssize_t some = writes ? write(file, bytes + done, len - done) :
					read(file, bytes + done, len - done);

		if (some <= 0)
			fail("%s", path);
		done += some;
	}
	if (fsync(file))
		fail("%s", path);
	close(file);
}

static uint64_t identity(const struct disk *disk, const char *what)
{
	char path[64], line[64], name[16];
	unsigned long long value;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/identity", disk->device);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%15s %lli", name, &value) == 2 && !strcmp(name, what)) {
			fclose(file);
			return value;
		}
	fail("%s: no %s", path, what);
	return 0;
}

/* `len` bytes at `at` to the sector `lba`, or from there; the bytes around them stay as they are. */
static void transfer(struct disk *disk, const char *way, unsigned char *at, uint64_t len, uint64_t lba, uint64_t flags)
{
	struct request request = { (uintptr_t)at, len, lba, flags };
	unsigned char *there = disk->bytes + lba * disk->sector, before = at[-1], behind = at[len];

	if (flags & WRITE)
		fill(at, len);
	else
		memset(at, 0x5a, len);
	errno = -nvme(disk, way, request);
	if (errno)
		fail("%s: %#lx bytes at %p, flags %#lx", way, len, at, flags);
	if (flags & WRITE)
		memcpy(there, at, len);
	if (memcmp(there, at, len) || at[-1] != before || at[len] != behind)
		fail("%s: %#lx bytes at %p, flags %#lx: wrong bytes", way, len, at, flags);
}

/* From every address that there is in a page of the controller, wherever that lies in one of this machine. */
static void every_alignment(struct disk *disk, uint64_t step)
{
	static const uint64_t sectors[] = { 1, 2, 7, 8, 9, 15, 16, 17, 24, 33 };
	unsigned char *at[3];
	int count = 0;

	for (int kind = 0; kind < 3; kind++)
		at[kind] = memory(kinds[kind], 2 * mib) + page;
	for (uint64_t offset = 0; offset < page; offset += step)
		for (uint64_t format = 0; format <= SGL; format += SGL, count++) {
			/* The way takes turns; everything else is as it comes. */
			const char *way = ways[(offset / step + format / SGL) % way_count];
			uint64_t len = sectors[number(10)] * disk->sector, lba = number(disk->sectors - 33);
			uint64_t start = number(base / page) * page + offset;

			transfer(disk, way, at[number(3)] + start, len, lba, format | number(2));
		}
	for (int kind = 0; kind < 3; kind++)
		munmap(at[kind] - page, 2 * mib);
	nothing_is_pinned("every alignment");
	printf("test: nvme: %s: %d transfers from every %lu bytes of a page arrived\n", disk->device, count, step);
}

/* Lengths at which lists change: one page, two, a full list page, one that leads on, all that the controller takes. */
static void every_length(struct disk *disk)
{
	const uint64_t lengths[] = {
		disk->sector, page, 2 * page, 3 * page, 64 * kib + disk->sector,
		2 * mib - page, 2 * mib, 2 * mib + page, 2 * mib + 2 * page, disk->max - page, disk->max,
	};
	int count = 0;

	for (int kind = 0; kind < 3; kind++) {
		unsigned char *at = memory(kinds[kind], 6 * mib) + page;

		for (int length = 0; length < 11; length++)
			for (int how = 0; how < 4 * way_count; how++) {
				uint64_t len = lengths[length], offset = (count * 4 + 4) % page;
				uint64_t lba = number(disk->sectors - len / disk->sector + 1);

				/* QEMU's controller takes no more parts than a page has of 4 bytes. */
				if (len > disk->max)
					continue;
				if (len == disk->max)
					offset = 0;
				transfer(disk, ways[how >> 2], at + offset, len, lba, how & (SGL | WRITE));
				count++;
			}
		munmap(at - page, 6 * mib);
	}
	nothing_is_pinned("every length");
	printf("test: nvme: %s: %d transfers of up to %lu bytes arrived\n", disk->device, count, disk->max);
}

static void refused(const struct disk *disk, const char *way, struct request request, int expected, const char *what)
{
	int got = nvme(disk, way, request);

	if (got != -expected)
		fail("%s, %s: %d, not %d", way, what, got, -expected);
	nothing_is_pinned(way);
}

static void bad_requests(struct disk *disk, const char *way)
{
	unsigned char *ok = memory("base", 6 * mib);
	uint64_t at = (uintptr_t)ok, sector = disk->sector, end = disk->sectors;

	refused(disk, way, (struct request){ at, 0, 0, 0 }, EINVAL, "no bytes");
	refused(disk, way, (struct request){ at, sector + 4, 0, 0 }, EINVAL, "no whole sectors");
	refused(disk, way, (struct request){ at, disk->max + sector, 0, 0 }, EINVAL, "too much");
	refused(disk, way, (struct request){ at, -sector, 0, 0 }, EINVAL, "far too much");
	refused(disk, way, (struct request){ at, 2 * sector, end - 1, 0 }, EINVAL, "beyond the disk");
	refused(disk, way, (struct request){ at, sector, -1, 0 }, EINVAL, "far beyond the disk");
	refused(disk, way, (struct request){ at, sector, 0, 8 }, EINVAL, "unknown flags");
	refused(disk, way, (struct request){ at, sector, 0, WRITE | AGAIN }, EINVAL, "written again");
	refused(disk, way, (struct request){ -page, sector + page, 0, 0 }, EOVERFLOW, "beyond the last address");
	refused(disk, way, (struct request){ page, sector, 0, 0 }, EFAULT, "nothing there");
	if (!strcmp(way, "dma_api"))
		refused(disk, way, (struct request){ at, sector, 0, AGAIN }, EINVAL, "again, and nothing stops it");
	for (int offset = 1; offset < 4; offset++) {
		refused(disk, way, (struct request){ at + offset, sector, 0, 0 }, EINVAL, "PRPs at no dword");
		transfer(disk, way, ok + page + offset, 3 * sector, offset, SGL | (offset & WRITE));
	}
	/* One part more than QEMU's controller takes: it says so, and has moved nothing. */
	if (disk->max == 4 * mib)
		refused(disk, way, (struct request){ at + 4, disk->max, 0, 0 }, EIO, "too many parts");
	mprotect(ok, 6 * mib, PROT_READ);
	refused(disk, way, (struct request){ at, sector, 0, 0 }, EFAULT, "written, but read-only");
	if (nvme(disk, way, (struct request){ at, sector, 0, WRITE }))
		fail("%s: what is read-only can be read", way);
	memcpy(disk->bytes, ok, sector);
	munmap(ok, 6 * mib);
	printf("test: nvme: %s: %s: bad requests are refused\n", disk->device, way);
}

/* The controller is given the command once more when the memory is unmapped: guest.sh looks for what becomes of it. */
static void again(struct disk *disk, uint64_t format)
{
	const char *way = "paging";
	unsigned char *at = memory("base", base);

	transfer(disk, way, at + 1024, 512, 5, format);
	memset(at + 1024, 0x77, 512);
	errno = -nvme(disk, way, (struct request){ (uintptr_t)at + 1024, 512, 7, format | AGAIN });
	if (errno)
		fail("%s: again", way);
	if (memcmp(at + 1024, disk->bytes + 7 * disk->sector, 512))
		fail("%s: again: wrong bytes", way);
	munmap(at, base);
}

enum ending { FINISHED, UNBOUND, WAITS };

/*
 * Killed while the controller works: the process is gone at once, and its memory stays pinned until the command has
 * ended; or until the driver is unbound, which stops the controller, and the call if it still waits.
 */
static void killed(struct disk *disk, const char *way, enum ending ending)
{
	static const char *const names[] = { "the command has ended", "unbound", "unbound below a call" };
	const uint64_t len = disk->max;
	unsigned char *at = memory("base", 2 * mib);
	struct request request = { (uintptr_t)at, len, 0, ending & SGL };
	double start, gone, left;
	long pins, rest;
	int status = 0;
	pid_t child;

	/* What the disk takes its time for is the command after this one. */
	transfer(disk, way, at + page, len, 0, 0);
	child = fork();
	if (!child)
		_exit(-nvme(disk, way, request));
	while (!pinned())
		usleep(1000);
	usleep(100000);
	start = now();
	if (ending != WAITS) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	gone = now() - start;
	pins = pinned();
	if (ending != FINISHED) {
		bind("nvme_sgl", "unbind", disk);
		rest = pinned();
		if (rest)
			fail("%s: unbound, and %ld pages are pinned", way, rest);
		bind("nvme_sgl", "bind", disk);
	}
	while (pinned())
		usleep(10000);
	left = now() - start;
	if (ending == WAITS && (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != ECANCELED))
		fail("%s: unbound, and a call ends with %d", way, WEXITSTATUS(status));
	if (pins != (long)(len / base) || gone > 0.5 || (ending == FINISHED ? left < 0.2 : left > 2))
		fail("%s, %s: %ld pages pinned after %f s, let go after %f s", way, names[ending], pins, gone, left);
	printf("test: nvme: %s: killed, and %s: %ld pages let go\n", way, names[ending], pins);
	munmap(at, 2 * mib);
}

/* The controller is kept off the bus: it does not answer, until the driver is unbound, and stops it. */
static void hung(struct disk *disk, const char *way)
{
	unsigned char *at = memory("base", 2 * base);
	uint16_t command;
	char path[64];
	pid_t child;
	int config;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", disk->device);
	config = open(path, O_RDWR);
	if (config < 0 || pread(config, &command, 2, 4) != 2)
		fail("%s", path);
	command &= ~4;
	if (pwrite(config, &command, 2, 4) != 2)
		fail("%s", path);
	close(config);
	child = fork();
	if (!child)
		_exit(-nvme(disk, way, (struct request){ (uintptr_t)at, 2 * base, 0, 0 }));
	sleep(1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (pinned() != 2)
		fail("%s: %ld pages are pinned for a controller that hangs", way, pinned());
	bind("nvme_sgl", "unbind", disk);
	if (pinned())
		fail("%s: %ld pages are pinned, of a controller that hangs", way, pinned());
	bind("nvme_sgl", "bind", disk);
	munmap(at, 2 * base);
	printf("test: nvme: %s: the controller hangs, and is stopped\n", way);
}

/* The disks, by the address of their controllers. */
static int find(struct disk *disks, int most)
{
	glob_t found;
	int count = 0;

	if (glob("/sys/bus/pci/drivers/nvme/0000:*", 0, NULL, &found))
		fail("no disks");
	for (size_t i = 0; i < found.gl_pathc && count < most; i++)
		snprintf(disks[count++].device, sizeof(disks->device), "%s", strrchr(found.gl_pathv[i], '/') + 1);
	globfree(&found);
	return count;
}

int main(int argc, char **argv)
{
	int bounces = argc > 1 && !strcmp(argv[1], "bounce");
	struct disk disks[2];

	if (bounces)
		way_count = 1;
	base = sysconf(_SC_PAGESIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (find(disks, 2) != 2)
		fail("not two disks");
	for (int i = 0; i < 2; i++) {
		struct disk *disk = disks + i;

		bind("nvme", "unbind", disk);
		bind("nvme_sgl", "bind", disk);
		disk->sector = identity(disk, "sector");
		disk->sectors = identity(disk, "sectors");
		disk->max = identity(disk, "max");
		disk->bytes = memory("base", disk->sector * disk->sectors);
		printf("test: nvme: %s: %lu sectors of %lu bytes, %lu bytes at once, SGLS %#lx\n", disk->device,
		       disk->sectors, disk->sector, disk->max, identity(disk, "sgls"));
		bind("nvme_sgl", "unbind", disk);
		bind("nvme", "bind", disk);
		fill(disk->bytes, disk->sector * disk->sectors);
		by_the_kernel(disk, disk->bytes, 1);
		bind("nvme", "unbind", disk);
		bind("nvme_sgl", "bind", disk);
	}
	every_length(disks);
	every_alignment(disks, bounces ? 64 : 4);
	every_alignment(disks + 1, kib);
	for (int way = 0; way < 2 && !bounces; way++) {
		bad_requests(disks, ways[way]);
		for (int ending = FINISHED; ending <= WAITS; ending++)
			killed(disks + 1, ways[way], ending);
		hung(disks, ways[way]);
	}
	for (uint64_t format = 0; format <= SGL && !bounces; format += SGL)
		again(disks, format);
	/* And all is as before. */
	every_alignment(disks, 512);
	for (int i = 0; i < 2; i++) {
		struct disk *disk = disks + i;
		uint64_t len = disk->sector * disk->sectors;
		unsigned char *found = memory("base", len);

		bind("nvme_sgl", "unbind", disk);
		bind("nvme", "bind", disk);
		by_the_kernel(disk, found, 0);
		if (memcmp(found, disk->bytes, len))
			fail("%s: the kernel's own driver finds other bytes", disk->device);
		printf("test: nvme: %s: the kernel's own driver finds the same %lu bytes\n", disk->device, len);
	}
	return 0;
}
