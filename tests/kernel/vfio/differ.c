// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Random calls of a vfio container with two devices, the same for the same seed: prints each call
 * and its answer. What a backend answers can be compared with what another one does.
 *
 * usage: vfio_differ EDU OTHER SEED STEPS     the devices as segment:bus:device.function
 *
 * Whether memory is really mapped, QEMU's `edu` shows: it copies bytes by DMA.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container.h"

/* Where interrupts go; and whether an access to a device that it does not take is an abort, the kernel's as well. */
#ifdef __aarch64__
#define INTERRUPTS 0x8000000
#define ABORTS 1
#else
#define INTERRUPTS 0xfee00000
#define ABORTS 0
#endif

static uint64_t state;

static uint32_t rnd(uint32_t below)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (state >> 33) % below;
}

/* Memory of every kind. Addresses are fixed, so that they are the same in each run. */
enum { ANON, THP, HUGE, READ_ONLY, NONE, HOLE, SHARED, BAR, AREAS };
static struct {
	const char *name;
	uint64_t at, len;
} areas[AREAS] = {
	[ANON] = { "anon", 0x100000000000, 4 * MIB },
	[THP] = { "thp", 0x100100000000, 8 * MIB },
	[HUGE] = { "huge", 0x100200000000, 8 * MIB },
	[READ_ONLY] = { "ro", 0x100300000000, 1 * MIB },
	[NONE] = { "none", 0x100400000000, 1 * MIB },
	/* Its second half is not there. */
	[HOLE] = { "hole", 0x100500000000, 1 * MIB },
	[SHARED] = { "shared", 0x100600000000, 1 * MIB },
	[BAR] = { "bar", 0x100700000000, 0 },
};

static void map_area(int area, uint64_t len, int prot, int flags, int fd, uint64_t offset)
{
	void *at = (void *)areas[area].at;

	if (mmap(at, len, prot, flags | MAP_FIXED, fd, offset) != at)
		die(areas[area].name);
}

