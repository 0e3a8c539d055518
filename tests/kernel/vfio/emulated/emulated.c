// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A device of vfio that is not there: pins, reads and writes the memory of its container, as a
 * program commands by write(). For `differ.c`; and, with parameters, a device of a careless driver, for
 * `bounds.c`. Memory of its own can be mapped by programs: a page that the kernel keeps for itself.
 */
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/device/faux.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

/* Notified of an unmap, it pins the page whose address differs by these bits; and how often it did. */
static unsigned long repins;
module_param(repins, ulong, 0644);
static unsigned long repinned;
module_param(repinned, ulong, 0644);
/* Milliseconds that it takes when it is notified. */
static unsigned int takes;
module_param(takes, uint, 0644);
/* It unpins nothing when it is notified (1), and when it is closed (2). */
static unsigned int keeps;
module_param(keeps, uint, 0644);

#define MOST 64

struct command {
	u32 what; /* 0 pins, 1 unpins, 2 reads, 3 writes */
	u32 prot;
	u64 iova;
	u64 count; /* pages, or bytes */
	u8 bytes[64];
};

struct emulated {
	struct vfio_device device;
	struct mutex lock;
	struct page *reserved;
	/* Pages that are pinned, once each. */
	u64 pinned[MOST];
	int count;
};

static struct faux_device *faux;
static struct emulated *emulated;

/* Not under the lock: vfio has locks of its own, and calls dma_unmap() under one of them. */
static void unpin(struct emulated *this, u64 first, u64 last)
{
	u64 iova;
	int i;

	do {
		mutex_lock(&this->lock);
		for (i = this->count - 1; i >= 0; i--)
			if (this->pinned[i] >= first && this->pinned[i] <= last)
				break;
		if (i >= 0) {
			iova = this->pinned[i];
			this->pinned[i] = this->pinned[--this->count];
		}
		mutex_unlock(&this->lock);
		if (i >= 0)
			vfio_unpin_pages(&this->device, iova, 1);
	} while (i >= 0);
}

static void dma_unmap(struct vfio_device *device, u64 iova, u64 len)
{
	struct emulated *this = container_of(device, struct emulated, device);
	struct page *page;

	msleep(READ_ONCE(takes));
	if (!(READ_ONCE(keeps) & 1))
		unpin(this, iova, iova + len - 1);
	if (!READ_ONCE(repins) || this->count == MOST ||
	    vfio_pin_pages(device, iova ^ repins, 1, IOMMU_READ, &page) != 1)
		return;
	guard(mutex)(&this->lock);
	repinned++;
	this->pinned[this->count++] = iova ^ repins;
}

static void close_device(struct vfio_device *device)
{
	struct emulated *this = container_of(device, struct emulated, device);

	if (READ_ONCE(keeps) & 2)
		this->count = 0;
	unpin(this, 0, U64_MAX);
}

static int map_reserved(struct vfio_device *device, struct vm_area_struct *area)
{
	return vm_insert_page(area, area->vm_start, container_of(device, struct emulated, device)->reserved);
}

static int pin(struct emulated *this, struct command *command)
{
	struct page *pages[MOST];
	int ret;

	if (command->count > MOST - this->count)
		return -E2BIG;
	ret = vfio_pin_pages(&this->device, command->iova, command->count, command->prot, pages);
	guard(mutex)(&this->lock);
	for (int i = 0; i < ret; i++)
		this->pinned[this->count++] = command->iova + i * PAGE_SIZE;
	return ret;
}

static ssize_t do_write(struct vfio_device *device, const char __user *from, size_t size,
			loff_t *offset)
{
	struct emulated *this = container_of(device, struct emulated, device);
	struct command command;
	ssize_t ret;

	if (size != sizeof(command))
		return -EINVAL;
	if (copy_from_user(&command, from, size))
		return -EFAULT;
	switch (command.what) {
	case 0:
		return pin(this, &command);
	case 1:
		unpin(this, command.iova, command.iova + (command.count << PAGE_SHIFT) - 1);
		return this->count;
	}
	if (command.count > sizeof(command.bytes))
		return -EINVAL;
	ret = vfio_dma_rw(device, command.iova, command.bytes, command.count, command.what == 3);
	if (!ret && copy_to_user((char __user *)from, &command, size))
		return -EFAULT;
	return ret;
}

static const struct vfio_device_ops ops = {
	.name = "emulated",
	.write = do_write,
	.mmap = map_reserved,
	.close_device = close_device,
	.dma_unmap = dma_unmap,
	/* vfio asks for these, container or not. */
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static void free_reserved(struct page *page)
{
	ClearPageReserved(page);
	__free_page(page);
}

static int __init emulated_init(void)
{
	int ret;

	faux = faux_device_create("vfio_emulated", NULL, NULL);
	if (!faux)
		return -ENODEV;
	emulated = vfio_alloc_device(emulated, device, &faux->dev, &ops);
	if (IS_ERR(emulated)) {
		ret = PTR_ERR(emulated);
		goto err;
	}
	mutex_init(&emulated->lock);
	ret = -ENOMEM;
	emulated->reserved = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!emulated->reserved)
		goto err_put;
	SetPageReserved(emulated->reserved);
	ret = vfio_register_emulated_iommu_dev(&emulated->device);
	if (!ret)
		return 0;
	free_reserved(emulated->reserved);
err_put:
	vfio_put_device(&emulated->device);
err:
	faux_device_destroy(faux);
	return ret;
}

static void __exit emulated_exit(void)
{
	vfio_unregister_group_dev(&emulated->device);
	free_reserved(emulated->reserved);
	vfio_put_device(&emulated->device);
	faux_device_destroy(faux);
}

module_init(emulated_init);
module_exit(emulated_exit);
MODULE_DESCRIPTION("A device of vfio that is not there, for tests");
MODULE_LICENSE("Dual MIT/GPL");
