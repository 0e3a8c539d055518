// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of the C beside it, as bindgen declares those of `rust/helpers`.

use super::kernel;
use kernel::bindings::{
    device, dma_data_direction, gfp_t, iommu_domain, iommu_iotlb_gather, mm_struct, page,
    scatterlist, sg_table, task_struct, user_struct,
};
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

#[allow(improper_ctypes, reason = "C structs as bindgen sees them, which have members of no size")]
extern "C" {
    #[link_name = "rust_helper_gup_pin"]
    pub(super) fn gup_pin(
        mm: *mut mm_struct,
        start: c_ulong,
        count: usize,
        flags: c_uint,
        pages: *mut *mut page,
    ) -> c_long;
    #[link_name = "rust_helper_gup_first_run"]
    pub(super) fn gup_first_run(
        pages: *const *mut page,
        count: usize,
        pfn: *mut u64,
        provider: *mut u64,
    ) -> usize;
    #[link_name = "rust_helper_gup_singles"]
    pub(super) fn gup_singles(pages: *const *mut page, count: usize, pfns: *mut u64) -> usize;
    #[link_name = "rust_helper_gup_unpin_run"]
    pub(super) fn gup_unpin_run(pfn: u64, count: u64, dirty: bool);
    #[link_name = "rust_helper_gup_copy_from"]
    pub(super) fn gup_copy_from(phys: u64, to: *mut c_void, len: usize);
    #[link_name = "rust_helper_gup_copy_to"]
    pub(super) fn gup_copy_to(phys: u64, from: *const c_void, len: usize);
    #[link_name = "rust_helper_gup_report_leak"]
    pub(super) fn gup_report_leak(user: u64, pfn: u64, count: u64);
    #[link_name = "rust_helper_memlock_is_unlimited"]
    pub(super) fn memlock_is_unlimited() -> bool;
    #[link_name = "rust_helper_memlock_current_user"]
    pub(super) fn memlock_current_user() -> *mut user_struct;
    #[link_name = "rust_helper_memlock_charge"]
    pub(super) fn memlock_charge(
        counter: u32,
        mm: *mut mm_struct,
        user: *mut user_struct,
        task: *mut task_struct,
        pages: u64,
        charged: *mut u64,
        limit: *mut u64,
    ) -> c_int;
    #[link_name = "rust_helper_memlock_uncharge"]
    pub(super) fn memlock_uncharge(
        counter: u32,
        mm: *mut mm_struct,
        user: *mut user_struct,
        pages: u64,
    );
    #[link_name = "rust_helper_memlock_report_excess"]
    pub(super) fn memlock_report_excess(pages: u64);
    #[link_name = "rust_helper_iommu_domain_attach"]
    pub(super) fn iommu_domain_attach(
        device: *mut device,
        gfp: gfp_t,
        made: *mut *mut iommu_domain,
    ) -> *mut c_void;
    #[link_name = "rust_helper_iommu_domain_detach"]
    pub(super) fn iommu_domain_detach(resource: *mut c_void, device: *mut device);
    #[link_name = "rust_helper_iommu_domain_reserved"]
    pub(super) fn iommu_domain_reserved(
        device: *mut device,
        ranges: *mut [u64; 2],
        most: usize,
    ) -> usize;
    #[link_name = "rust_helper_iommu_domain_map"]
    pub(super) fn iommu_domain_map(
        domain: *mut iommu_domain,
        iova: c_ulong,
        phys: u64,
        len: usize,
        prot: u32,
        gfp: gfp_t,
    ) -> c_int;
    #[link_name = "rust_helper_iommu_domain_map_runs"]
    pub(super) fn iommu_domain_map_runs(
        domain: *mut iommu_domain,
        iova: c_ulong,
        runs: *mut scatterlist,
        count: usize,
        len: usize,
        prot: u32,
        gfp: gfp_t,
    ) -> c_int;
    #[link_name = "rust_helper_iommu_iotlb_gather_init"]
    pub(super) fn iommu_iotlb_gather_init(gather: *mut iommu_iotlb_gather);
    #[link_name = "rust_helper_iommu_iotlb_sync"]
    pub(super) fn iommu_iotlb_sync(domain: *mut iommu_domain, gather: *mut iommu_iotlb_gather);
    #[link_name = "rust_helper_run_table_limits"]
    pub(super) fn run_table_limits(device: *mut device, max_len: *mut u64, boundary_mask: *mut u64);
    #[link_name = "rust_helper_run_table_set"]
    pub(super) fn run_table_set(at: *mut *mut scatterlist, phys: u64, len: u32) -> c_int;
    #[link_name = "rust_helper_run_table_phys"]
    pub(super) fn run_table_phys(entry: *mut scatterlist) -> u64;
    #[link_name = "rust_helper_dma_sync_sgtable_for_cpu"]
    pub(super) fn dma_sync_sgtable_for_cpu(
        device: *mut device,
        table: *mut sg_table,
        direction: dma_data_direction,
    );
    #[link_name = "rust_helper_dma_sync_sgtable_for_device"]
    pub(super) fn dma_sync_sgtable_for_device(
        device: *mut device,
        table: *mut sg_table,
        direction: dma_data_direction,
    );
    #[link_name = "rust_helper_dma_get_sgtable"]
    pub(super) fn dma_get_sgtable(
        device: *mut device,
        table: *mut sg_table,
        memory: *mut c_void,
        first: u64,
        size: usize,
    ) -> c_int;
}
