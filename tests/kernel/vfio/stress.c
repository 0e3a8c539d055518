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

#include "container.h"


static int container, group, fail_nth;

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	check(fd < 0 || write(fd, text, strlen(text)) < 0, path);
	close(fd);
}

static uint8_t *at;
static uint64_t len = 2 * MIB;

/* Behind where interrupts go on arm64, and below where they do on x86-64. */
#define IOVA (256 * MIB)

static int map(void)
{
	struct vfio_iommu_type1_dma_map in = {
		.argsz = sizeof(in), .flags = 3, .vaddr = (uintptr_t)at, .iova = IOVA, .size = len,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &in);
}

static int unmap(void)
{
	struct vfio_iommu_type1_dma_unmap out = { .argsz = sizeof(out), .iova = IOVA, .size = len };

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
	check(!left, "there is no end of allocations");
	/* Vectors of Rust ask twice, so that one failure is not seen where there is but one. */
	check(!failed && act != track, "nothing has failed");
	printf("%s: %d failures\n", what, failed);
}

/* `act` where no memory at all can be had. (Some callers that are refused ask in another way, and get it.) */
static void never(const char *what, int (*act)(void))
{
	long before = locked();
	/* To open a file needs memory. */
	int ret, error, fails = open("/proc/self/make-it-fail", O_WRONLY);

	put("/sys/kernel/debug/failslab/task-filter", "Y");
	put("/sys/kernel/debug/failslab/probability", "100");
	put("/sys/kernel/debug/failslab/times", "-1");
	check(write(fails, "1", 1) != 1, "make-it-fail");
	ret = act();
	error = errno;
	check(pwrite(fails, "0", 1, 0) != 1, "make-it-fail");
	close(fails);
	put("/sys/kernel/debug/failslab/probability", "0");
	check(!ret, "it needs no memory");
	errno = error;
	check(error != ENOMEM, what);
	check(locked() != before, "pages stay charged");
	printf("%s: ENOMEM without any memory\n", what);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	group = open_group("bus/pci/devices", argv[1]);
	container = open_container();
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
	never("map", map);
	each("map", NULL, map, unmap);
	each("attach", leave, attach, NULL);
	leave();
	check(attach() || map(), "map");
	never("track", track);
	each("track", NULL, track, NULL);
	check(unmap(), "unmap");
	return 0;
}
