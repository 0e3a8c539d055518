// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Many`]: pages that lie anywhere, listed; and the table of drivers that walk one: the entries that C would have made
//! of them, no more and no fewer.

use crate::{
    abi::{IbUmem, Recent, RECENT},
    dma::Dma,
    ffi,
    registration::{Memory, Pinned},
    request::PAGE,
};
use core::{iter, mem::offset_of};
use kernel::{
    bindings::{self, mm_struct, scatterlist, sg_append_table},
    error::to_result,
    prelude::*,
    types::Opaque,
};
use pinned_sgl::SegmentLimits;

#[repr(C)]
pub(crate) struct Many {
    recent: Opaque<Recent>,
    pinned: Pinned,
    dma: Dma,
    /// The first entry, where there is no table of all.
    first: Opaque<scatterlist>,
}

// SAFETY: an entry is memory, which any thread may read, and so is what was mapped.
unsafe impl Send for Many {}

// By which entry a table begins with it is known which one this is.
const _: () = assert!(offset_of!(Many, first) != 0);
// Where `glue.c` has it, as that of `Registration`.
const _: () = assert!(offset_of!(Many, recent) == 0);

/// Entries that are filled by one call of C.
const SOME: usize = 32;
/// Bytes that an entry counts at most, in pages.
const MOST: u64 = u32::MAX as u64 & (PAGE as u64).wrapping_neg();

impl Many {
    pub(crate) fn new(pinned: Pinned) -> Self {
        Self { recent: Opaque::zeroed(), pinned, dma: Dma::None, first: Opaque::zeroed() }
    }

    /// The run that holds a byte, as `glue.h` has it; how many runs these are.
    #[inline]
    pub(crate) fn find(&self, at: u64, go_on: bool, found: &mut Recent) -> Option<usize> {
        let whole = self.pinned.whole().ok()?;
        Some(if at >= whole.len() {
            0
        } else if self.pinned.sgl().run_count() <= RECENT as u64 {
            found.fill(0, whole.iter())
        } else if go_on {
            found.fill(at, whole.iter_at(at))
        } else {
            let (begin, run) = whole.segment_at(at)?;
            found.fill(begin, iter::once(run))
        })
    }

    /// Where the device sees a byte, and how many bytes from there on continue it; none, if there is a table.
    pub(crate) fn dma_run(&self, offset: u64) -> Option<(u64, u64)> {
        self.dma.run(&self.pinned, offset)
    }
}

impl Memory for Many {
    unsafe fn map_list(&mut self, umem: &mut IbUmem) -> bool {
        let Some(first) = self.pinned.whole().ok().and_then(|whole| whole.iter().next()) else {
            return false;
        };
        // SAFETY: "the device of `umem` is there, and the list is its memory": as the caller promises; "what is returned
        // is given to `unmap`": by `let_go`.
        let Some(dma) = (unsafe { Dma::map(&self.pinned, umem) }) else { return false };
        let at = dma.run(&self.pinned, 0).map_or(0, |(at, _)| at);
        self.dma = dma;
        let [page, pages] =
            [first.phys.get(), first.len.min(MOST)].map(|bytes| bytes >> PAGE.trailing_zeros());
        // SAFETY: "pointers are to what their types say, which is there": the entry, which is ours alone; the pages are,
        // as they are pinned.
        unsafe {
            ffi::ib_umem_entry(self.first.get(), page, pages);
            ffi::ib_umem_set_dma(self.first.get(), at);
        }
        umem.entries.sgt.sgl = self.first.get();
        true
    }

    fn make_table(&mut self, to: &mut sg_append_table, max_segment: u32) -> Result {
        let limits = SegmentLimits::NONE.max_len(max_segment.into())?;
        let whole = self.pinned.whole()?;
        // Where no run can be too long, none is looked at.
        let count = if whole.len() <= max_segment.into() {
            self.pinned.sgl().run_count()
        } else {
            whole.segment_count(&limits)
        };
        let count = u32::try_from(count)?;
        // SAFETY: "a table that has no entries": it is zero, by the contract of this method.
        to_result(unsafe { bindings::sg_alloc_table(&mut to.sgt, count, bindings::GFP_KERNEL) })?;
        to.total_nents = count;
        let mut at = to.sgt.sgl;
        let (mut pfns, mut lens, mut filled) = ([0u64; SOME], [0u32; SOME], 0usize);
        let mut flush = |pfns: &[u64], lens: &[u32], filled: usize| {
            // SAFETY: "there are `count` numbers each, and entries from `sg` on": those of all segments together are as many
            // as were allocated.
            at =
                unsafe { ffi::ib_umem_fill(at, pfns.as_ptr(), lens.as_ptr(), filled, &mut to.prv) };
        };
        // By `for_each`, which decodes a group at a time.
        whole.segments(&limits)?.for_each(|segment| {
            if filled == SOME {
                flush(&pfns, &lens, filled);
                filled = 0;
            }
            if let (Some(pfn), Some(len)) = (pfns.get_mut(filled), lens.get_mut(filled)) {
                *pfn = segment.phys.get() >> PAGE.trailing_zeros();
                // At most `max_segment`.
                *len = segment.len as u32;
            }
            filled = filled.saturating_add(1);
        });
        flush(&pfns, &lens, filled);
        Ok(())
    }

    unsafe fn read(&self, _: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result {
        Ok(self.pinned.read(offset, to)?)
    }

    unsafe fn let_go(&mut self, umem: &mut IbUmem, dirty: bool) {
        // SAFETY: "`map` has returned it for the same list and `umem`": by `map_list`, or it is `None`; "whose device does
        // not reach the memory any more": as the caller promises.
        unsafe { self.dma.unmap(&self.pinned, umem) };
        if dirty {
            self.pinned.mark_dirty();
        }
        // SAFETY: "a table whose `total_nents` entries were allocated with it": by `make_table`, or it has none of them;
        // "not used any more": this is the last call, as the caller promises.
        unsafe { bindings::sg_free_append_table(&mut umem.entries) };
    }
}
