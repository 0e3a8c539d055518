// SPDX-License-Identifier: MIT OR Apache-2.0
/* The array of pages that both lists are built from, and the scatterlist; and the calls of an IOMMU. */
#include <linux/iommu.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "bench_pages.h"

/* 256 MiB, at 256 MiB: only the page structures are used, and only their addresses. */
#define POOL ((size_t)65536)
#define FIRST 65536
#define BATCH ((size_t)512)

static struct page **pages;
static size_t count;

/* A number that looks random. */
static size_t mixed(u64 n)
{
	n = (n + 1) * 0x9e3779b97f4a7c15;
	n = (n ^ n >> 32) * 0xd6e8feb86659fd93;
	return n ^ n >> 32;
}

struct page **bench_fill(unsigned int shape, size_t wanted)
{
	bench_free();
	if (!pfn_valid(FIRST) || !pfn_valid(FIRST + POOL - 1))
		return NULL;
	pages = kvmalloc_array(wanted, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return NULL;
	count = wanted;
	for (size_t i = 0; i < count; i++) {
		size_t block = i / BATCH, at = i;

		if (shape == 1)
			at = mixed(block) * BATCH + i % BATCH;
		else if (shape == 2)
			at = mixed(i);
		pages[i] = pfn_to_page(FIRST + at % POOL);
	}
	return pages;
}

void bench_free(void)
{
	kvfree(pages);
	pages = NULL;
}

u64 bench_now(void)
{
	return ktime_get_ns();
}

/* As a driver does it that pins in batches. */
static int build(struct sg_append_table *table)
{
	int error = 0;

	for (size_t i = 0; i < count && !error; i += BATCH)
		error = sg_alloc_append_table_from_pages(table, pages + i, BATCH, 0,
							 BATCH * PAGE_SIZE, UINT_MAX,
							 count - i - BATCH, GFP_KERNEL);
	return error;
}

int bench_scatterlist(u64 *nanoseconds, u64 *entries, u64 *bytes)
{
	struct sg_append_table table = {};
	u64 start = ktime_get_ns();
	size_t used;
	int error = build(&table);

	*nanoseconds = ktime_get_ns() - start;
	used = table.sgt.orig_nents;
	*entries = used;
	/* One entry of each full page is the link to the next. */
	*bytes = (used + used / SG_MAX_SINGLE_ALLOC) * sizeof(struct scatterlist);
	sg_free_append_table(&table);
	return error;
}

u64 bench_offset(size_t lookup)
{
	return lookup * 0x9e3779b97f4a7c15 % (count * PAGE_SIZE);
}

int bench_scatterlist_lookup(size_t lookups, u64 *nanoseconds, u64 *sum)
{
	struct sg_append_table table = {};
	struct scatterlist *entry;
	unsigned int i;
	u64 start, all = 0;
	int error = build(&table);

	start = ktime_get_ns();
	for (size_t lookup = 0; lookup < lookups && !error; lookup++) {
		u64 offset = bench_offset(lookup);

		for_each_sgtable_sg(&table.sgt, entry, i) {
			if (offset < entry->length) {
				all += sg_phys(entry) + offset;
				break;
			}
			offset -= entry->length;
		}
	}
	*nanoseconds = ktime_get_ns() - start;
	*sum = all;
	sg_free_append_table(&table);
	return error;
}

struct iommu_domain *bench_domain(void)
{
	struct pci_dev *device = pci_get_device(PCI_VENDOR_ID_REDHAT, 0x0005, NULL);
	struct iommu_domain *domain = device ? iommu_paging_domain_alloc(&device->dev) : NULL;

	pci_dev_put(device);
	return IS_ERR(domain) ? NULL : domain;
}

int bench_calls(struct iommu_domain *domain, u64 iova, size_t calls, u64 nanoseconds[3])
{
	struct iommu_iotlb_gather gather;
	u64 start = ktime_get_ns();
	phys_addr_t all = 0;
	int error = 0;

	for (size_t i = 0; i < calls && !error; i++)
		error = iommu_map(domain, iova + i * PAGE_SIZE, i * 2 * PAGE_SIZE + SZ_64M, PAGE_SIZE,
				  IOMMU_READ, GFP_KERNEL_ACCOUNT);
	nanoseconds[0] = ktime_get_ns() - start;
	if (error)
		return error;
	start = ktime_get_ns();
	for (size_t i = 0; i < calls; i++)
		all ^= iommu_iova_to_phys(domain, iova + i * PAGE_SIZE) ^ (i * 2 * PAGE_SIZE + SZ_64M);
	nanoseconds[1] = ktime_get_ns() - start;
	start = ktime_get_ns();
	iommu_iotlb_gather_init(&gather);
	for (size_t i = 0; i < calls; i++)
		if (iommu_unmap_fast(domain, iova + i * PAGE_SIZE, PAGE_SIZE, &gather) != PAGE_SIZE)
			error = -EIO;
	iommu_iotlb_sync(domain, &gather);
	nanoseconds[2] = ktime_get_ns() - start;
	return all ? -EIO : error;
}
