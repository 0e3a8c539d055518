// SPDX-License-Identifier: MIT OR Apache-2.0
//! What drivers know of a registration: `struct ib_umem` of `include/rdma/ib_umem.h`, whose places `glue.c` checks.

use kernel::bindings::{mm_struct, sg_append_table};
use kernel::ffi::c_ulong;
use pinned_sgl::Segment;

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

/// Runs that are recent at most: `IB_UMEM_RECENT` of `recent.h`.
pub(crate) const RECENT: usize = 8;

/// `struct ib_umem_recent`, of a list that packets look bytes up in. C reads and writes it, on many CPUs at once.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Recent {
    turn: c_ulong,
    begin: u64,
    bytes: u64,
    runs: [[u64; 2]; RECENT],
}

impl Recent {
    /// Makes runs recent, so many at most; the first of them begins at byte `begin`. Returns how many there are.
    pub(crate) fn fill(&mut self, begin: u64, runs: impl Iterator<Item = Segment>) -> usize {
        let (mut at, mut count) = (begin, 0usize);
        for (place, run) in self.runs.iter_mut().zip(runs) {
            let end = at.wrapping_add(run.len);
            *place = [end, run.phys.get().wrapping_sub(at)];
            (at, count) = (end, count.wrapping_add(1));
        }
        (self.begin, self.bytes) = (begin, at.wrapping_sub(begin));
        count
    }
}

/// `IB_ACCESS_ON_DEMAND`.
pub(crate) const ON_DEMAND: i32 = 1 << 6;
/// `IB_UMEM_LIST` of `include/rdma/ib_umem.h`.
pub(crate) const LIST: i32 = 1 << 30;
