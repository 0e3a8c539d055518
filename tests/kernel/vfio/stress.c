// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A vfio container whose calls fail: every allocation of one, one after the other (`fail-nth`).
 * Nothing may be charged after it. With a second argument it maps and unmaps until it is
 * killed, and makes that file once it does.
 *
 * usage: vfio_stress DEVICE [FILE]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1024ull * 1024)

static int container, group, fail_nth;

static void check(int bad, const char *what)
{
	if (bad) {
		perror(what);
		exit(1);
	}
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	check(fd < 0 || write(fd, text, strlen(text)) < 0, path);
	close(fd);
}

static long locked(void)
{
	char line[128];
	long kib = -1;
	FILE *file = fopen("/proc/self/status", "r");

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmLck: %ld", &kib);
	fclose(file);
	return kib;
}

static uint8_t *at;
static uint64_t len = 2 * MIB;

static int map(void)
{
	struct vfio_iommu_type1_dma_map in = {
		.argsz = sizeof(in), .flags = 3, .vaddr = (uintptr_t)at, .iova = 64 * MIB, .size = len,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &in);
}

static int unmap(void)
{
	struct vfio_iommu_type1_dma_unmap out = { .argsz = sizeof(out), .iova = 64 * MIB, .size = len };

	return ioctl(container, VFIO_IOMMU_UNMAP_DMA, &out) || out.size != len;
}

static int track(void)
{
	struct vfio_iommu_type1_dirty_bitmap dirty = {
		.argsz = sizeof(dirty), .flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
	};

	return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

/* Not with a failure in it: then the kernel itself complains, whatever the backend is. */
static void leave(void)
{
	ioctl(group, VFIO_GROUP_UNSET_CONTAINER);
}

static int attach(void)
{
	return ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	       ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
}

/* Calls `act` with one more allocation that succeeds each time, until none fails. */
static void each(const char *what, void (*prepare)(void), int (*act)(void),
		 int (*undo)(void))
{
	char text[32];
	int failed = 0, left = 0;
	long before = locked();

	for (int nth = 1; !left && nth < 4000; nth++) {
		int ret, error;

		if (prepare)
			prepare();
		snprintf(text, sizeof(text), "%d", nth);
		check(pwrite(fail_nth, text, strlen(text), 0) < 0, "fail-nth");
		ret = act();
		error = errno;
		memset(text, 0, sizeof(text));
		check(pread(fail_nth, text, sizeof(text) - 1, 0) < 0, "fail-nth");
		check(pwrite(fail_nth, "0", 1, 0) < 0, "fail-nth");
		left = atoi(text);
		if (!ret) {
			check(undo && undo(), "what was done cannot be undone");
		} else {
			failed++;
			errno = error;
			check(error != ENOMEM, what);
		}
		if (undo)
			check(locked() != before, "pages stay charged");
	}
	printf("%s: %d failures\n", what, failed);
}

int main(int argc, char **argv)
{
	char path[128], link[128];
	ssize_t size;

	if (argc < 2)
		return 2;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", argv[1]);
	size = readlink(path, link, sizeof(link) - 1);
	check(size < 0, path);
	link[size] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	group = open(path, O_RDWR);
	check(group < 0, path);
	container = open("/dev/vfio/vfio", O_RDWR);
	check(container < 0, "/dev/vfio/vfio");
	if (argc > 2)
		len = 256 * MIB;
	at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at == MAP_FAILED, "mmap");
	madvise(at, len, MADV_NOHUGEPAGE);
	memset(at, 1, len);
	check(attach(), "attach");
	while (argc > 2) {
		check(map() || unmap(), "map and unmap");
		close(open(argv[2], O_CREAT, 0600));
	}

	put("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/failslab/verbose", "0");
	put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	put("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	check(fail_nth < 0, "fail-nth");
	each("map", NULL, map, unmap);
	each("attach", leave, attach, NULL);
	leave();
	check(attach() || map(), "map");
	each("track", NULL, track, NULL);
	check(unmap(), "unmap");
	return 0;
}
