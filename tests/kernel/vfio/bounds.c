// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How long calls of a vfio container take, and what ends them: SIGKILL while memory is mapped or unmapped,
 * devices that pin again what is being unmapped, the memory of a large device, memory that a program
 * provides when it wants to. Whatever is not as it should be ends it with status 1.
 *
 * usage: vfio_bounds CASE DEVICE [FILE, or MEBIBYTES PERCENT]
 */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "container.h"

#define GIB (1024 * MIB)

static const char *device;
static int container, group;

#define expect(what, ...) \
	do { \
		if (!(what)) { \
			printf("FAILED: " __VA_ARGS__); \
			printf(" (%s)\n", #what); \
			exit(1); \
		} \
	} while (0)

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void nap(double seconds)
{
	struct timespec time = { .tv_sec = seconds, .tv_nsec = (seconds - (long)seconds) * 1e9 };

	nanosleep(&time, NULL);
}

/* What is printed at once, in case a process dies. */
static int answer(int ret)
{
	return ret < 0 ? -errno : ret;
}

static int map_with(void *at, uint64_t iova, uint64_t len, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map in = {
		.argsz = sizeof(in), .flags = flags, .vaddr = (uintptr_t)at, .iova = iova, .size = len,
	};

	return answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &in));
}

static int map(void *at, uint64_t iova, uint64_t len)
{
	return map_with(at, iova, len, 3);
}

/* The bytes that were unmapped. */
static uint64_t unmap(uint64_t iova, uint64_t len)
{
	struct vfio_iommu_type1_dma_unmap out = { .argsz = sizeof(out), .iova = iova, .size = len };
	int ret = answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &out));

	expect(!ret, "unmap %#llx: %d", (unsigned long long)iova, ret);
	return out.size;
}

static void enter(const char *bus, const char *name)
{
	group = open_group(bus, name);
	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
}

static void attach(void)
{
	container = open_container();
	enter("bus/pci/devices", device);
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
}

static int open_device(const char *name)
{
	int fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);

	check(fd < 0, name);
	return fd;
}

/* The device that is not there, in a container of its own: see emulated/emulated.c. */
static int emulated(void)
{
	container = open_container();
	enter("devices/faux", "vfio_emulated");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	return open_device("vfio_emulated");
}

static int pin(int fd, uint64_t iova)
{
	struct {
		uint32_t what, prot;
		uint64_t iova, count;
		uint8_t bytes[64];
	} command = { .prot = 1, .iova = iova, .count = 1 };

	return answer(write(fd, &command, sizeof(command)));
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	check(fd < 0 || write(fd, text, strlen(text)) < 0, path);
	close(fd);
}

/* A number that stands in a file behind a word. */
static long number(const char *path, const char *word)
{
	char line[256];
	long value = -1;
	FILE *file = fopen(path, "r");

	check(!file, path);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, word, strlen(word)))
			value = atol(line + strlen(word));
	fclose(file);
	return value;
}

static void parameter(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/emulated/parameters/%s", name);
	put(path, value);
}

static void *memory(uint64_t len, int flags)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	check(at == MAP_FAILED, "mmap");
	return at;
}

/*
 * `len` bytes that are the same `some` again and again: more than the machine has. Small pages are touched from
 * the last one on, so that none continues the other.
 */
