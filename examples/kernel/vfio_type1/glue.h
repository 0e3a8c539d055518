/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef VFIO_TYPE1_GLUE_H
#define VFIO_TYPE1_GLUE_H

#include <linux/types.h>

struct iommu_domain;
struct iommu_group;
struct list_head;
struct mm_struct;
struct page;
struct task_struct;
struct vfio_device;

/* In Rust. */
void *vfio_type1_open(unsigned long kind);
void vfio_type1_release(void *data);
long vfio_type1_ioctl(void *data, unsigned int command, unsigned long argument);
int vfio_type1_attach(void *data, struct iommu_group *group, bool emulated);
void vfio_type1_detach(void *data, struct iommu_group *group);
int vfio_type1_pin_pages(void *data, struct iommu_group *group, dma_addr_t iova, int count,
			 int prot, struct page **pages);
void vfio_type1_unpin_pages(void *data, dma_addr_t iova, int count);
void vfio_type1_register_device(void *data, struct vfio_device *device);
void vfio_type1_unregister_device(void *data, struct vfio_device *device);
int vfio_type1_dma_rw(void *data, dma_addr_t iova, void *bytes, size_t len, bool write);
struct iommu_domain *vfio_type1_group_domain(void *data, struct iommu_group *group);

/* In C. */
int vfio_type1_register(void);
void vfio_type1_unregister(void);
unsigned int vfio_type1_entry_limit(void);
bool vfio_type1_unsafe_interrupts(void);
bool vfio_type1_huge_pages(void);

void vfio_type1_devices_init(struct list_head *devices);
void vfio_type1_devices_add(struct list_head *devices, struct vfio_device *device);
void vfio_type1_devices_remove(struct vfio_device *device);
void vfio_type1_devices_notify(struct list_head *devices, u64 iova, u64 len);

/* What is behind the addresses of a process, from one on. */
struct vfio_type1_pages {
	/* Room for so many pages, of so many that are left. */
	struct page **pages;
	unsigned int room;
	unsigned long left;
	/* Whether they are frames of a device, which have no pins and begin here. */
	bool device;
	u64 pfn;
	/* Whether the kernel keeps the pages for itself, so that they are not charged. */
	bool reserved;
};

/* Pins some pages, or finds frames of a device, and returns how many: never 0. */
long vfio_type1_pin(struct mm_struct *mm, unsigned long start, struct vfio_type1_pages *pages,
		    bool write);
struct page *vfio_type1_page(u64 pfn);

bool vfio_type1_may_lock(void);
/* Lets others run; whether the program is being killed. */
bool vfio_type1_killed(void);
bool vfio_type1_fits(struct mm_struct *mm, struct task_struct *task, u64 pages);
void vfio_type1_limit_exceeded(struct task_struct *task);
bool vfio_type1_access_ok(unsigned long start, unsigned long len);
int vfio_type1_copy(struct mm_struct *mm, unsigned long at, void *data, size_t len, bool write);

struct vfio_type1_reserved {
	u64 first;
	u64 last;
	u32 kind;
};

struct iommu_domain *vfio_type1_domain_alloc(struct iommu_group *group);
bool vfio_type1_enforce_coherency(struct iommu_domain *domain);
/* Reports up to `room` reserved regions, and how many there are. */
int vfio_type1_reserved(struct iommu_group *group, struct vfio_type1_reserved *out, int room);

#endif
