/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the programs of these tests have in common: containers, groups, and what is charged. */
#ifndef CONTAINER_H
#define CONTAINER_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
/* A page of the CPU. */
#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))

static inline void die(const char *what)
{
	printf("vfio: %s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void check(int bad, const char *what)
{
	if (bad)
		die(what);
}

static inline int open_container(void)
{
	int fd = open("/dev/vfio/vfio", O_RDWR);

	check(fd < 0, "/dev/vfio/vfio");
	return fd;
}

/* The group of a device of `bus`, a folder in /sys. */
static inline int open_group(const char *bus, const char *device)
{
	char path[128], link[128];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/sys/%s/%s/iommu_group", bus, device);
	len = readlink(path, link, sizeof(link) - 1);
	check(len < 0, path);
	link[len] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%d", atoi(strrchr(link, '/') + 1));
	fd = open(path, O_RDWR);
	check(fd < 0, path);
	return fd;
}

/* KiB of locked memory: what is charged. */
static inline long locked(void)
{
	char line[128];
	long kib = -1;
	FILE *file = fopen("/proc/self/status", "r");

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmLck: %ld", &kib);
	if (file)
		fclose(file);
	return kib;
}

#endif
