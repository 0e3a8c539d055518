// SPDX-License-Identifier: GPL-2.0
/*
 * What the backend needs from C: the table of its functions, which is in a header that bindgen does
 * not see; parameters that can be changed while the module is loaded; inline functions. `ffi.rs`
 * declares each function of this file for Rust. Nothing is decided here. How memory of devices is found
 * follows Linux's own vfio_iommu_type1.c.
 */
#include <linux/capability.h>
#include <linux/iommu.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "vfio.h"
#include "glue.h"

/* `abi.rs` has these numbers. */
static_assert(VFIO_CHECK_EXTENSION == 0x3b65 && VFIO_IOMMU_GET_INFO == 0x3b70 &&
	      VFIO_IOMMU_MAP_DMA == 0x3b71 && VFIO_IOMMU_UNMAP_DMA == 0x3b72 &&
	      VFIO_IOMMU_DIRTY_PAGES == 0x3b75);
static_assert(VFIO_TYPE1_IOMMU == 1 && VFIO_TYPE1v2_IOMMU == 3 && VFIO_DMA_CC_IOMMU == 4 &&
	      VFIO_UNMAP_ALL == 9 && VFIO_UPDATE_VADDR == 10 &&
	      __VFIO_RESERVED_TYPE1_NESTING_IOMMU == 6);
static_assert(VFIO_DMA_MAP_FLAG_READ == 1 && VFIO_DMA_MAP_FLAG_WRITE == 2 &&
	      VFIO_DMA_MAP_FLAG_VADDR == 4 && VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP == 1 &&
	      VFIO_DMA_UNMAP_FLAG_ALL == 2 && VFIO_DMA_UNMAP_FLAG_VADDR == 4);
static_assert(VFIO_IOMMU_DIRTY_PAGES_FLAG_START == 1 && VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP == 2 &&
	      VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP == 4);
static_assert(VFIO_IOMMU_INFO_PGSIZES == 1 && VFIO_IOMMU_INFO_CAPS == 2 &&
	      VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE == 1 &&
	      VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION == 2 &&
	      VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL == 3);
static_assert(sizeof(struct vfio_iommu_type1_info) == 24 &&
	      offsetof(struct vfio_iommu_type1_info, cap_offset) == 16);
static_assert(IOMMU_RESV_DIRECT_RELAXABLE == 1 && IOMMU_RESV_MSI == 3 && IOMMU_RESV_SW_MSI == 4);

static unsigned int dma_entry_limit __read_mostly = U16_MAX;
module_param(dma_entry_limit, uint, 0644);
MODULE_PARM_DESC(dma_entry_limit, "Mappings that a container may have (65535)");

static bool allow_unsafe_interrupts;
module_param(allow_unsafe_interrupts, bool, 0644);
MODULE_PARM_DESC(allow_unsafe_interrupts, "Accept platforms that do not remap interrupts");

static bool disable_hugepages;
module_param(disable_hugepages, bool, 0644);
MODULE_PARM_DESC(disable_hugepages, "Map every page by itself");

unsigned int vfio_type1_entry_limit(void)
{
	return READ_ONCE(dma_entry_limit);
}

bool vfio_type1_unsafe_interrupts(void)
{
	return READ_ONCE(allow_unsafe_interrupts);
}

bool vfio_type1_huge_pages(void)
{
	return !READ_ONCE(disable_hugepages);
}

static int attach(void *data, struct iommu_group *group, enum vfio_group_type type)
{
	return vfio_type1_attach(data, group, type == VFIO_EMULATED_IOMMU);
}

static void register_device(void *data, struct vfio_device *device)
{
	if (device->ops->dma_unmap)
		vfio_type1_register_device(data, device);
}

static void unregister_device(void *data, struct vfio_device *device)
{
	if (device->ops->dma_unmap)
		vfio_type1_unregister_device(data, device);
}

static const struct vfio_iommu_driver_ops ops = {
	.name = "vfio-iommu-type1-sgl",
	.owner = THIS_MODULE,
	.open = vfio_type1_open,
	.release = vfio_type1_release,
	.ioctl = vfio_type1_ioctl,
	.attach_group = attach,
	.detach_group = vfio_type1_detach,
	.pin_pages = vfio_type1_pin_pages,
	.unpin_pages = vfio_type1_unpin_pages,
	.register_device = register_device,
	.unregister_device = unregister_device,
	.dma_rw = vfio_type1_dma_rw,
	.group_iommu_domain = vfio_type1_group_domain,
};

