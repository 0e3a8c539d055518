// SPDX-License-Identifier: GPL-2.0
/*
 * What it takes to find the page of an address, as drivers without hardware do for each packet: in the list of a
 * registration, and in an array as rxe has one without lists. A nanosecond is an instruction where those are counted.
 */
#include <linux/debugfs.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>

#define LOOKUPS (1 << 16)

/* Memory of the process that asks. */
struct request {
	u64 addr, len;
};

/* As in rxe. */
struct entry {
	struct page *page;
	unsigned int offset;
};

struct lookup {
	struct ib_umem *umem;
	struct entry *array;
	u64 len;
};

static char answer[256];
static size_t answer_len;

static struct page *none(struct lookup *lookup, u64 at)
{
	return NULL;
}

static struct page *in_array(struct lookup *lookup, u64 at)
{
	return lookup->array[at >> PAGE_SHIFT].page;
}

static struct page *in_list(struct lookup *lookup, u64 at)
{
	return ib_umem_page(lookup->umem, at);
}

/* Nanoseconds of all lookups, the least of some rounds; `found` is the sum of what they find. */
static u64 time_of(struct lookup *lookup, struct page *(*find)(struct lookup *, u64), bool random, u64 *found)
{
	u64 least = U64_MAX;

	for (int round = 0; round < 3; round++) {
		u64 begin = ktime_get_ns(), at = 0, seed = 1;

		*found = 0;
		for (int i = 0; i < LOOKUPS; i++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			at = random ? mul_u64_u64_shr(seed, lookup->len, 64) : (at + PAGE_SIZE < lookup->len ? at + PAGE_SIZE : 0);
			*found += (uintptr_t)find(lookup, at);
		}
		least = min(least, ktime_get_ns() - begin);
		cond_resched();
	}
	return least;
}

/* From the first page to the last one, run by run of the list, and entry by entry of the array. */
static u64 time_of_all(struct lookup *lookup, bool list, u64 *found)
{
	u64 least = U64_MAX;

	for (int round = 0; round < 3; round++) {
		u64 begin = ktime_get_ns(), len;
		struct page *page;

		*found = 0;
		if (list)
			for (u64 at = 0; (len = ib_umem_run(lookup->umem, at, &page)); at += len)
				for (u64 i = 0; i < len; i += PAGE_SIZE)
					*found += (uintptr_t)page++;
		else
			for (u64 i = 0; i < lookup->len >> PAGE_SHIFT; i++)
				*found += (uintptr_t)lookup->array[i].page;
		least = min(least, ktime_get_ns() - begin);
		cond_resched();
	}
	return least;
}

static int measure(struct lookup *lookup)
{
	const u64 pages = lookup->len >> PAGE_SHIFT;
	u64 found[2], times[2][3], walks[2], runs = 0, len;
	struct page *page;

	for (u64 at = 0; (len = ib_umem_run(lookup->umem, at, &page)); at += len, runs++)
		for (u64 i = 0; i < len; i += PAGE_SIZE)
			lookup->array[(at + i) >> PAGE_SHIFT].page = page++;
	for (int random = 0; random < 2; random++) {
		times[random][0] = time_of(lookup, none, random, &found[0]);
		times[random][1] = time_of(lookup, in_array, random, &found[0]);
		times[random][2] = time_of(lookup, in_list, random, &found[1]);
		if (found[0] != found[1])
			return -EILSEQ;
	}
	walks[0] = time_of_all(lookup, false, &found[0]);
	walks[1] = time_of_all(lookup, true, &found[1]);
	if (found[0] != found[1])
		return -EILSEQ;
#define EACH(random, what) ((times[random][what] - times[random][0]) / LOOKUPS)
	answer_len = scnprintf(answer, sizeof(answer),
			       "%llu runs: a lookup in order %llu in the array, %llu in the list; at random %llu, %llu; all pages, each %llu.%02llu, %llu.%02llu\n",
			       runs, EACH(0, 1), EACH(0, 2), EACH(1, 1), EACH(1, 2), walks[0] / pages, walks[0] * 100 / pages % 100,
			       walks[1] / pages, walks[1] * 100 / pages % 100);
	return 0;
}

static ssize_t lookup_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	struct ib_device *device;
	struct request request;
	struct lookup lookup;
	int ret = -ENOMEM;

	if (len != sizeof(request) || copy_from_user(&request, from, len))
		return -EINVAL;
	if (request.addr % PAGE_SIZE || request.len % PAGE_SIZE || !request.len)
		return -EINVAL;
	lookup.len = request.len;
	lookup.array = kvcalloc(request.len >> PAGE_SHIFT, sizeof(*lookup.array), GFP_KERNEL);
	/* It translates nothing. */
	device = _ib_alloc_device(sizeof(*device), &init_net);
	if (lookup.array && device) {
		lookup.umem = ib_umem_get_va(device, request.addr, request.len, IB_ACCESS_LOCAL_WRITE);
		ret = PTR_ERR_OR_ZERO(lookup.umem) ?: measure(&lookup);
		ib_umem_release(lookup.umem);
	}
	if (device)
		ib_dealloc_device(device);
	kvfree(lookup.array);
	return ret ?: len;
}

static ssize_t lookup_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	return simple_read_from_buffer(to, len, pos, answer, answer_len);
}

static const struct file_operations lookup_operations = {
	.owner = THIS_MODULE, .write = lookup_write, .read = lookup_read,
};
static struct dentry *entry;

static int __init lookup_init(void)
{
	entry = debugfs_create_file("rdma_lookup", 0600, NULL, NULL, &lookup_operations);
	return 0;
}

static void __exit lookup_exit(void)
{
	debugfs_remove(entry);
}

module_init(lookup_init);
module_exit(lookup_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Pages of addresses, in lists and in arrays");