static void make_areas(void)
{
	const int anon = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;

	map_area(ANON, areas[ANON].len, rw, anon, -1, 0);
	madvise((void *)areas[ANON].at, areas[ANON].len, MADV_NOHUGEPAGE);
	map_area(THP, areas[THP].len, rw, anon, -1, 0);
	madvise((void *)areas[THP].at, areas[THP].len, MADV_HUGEPAGE);
	map_area(HUGE, areas[HUGE].len, rw, anon | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1, 0);
	map_area(READ_ONLY, areas[READ_ONLY].len, PROT_READ, anon, -1, 0);
	map_area(NONE, areas[NONE].len, PROT_NONE, anon, -1, 0);
	map_area(HOLE, areas[HOLE].len / 2, rw, anon, -1, 0);
	map_area(SHARED, areas[SHARED].len, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset((void *)areas[ANON].at, 0x5a, areas[ANON].len);
}

static int container, device = -1;
/* Where its BAR lies in the file of the device. */
static uint64_t bar;

static struct vfio_device {
	const char *name;
	int group;
} devices[3] = { [2] = { .name = "vfio_emulated" } };

/* An answer: 0 or an errno, as a number. */
static int answer(int ret)
{
	return ret < 0 ? -errno : ret;
}

#define PICK(list) ((list)[rnd(sizeof(list) / sizeof(*(list)))])

/* Few addresses, so that they meet: 64 MiB from 16 MiB on, and some odd ones. */
static uint64_t random_iova(void)
{
	switch (rnd(48)) {
	case 0:
		return INTERRUPTS;
	case 1:
		return 0xfffffffffffff000;
	case 2:
		return 1ull << 40; /* beyond some apertures */
	case 3:
		return 16 * MIB + rnd(64) * MIB + 0x234;
	case 4:
		return 0;
	case 5 ... 12:
		return 16 * MIB + rnd(4096) * PAGE;
	default:
		return 16 * MIB + rnd(32) * 2 * MIB;
	}
}

static uint64_t random_len(void)
{
	switch (rnd(50)) {
	case 0:
		return 0;
	case 1:
		return PAGE + 0x10;
	case 2:
		return ~0ull - rnd(2) * 0xfff;
	default:
		return PICK(((uint64_t[]){ PAGE, PAGE, 2 * PAGE, 16 * PAGE, 64 * KIB, 511 * PAGE, 2 * MIB,
					   2 * MIB, 4 * MIB, 6 * MIB }));
	}
}

/* What the program believes to be mapped: only to make more calls that succeed. */
#define MOST 256
static struct {
	uint64_t iova, size, vaddr;
	uint32_t flags;
} known[MOST];
static int count;

static void forget(uint64_t first, uint64_t last)
{
	for (int i = count - 1; i >= 0; i--)
		if (known[i].iova >= first && known[i].iova <= last)
			known[i] = known[--count];
}

/* Whether bytes lie in a device's memory. */
static int in_bar(uint64_t iova, uint64_t bytes)
{
	for (int i = 0; i < count; i++)
		if (iova < known[i].iova + known[i].size && known[i].iova < iova + bytes &&
		    known[i].vaddr - areas[BAR].at < areas[BAR].len)
			return 1;
	return 0;
}

/* The bits of a bitmap that belong to mappings; those between them mean nothing. */
static void print_bits(uint64_t iova, uint64_t size, const uint64_t *bits)
{
	uint64_t hash = 14695981039346656037ull;
	int set = 0;

	for (uint64_t page = 0; page < size / PAGE; page++) {
		uint64_t at = iova + page * PAGE;
		int bit = bits[page / 64] >> (page % 64) & 1;

		for (int i = 0; i < count; i++)
			if (at >= known[i].iova && at - known[i].iova < known[i].size) {
				hash = (hash ^ bit ^ page) * 1099511628211ull;
				set += bit;
			}
	}
	printf(" bits %d hash %016llx", set, (unsigned long long)hash);
}

static uint64_t bitmap[64 * KIB];

static void do_map(void)
{
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map) };
	int area = rnd(AREAS + 12), ret;

	if (area >= AREAS)
		area = rnd(3);
	map.flags = PICK(((uint32_t[]){ 3, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 2, 2, 0, 4, 7, 8 }));
	map.vaddr = areas[area].at + PICK(((uint64_t[]){ 0, 0, 0, 0, 0, 0, PAGE, PAGE, 2 * MIB, 2 * MIB, 512 * KIB, 0x10 }));
	map.iova = random_iova();
	map.size = random_len();
	if (rnd(30) == 0)
		map.vaddr = PICK(((uint64_t[]){ 0, 0xffffffffffff0000, 0x7ffffffff000, 0xffff888000000000 }));
	if (rnd(30) == 0)
		map.argsz = rnd(40);
	/* What was mapped is mapped again at times, or said to lie elsewhere. */
	if (count && rnd(10) == 0) {
		int which = rnd(count);

		map.iova = known[which].iova;
		map.size = known[which].size;
		if (rnd(2)) {
			map.flags = VFIO_DMA_MAP_FLAG_VADDR;
			map.vaddr = known[which].vaddr;
		}
	}
	ret = answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &map));
	printf("map %s %#llx iova %#llx size %#llx flags %u argsz %u = %d\n", areas[area].name,
	       map.vaddr, map.iova, map.size, map.flags, map.argsz, ret);
	for (int i = 0; !ret && i < count; i++)
		if (known[i].iova == map.iova)
			known[i].vaddr = map.vaddr;
	if (!ret && !(map.flags & VFIO_DMA_MAP_FLAG_VADDR) && count < MOST) {
		known[count].iova = map.iova;
		known[count].size = map.size;
		known[count].vaddr = map.vaddr;
		known[count++].flags = map.flags;
	}
}

