// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A page table of ours, which the hardware walks: that of an SMMUv3, whose format it has. The driver of the SMMU has
 * no call for that. So the `edu` device is put into a domain, and then its context descriptor is made to lead to our
 * table, before the device has done anything that the SMMU could remember; what it remembers from then on is flushed
 * by its driver, as if it were of that domain. It ends when the device leaves the domain: then the driver of the SMMU
 * writes the descriptor again.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/pci.h>
#include <linux/platform_device.h>

#include "managed.h"
#include "walked.h"

/* Registers of `edu`, and where its buffer is. */
enum { SOURCE = 0x80, DESTINATION = 0x88, COUNT = 0x90, COMMAND = 0x98, BUFFER = 0x40000 };

/* The architecture of SMMUv3: registers, and entries of its tables. */
enum { STRTAB_BASE = 0x80, STRTAB_BASE_CFG = 0x88 };
#define ADDRESS GENMASK_ULL(51, 6)
#define STE_VALID_STAGE_1 (1 | 5 << 1)
#define CD_TABLE GENMASK_ULL(51, 4)
#define CD_FORMAT GENMASK_ULL(7, 0)

static void *attached;
static struct iommu_domain *domain;
static void __iomem *registers;
static u64 *descriptor;

/* The context descriptor of a device that is alone in a domain of the first stage; null where there is no SMMUv3. */
static u64 *find_descriptor(struct device *device)
{
	struct device *sysfs = device->iommu->iommu_dev->dev;
	/* The IOMMU itself is what its device in sysfs is below. */
	struct device *smmu = sysfs ? sysfs->parent : NULL;
	u32 id = device->iommu->fwspec ? device->iommu->fwspec->ids[0] : 0, format;
	struct resource *resource;
	void __iomem *base;
	u64 table, *entry;

	if (!smmu || !smmu->driver || strcmp(smmu->driver->name, "arm-smmu-v3"))
		return NULL;
	resource = platform_get_resource(to_platform_device(smmu), IORESOURCE_MEM, 0);
	base = resource ? ioremap(resource->start, PAGE_SIZE) : NULL;
	if (!base)
		return NULL;
	table = readq(base + STRTAB_BASE) & ADDRESS;
	format = readl(base + STRTAB_BASE_CFG);
	iounmap(base);
	if (format >> 16 & 3) {
		u32 split = format >> 6 & 0x1f;

		table = ((u64 *)phys_to_virt(table))[id >> split] & ADDRESS;
		id &= BIT(split) - 1;
	}
	/* Both are 64 bytes long. */
	entry = phys_to_virt(table + id * 64);
	return (entry[0] & 0xf) == STE_VALID_STAGE_1 ? phys_to_virt(entry[0] & ADDRESS) : NULL;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int error = pci_enable_device(pdev);

	if (error)
		return error;
	pci_set_master(pdev);
	registers = pci_iomap(pdev, 0, 0);
	attached = rust_helper_iommu_domain_attach(&pdev->dev, GFP_KERNEL, &domain);
	if (!registers || IS_ERR(attached))
		return -EIO;
	descriptor = find_descriptor(&pdev->dev);
	return 0;
}

static void remove(struct pci_dev *pdev)
{
	descriptor = NULL;
	rust_helper_iommu_domain_detach(attached, &pdev->dev);
	pci_iounmap(pdev, registers);
	pci_disable_device(pdev);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };

static struct pci_driver driver = {
	.name = "selftest-walked",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
};

int selftest_walk_start(u64 table, u32 granule, u32 bits)
{
	int error = pci_register_driver(&driver);

	if (error)
		return error;
	if (!descriptor) {
		pci_unregister_driver(&driver);
		return -ENODEV;
	}
	/* How many bits an address has, and how large a page is: 4, 64 or 16 KiB. */
	descriptor[0] &= ~CD_FORMAT;
	descriptor[0] |= (64 - bits) | (granule == SZ_64K ? 1 : granule == SZ_16K ? 2 : 0) << 6;
	descriptor[1] &= ~CD_TABLE;
	descriptor[1] |= table & CD_TABLE;
	/* The hardware reads it after this. */
	dma_wmb();
	return 0;
}

void selftest_walk_flush(void)
{
	iommu_flush_iotlb_all(domain);
}

int selftest_walk_copy(u64 iova, u32 count, bool to_memory)
{
	writeq(to_memory ? BUFFER : iova, registers + SOURCE);
	writeq(to_memory ? iova : BUFFER, registers + DESTINATION);
	writeq(count, registers + COUNT);
	writeq(1 | to_memory << 1, registers + COMMAND);
	for (int tries = 0; tries < 100; tries++) {
		if (!(readq(registers + COMMAND) & 1))
			return 0;
		msleep(20);
	}
	return -ETIMEDOUT;
}

void selftest_walk_stop(void)
{
	pci_unregister_driver(&driver);
}