int vfio_type1_register(void)
{
	return vfio_register_iommu_driver(&ops);
}

void vfio_type1_unregister(void)
{
	vfio_unregister_iommu_driver(&ops);
}

/* Devices that must be notified of an unmap: linked through themselves, so adding cannot fail. */
void vfio_type1_devices_init(struct list_head *devices)
{
	INIT_LIST_HEAD(devices);
}

void vfio_type1_devices_add(struct list_head *devices, struct vfio_device *device)
{
	list_add(&device->iommu_entry, devices);
}

void vfio_type1_devices_remove(struct vfio_device *device)
{
	list_del(&device->iommu_entry);
}

void vfio_type1_devices_notify(struct list_head *devices, u64 iova, u64 len)
{
	struct vfio_device *device;

	list_for_each_entry(device, devices, iommu_entry)
		device->ops->dma_unmap(device, iova, len);
}

/*
 * As many frames as one entry of a page table has that only a process leads to: memory of a device.
 */
static long follow_entry(struct mm_struct *mm, unsigned long start, unsigned long count, bool write,
			 u64 *pfn)
{
	struct follow_pfnmap_args args = { .address = untagged_addr_remote(mm, start) };
	bool unlocked = true;
	long ret;

	while (unlocked) {
		unlocked = false;
		args.vma = vma_lookup(mm, args.address);
		if (!args.vma || !(args.vma->vm_flags & VM_PFNMAP))
			return 0;
		ret = follow_pfnmap_start(&args);
		if (!ret)
			break;
		ret = fixup_user_fault(mm, args.address,
				       FAULT_FLAG_REMOTE | (write ? FAULT_FLAG_WRITE : 0),
				       &unlocked);
		/* Where the lock was given up, the area may be another one now, unless we are killed. */
		if (unlocked && !ret)
			continue;
		if (!ret)
			ret = follow_pfnmap_start(&args);
		if (ret)
			return ret;
	}
	if (write && !args.writable) {
		ret = -EFAULT;
	} else {
		/* As far as the entry of the page table reaches. */
		unsigned long frames = ~args.addr_mask >> PAGE_SHIFT;
		unsigned long rest = frames - (args.pfn & frames) + 1;

		*pfn = args.pfn;
		ret = min(count, rest);
	}
	follow_pfnmap_end(&args);
	/* Ordinary memory is not reached like that: nothing would keep it. */
	if (ret > 0 && pfn_valid(*pfn) && !PageReserved(pfn_to_page(*pfn)))
		return -EFAULT;
	return ret;
}

/* Entries that are followed before a signal is looked for, and before others get the address space. */
#define ENTRIES 512

/* Frames of a device that follow each other, in as many entries as they have. */
static long follow_device(struct mm_struct *mm, unsigned long start, unsigned long count,
			  bool write, u64 *pfn)
{
	long done = follow_entry(mm, start, count, write, pfn);

	for (int i = 1; done > 0 && done < count && i < ENTRIES; i++) {
		u64 next;
		long some = follow_entry(mm, start + (done << PAGE_SHIFT), count - done, write,
					 &next);

		/* What is wrong there is found again when it is the first. */
		if (some <= 0 || next != *pfn + done)
			break;
		done += some;
	}
	return done;
}

/*
 * Pages of which the first one says whether all of them are reserved: those of one folio, in order; or
 * single ones that are not, as they come by the million.
 */
static long alike(struct page **pages, long count)
{
	const unsigned long other = BIT(PG_reserved) | BIT(PG_head);
	struct folio *folio = page_folio(pages[0]);
	long some = 1;

	if (!folio_test_large(folio)) {
		if (!PageReserved(pages[0]))
			while (some < count && !(READ_ONCE(pages[some]->flags.f) & other))
				some++;
		return some;
	}
	some = min_t(long, folio_nr_pages(folio) - folio_page_idx(folio, pages[0]), count);
	return pages[some - 1] == pages[0] + some - 1 ? some : 1;
}

/* Of pages that are pinned, the first ones which all count as locked memory, or none of which does. */
static long of_one_kind(struct page **pages, long count, bool *reserved)
{
	long some = 0;

	*reserved = PageReserved(pages[0]);
	while (some < count && PageReserved(pages[some]) == *reserved)
		some += alike(pages + some, count - some);
	if (some < count)
		unpin_user_pages(pages + some, count - some);
	return some;
}

