/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory registration by the kernel's own interface, without a library between: a command is one write() to
 * /dev/infiniband/uverbs*. And what the tests ask of the kernel meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <rdma/ib_user_verbs.h>

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))
#define MIB ((uint64_t)1 << 20)

enum {
	LOCAL_WRITE = 1, REMOTE_WRITE = 2, REMOTE_READ = 4, ON_DEMAND = 1 << 6, HUGETLB = 1 << 7,
	RELAXED = 1 << 20, ALL = LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ,
};

#define check(what) do { if (!(what)) { \
	printf("test: FAILED: %s:%d: %s (%s)\n", __FILE_NAME__, __LINE__, #what, strerror(errno)); exit(1); } } while (0)

/* A device as one process has opened it, with a protection domain. */
struct verbs {
	int file;
	uint32_t pd;
};

/* What a command answers, and the driver after it. A command begins with its address. */
union response {
	struct ib_uverbs_get_context_resp context;
	struct ib_uverbs_alloc_pd_resp pd;
	struct ib_uverbs_reg_mr_resp region;
	struct ib_uverbs_rereg_mr_resp changed;
	uint8_t all[64];
};

/* One command, with 8 bytes for the driver, of which siw takes a key. An errno, or 0. */
static inline int verbs_command(const struct verbs *verbs, uint32_t command, const void *body, size_t len)
{
	const size_t all = sizeof(struct ib_uverbs_cmd_hdr) + len + 8;
	struct ib_uverbs_cmd_hdr head = { command, all / 4, sizeof(union response) / 4 };
	uint8_t bytes[128] = { 0 };

	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), body, len);
	return write(verbs->file, bytes, all) < 0 ? errno : 0;
}

static inline struct verbs verbs_open(const char *device)
{
	union response response;
	struct ib_uverbs_get_context context = { (uintptr_t)&response };
	struct ib_uverbs_alloc_pd pd = { (uintptr_t)&response };
	struct verbs verbs = { -1, 0 };
	char path[128], name[64] = "";
	glob_t found;

	check(!glob("/sys/class/infiniband_verbs/uverbs*", 0, NULL, &found));
	for (size_t i = 0; i < found.gl_pathc && verbs.file < 0; i++) {
		FILE *file;

		snprintf(path, sizeof(path), "%s/ibdev", found.gl_pathv[i]);
		file = fopen(path, "r");
		check(file && fscanf(file, "%63s", name) == 1);
		fclose(file);
		if (strcmp(name, device))
			continue;
		snprintf(path, sizeof(path), "/dev/infiniband/%s", strrchr(found.gl_pathv[i], '/') + 1);
		verbs.file = open(path, O_RDWR | O_CLOEXEC);
	}
	globfree(&found);
	check(verbs.file >= 0);
	errno = verbs_command(&verbs, IB_USER_VERBS_CMD_GET_CONTEXT, &context, sizeof(context));
	check(!errno);
	errno = verbs_command(&verbs, IB_USER_VERBS_CMD_ALLOC_PD, &pd, sizeof(pd));
	check(!errno);
	verbs.pd = response.pd.pd_handle;
	return verbs;
}

/* An errno, or 0 and the region. */
static inline int verbs_register(const struct verbs *verbs, uint64_t start, uint64_t len, uint64_t iova, int access,
				 uint32_t *region)
{
	union response response;
	struct ib_uverbs_reg_mr body = { (uintptr_t)&response, start, len, iova, verbs->pd, access };
	int error = verbs_command(verbs, IB_USER_VERBS_CMD_REG_MR, &body, sizeof(body));

	if (!error)
		*region = response.region.mr_handle;
	return error;
}

static inline int verbs_deregister(const struct verbs *verbs, uint32_t region)
{
	struct ib_uverbs_dereg_mr body = { region };

	return verbs_command(verbs, IB_USER_VERBS_CMD_DEREG_MR, &body, sizeof(body));
}

static inline int verbs_change_access(const struct verbs *verbs, uint32_t region, int access)
{
	union response response;
	struct ib_uverbs_rereg_mr body = {
		.response = (uintptr_t)&response, .mr_handle = region, .flags = 4, .pd_handle = verbs->pd,
		.access_flags = access,
	};

	return verbs_command(verbs, IB_USER_VERBS_CMD_REREG_MR, &body, sizeof(body));
}

/* The number behind `name` at the beginning of a line of a file. */
static inline long number(const char *path, const char *name)
{
	char line[256];
	long found = -1;
	FILE *in = fopen(path, "r");

	while (in && fgets(line, sizeof(line), in))
		if (!strncmp(line, name, strlen(name)))
			found = strtol(line + strlen(name), NULL, 0);
	if (in)
		fclose(in);
	return found;
}

/* What this process is charged for, in kB. */
static inline long charged(void)
{
	return number("/proc/self/status", "VmPin:");
}

static inline void put(const char *path, const char *text)
{
	int out = open(path, O_WRONLY);

	check(out >= 0 && write(out, text, strlen(text)) > 0);
	close(out);
}

/* Any allocation may fail, where one is to: quietly. */
static inline void let_memory_fail(void)
{
	put("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/failslab/verbose", "0");
	put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	put("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	put("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

/* The nth allocation of what this thread does next fails; none does after fails(0), which returns what is left of it. */
static inline int fails(int nth)
{
	static int file = -1;
	char text[32] = "", set[32];
	int len = snprintf(set, sizeof(set), "%d", nth);

	if (file < 0)
		file = open("/proc/thread-self/fail-nth", O_RDWR);
	check(file >= 0 && pread(file, text, sizeof(text) - 1, 0) > 0 && pwrite(file, set, len, 0) == len);
	return atoi(text);
}

/* Pages that are pinned, in the whole machine. */
static inline long pinned(void)
{
	/* The counters are kept per CPU until they are read. */
	put("/proc/sys/vm/stat_refresh", "1");
	return number("/proc/vmstat", "nr_foll_pin_acquired") - number("/proc/vmstat", "nr_foll_pin_released");
}

static inline uint8_t *map(uint64_t len, int prot, int flags)
{
	uint8_t *at = mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	check(at != MAP_FAILED);
	return at;
}

/* Memory of one kind of page, aligned to 2 MiB, and all of it there. */
static inline uint8_t *memory(uint64_t len, int advice)
{
	uint8_t *at = map(len + 2 * MIB, PROT_READ | PROT_WRITE, 0);

	at = (uint8_t *)(((uintptr_t)at + 2 * MIB - 1) & ~(2 * MIB - 1));
	madvise(at, len, advice);
	for (uint64_t i = 0; i < len; i += PAGE)
		at[i] = i / PAGE * 7 + 1;
	return at;
}
