// SPDX-License-Identifier: MIT OR Apache-2.0
//! What drivers know of a registration: `struct ib_umem` of `include/rdma/ib_umem.h`, whose places `glue.c` checks.

use kernel::bindings::{mm_struct, sg_append_table};
use kernel::ffi::c_ulong;

/// A device, of which C knows more.
#[repr(C)]
pub(crate) struct IbDevice([u8; 0]);

/// `struct ib_umem`.
#[repr(C)]
pub(crate) struct IbUmem {
    pub(crate) device: *mut IbDevice,
    pub(crate) mm: *mut mm_struct,
    pub(crate) iova: u64,
    pub(crate) length: usize,
    pub(crate) address: usize,
    pub(crate) dma_attrs: c_ulong,
    /// Which C reads and writes.
    bits: u32,
    pub(crate) entries: sg_append_table,
}

/// `IB_ACCESS_ON_DEMAND`.
pub(crate) const ON_DEMAND: i32 = 1 << 6;
/// `IB_UMEM_LIST` of `include/rdma/ib_umem.h`.
pub(crate) const LIST: i32 = 1 << 30;
