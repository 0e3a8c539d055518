// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of ib_umem that only drivers of hardware make: the best size of a page, blocks of that size, and copies of what
 * is registered. Of random arguments, with the answer that the pages themselves give. Behind an IOMMU, edu copies from
 * one place of the memory to another, at the addresses of its blocks.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/prandom.h>
#include <linux/slab.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>
#include <rdma/iter.h>

/*
 * Where a device sees memory: where it is; at addresses of an IOMMU, of which edu is such a device; where it is, but its
 * last run elsewhere, as behind a bus with two windows; nowhere.
 */
enum place { DIRECT, IOMMU, WINDOWS, NOWHERE };

/* A device that sees bytes at most `segment` at a time; or one that needs no DMA, if that is zero. */
struct request {
	u64 addr, len, segment, place, seed;
};

struct test {
	struct ib_device *device;
	struct ib_umem *umem;
	struct request at;
	struct page **pages;
	u64 *dma;
	size_t count;
	struct rnd_state random;
};

static struct platform_device *hardware;
static struct pci_dev *edu;
static void __iomem *registers;
enum { SRC = 0x80, DST = 0x88, COUNT = 0x90, COMMAND = 0x98, START = 1, TO_MEMORY = 2, BUFFER = 0x40000, HOLDS = 4096 };

/* How far away. */
static const u64 moved = SZ_8G + SZ_2M;
static struct bus_dma_region windows[3];
static struct io_tlb_mem all_bounces = { .force_bounce = true };

/* No run has memory of both windows. */
static void open_windows(struct test *test)
{
	u64 last = 0;

	for (size_t i = 0; i < test->count; i++)
		if (!i || page_to_pfn(test->pages[i]) != page_to_pfn(test->pages[i - 1]) + 1)
			last = max(last, page_to_phys(test->pages[i]));
	windows[0] = (struct bus_dma_region){ 0, 0, last };
	windows[1] = (struct bus_dma_region){ last, last + moved, BIT_ULL(40) };
	hardware->dev.dma_range_map = windows;
}

static u64 window_of(u64 phys)
{
	return hardware->dev.dma_range_map && phys >= windows[1].cpu_start ? phys + moved : phys;
}

static u64 iommu_phys(u64 at)
{
	return iommu_iova_to_phys(iommu_get_domain_for_dev(&edu->dev), at);
}

/* Where the device sees each page: behind an IOMMU, the blocks of a page each say it, and it knows which page that is. */
static int find_pages(struct test *test)
{
	struct ib_block_iter iter;
	size_t i = 0;

	if (test->at.place == IOMMU)
		rdma_umem_for_each_dma_block(test->umem, &iter, PAGE_SIZE)
			if (i < test->count)
				test->dma[i++] = rdma_block_iter_dma_address(&iter);
	for (size_t page = 0; page < test->count; page++) {
		if (test->at.place != IOMMU)
			test->dma[page] = test->at.segment ? window_of(page_to_phys(test->pages[page])) :
				(uintptr_t)page_address(test->pages[page]);
		else if (iommu_phys(test->dma[page]) != page_to_phys(test->pages[page]))
			return -EILSEQ;
	}
	return 0;
}

static u64 dma_of(struct test *test, size_t page)
{
	return test->dma[page];
}

/* Whether blocks of that size hold the memory, if the device sees its first byte at `iova`. */
static bool fits(struct test *test, u64 size, u64 iova)
{
	u64 offset = offset_in_page(test->at.addr), first = iova - offset;

	if ((dma_of(test, 0) + offset - iova) & (size - 1))
		return false;
	for (size_t i = 1; i < test->count; i++) {
		u64 at = first + i * PAGE_SIZE;

		if (dma_of(test, i) != dma_of(test, i - 1) + PAGE_SIZE && (at | dma_of(test, i)) & (size - 1))
			return false;
	}
	return true;
}

/* The largest size that fits; but none larger than the smallest that holds all of it in one block. */
static u64 best(struct test *test, u64 sizes, u64 iova)
{
	u64 last, found = 0;

	if (check_add_overflow(iova, test->at.len - 1, &last))
		return 0;
	for (int bit = 0; bit < 64; bit++) {
		if (!(sizes & BIT_ULL(bit)))
			continue;
		if (fits(test, BIT_ULL(bit), iova))
			found = BIT_ULL(bit);
		if (bit >= bits_per(iova ^ last))
			break;
	}
	return found;
}

static u64 random(struct test *test)
{
	return (u64)prandom_u32_state(&test->random) << 32 | prandom_u32_state(&test->random);
}

