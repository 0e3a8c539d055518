// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Domains of IOMMUs: who owns the device, what it is left in, and what is mapped: see domain.rs.
 */

#include <linux/device.h>
#include <linux/io-pgtable.h>
#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include "helpers.h"

/* As the users of io-pgtable from Rust have it. */
static_assert(IO_PGTABLE_QUIRK_ARM_TTBR1 == 1 << 5);

/* A domain that was made for a device, as a resource of its driver. */
struct iommu_domain_attached {
	/* None any more once the device was taken out. */
	struct iommu_domain *domain;
	/* Otherwise the DMA API owns the device, for the driver, as long as that is bound. */
	bool claimed;
};

/*
 * The driver is gone and has left the device in a domain of its own, which it has forgotten. Nothing
 * counts the device as in use any more, so that the next driver would find it there: its DMA would
 * go where this domain leads. So the device is stopped, moved to the domain that leads nowhere, and
 * owned by nothing else until it is removed from its bus.
 */
static void iommu_domain_left_behind(struct device *device, void *data)
{
	struct iommu_domain_attached *attached = data;

	if (!attached->domain)
		return;
	/* What cannot be stopped finds nothing mapped on its way: see rust_helper_iommu_domain_attach(). */
	if (dev_is_pci(device))
		pci_clear_master(to_pci_dev(device));
	iommu_detach_device(attached->domain, device);
	dev_warn(device, "its driver has left it in an IOMMU domain; it is %sblocked\n",
		 !attached->claimed && iommu_device_claim_dma_owner(device, device) ? "not " : "");
	iommu_domain_free(attached->domain);
}

static int iommu_domain_is_same(struct device *device, void *data, void *attached)
{
	return data == attached;
}

/* Makes the device its driver's alone. */
static int iommu_domain_claim(struct device *device, struct iommu_domain_attached *attached)
{
	int error = iommu_device_claim_dma_owner(device, attached);
	const struct iommu_domain *now;

	attached->claimed = !error;
	if (error != -EPERM)
		return error;
	/* Either the DMA API owns it, for this driver, or something else does. */
	now = iommu_get_domain_for_dev(device);
	if (now->type != IOMMU_DOMAIN_IDENTITY && !(now->type & __IOMMU_DOMAIN_DMA_API))
		return -EBUSY;
	/* Where it would go if it is left behind: with iommu=pt to all memory, so that it must be stopped first. */
	if (now->type == IOMMU_DOMAIN_IDENTITY && !dev_is_pci(device))
		return -EOPNOTSUPP;
	return 0;
}

/* Where the platform has no window for message-signalled interrupts, Linux maps them in each domain. */
static int iommu_domain_map_interrupts(struct iommu_domain *domain, struct device *device)
{
	struct iommu_resv_region *region, *window = NULL;
	LIST_HEAD(regions);
	int error = 0;

	iommu_get_resv_regions(device, &regions);
	list_for_each_entry(region, &regions, list) {
		/* A window of the hardware comes first, if there are both. */
		if (region->type == IOMMU_RESV_MSI) {
			window = NULL;
			break;
		}
		if (region->type == IOMMU_RESV_SW_MSI)
			window = region;
	}
	if (window)
		error = iommu_get_msi_cookie(domain, window->start);
	iommu_put_resv_regions(device, &regions);
	return error;
}

/* Makes a domain with the device in it; an errno as a pointer, where that cannot be. */
__rust_helper void *rust_helper_iommu_domain_attach(struct device *device, gfp_t gfp,
						    struct iommu_domain **made)
{
	struct iommu_domain *domain = iommu_paging_domain_alloc(device);
	struct iommu_domain_attached *attached;
	int error;

	if (IS_ERR(domain))
		return ERR_CAST(domain);
	/* As vfio and iommufd have it: the CPU's caches are not flushed for the device. */
	error = -EOPNOTSUPP;
	if (!device_iommu_capable(device, IOMMU_CAP_CACHE_COHERENCY))
		goto free_domain;
	error = iommu_domain_map_interrupts(domain, device);
	if (error)
		goto free_domain;
	error = -ENOMEM;
	attached = devres_alloc(iommu_domain_left_behind, sizeof(*attached), gfp);
	if (!attached)
		goto free_domain;
	attached->domain = domain;
	error = iommu_domain_claim(device, attached);
	if (error)
		goto free_attached;
	error = iommu_attach_device(domain, device);
	if (error)
		goto release;
	devres_add(device, attached);
	*made = domain;
	return attached;
release:
	if (attached->claimed)
		iommu_device_release_dma_owner(device);
free_attached:
	devres_free(attached);
free_domain:
	iommu_domain_free(domain);
	return ERR_PTR(error);
}

