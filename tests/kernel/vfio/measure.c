// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How long a vfio container takes to map and to unmap memory, by kind of page, and page by page as DPDK does
 * without huge pages; the best of three. And how long it takes to let go of as many mappings at its end.
 *
 * usage: vfio_measure DEVICE MEGABYTES [CONTAINER]
 *
 * The container is /dev/vfio/vfio, or /dev/iommu, which takes the same calls.
 */
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "container.h"

#define ROUNDS 3
/* Mappings of a page. */
#define PAGES 8192ull
#define IOVA (4096 * MIB)

static int container;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void map(uint8_t *at, uint64_t iova, uint64_t len)
{
	struct vfio_iommu_type1_dma_map in = {
		.argsz = sizeof(in), .flags = 3, .vaddr = (uintptr_t)at, .iova = iova, .size = len,
	};

	check(ioctl(container, VFIO_IOMMU_MAP_DMA, &in), "VFIO_IOMMU_MAP_DMA");
}

static void unmap(uint64_t iova, uint64_t len)
{
	struct vfio_iommu_type1_dma_unmap out = { .argsz = sizeof(out), .iova = iova, .size = len };

	check(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &out) || out.size != len, "VFIO_IOMMU_UNMAP_DMA");
}

/* In mappings of `each` bytes, with a gap of a page between those that are not one. */
static void measure(const char *name, uint8_t *at, uint64_t len, uint64_t each)
{
	uint64_t stride = each == len ? len : each + PAGE;
	double mapped = 1e9, unmapped = 1e9;

	for (int round = 0; round < ROUNDS; round++) {
		double begin = now(), middle, end;

		for (uint64_t i = 0; i < len / each; i++)
			map(at + i * each, IOVA + i * stride, each);
		middle = now();
		for (uint64_t i = 0; i < len / each; i++)
			unmap(IOVA + i * stride, each);
		end = now();
		if (middle - begin < mapped)
			mapped = middle - begin;
		if (end - middle < unmapped)
			unmapped = end - middle;
	}
	printf("%-10s %5llu MiB: map %9.3f ms, unmap %9.3f ms, %llu pages unmapped\n", name,
	       (unsigned long long)(len / MIB), mapped, unmapped, (unsigned long long)(ROUNDS * (len / PAGE)));
}

static uint8_t *memory(uint64_t len, int flags, int advice)
{
	uint8_t *at = mmap(NULL, len + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	check(at == MAP_FAILED, "mmap");
	at = (uint8_t *)(((uintptr_t)at + 2 * MIB - 1) & ~(2 * MIB - 1));
	madvise(at, len, advice);
	memset(at, 1, len);
	return at;
}

int main(int argc, char **argv)
{
	int group, device;
	uint64_t len;
	double begin;
	uint8_t *at, *other;
	struct sysinfo info;

	if (argc != 3 && argc != 4)
		return 2;
	len = strtoull(argv[2], NULL, 0) * MIB;
	group = open_group("bus/pci/devices", argv[1]);
	container = open(argc == 4 ? argv[3] : "/dev/vfio/vfio", O_RDWR);
	check(container < 0, "the container");
	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	/* iommufd puts a device into a domain when it is opened. */
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[1]);
	check(device < 0, "VFIO_GROUP_GET_DEVICE_FD");

	at = memory(len, 0, MADV_HUGEPAGE);
	measure("2 MiB", at, len, len);
	munmap(at, len);
	at = memory(len, 0, MADV_NOHUGEPAGE);
	measure("4 KiB", at, len, len);
	munmap(at, len);
	/* Two regions whose pages were taken in turn: no two neighbours lie beside each other. */
	check(sysinfo(&info), "sysinfo");
	if (info.freeram < 2 * len + 64 * MIB) {
		printf("scattered  %5llu MiB: left out, as the machine does not have twice the memory\n",
		       (unsigned long long)(len / MIB));
		return 0;
	}
	at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	other = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(at == MAP_FAILED || other == MAP_FAILED, "mmap");
	madvise(at, len, MADV_NOHUGEPAGE);
	madvise(other, len, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < len; i += PAGE)
		at[i] = other[i] = 1;
	measure("scattered", at, len, len);
	measure("one by one", at, PAGES * PAGE, PAGE);
	for (uint64_t i = 0; i < PAGES; i++)
		map(at + i * PAGE, IOVA + i * 2 * PAGE, PAGE);
	begin = now();
	close(device);
	check(ioctl(group, VFIO_GROUP_UNSET_CONTAINER), "VFIO_GROUP_UNSET_CONTAINER");
	close(container);
	printf("one by one %5llu MiB: let go of %9.3f ms\n", (unsigned long long)(PAGES * PAGE / MIB),
	       now() - begin);
	return 0;
}
