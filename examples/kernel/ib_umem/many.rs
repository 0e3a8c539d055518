// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Many`]: pages that lie anywhere, listed; and the table that drivers walk: the entries that C would have made of
//! them, no more and no fewer.

use crate::{
    abi::IbUmem,
    ffi,
    registration::{Memory, Pinned},
    request::PAGE,
};
use kernel::{
    bindings::{self, mm_struct, sg_append_table},
    error::to_result,
    prelude::*,
};
use pinned_sgl::SegmentLimits;

pub(crate) struct Many(pub(crate) Pinned);

/// Entries that are filled by one call of C.
const SOME: usize = 32;

impl Memory for Many {
    fn make_table(&mut self, to: &mut sg_append_table, max_segment: u32) -> Result {
        let limits = SegmentLimits::NONE.max_len(max_segment.into())?;
        let whole = self.0.whole()?;
        // Where no run can be too long, none is looked at.
        let count = if whole.len() <= max_segment.into() {
            self.0.sgl().run_count()
        } else {
            whole.segment_count(&limits)
        };
        let count = u32::try_from(count)?;
        // SAFETY: `to` is a table of nothing.
        to_result(unsafe { bindings::sg_alloc_table(&mut to.sgt, count, bindings::GFP_KERNEL) })?;
        to.total_nents = count;
        let mut at = to.sgt.sgl;
        let (mut pfns, mut lens, mut filled) = ([0u64; SOME], [0u32; SOME], 0usize);
        let mut flush = |pfns: &[u64], lens: &[u32], filled: usize| {
            // SAFETY: there are as many entries from `at` on: those of all segments together are `count`.
            at =
                unsafe { ffi::ib_umem_fill(at, pfns.as_ptr(), lens.as_ptr(), filled, &mut to.prv) };
        };
        for segment in whole.segments(&limits)? {
            if filled == SOME {
                flush(&pfns, &lens, filled);
                filled = 0;
            }
            if let (Some(pfn), Some(len)) = (pfns.get_mut(filled), lens.get_mut(filled)) {
                *pfn = segment.phys.get() >> PAGE.trailing_zeros();
                *len = u32::try_from(segment.len)?;
            }
            filled = filled.saturating_add(1);
        }
        flush(&pfns, &lens, filled);
        Ok(())
    }

    #[inline]
    fn phys(&self, offset: u64) -> Option<u64> {
        Some(self.0.whole().ok()?.phys(offset)?.get())
    }

    fn run(&self, offset: u64) -> Option<(u64, u64)> {
        let (begin, segment) = self.0.whole().ok()?.segment_at(offset)?;
        let skip = offset.checked_sub(begin)?;
        Some((segment.phys.get().checked_add(skip)?, segment.len.checked_sub(skip)?))
    }

    unsafe fn read(&self, _: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result {
        Ok(self.0.read(offset, to)?)
    }

    unsafe fn let_go(&mut self, umem: &mut IbUmem, dirty: bool) {
        if dirty {
            self.0.mark_dirty();
        }
        // SAFETY: it is that of `make_table`, or of nothing; this is the last call, as the caller promises.
        unsafe { bindings::sg_free_append_table(&mut umem.entries) };
    }
}
