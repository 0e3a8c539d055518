// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of `helpers.c` and `domain.c`: see `helpers.h` for what they do.

use super::kernel;
use kernel::bindings::{
    device, dma_data_direction, gfp_t, iommu_domain, iommu_iotlb_gather, mm_struct, page,
    scatterlist, sg_table, task_struct, user_struct,
};
use kernel::ffi::{c_int, c_long, c_ulong, c_void};

/// `struct pinned_sgl_attached`, which C alone looks into.
#[repr(C)]
pub(super) struct Attached([u8; 0]);

#[allow(improper_ctypes, reason = "C structs as bindgen sees them, which have members of no size")]
extern "C" {
    pub(super) fn pinned_sgl_pin(
        mm: *mut mm_struct,
        start: c_ulong,
        count: usize,
        flags: u32,
        pages: *mut *mut page,
    ) -> c_long;
    pub(super) fn pinned_sgl_first_run(
        pages: *const *mut page,
        count: usize,
        pfn: *mut u64,
        provider: *mut u64,
    ) -> usize;
    pub(super) fn pinned_sgl_singles(
        pages: *const *mut page,
        count: usize,
        pfns: *mut u64,
    ) -> usize;
    pub(super) fn pinned_sgl_unpin_pages(pages: *mut *mut page, count: usize);
    pub(super) fn pinned_sgl_unpin_run(pfn: u64, count: u64, dirty: bool);
    pub(super) fn pinned_sgl_unpin_singles(pfns: *const u64, count: usize, dirty: bool);
    pub(super) fn pinned_sgl_leaked(user: u64, pfn: u64, count: u64);

    pub(super) fn pinned_sgl_is_unlimited() -> bool;
    pub(super) fn pinned_sgl_current_user() -> *mut user_struct;
    pub(super) fn pinned_sgl_charge(
        counter: u32,
        mm: *mut mm_struct,
        user: *mut user_struct,
        task: *mut task_struct,
        pages: u64,
        charged: *mut u64,
        limit: *mut u64,
    ) -> c_int;
    pub(super) fn pinned_sgl_uncharge(
        counter: u32,
        mm: *mut mm_struct,
        user: *mut user_struct,
        pages: u64,
    );
    pub(super) fn pinned_sgl_not_charged(pages: u64);

    pub(super) fn pinned_sgl_read_phys(phys: u64, to: *mut c_void, len: usize);
    pub(super) fn pinned_sgl_write_phys(phys: u64, from: *const c_void, len: usize);

    pub(super) fn pinned_sgl_domain_attach(
        device: *mut device,
        gfp: gfp_t,
        made: *mut *mut iommu_domain,
    ) -> *mut Attached;
    pub(super) fn pinned_sgl_domain_detach(attached: *mut Attached, device: *mut device);
    pub(super) fn pinned_sgl_reserved(
        device: *mut device,
        ranges: *mut [u64; 2],
        most: usize,
    ) -> usize;
    pub(super) fn pinned_sgl_map(
        domain: *mut iommu_domain,
        iova: c_ulong,
        phys: u64,
        len: usize,
        prot: u32,
        gfp: gfp_t,
    ) -> c_int;
    pub(super) fn pinned_sgl_map_runs(
        domain: *mut iommu_domain,
        iova: c_ulong,
        runs: *mut scatterlist,
        count: usize,
        len: usize,
        prot: u32,
        gfp: gfp_t,
    ) -> c_int;
    pub(super) fn pinned_sgl_gather_init(gather: *mut iommu_iotlb_gather);
    pub(super) fn pinned_sgl_iotlb_sync(domain: *mut iommu_domain, gather: *mut iommu_iotlb_gather);

    pub(super) fn pinned_sgl_dma_limits(
        device: *mut device,
        max_len: *mut u64,
        boundary_mask: *mut u64,
    );
    pub(super) fn pinned_sgl_sg_set(at: *mut *mut scatterlist, phys: u64, len: u32) -> c_int;
    pub(super) fn pinned_sgl_coherent_table(
        device: *mut device,
        table: *mut sg_table,
        memory: *mut c_void,
        first: u64,
        size: usize,
    ) -> c_int;
    pub(super) fn pinned_sgl_sync_for_cpu(
        device: *mut device,
        table: *mut sg_table,
        direction: dma_data_direction,
    );
    pub(super) fn pinned_sgl_sync_for_device(
        device: *mut device,
        table: *mut sg_table,
        direction: dma_data_direction,
    );
}