static void do_unmap(void)
{
	struct {
		struct vfio_iommu_type1_dma_unmap unmap;
		struct vfio_bitmap bitmap;
	} arg = { .unmap.argsz = sizeof(arg) };
	int ret, dirty;

	arg.unmap.flags = PICK(((uint32_t[]){ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 4, 6, 3, 8 }));
	arg.unmap.iova = random_iova();
	arg.unmap.size = random_len();
	if (count && rnd(3)) {
		int which = rnd(count);

		arg.unmap.iova = known[which].iova;
		arg.unmap.size = known[which].size;
		switch (rnd(8)) {
		case 0:
			arg.unmap.size += 2 * MIB;
			break;
		case 1:
			arg.unmap.size -= PAGE;
			break;
		case 2:
			arg.unmap.iova += PAGE;
			break;
		case 3:
			arg.unmap.iova -= 8 * MIB;
			arg.unmap.size += 16 * MIB;
			break;
		}
	}
	if (arg.unmap.flags & 2 && rnd(8))
		arg.unmap.iova = arg.unmap.size = 0;
	if (rnd(30) == 0)
		arg.unmap.argsz = rnd(56);
	dirty = arg.unmap.flags & 1;
	memset(bitmap, 0, sizeof(bitmap));
	arg.bitmap.pgsize = PICK(((uint64_t[]){ PAGE, PAGE, PAGE, PAGE, PAGE, 2 * MIB, 0 }));
	arg.bitmap.size = PICK(((uint64_t[]){ sizeof(bitmap), sizeof(bitmap), sizeof(bitmap), sizeof(bitmap), 4096, 4096, 8, 0, ~0ull }));
	arg.bitmap.data = (void *)PICK(((uint64_t[]){ (uintptr_t)bitmap, (uintptr_t)bitmap,
						     (uintptr_t)bitmap, (uintptr_t)bitmap,
						     (uintptr_t)bitmap, 0xffff888000000000 }));
	printf("unmap iova %#llx size %#llx flags %u argsz %u", arg.unmap.iova, arg.unmap.size,
	       arg.unmap.flags, arg.unmap.argsz);
	if (dirty)
		printf(" pgsize %#llx bytes %#llx%s", arg.bitmap.pgsize, arg.bitmap.size,
		       arg.bitmap.data == (void *)bitmap ? "" : " elsewhere");
	uint64_t iova = arg.unmap.iova, size = arg.unmap.size;

	ret = answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &arg));
	if (!ret && dirty)
		print_bits(iova, size, bitmap);
	printf(" size %#llx = %d\n", arg.unmap.size, ret);
	if (!ret && !(arg.unmap.flags & VFIO_DMA_UNMAP_FLAG_VADDR)) {
		if (arg.unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL)
			count = 0;
		else if (arg.unmap.size)
			forget(iova, iova + size - 1);
	}
}

static void do_dirty(void)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap dirty;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} arg = { .dirty.argsz = sizeof(arg) };
	int ret;

	arg.dirty.flags = PICK(((uint32_t[]){ 1, 1, 1, 1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 3, 0, 8 }));
	arg.get.iova = random_iova();
	arg.get.size = random_len();
	if (count && rnd(3)) {
		int which = rnd(count);

		arg.get.iova = known[which].iova;
		arg.get.size = known[which].size;
		if (rnd(3) == 0) {
			arg.get.iova = 0;
			arg.get.size = 128 * MIB;
		}
	}
	if (rnd(30) == 0)
		arg.dirty.argsz = rnd(56);
	memset(bitmap, 0, sizeof(bitmap));
	arg.get.bitmap.pgsize = PICK(((uint64_t[]){ PAGE, PAGE, PAGE, PAGE, PAGE, PAGE, PAGE, PAGE, 2 * MIB, 0 }));
	arg.get.bitmap.size = PICK(((uint64_t[]){ sizeof(bitmap), sizeof(bitmap), sizeof(bitmap), sizeof(bitmap), 4096, 4096, 8, 0, ~0ull }));
	arg.get.bitmap.data = (void *)PICK(((uint64_t[]){ (uintptr_t)bitmap, (uintptr_t)bitmap,
							 (uintptr_t)bitmap, 0xffff888000000000, 0x1000 }));
	printf("dirty flags %u argsz %u iova %#llx size %#llx pgsize %#llx bytes %#llx %#llx",
	       arg.dirty.flags, arg.dirty.argsz, arg.get.iova, arg.get.size, arg.get.bitmap.pgsize,
	       arg.get.bitmap.size,
	       arg.get.bitmap.data == (void *)bitmap ? 0ull : (unsigned long long)(uintptr_t)arg.get.bitmap.data);
	ret = answer(ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &arg));
	if (!ret && arg.dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
		print_bits(arg.get.iova, arg.get.size, bitmap);
	printf(" = %d\n", ret);
}

