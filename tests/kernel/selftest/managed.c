// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * `PagingDomain` below a driver that manages DMA by itself, as those of vfio do: the DMA API does not own the device
 * on its behalf, so that it is claimed. Such a driver cannot be written in Rust yet. It takes the `edu` device, for
 * as long as the test lasts.
 */
#include <linux/iommu.h>
#include <linux/pci.h>

#include "helpers.h"
#include "managed.h"

static int result;

/* 1 for what is wrong. */
#define check(what) wrong(device, !(what), __LINE__, #what)

static int wrong(struct device *device, bool wrong, int line, const char *what)
{
	if (wrong)
		dev_err(device, "line %d: %s\n", line, what);
	return wrong;
}

static int attach_and_detach(struct device *device)
{
	struct iommu_domain *before = iommu_get_domain_for_dev(device), *domain, *none;
	struct pinned_sgl_attached *attached;
	int other, mistakes = 0;

	attached = pinned_sgl_domain_attach(device, GFP_KERNEL, &domain);
	if (check(!IS_ERR(attached)))
		return -EIO;
	mistakes += check(iommu_get_domain_for_dev(device) == domain);
	/* It is nobody else's: neither another subsystem claims it, nor is there a second domain. */
	mistakes += check(iommu_group_dma_owner_claimed(device->iommu_group));
	mistakes += check(iommu_device_claim_dma_owner(device, &other) == -EPERM);
	mistakes += check(PTR_ERR(pinned_sgl_domain_attach(device, GFP_KERNEL, &none)) == -EBUSY);
	mistakes += check(iommu_get_domain_for_dev(device) == domain);
	pinned_sgl_domain_detach(attached, device);
	mistakes += check(iommu_get_domain_for_dev(device) == before);
	mistakes += check(!iommu_group_dma_owner_claimed(device->iommu_group));

	/* What another has claimed is not taken from it, although it has no domain there yet. */
	mistakes += check(!iommu_device_claim_dma_owner(device, &other));
	mistakes += check(PTR_ERR(pinned_sgl_domain_attach(device, GFP_KERNEL, &none)) == -EBUSY);
	iommu_device_release_dma_owner(device);
	mistakes += check(iommu_get_domain_for_dev(device) == before);
	return mistakes ? -EIO : 0;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	result = attach_and_detach(&pdev->dev);
	return -ENODEV;
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };

static struct pci_driver driver = {
	.name = "selftest-managed",
	.id_table = ids,
	.probe = probe,
	.driver_managed_dma = true,
};

int selftest_managed(void)
{
	int error;

	result = -ENODEV;
	error = pci_register_driver(&driver);
	if (error)
		return error;
	pci_unregister_driver(&driver);
	return result;
}
