// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of `glue.c`: see `glue.h` for what they do.

use crate::abi::{IbDevice, IbUmem};
use kernel::bindings::{mm_struct, scatterlist, sg_table};
use kernel::ffi::{c_int, c_uint, c_ulong};

#[allow(improper_ctypes, reason = "C structs as bindgen sees them, which have members of no size")]
unsafe extern "C" {
    pub(crate) unsafe fn ib_umem_bounces(device: *mut IbDevice) -> bool;
    pub(crate) unsafe fn ib_umem_is_virtual(device: *mut IbDevice) -> bool;
    pub(crate) safe fn ib_umem_virtual(phys: u64) -> u64;
    pub(crate) unsafe fn ib_umem_max_segment(device: *mut IbDevice) -> c_uint;
    pub(crate) safe fn ib_umem_may_lock() -> bool;
    pub(crate) safe fn ib_umem_writable(access: c_int) -> bool;

    pub(crate) unsafe fn ib_umem_init(
        umem: *mut IbUmem,
        device: *mut IbDevice,
        mm: *mut mm_struct,
        addr: c_ulong,
        size: usize,
        access: c_int,
    );
    pub(crate) unsafe fn ib_umem_is_pinned(umem: *mut IbUmem) -> bool;
    pub(crate) unsafe fn ib_umem_release_other(umem: *mut IbUmem);
    pub(crate) unsafe fn ib_umem_demand_page(umem: *mut IbUmem) -> c_ulong;

    pub(crate) unsafe fn ib_umem_fill(
        sg: *mut scatterlist,
        pfns: *const u64,
        lens: *const u32,
        count: usize,
        last: *mut *mut scatterlist,
    ) -> *mut scatterlist;
    pub(crate) unsafe fn ib_umem_entry(sg: *mut scatterlist, pfn: u64, pages: u64);
    pub(crate) unsafe fn ib_umem_entry_pages(sg: *mut scatterlist, pages: *mut u64) -> u64;
    pub(crate) unsafe fn ib_umem_entry_phys(sg: *mut scatterlist, len: *mut u64) -> u64;
    pub(crate) unsafe fn ib_umem_dma_entry(sg: *mut *mut scatterlist, len: *mut u64) -> u64;
    pub(crate) unsafe fn ib_umem_map(
        device: *mut IbDevice,
        table: *mut sg_table,
        attrs: c_ulong,
    ) -> c_int;
    pub(crate) unsafe fn ib_umem_unmap(device: *mut IbDevice, table: *mut sg_table, attrs: c_ulong);
}
