// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * `PagingDomain` below a driver that manages DMA by itself, as those of vfio do: the DMA API does not own the device
 * on its behalf, so that it is claimed. Such a driver cannot be written in Rust yet. It takes the `edu` device, for
 * as long as the test lasts.
 */
#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/iommu.h>
#include <linux/pci.h>

#include "managed.h"

/* Registers of the device. */
enum { RAISE = 0x60, ACKNOWLEDGE = 0x64 };

static int result;

/* 1 for what is wrong. */
#define check(what) wrong(device, !(what), __LINE__, #what)

static int wrong(struct device *device, bool wrong, int line, const char *what)
{
	if (wrong)
		dev_err(device, "line %d: %s\n", line, what);
	return wrong;
}

static irqreturn_t arrived(int irq, void *done)
{
	complete(done);
	return IRQ_HANDLED;
}

/* Whether messages are mapped by software, and so in each domain, at addresses like this one. */
static bool is_mapped_by_software(struct device *device, u64 addr)
{
	struct iommu_resv_region *region;
	LIST_HEAD(regions);
	bool found = false;

	iommu_get_resv_regions(device, &regions);
	list_for_each_entry(region, &regions, list)
		found |= region->type == IOMMU_RESV_SW_MSI && addr >= region->start &&
			 addr - region->start < region->length;
	iommu_put_resv_regions(device, &regions);
	return found;
}

/* Whether nobody gets the device. */
static bool is_taken(struct device *device)
{
	struct iommu_domain *none;

	return PTR_ERR(rust_helper_iommu_domain_attach(device, GFP_KERNEL, &none)) == -EBUSY;
}

/* An interrupt that is allocated while the device is in the domain arrives, as a message that the IOMMU lets pass. */
static int interrupts(struct pci_dev *pdev, struct iommu_domain *domain)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct device *device = &pdev->dev;
	void __iomem *registers;
	phys_addr_t phys;
	int mistakes = 0;
	u32 addr = 0;

	if (check(!pci_enable_device(pdev)))
		return 1;
	pci_set_master(pdev);
	registers = pci_iomap(pdev, 0, 0);
	mistakes += check(registers);
	mistakes += check(pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSI) == 1);
	mistakes += check(!request_irq(pci_irq_vector(pdev, 0), arrived, 0, "selftest", &done));
	if (mistakes)
		return mistakes;
	writel(1, registers + RAISE);
	mistakes += check(wait_for_completion_timeout(&done, 5 * HZ));
	writel(1, registers + ACKNOWLEDGE);
	pci_read_config_dword(pdev, pdev->msi_cap + PCI_MSI_ADDRESS_LO, &addr);
	phys = iommu_iova_to_phys(domain, addr);
	mistakes += check(is_mapped_by_software(device, addr) == !!phys);
	dev_info(device, "a message to %#x has arrived, which leads to %pap\n", addr, &phys);
	free_irq(pci_irq_vector(pdev, 0), &done);
	pci_free_irq_vectors(pdev);
	pci_iounmap(pdev, registers);
	pci_disable_device(pdev);
	return mistakes;
}

static int attach_and_detach(struct pci_dev *pdev)
{
	struct device *device = &pdev->dev;
	struct iommu_domain *before = iommu_get_domain_for_dev(device), *domain;
	void *attached;
	int other, mistakes = 0;

	attached = rust_helper_iommu_domain_attach(device, GFP_KERNEL, &domain);
	if (check(!IS_ERR(attached)))
		return -EIO;
	mistakes += check(iommu_get_domain_for_dev(device) == domain);
	/* It is nobody else's: neither another subsystem claims it, nor is there a second domain. */
	mistakes += check(iommu_group_dma_owner_claimed(device->iommu_group));
	mistakes += check(iommu_device_claim_dma_owner(device, &other) == -EPERM);
	mistakes += check(is_taken(device));
	mistakes += check(iommu_get_domain_for_dev(device) == domain);
	mistakes += interrupts(pdev, domain);
	rust_helper_iommu_domain_detach(attached, device);
	mistakes += check(iommu_get_domain_for_dev(device) == before);
	mistakes += check(!iommu_group_dma_owner_claimed(device->iommu_group));

	/* What another has claimed is not taken from it, although it has no domain there yet. */
	mistakes += check(!iommu_device_claim_dma_owner(device, &other));
	mistakes += check(is_taken(device));
	iommu_device_release_dma_owner(device);
	mistakes += check(iommu_get_domain_for_dev(device) == before);
	return mistakes ? -EIO : 0;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	result = attach_and_detach(pdev);
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