static char *repeated(uint64_t some, uint64_t len, int flags)
{
	int fd = memfd_create("memory", flags);
	char *at;

	check(fd < 0 || ftruncate(fd, some), "memfd_create");
	if (!(flags & MFD_HUGETLB)) {
		at = mmap(NULL, some, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		check(at == MAP_FAILED || madvise(at, some, MADV_NOHUGEPAGE), "mmap");
		for (uint64_t left = some; left; left -= PAGE)
			at[left - PAGE] = 1;
		munmap(at, some);
	}
	at = mmap((void *)0x100000000000, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(at == MAP_FAILED, "mmap");
	for (uint64_t done = 0; done < len; done += some)
		check(mmap(at + done, some, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd,
			   0) == MAP_FAILED, "mmap");
	close(fd);
	return at;
}

static void limit(void)
{
	struct rlimit few = { 8 * MIB, 8 * MIB };
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	check(setrlimit(RLIMIT_MEMLOCK, &few), "setrlimit");
	check(syscall(SYS_capget, &header, data), "capget");
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	check(syscall(SYS_capset, &header, data), "capset");
}

/* A process that shares our memory and files: its end is that of its call, and not of the memory. */
static struct call {
	int (*what)(void *);
	void *argument;
	volatile int ret;
	/* When it began and when it ended. */
	volatile double began, ended;
} call;
static char stack[64 * KIB] __attribute__((aligned(16)));

static int run_call(void *unused)
{
	call.began = now();
	call.ret = call.what(call.argument);
	call.ended = now();
	return 0;
}

static pid_t start(int (*what)(void *), void *argument)
{
	pid_t pid;

	call = (struct call){ .what = what, .argument = argument };
	pid = clone(run_call, stack + sizeof(stack), CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, NULL);
	check(pid < 0, "clone");
	while (call.began == 0)
		sched_yield();
	return pid;
}

/* Waits until it is gone, for so many seconds. */
static int gone(pid_t pid, double seconds)
{
	double begin = now();

	while (!waitpid(pid, NULL, WNOHANG)) {
		if (now() - begin > seconds)
			return 0;
		nap(0.0005);
	}
	return 1;
}

struct area {
	char *at;
	uint64_t len;
};

static int map_area(void *area)
{
	return map(((struct area *)area)->at, 4 * GIB, ((struct area *)area)->len);
}

/* Killed while it maps: the mapping is not made. */
static void kills(const char *what, uint64_t some, uint64_t len, int flags, int percent)
{
	static const double parts[] = { 0.02, 0.3, 0.6, 0.8 };
	struct area area = { repeated(some, len, flags), len };
	double whole = 1e9;
	pid_t pid;

	attach();
	for (int i = 0; i < 2; i++) {
		pid = start(map_area, &area);
		expect(gone(pid, 120) && !call.ret, "map %s: %d", what, call.ret);
		if (call.ended - call.began < whole)
			whole = call.ended - call.began;
		expect(unmap(4 * GIB, area.len) == area.len, "it was not mapped");
	}
	for (int i = 0; i < 4; i++) {
		double killed, took;
		int tries = 0;

		/* What else the machine does moves it: at times the call is over before, and was faster. */
		do {
			expect(tries++ < 8, "%s is mapped each time before it is killed", what);
			if (tries > 1) {
				whole = call.ended - call.began;
				unmap(4 * GIB, area.len);
			}
			pid = start(map_area, &area);
			nap(call.began + whole * parts[i] - now());
			killed = now();
			kill(pid, SIGKILL);
			expect(gone(pid, 60), "%s: not killed", what);
			took = now() - killed;
		} while (call.ended != 0 && call.ended < killed);
		printf("%s: map of %llu MiB in %.0f ms; killed after %.0f ms: gone after %.1f ms\n", what,
		       (unsigned long long)(area.len / MIB), whole * 1e3, whole * parts[i] * 1e3, took * 1e3);
		expect(!unmap(4 * GIB, area.len), "%s is mapped by a process that was killed", what);
		expect(!locked(), "%ld KiB stay charged", locked());
		/* What was done must be undone, in less time than it would take to go on. */
		expect(took < 0.05 + whole * percent / 100, "%s: gone too late", what);
	}
}

static int unmap_two(void *unused)
{
	return unmap(16 * MIB, 2 * MIB) == 2 * MIB ? 0 : -1;
}

/* A device that pins a page of the other mapping each time one of them goes. */
static void repins(void)
{
	int fd = emulated();
	char *at = memory(2 * MIB, 0);
	long again;
	pid_t pid;

	check(map(at, 16 * MIB, MIB) || map(at + MIB, 17 * MIB, MIB), "map");
	expect(pin(fd, 16 * MIB) == 1, "pin");
	parameter("repinned", "0");
	parameter("repins", "0x100000");
	pid = start(unmap_two, NULL);
	if (!gone(pid, 5)) {
		kill(pid, SIGKILL);
		printf("repins: unmap has no end; killed: %s\n", gone(pid, 5) ? "gone" : "STILL THERE");
		parameter("repins", "0");
		expect(0, "unmap of what is pinned again");
	}
	parameter("repins", "0");
	again = number("/sys/module/emulated/parameters/repinned", "");
	expect(!call.ret, "unmap: %d", call.ret);
	printf("repins: unmapped in %.1f ms, pinned again %ld times\n", (call.ended - call.began) * 1e3, again);
	/* The kernel's own backend lets it pin the second mapping until that is looked at. */
	expect(again <= 1, "%ld pages were pinned while they were unmapped", again);
	expect(pin(fd, 16 * MIB) == -EINVAL, "it is mapped");
	/* And it can be mapped and pinned again. */
	check(map(at, 16 * MIB, MIB), "map");
	expect(pin(fd, 16 * MIB) == 1, "pin");
	unmap(16 * MIB, MIB);
}

static int unmap_many(void *unused)
{
	struct vfio_iommu_type1_dma_unmap out = { .argsz = sizeof(out), .iova = 16 * MIB, .size = 16 * MIB };

	return answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &out));
}