static void do_info(void)
{
	uint8_t bytes[512] = { 0 };
	struct vfio_iommu_type1_info *info = (void *)bytes;
	int ret;

	memset(bytes, 0xcc, sizeof(bytes));
	info->argsz = PICK(((uint32_t[]){ sizeof(bytes), sizeof(bytes), sizeof(*info), 16, 15, 20, 100, 0 }));
	printf("info argsz %u", info->argsz);
	ret = answer(ioctl(container, VFIO_IOMMU_GET_INFO, info));
	for (int i = 0; i < 160; i++)
		printf("%s%02x", i % 8 ? "" : " ", bytes[i]);
	printf(" = %d\n", ret);
}

static void do_extension(void)
{
	int which = rnd(16);

	printf("extension %d = %d\n", which, answer(ioctl(container, VFIO_CHECK_EXTENSION, which)));
}

static volatile uint32_t *regs;

/* A DMA transfer of edu: to its buffer, or from there. */
static void transfer(uint64_t iova, int to_memory)
{
	volatile uint64_t *wide = (void *)regs;

	wide[0x80 / 8] = to_memory ? 0x40000 : iova;
	wide[0x88 / 8] = to_memory ? iova : 0x40000;
	wide[0x90 / 8] = 64;
	wide[0x98 / 8] = 1 | to_memory << 1;
	while (wide[0x98 / 8] & 1)
		usleep(1000);
}

/* What the device sees: a mapping's bytes, copied to another place of the same mapping. */
static void do_dma(void)
{
	uint8_t *memory;
	int which;

	if (!regs || !count)
		return;
	which = rnd(count);
	if (known[which].flags != 3 || known[which].iova >= 1ull << 27 || known[which].vaddr >= areas[READ_ONLY].at)
		return;
	memory = (void *)known[which].vaddr;
	memset(memory, state >> 40, 64);
	memset(memory + known[which].size - 64, 0, 64);
	transfer(known[which].iova, 0);
	transfer(known[which].iova + known[which].size - 64, 1);
	printf("dma iova %#llx size %#llx first %02x = %d\n", (unsigned long long)known[which].iova,
	       (unsigned long long)known[which].size, memory[known[which].size - 64],
	       memcmp(memory, memory + known[which].size - 64, 64) ? 1 : 0);
}

/* The other group comes and goes, with the mappings that are there. */
static void do_group(void)
{
	static int attached;
	int ret;

	if (attached)
		ret = answer(ioctl(devices[1].group, VFIO_GROUP_UNSET_CONTAINER));
	else
		ret = answer(ioctl(devices[1].group, VFIO_GROUP_SET_CONTAINER, &container));
	printf("group %s = %d\n", attached ? "leave" : "join", ret);
	if (!ret)
		attached = !attached;
}

/* The device that is not there comes and goes, and is given commands: see emulated/emulated.c. */
static int emulated = -1;

struct command {
	uint32_t what, prot;
	uint64_t iova, count;
	uint8_t bytes[64];
};

static void join(void)
{
	int ret;

	if (emulated >= 0)
		return;
	ret = answer(ioctl(devices[2].group, VFIO_GROUP_SET_CONTAINER, &container));
	printf("emulated join = %d\n", ret);
	if (ret)
		return;
	emulated = ioctl(devices[2].group, VFIO_GROUP_GET_DEVICE_FD, devices[2].name);
	printf("emulated device = %d\n", emulated < 0 ? -errno : 0);
	if (emulated < 0)
		ioctl(devices[2].group, VFIO_GROUP_UNSET_CONTAINER);
}

static void do_emulated(void)
{
	struct command command = { .what = rnd(4), .prot = 1 + rnd(3), .iova = random_iova() };
	int ret;

	if (emulated < 0) {
		join();
		return;
	}
	if (rnd(24) == 0) {
		close(emulated);
		emulated = -1;
		printf("emulated leave = %d\n",
		       answer(ioctl(devices[2].group, VFIO_GROUP_UNSET_CONTAINER)));
		return;
	}
	if (count && rnd(8)) {
		int which = rnd(count);

		command.iova = known[which].iova + (rnd(4) ? rnd(16) * PAGE : known[which].size - PAGE);
	}
	command.count = command.what < 2 ? 1 + rnd(8) : 1 + rnd(64);
	if (command.what >= 2)
		command.iova += rnd(4) ? 0 : PAGE - 32;
	/* Any number of bytes from anywhere on: `edu` takes four or eight. */
	if (ABORTS && command.what >= 2 && in_bar(command.iova, command.count)) {
		printf("emulated%u left out\n", command.what);
		return;
	}
	memset(command.bytes, command.what == 3 ? 0xe0 + rnd(16) : 0, sizeof(command.bytes));
	ret = answer(write(emulated, &command, sizeof(command)));
	printf("emulated%u iova %#llx count %llu prot %u first %02x last %02x = %d\n", command.what,
	       (unsigned long long)command.iova, (unsigned long long)command.count, command.prot,
	       command.bytes[0], command.bytes[command.count < 64 ? command.count - 1 : 63], ret);
}