static int test_sizes(struct test *test)
{
	for (int round = 0; round < 200; round++) {
		u64 sizes = random(test) & random(test), iova = random(test), expected, answer;

		/* Mostly sizes of real hardware, and addresses that are aligned as the memory is. */
		if (round % 4)
			sizes = (sizes | PAGE_SIZE) & GENMASK_ULL(30, 12);
		if (round % 8)
			iova = (iova & ~GENMASK_ULL(12 + round % 12, 0)) |
			       (test->at.addr & GENMASK_ULL(12 + round % 12, 0));
		if (round % 3)
			iova &= GENMASK_ULL(47, 0);
		expected = best(test, sizes, iova);
		answer = ib_umem_find_best_pgsz(test->umem, sizes, iova);
		if (answer != expected) {
			pr_err("calls: of %#llx at %#llx: %#llx is best, not %#llx\n", sizes, iova, expected, answer);
			return -EILSEQ;
		}
	}
	return 0;
}

static int test_blocks(struct test *test, u64 size)
{
	u64 iova = test->at.addr, offset = offset_in_page(iova), first = ALIGN_DOWN(iova, size), count = 0;
	struct ib_block_iter iter;

	if (size > PAGE_SIZE && ib_umem_find_best_pgsz(test->umem, size, iova) != size)
		return 0;
	rdma_umem_for_each_dma_block(test->umem, &iter, size) {
		u64 from = max(first + count * size, iova) - iova + offset;
		u64 expected = ALIGN_DOWN(dma_of(test, from / PAGE_SIZE) + from % PAGE_SIZE, size);

		if (rdma_block_iter_dma_address(&iter) != expected) {
			pr_err("calls: block %llu of %#llx bytes: at %#llx, not %#llx\n", count, size, expected,
			       rdma_block_iter_dma_address(&iter));
			return -EILSEQ;
		}
		count++;
	}
	if (count != ib_umem_num_dma_blocks(test->umem, size) ||
	    count != (ALIGN(iova + test->at.len, size) - first) / size) {
		pr_err("calls: %llu blocks of %#llx bytes\n", count, size);
		return -EILSEQ;
	}
	return 0;
}

static int test_copies(struct test *test)
{
	u64 most = min(test->at.len, (u64)SZ_64K);
	u8 *copy = kvmalloc(most, GFP_KERNEL), *user = kvmalloc(most, GFP_KERNEL);
	int ret = -ENOMEM;

	for (int round = 0; round < 50 && copy && user; round++) {
		/* Past the end by a byte, once: each leaves a line in the log. */
		u64 offset = round ? random(test) % (test->at.len + 1) : test->at.len - random(test) % most;
		u64 rest = test->at.len - offset, len = round ? random(test) % (min(most, rest) + 1) : rest + 1;
		bool inside = round;

		ret = ib_umem_copy_from(copy, test->umem, offset, len);
		if (ret == (inside ? 0 : -EINVAL) && inside &&
		    (copy_from_user(user, (void __user *)(test->at.addr + offset), len) || memcmp(copy, user, len)))
			ret = -EILSEQ;
		if (ret != (inside ? 0 : -EINVAL)) {
			pr_err("calls: copy of %llu bytes at %llu: %d\n", len, offset, ret);
			ret = -EILSEQ;
			break;
		}
		ret = 0;
	}
	kvfree(copy);
	kvfree(user);
	return ret;
}

/* A block, and its place in the memory; the bytes of both. */
struct part {
	u64 dma, offset, len;
};

/* A part of the memory that lies in one block of the best size. */
static struct part random_part(struct test *test)
{
	u64 iova = test->at.addr, size = ib_umem_find_best_pgsz(test->umem, GENMASK_ULL(30, 12), iova);
	u64 wanted = random(test) % ib_umem_num_dma_blocks(test->umem, size);
	u64 begin = max(ALIGN_DOWN(iova, size) + wanted * size, iova);
	u64 end = min(ALIGN_DOWN(iova, size) + (wanted + 1) * size, iova + test->at.len);
	u64 at = begin + random(test) % (end - begin);
	struct part part = { 0, at - iova, min(end - at, (u64)HOLDS) };
	struct ib_block_iter iter;

	rdma_umem_for_each_dma_block(test->umem, &iter, size)
		if (!wanted--)
			part.dma = rdma_block_iter_dma_address(&iter) + (at & (size - 1));
	return part;
}

static int transfer(u64 from, u64 to, u64 len, u64 command)
{
	writeq(from, registers + SRC);
	writeq(to, registers + DST);
	writeq(len, registers + COUNT);
	writeq(command, registers + COMMAND);
	for (int i = 0; i < 1000 && readq(registers + COMMAND) & START; i++)
		msleep(5);
	return readq(registers + COMMAND) & START ? -EIO : 0;
}

static int test_dma(struct test *test)
{
	struct part from = random_part(test), to = random_part(test);
	u64 len = min(from.len, to.len);
	u8 *before = kmalloc(2 * PAGE_SIZE, GFP_KERNEL), *after = before + PAGE_SIZE;
	int ret = before ? 0 : -ENOMEM;

	if (!ret && copy_from_user(before, (void __user *)(test->at.addr + from.offset), len))
		ret = -EFAULT;
	ret = ret ?: transfer(from.dma, BUFFER, len, START) ?: transfer(BUFFER, to.dma, len, START | TO_MEMORY);
	if (!ret && copy_from_user(after, (void __user *)(test->at.addr + to.offset), len))
		ret = -EFAULT;
	if (!ret && memcmp(before, after, len)) {
		pr_err("calls: %llu bytes from %#llx to %#llx are others\n", len, from.dma, to.dma);
		ret = -EILSEQ;
	}
	kfree(before);
	return ret;
}