/* A device that takes its time, killed while it is notified: nothing is unmapped. Not with the kernel's own backend. */
static void slow(void)
{
	int fd = emulated();
	char *at = memory(MIB, 0);
	double killed;
	pid_t pid;

	for (int i = 0; i < 16; i++) {
		check(map(at, (16 + i) * MIB, MIB), "map");
		expect(pin(fd, (16 + i) * MIB) == 1, "pin");
	}
	parameter("takes", "100");
	pid = start(unmap_many, NULL);
	nap(0.35);
	killed = now();
	kill(pid, SIGKILL);
	expect(gone(pid, 60), "slow: not killed");
	parameter("takes", "0");
	printf("slow: killed while 16 mappings are unmapped, 100 ms each: gone after %.0f ms\n",
	       (now() - killed) * 1e3);
	expect(now() - killed < 0.5, "it was killed too late");
	expect(unmap(16 * MIB, 16 * MIB) == 16 * MIB, "some are unmapped");
}

/* A device that does not let go: an error, and a warning of the kernel. Not with the kernel's own backend, which stops. */
static void keeps(void)
{
	int fd = emulated();

	check(map(memory(MIB, 0), 16 * MIB, MIB), "map");
	expect(pin(fd, 16 * MIB) == 1, "pin");
	parameter("keeps", "1");
	expect(unmap_many(NULL) == -EBUSY, "unmap of what is pinned");
	parameter("keeps", "0");
	expect(unmap(16 * MIB, 16 * MIB) == MIB, "it is not mapped any more");
	printf("keeps: EBUSY\n");
}

/* A device that is closed and has let go of nothing. */
static void leaks(void)
{
	int fd = emulated();

	check(map(memory(MIB, 0), 16 * MIB, MIB), "map");
	expect(pin(fd, 16 * MIB) == 1, "pin");
	parameter("keeps", "2");
	close(fd);
	ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
	close(container);
	parameter("keeps", "0");
	printf("leaks: one page\n");
}

/* A page that the kernel keeps for itself: it is not charged. */
static void reserved(void)
{
	int fd = emulated();
	char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	check(at == MAP_FAILED, "mmap of the emulated device");
	check(map(at, 16 * MIB, PAGE), "map");
	expect(pin(fd, 16 * MIB) == 1, "pin");
	expect(locked() == 0, "a device pins it: %ld KiB are locked", locked());
	expect(unmap(16 * MIB, PAGE) == PAGE, "unmap");
	enter("bus/pci/devices", device);
	check(map(at, 16 * MIB, PAGE), "map");
	expect(locked() == 0, "it is mapped: %ld KiB are locked", locked());
	expect(unmap(16 * MIB, PAGE) == PAGE && locked() == 0, "unmap: %ld KiB are locked", locked());
	printf("reserved: nothing is charged\n");
}