/*
 * Takes the device out and frees the domain: before the driver is unbound, or as a resource that is
 * younger.
 */
__rust_helper void rust_helper_iommu_domain_detach(void *resource, struct device *device)
{
	struct iommu_domain_attached *attached = resource;

	iommu_detach_device(attached->domain, device);
	iommu_domain_free(attached->domain);
	attached->domain = NULL;
	if (attached->claimed)
		iommu_device_release_dma_owner(device);
	/* While the driver is being unbound its resources are in no list: this one comes after what has called here. */
	if (devres_remove(device, iommu_domain_left_behind, iommu_domain_is_same, attached))
		devres_free(attached);
}

/* The addresses that a device cannot use: first and last of at most `most`; how many there are. */
__rust_helper size_t rust_helper_iommu_domain_reserved(struct device *device, u64 ranges[][2],
						       size_t most)
{
	struct iommu_resv_region *region;
	LIST_HEAD(regions);
	size_t count = 0;

	iommu_get_resv_regions(device, &regions);
	list_for_each_entry(region, &regions, list) {
		if (!region->length || region->type == IOMMU_RESV_DIRECT_RELAXABLE)
			continue;
		if (count < most) {
			ranges[count][0] = region->start;
			ranges[count][1] = region->start + (region->length - 1);
		}
		count++;
	}
	iommu_put_resv_regions(device, &regions);
	return count;
}

/* Whether something is mapped there. What leads to address zero is not seen: no memory that is pinned lies there. */
static bool iommu_domain_in_use(struct iommu_domain *domain, unsigned long iova, size_t len)
{
	size_t page = 1UL << __ffs(domain->pgsize_bitmap);

	for (size_t at = 0; at < len; at += page)
		if (iommu_iova_to_phys(domain, iova + at))
			return true;
	return false;
}

/* Maps all of it or nothing: EADDRINUSE and others where there is something already. */
__rust_helper int rust_helper_iommu_domain_map(struct iommu_domain *domain, unsigned long iova,
					       u64 phys, size_t len, u32 prot, gfp_t gfp)
{
	/* Linux's common page tables refuse what is in use; a driver with its own may replace it. */
	if (!domain->is_iommupt && iommu_domain_in_use(domain, iova, len))
		return -EADDRINUSE;
	return iommu_map(domain, iova, phys, len, prot, gfp);
}

/*
 * Maps runs one behind the other, all or none. Their `page_link` is the number of the first frame, and
 * is another one afterwards.
 */
__rust_helper int rust_helper_iommu_domain_map_runs(struct iommu_domain *domain, unsigned long iova,
						    struct scatterlist *runs, size_t count,
						    size_t len, u32 prot, gfp_t gfp)
{
	size_t done = 0;
	ssize_t mapped;

	if (!domain->is_iommupt && iommu_domain_in_use(domain, iova, len))
		return -EADDRINUSE;
	if (!IS_ENABLED(CONFIG_SPARSEMEM_VMEMMAP)) {
		/* Only where page structures are found by arithmetic need there be none. */
		for (; count; count--, runs++) {
			phys_addr_t phys = PFN_PHYS(runs->page_link) + runs->offset;
			int error = iommu_map(domain, iova + done, phys, runs->length, prot, gfp);

			if (error) {
				iommu_unmap(domain, iova, done);
				return error;
			}
			done += runs->length;
		}
		return 0;
	}
	for (size_t i = 0; i < count; i++) {
		unsigned long pfn = runs[i].page_link;

		runs[i].page_link = 0;
		sg_set_page(&runs[i], pfn_to_page(pfn), runs[i].length, runs[i].offset);
	}
	/* What is already mapped when it fails is unmapped again. */
	mapped = iommu_map_sg(domain, iova, runs, count, prot, gfp);
	return mapped < 0 ? mapped : 0;
}

__rust_helper void
rust_helper_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_gather_init(gather);
}

__rust_helper void rust_helper_iommu_iotlb_sync(struct iommu_domain *domain,
						struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_sync(domain, gather);
}