long vfio_type1_pin(struct mm_struct *mm, unsigned long start, struct vfio_type1_pages *pages,
		    bool write)
{
	unsigned int flags = FOLL_LONGTERM | (write ? FOLL_WRITE : 0);
	bool mine = mm == current->mm;
	struct vm_area_struct *area;
	long pinned = 0;

	cond_resched();
	if (fatal_signal_pending(current))
		return -EINTR;
	pages->device = false;
	if (mine) {
		/*
		 * What is there is found without a lock. A range that wraps, or has addresses of the kernel, is
		 * judged page by page below.
		 */
		pinned = pin_user_pages_fast(start, pages->room, flags | FOLL_NOFAULT,
					     pages->pages);
		if (pinned > 0)
			return of_one_kind(pages->pages, pinned, &pages->reserved);
	} else if (!mmget_not_zero(mm)) {
		return -ENODEV;
	}
	pinned = mmap_read_lock_killable(mm);
	if (pinned)
		goto put;
	area = vma_lookup(mm, untagged_addr_remote(mm, start));
	if (area && area->vm_flags & VM_PFNMAP) {
		pages->device = true;
		pinned = follow_device(mm, start, pages->left, write, &pages->pfn);
	} else {
		/*
		 * The lock is not to be given up: so there is no waiting here for memory that a program provides when
		 * it wants to (userfaultfd), with the container locked. It is an error.
		 */
		pinned = pin_user_pages_remote(mm, start, pages->room, flags, pages->pages, NULL);
		if (pinned > 0)
			pinned = of_one_kind(pages->pages, pinned, &pages->reserved);
	}
	mmap_read_unlock(mm);
put:
	if (!mine)
		mmput(mm);
	return pinned ?: -EFAULT;
}

struct page *vfio_type1_page(u64 pfn)
{
	return pfn_valid(pfn) ? pfn_to_page(pfn) : NULL;
}

bool vfio_type1_may_lock(void)
{
	return capable(CAP_IPC_LOCK);
}

bool vfio_type1_killed(void)
{
	cond_resched();
	return fatal_signal_pending(current);
}

bool vfio_type1_fits(struct mm_struct *mm, struct task_struct *task, u64 pages)
{
	return READ_ONCE(mm->locked_vm) + pages <= task_rlimit(task, RLIMIT_MEMLOCK) >> PAGE_SHIFT;
}

void vfio_type1_limit_exceeded(struct task_struct *task)
{
	pr_warn("%s (%d): RLIMIT_MEMLOCK (%lu) exceeded\n", task->comm, task_pid_nr(task),
		task_rlimit(task, RLIMIT_MEMLOCK));
}

bool vfio_type1_access_ok(unsigned long start, unsigned long len)
{
	return access_ok((void __user *)start, len);
}

int vfio_type1_copy(struct mm_struct *mm, unsigned long at, void *data, size_t len, bool write)
{
	bool borrowed = !current->mm;
	unsigned long left = len;

	if (!mmget_not_zero(mm))
		return -EPERM;
	if (borrowed)
		kthread_use_mm(mm);
	if (current->mm == mm)
		left = write ? copy_to_user((void __user *)at, data, len) :
			       copy_from_user(data, (void __user *)at, len);
	if (borrowed)
		kthread_unuse_mm(mm);
	mmput(mm);
	return left ? -EFAULT : 0;
}

static int first_device(struct device *device, void *data)
{
	*(struct device **)data = device;
	return 1;
}

struct iommu_domain *vfio_type1_domain_alloc(struct iommu_group *group)
{
	struct device *device = NULL;

	iommu_group_for_each_dev(group, &device, first_device);
	return device ? iommu_paging_domain_alloc(device) : ERR_PTR(-ENODEV);
}

bool vfio_type1_enforce_coherency(struct iommu_domain *domain)
{
	return domain->ops->enforce_cache_coherency && domain->ops->enforce_cache_coherency(domain);
}

int vfio_type1_reserved(struct iommu_group *group, struct vfio_type1_reserved *out, int room)
{
	struct iommu_resv_region *region, *next;
	LIST_HEAD(regions);
	int count = 0;
	int ret = iommu_get_group_resv_regions(group, &regions);

	list_for_each_entry_safe(region, next, &regions, list) {
		if (count < room) {
			out[count].first = region->start;
			out[count].last = region->start + region->length - 1;
			out[count].kind = region->type;
		}
		count++;
		list_del(&region->list);
		kfree(region);
	}
	return ret ? ret : count;
}
