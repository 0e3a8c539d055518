// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of `glue.c`: see `glue.h` for what they do.

use crate::abi::{IbDevice, IbUmem};
use kernel::bindings::{dma_addr_t, mm_struct, scatterlist, sg_table};
use kernel::ffi::{c_int, c_uint, c_ulong};

/// `struct dma_iova_state`, whose size `glue.c` checks.
#[derive(Default)]
#[repr(C)]
pub(crate) struct IovaState {
    pub(crate) addr: dma_addr_t,
    /// Which C reads and writes.
    size: usize,
}

// The contract of each: "pointers are to what their types say, which is there, and nothing else changes meanwhile". Where
// one asks for more, that stands beside it.
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
    /// "It was made by the kernel's C, and this is the last use of it."
    pub(crate) unsafe fn ib_umem_release_other(umem: *mut IbUmem);
    pub(crate) unsafe fn ib_umem_demand_page(umem: *mut IbUmem) -> c_ulong;

    /// "There are `count` numbers each, and entries from `sg` on."
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
    pub(crate) unsafe fn ib_umem_set_dma(sg: *mut scatterlist, at: u64);
    /// "There is one more entry."
    pub(crate) unsafe fn ib_umem_dma_entry(sg: *mut *mut scatterlist, len: *mut u64) -> u64;
    pub(crate) unsafe fn ib_umem_map(
        device: *mut IbDevice,
        table: *mut sg_table,
        attrs: c_ulong,
    ) -> c_int;
    /// "The table is mapped for this device, with these attributes, and the device does not reach it any more."
    pub(crate) unsafe fn ib_umem_unmap(device: *mut IbDevice, table: *mut sg_table, attrs: c_ulong);

    pub(crate) unsafe fn ib_umem_space(
        device: *mut IbDevice,
        space: *mut IovaState,
        len: usize,
    ) -> bool;
    /// "There is room for `len` bytes at `at`, where nothing is linked yet."
    pub(crate) unsafe fn ib_umem_link(
        device: *mut IbDevice,
        space: *mut IovaState,
        phys: u64,
        at: usize,
        len: usize,
        attrs: c_ulong,
    ) -> c_int;
    /// "So many bytes are linked."
    pub(crate) unsafe fn ib_umem_sync(
        device: *mut IbDevice,
        space: *mut IovaState,
        len: usize,
    ) -> c_int;
    /// "So many bytes are linked, with these attributes; the device does not reach them any more."
    pub(crate) unsafe fn ib_umem_unlink(
        device: *mut IbDevice,
        space: *mut IovaState,
        len: usize,
        attrs: c_ulong,
    );
    pub(crate) unsafe fn ib_umem_map_run(
        device: *mut IbDevice,
        phys: u64,
        len: usize,
        attrs: c_ulong,
    ) -> u64;
    /// "So many bytes are mapped there, with these attributes; the device does not reach them any more."
    pub(crate) unsafe fn ib_umem_unmap_run(
        device: *mut IbDevice,
        at: u64,
        len: usize,
        attrs: c_ulong,
    );
}
