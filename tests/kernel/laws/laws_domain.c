// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A domain that behaves as those of Linux where it matters, and notes what goes wrong: it looks first
 * and then maps, unlinks a table that is empty, and frees it when it is flushed. A table that is freed is
 * only marked as such, so that a reader of it is seen and harms nothing.
 */
#include <linux/iommu.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "laws_domain.h"

#define PAGES 64

struct table {
	u64 phys[PAGES];
	bool freed;
	struct table *next;
};

struct laws_domain {
	struct iommu_domain domain;
	bool refuses;
	u32 prots;
	/* The table that is linked, and all that there ever were. */
	struct table *table, *all;
	/* Guards what follows, and the links above. */
	spinlock_t lock;
	u64 faults;
};

static struct laws_domain *of(struct iommu_domain *domain)
{
	return container_of(domain, struct laws_domain, domain);
}

/* Here others come in between. */
static void pause(void)
{
	schedule_timeout_uninterruptible(1);
}

static void check(struct laws_domain *this, bool fine)
{
	spin_lock(&this->lock);
	this->faults += !fine;
	spin_unlock(&this->lock);
}

static struct table *linked(struct laws_domain *this)
{
	struct table *table;

	spin_lock(&this->lock);
	table = this->table;
	spin_unlock(&this->lock);
	return table;
}

static int map_pages(struct iommu_domain *domain, unsigned long iova, phys_addr_t phys, size_t size,
		     size_t count, int prot, gfp_t gfp, size_t *mapped)
{
	struct laws_domain *this = of(domain);
	struct table *table = linked(this);
	size_t first = iova / size;

	if (!table) {
		table = kzalloc_obj(*table, gfp);
		if (!table)
			return -ENOMEM;
		spin_lock(&this->lock);
		table->next = this->all;
		this->all = table;
		this->table = table;
		spin_unlock(&this->lock);
	}
	for (size_t i = 0; this->refuses && i < count; i++)
		if (table->phys[first + i])
			return -EEXIST;
	pause();
	check(this, !table->freed);
	for (size_t i = 0; i < count; i++) {
		check(this, !table->phys[first + i]);
		table->phys[first + i] = phys + i * size;
	}
	this->prots |= prot;
	*mapped = count * size;
	return 0;
}

static size_t unmap_pages(struct iommu_domain *domain, unsigned long iova, size_t size,
			  size_t count, struct iommu_iotlb_gather *gather)
{
	struct laws_domain *this = of(domain);
	struct table *table = linked(this);

	memset(table->phys + iova / size, 0, count * sizeof(table->phys[0]));
	pause();
	if (!memchr_inv(table->phys, 0, sizeof(table->phys))) {
		spin_lock(&this->lock);
		this->table = NULL;
		spin_unlock(&this->lock);
	}
	return count * size;
}

static void iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	struct laws_domain *this = of(domain);

	spin_lock(&this->lock);
	for (struct table *table = this->all; table; table = table->next)
		table->freed = table != this->table;
	spin_unlock(&this->lock);
}

static phys_addr_t iova_to_phys(struct iommu_domain *domain, dma_addr_t iova)
{
	struct laws_domain *this = of(domain);
	struct table *table = linked(this);

	if (!table || iova / PAGE_SIZE >= PAGES)
		return 0;
	pause();
	check(this, !table->freed);
	return table->phys[iova / PAGE_SIZE];
}

static const struct iommu_domain_ops ops = {
	.map_pages = map_pages,
	.unmap_pages = unmap_pages,
	.iotlb_sync = iotlb_sync,
	.iova_to_phys = iova_to_phys,
};

struct iommu_domain *laws_domain_new(bool refuses)
{
	struct laws_domain *this = kzalloc_obj(*this);

	if (!this)
		return NULL;
	this->refuses = refuses;
	spin_lock_init(&this->lock);
	this->domain.type = IOMMU_DOMAIN_UNMANAGED;
	this->domain.ops = &ops;
	this->domain.pgsize_bitmap = PAGE_SIZE;
	this->domain.geometry.aperture_end = PAGES * PAGE_SIZE - 1;
	return &this->domain;
}

void laws_domain_free(struct iommu_domain *domain)
{
	struct laws_domain *this = of(domain);

	while (this->all) {
		struct table *table = this->all;

		this->all = table->next;
		kfree(table);
	}
	kfree(this);
}

u64 laws_domain_faults(struct iommu_domain *domain)
{
	return of(domain)->faults;
}

u32 laws_domain_prots(struct iommu_domain *domain)
{
	return of(domain)->prots;
}
