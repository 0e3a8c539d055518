// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How long a vfio container takes to map and to unmap memory, by kind of page; the best of three.
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

static int container;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void measure(const char *name, uint8_t *at, uint64_t len)
{
	double map = 1e9, unmap = 1e9;

	for (int round = 0; round < ROUNDS; round++) {
		struct vfio_iommu_type1_dma_map in = {
			.argsz = sizeof(in), .flags = 3, .vaddr = (uintptr_t)at, .iova = 4096 * MIB, .size = len,
		};
		struct vfio_iommu_type1_dma_unmap out = {
			.argsz = sizeof(out), .iova = in.iova, .size = len,
		};
		double begin = now(), middle, end;

		check(ioctl(container, VFIO_IOMMU_MAP_DMA, &in), "VFIO_IOMMU_MAP_DMA");
		middle = now();
		check(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &out) || out.size != len, "VFIO_IOMMU_UNMAP_DMA");
		end = now();
		if (middle - begin < map)
			map = middle - begin;
		if (end - middle < unmap)
			unmap = end - middle;
	}
	printf("%-10s %5llu MiB: map %9.3f ms, unmap %9.3f ms, %llu pages unmapped\n", name,
	       (unsigned long long)(len / MIB), map, unmap, (unsigned long long)(ROUNDS * (len / PAGE)));
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
	int group;
	uint64_t len;
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
	check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[1]) < 0, "VFIO_GROUP_GET_DEVICE_FD");

	at = memory(len, 0, MADV_HUGEPAGE);
	measure("2 MiB", at, len);
	munmap(at, len);
	at = memory(len, 0, MADV_NOHUGEPAGE);
	measure("4 KiB", at, len);
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
	measure("scattered", at, len);
	return 0;
}