/* The memory of a device, 8 GiB: as fast as as much memory in huge pages, and not charged. */
static void bar(void)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_BAR2_REGION_INDEX };
	struct vfio_region_info config = { .argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint16_t command = 6;
	char *at, *huge = repeated(32 * MIB, 8 * GIB, MFD_HUGETLB);
	double begin, pages = 1e9, frames = 1e9;
	int fd;

	attach();
	fd = open_device(device);
	check(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &region), "the BAR");
	check(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &config), "the configuration space");
	check(pwrite(fd, &command, sizeof(command), config.offset + 4) != sizeof(command), "command");
	expect(region.size == 8 * GIB, "a BAR of %#llx bytes", (unsigned long long)region.size);
	at = mmap((void *)0x200000000000, region.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		  region.offset);
	check(at == MAP_FAILED, "mmap of the BAR");
	for (int i = 0; i < 3; i++) {
		begin = now();
		check(map(huge, 64 * GIB, 8 * GIB), "map");
		if (now() - begin < pages)
			pages = now() - begin;
		expect(unmap(64 * GIB, 8 * GIB) == 8 * GIB, "unmap");
	}
	limit();
	for (int i = 0; i < 3; i++) {
		begin = now();
		check(map(at, 64 * GIB, 8 * GIB), "map of the BAR");
		if (now() - begin < frames)
			frames = now() - begin;
		expect(!locked(), "the BAR: %ld KiB are charged", locked());
		expect(unmap(64 * GIB, 8 * GIB) == 8 * GIB, "unmap of the BAR");
	}
	printf("bar: 8 GiB of a device in %.2f ms, of huge pages in %.2f ms\n", frames * 1e3, pages * 1e3);
	expect(frames < pages, "the BAR is slow");
}

/* Pages of the tables of all IOMMUs. */
static long tables_now(void)
{
	put("/proc/sys/vm/stat_refresh", "1");
	return number("/proc/vmstat", "nr_iommu_pages ");
}

/*
 * disable_hugepages, while the container is in use: how many pages the IOMMU's table takes. Small pages of the memory of a
 * huge one fill a table.
 */
static void toggles(const char *file)
{
	uint64_t huge = number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", ""), len = 16 * huge;
	char *at = repeated(huge, len, MFD_HUGETLB | __builtin_ctzl(huge) << MAP_HUGE_SHIFT);
	long tables[3];

	attach();
	for (int i = 0; i < 3; i++) {
		long before;

		put(file, i == 1 ? "1" : "0");
		before = tables_now();
		check(map(at, 32 * GIB, len), "map");
		tables[i] = tables_now() - before;
		expect(unmap(32 * GIB, len) == len, "unmap");
	}
	printf("toggles: page tables of %ld, %ld and %ld pages\n", tables[0], tables[1], tables[2]);
	expect(tables[0] < 8 && tables[1] >= 16 && tables[2] < 8, "the parameter is not looked at");
}

static void *fault_at;

static int map_fault(void *unused)
{
	return map(fault_at, 16 * MIB, 4 * PAGE);
}

/* Memory whose third page a program provides when it wants to: never. There is no waiting for it. */
static void faults(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	pid_t pid;

	check(fd < 0 || ioctl(fd, UFFDIO_API, &api), "userfaultfd");
	attach();
	fault_at = memory(4 * PAGE, 0);
	memset(fault_at, 1, 2 * PAGE);
	range.range.start = (uintptr_t)fault_at;
	range.range.len = 4 * PAGE;
	check(ioctl(fd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	pid = start(map_fault, NULL);
	if (!gone(pid, 5)) {
		kill(pid, SIGKILL);
		expect(gone(pid, 5), "map waits for userfaultfd, and cannot be killed");
		expect(0, "map waits for userfaultfd");
	}
	expect(call.ret == -EFAULT, "map: %d", call.ret);
	expect(!unmap(16 * MIB, 4 * PAGE) && !locked(), "something is mapped");
	printf("faults: EFAULT after %.1f ms\n", (call.ended - call.began) * 1e3);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	device = argv[2];
	if (!strcmp(argv[1], "kill-small") && argc > 4) {
		kills("small pages", 64 * MIB, atoi(argv[3]) * MIB, 0, atoi(argv[4]));
	} else if (!strcmp(argv[1], "kill-huge") && argc > 4) {
		kills("2 MiB", 32 * MIB, atoi(argv[3]) * MIB, MFD_HUGETLB, atoi(argv[4]));
	} else if (!strcmp(argv[1], "repins")) {
		repins();
	} else if (!strcmp(argv[1], "slow")) {
		slow();
	} else if (!strcmp(argv[1], "keeps")) {
		keeps();
	} else if (!strcmp(argv[1], "leaks")) {
		leaks();
	} else if (!strcmp(argv[1], "reserved")) {
		reserved();
	} else if (!strcmp(argv[1], "bar")) {
		bar();
	} else if (!strcmp(argv[1], "toggles") && argc > 3) {
		toggles(argv[3]);
	} else if (!strcmp(argv[1], "faults")) {
		faults();
	} else {
		return 2;
	}
	return 0;
}