/* Many mappings that a device has pinned, unmapped at once: it is notified of each of them. */
static void do_many(void)
{
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .flags = 3, .size = PAGE };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = 512 * MIB, .size = MIB };
	struct command command = { .what = 0, .prot = 3, .count = 1 };

	join();
	for (int i = 0; i < 20; i++) {
		map.vaddr = areas[ANON].at + i * PAGE;
		map.iova = command.iova = unmap.iova + i * 2 * PAGE;
		printf("many map %d = %d\n", i, answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &map)));
		printf("many pin %d = %d\n", i, answer(write(emulated, &command, sizeof(command))));
	}
	printf("many unmap size %#llx = %d\n", (unsigned long long)unmap.size,
	       answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap)));
}

/* What random calls do not meet. */
static void do_odd(void)
{
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .flags = 3, .iova = 640 * MIB };
	struct vfio_iommu_type1_dma_unmap *unmap, whole = { .argsz = sizeof(whole) };
	struct vfio_iommu_type1_dirty_bitmap dirty = { .argsz = sizeof(dirty) };
	struct command command = { .what = 0, .prot = 1, .count = 1 };
	uint8_t *two = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (two == MAP_FAILED)
		die("mmap");
	/* More pages than a bitmap may have: what is wrong with the memory is said first, if it is looked at. */
	for (int i = 0; i < 2; i++) {
		dirty.flags = i ? VFIO_IOMMU_DIRTY_PAGES_FLAG_START : VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
		printf("odd track %d = %d\n", i, answer(ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &dirty)));
		for (int area = NONE; area <= HOLE; area++) {
			map.vaddr = areas[area].at;
			map.size = (8192ull << 30) + PAGE;
			map.iova = 1ull << 40;
			printf("odd map %s size %#llx = %d\n", areas[area].name, map.size,
			       answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &map)));
		}
		whole.flags = VFIO_DMA_UNMAP_FLAG_ALL;
		whole.size = 0;
		printf("odd unmap all = %d\n", answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &whole)));
	}
	/* Pages that were never touched, for reading: charged or not. */
	map = (struct vfio_iommu_type1_dma_map){
		.argsz = sizeof(map), .flags = 1, .vaddr = areas[READ_ONLY].at, .iova = 640 * MIB, .size = MIB,
	};
	printf("odd map read-only = %d\n", answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &map)));
	printf("odd locked %ld = 0\n", locked());
	/* Pinned by a device that may not write there; and behind it. */
	if (emulated >= 0) {
		command.iova = 640 * MIB + MIB - PAGE;
		for (int i = 0; i < 2; i++, command.iova += PAGE, command.prot = 3)
			printf("odd pin %d = %d\n", i, answer(write(emulated, &command, sizeof(command))));
		command.iova = 0 - PAGE;
		command.count = 2;
		printf("odd pin over the end = %d\n", answer(write(emulated, &command, sizeof(command))));
	}
	/* An argument that lies in a page which cannot be written, up to its size: what was unmapped is not said. */
	unmap = (void *)(two + PAGE - offsetof(struct vfio_iommu_type1_dma_unmap, size));
	*unmap = (struct vfio_iommu_type1_dma_unmap){ .argsz = sizeof(*unmap), .iova = 640 * MIB, .size = MIB };
	mprotect(two, PAGE, PROT_READ);
	printf("odd unmap = %d", answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, unmap)));
	printf(" size %#llx = 0\n", unmap->size);
	printf("odd locked %ld = 0\n", locked());
	munmap(two, 2 * PAGE);
	/* Memory, a device's memory and memory again: what of it is paid for. */
	if (areas[BAR].len) {
		uint8_t *mixed = mmap(NULL, 12 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (mixed == MAP_FAILED || mmap(mixed + 3 * PAGE, 7 * PAGE, PROT_READ | PROT_WRITE,
						MAP_SHARED | MAP_FIXED, device, bar) == MAP_FAILED)
			die("mmap");
		map = (struct vfio_iommu_type1_dma_map){
			.argsz = sizeof(map), .flags = 3, .vaddr = (uintptr_t)mixed, .iova = 640 * MIB, .size = 12 * PAGE,
		};
		printf("odd map mixed = %d\n", answer(ioctl(container, VFIO_IOMMU_MAP_DMA, &map)));
		printf("odd locked %ld = 0\n", locked());
		whole = (struct vfio_iommu_type1_dma_unmap){
			.argsz = sizeof(whole), .iova = map.iova, .size = map.size,
		};
		printf("odd unmap mixed = %d\n", answer(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &whole)));
		printf("odd locked %ld = 0\n", locked());
		munmap(mixed, 12 * PAGE);
	}
}

