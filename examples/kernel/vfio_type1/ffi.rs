// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of `glue.c`: see `glue.h` for what they do.

use kernel::bindings::{iommu_domain, iommu_group, list_head, mm_struct, page, task_struct};
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

/// A device, of which C knows more.
#[repr(C)]
pub(crate) struct VfioDevice {
    _opaque: [u8; 0],
}

/// What a group of devices keeps for itself.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Reserved {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) kind: u32,
}

/// What is behind the addresses of a process: see `glue.h`.
#[repr(C)]
pub(crate) struct Pages {
    pub(crate) pages: *mut *mut page,
    pub(crate) room: c_uint,
    pub(crate) left: c_ulong,
    pub(crate) device: bool,
    pub(crate) pfn: u64,
    pub(crate) reserved: bool,
}

#[allow(improper_ctypes, reason = "C structs as bindgen sees them, which have members of no size")]
unsafe extern "C" {
    pub(crate) unsafe fn vfio_type1_register() -> c_int;
    pub(crate) unsafe fn vfio_type1_unregister();
    pub(crate) safe fn vfio_type1_entry_limit() -> c_uint;
    pub(crate) safe fn vfio_type1_unsafe_interrupts() -> bool;
    pub(crate) safe fn vfio_type1_huge_pages() -> bool;

    pub(crate) unsafe fn vfio_type1_devices_init(devices: *mut list_head);
    pub(crate) unsafe fn vfio_type1_devices_add(devices: *mut list_head, device: *mut VfioDevice);
    pub(crate) unsafe fn vfio_type1_devices_remove(device: *mut VfioDevice);
    pub(crate) unsafe fn vfio_type1_devices_notify(devices: *mut list_head, iova: u64, len: u64);

    pub(crate) unsafe fn vfio_type1_pin(
        mm: *mut mm_struct,
        start: c_ulong,
        pages: *mut Pages,
        write: bool,
    ) -> c_long;
    pub(crate) safe fn vfio_type1_page(pfn: u64) -> *mut page;

    pub(crate) safe fn vfio_type1_killed() -> bool;
    pub(crate) safe fn vfio_type1_may_lock() -> bool;
    pub(crate) unsafe fn vfio_type1_fits(
        mm: *mut mm_struct,
        task: *mut task_struct,
        pages: u64,
    ) -> bool;
    pub(crate) unsafe fn vfio_type1_limit_exceeded(task: *mut task_struct);
    pub(crate) safe fn vfio_type1_access_ok(start: c_ulong, len: c_ulong) -> bool;
    pub(crate) unsafe fn vfio_type1_copy(
        mm: *mut mm_struct,
        at: c_ulong,
        data: *mut c_void,
        len: usize,
        write: bool,
    ) -> c_int;

    pub(crate) unsafe fn vfio_type1_domain_alloc(group: *mut iommu_group) -> *mut iommu_domain;
    pub(crate) unsafe fn vfio_type1_enforce_coherency(domain: *mut iommu_domain) -> bool;
    pub(crate) unsafe fn vfio_type1_reserved(
        group: *mut iommu_group,
        out: *mut Reserved,
        room: c_int,
    ) -> c_int;
}