static int test_all(struct test *test)
{
	int ret = find_pages(test) ?: test_sizes(test);

	for (int bit = 6; bit <= 30 && !ret; bit++)
		ret = test_blocks(test, BIT_ULL(bit));
	if (!ret)
		ret = test_copies(test);
	if (!ret && test->at.place == IOMMU)
		ret = test_dma(test);
	return ret;
}

/* What the device has by default. */
static struct io_tlb_mem *bounces;

static ssize_t calls_write(struct file *file, const char __user *from, size_t len, loff_t *pos)
{
	struct test test = { };
	int ret = -ENOMEM, pinned = 0;

	if (len != sizeof(test.at) || copy_from_user(&test.at, from, len))
		return -EINVAL;
	prandom_seed_state(&test.random, test.at.seed);
	test.count = (PAGE_ALIGN(test.at.addr + test.at.len) - (test.at.addr & PAGE_MASK)) / PAGE_SIZE;
	test.pages = kvcalloc(test.count, sizeof(*test.pages), GFP_KERNEL);
	test.dma = kvcalloc(test.count, sizeof(*test.dma), GFP_KERNEL);
	test.device = _ib_alloc_device(sizeof(*test.device), &init_net);
	if (!test.pages || !test.dma || !test.device)
		goto out;
	pinned = pin_user_pages_fast(test.at.addr & PAGE_MASK, test.count, FOLL_LONGTERM | FOLL_WRITE, test.pages);
	if (pinned != test.count) {
		ret = pinned < 0 ? pinned : -EFAULT;
		goto out;
	}
	if (test.at.segment) {
		test.device->dma_device = test.at.place == IOMMU ? &edu->dev : &hardware->dev;
		dma_set_max_seg_size(test.device->dma_device, test.at.segment);
	}
	if (test.at.place == WINDOWS)
		open_windows(&test);
	else if (test.at.place == NOWHERE)
		hardware->dev.dma_io_tlb_mem = &all_bounces;
	test.umem = ib_umem_get_va(test.device, test.at.addr, test.at.len, IB_ACCESS_LOCAL_WRITE);
	ret = PTR_ERR_OR_ZERO(test.umem);
	if (!ret) {
		ret = test_all(&test);
		/* How many pages C gives back depends on the address that was asked about last. */
		ib_umem_find_best_pgsz(test.umem, PAGE_SIZE, test.at.addr);
		ib_umem_release(test.umem);
		for (size_t i = 0; i < test.count && test.at.place == IOMMU && !ret; i++)
			ret = iommu_phys(test.dma[i]) ? -EADDRINUSE : 0;
	}
out:
	hardware->dev.dma_range_map = NULL;
	hardware->dev.dma_io_tlb_mem = bounces;
	if (pinned > 0)
		unpin_user_pages(test.pages, pinned);
	if (test.device)
		ib_dealloc_device(test.device);
	kvfree(test.pages);
	kvfree(test.dma);
	return ret ?: len;
}

static const struct file_operations calls_operations = { .owner = THIS_MODULE, .write = calls_write };
static struct dentry *entry;

static int __init edu_init(void)
{
	int ret;

	edu = pci_get_device(0x1234, 0x11e8, NULL);
	if (!edu || !device_iommu_mapped(&edu->dev))
		return -ENODEV;
	ret = pci_enable_device(edu) ?: dma_set_mask(&edu->dev, DMA_BIT_MASK(28));
	if (ret)
		return ret;
	pci_set_master(edu);
	registers = pci_iomap(edu, 0, 0);
	return registers ? 0 : -ENOMEM;
}

static void edu_exit(void)
{
	if (registers) {
		pci_iounmap(edu, registers);
		pci_disable_device(edu);
	}
	pci_dev_put(edu);
}

static int __init calls_init(void)
{
	int ret;

	hardware = platform_device_register_simple("rdma_calls", -1, NULL, 0);
	if (IS_ERR(hardware))
		return PTR_ERR(hardware);
	bounces = hardware->dev.dma_io_tlb_mem;
	hardware->dev.coherent_dma_mask = DMA_BIT_MASK(64);
	hardware->dev.dma_mask = &hardware->dev.coherent_dma_mask;
	dev_set_dma_coherent(&hardware->dev);
	ret = dma_set_mask(&hardware->dev, DMA_BIT_MASK(64)) ?: edu_init();
	if (ret) {
		edu_exit();
		platform_device_unregister(hardware);
		return ret;
	}
	entry = debugfs_create_file("rdma_calls", 0200, NULL, NULL, &calls_operations);
	return 0;
}

static void __exit calls_exit(void)
{
	debugfs_remove(entry);
	edu_exit();
	platform_device_unregister(hardware);
}

module_init(calls_init);
module_exit(calls_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Calls of ib_umem that only drivers of hardware make");