static void run(int kind, int steps)
{
	struct vfio_region_info region = { .argsz = sizeof(region), .index = 0 };

	container = open_container();
	printf("open version %d kind %d\n", ioctl(container, VFIO_GET_API_VERSION), kind);
	do_extension();
	devices[0].group = open_group("bus/pci/devices", devices[0].name);
	devices[1].group = open_group("bus/pci/devices", devices[1].name);
	devices[2].group = open_group("devices/faux", devices[2].name);
	if (ioctl(devices[0].group, VFIO_GROUP_SET_CONTAINER, &container))
		die("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, kind))
		die("VFIO_SET_IOMMU");
	device = ioctl(devices[0].group, VFIO_GROUP_GET_DEVICE_FD, devices[0].name);
	if (device < 0)
		die("VFIO_GROUP_GET_DEVICE_FD");
	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region))
		die("VFIO_DEVICE_GET_REGION_INFO");
	make_areas();
	if (region.flags & VFIO_REGION_INFO_FLAG_MMAP) {
		uint16_t command = 6;
		struct vfio_region_info config = { .argsz = sizeof(config),
						   .index = VFIO_PCI_CONFIG_REGION_INDEX };

		map_area(BAR, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
		areas[BAR].len = region.size;
		bar = region.offset;
		if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config))
			die("the configuration space");
		/* Memory and bus master. */
		pwrite(device, &command, sizeof(command), config.offset + 4);
		regs = (void *)areas[BAR].at;
	}
	for (int step = 0; step < steps; step++) {
		switch (rnd(50)) {
		case 0 ... 19:
			do_map();
			break;
		case 20 ... 30:
			do_unmap();
			break;
		case 31 ... 35:
			do_dirty();
			break;
		case 36:
			do_info();
			break;
		case 37:
			do_extension();
			break;
		case 38:
			do_group();
			break;
		case 39:
			do_dma();
			break;
		default:
			do_emulated();
			break;
		}
		if (step % 16 == 0)
			printf("locked %ld = 0\n", locked());
	}
	printf("locked %ld = 0\n", locked());
	do_many();
	printf("locked %ld = 0\n", locked());
	do_odd();
	fflush(stdout);
}

/* Takes CAP_IPC_LOCK from itself. */
static void drop_capability(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		die("capget");
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, data))
		die("capset");
}

int main(int argc, char **argv)
{
	struct rlimit limit = { 12 * MIB, 12 * MIB };
	int seed, steps;

	if (argc != 5)
		return 2;
	devices[0].name = argv[1];
	devices[1].name = argv[2];
	seed = atoi(argv[3]);
	steps = atoi(argv[4]);
	state = seed * 7919 + 17;
	printf("seed %d steps %d\n", seed, steps);
	/* Half of the runs with a limit of locked memory, which counts for those without CAP_IPC_LOCK. */
	if (seed % 4 >= 2) {
		if (setrlimit(RLIMIT_MEMLOCK, &limit))
			die("setrlimit");
		drop_capability();
	}
	run(seed % 2 ? VFIO_TYPE1v2_IOMMU : VFIO_TYPE1_IOMMU, steps);
	return 0;
}
