// SPDX-License-Identifier: MIT OR Apache-2.0
//! A [`Buffer`] is the [`Pinner`] of its own pages.
//!
//! ```text
//!  wanted     ├────────────────────────────────────────────────────────────┤
//!  multiples of 64 MiB     │                     │                     │
//!  slots      ├─────────────┼─────────────────────┼─────────────────────┼────┤   io_uring
//!  frames     ├──┼──┼───┼───┤                                                  page map, in chunks
//!  batches    ├─────┼──────┼┤                                                  as many as it takes
//! ```
//!
//! A call works on one slot, and fills the batch or comes to the end of the slot. The next call finds
//! the slot registered and goes on with the frames.

use super::buffer::Buffer;
use super::clock::Steps;
use super::error::PageError;
use super::pagemap::PageMap;
use super::ring::{why, MAX_SLOT_BYTES};
use super::slots::Held;
use crate::addr::{Pfn, UserAddr};
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun};
use crate::umem::{AddressKind, PinBatch, PinFlags, Pinner};
use core::ops::Range;
use std::time::Instant;

/// What is pinned at a time: often enough to show progress, seldom enough to cost nothing.
const SLOT_BYTES: u64 = 64 << 20;
/// Frames that are read at a time, at most: 16 KiB of them.
const FRAMES: usize = 2048;
/// And at least: a system call takes longer than this many.
const FEW_FRAMES: usize = 64;

// SAFETY: the runs that `pin` pushes are what the page map says of the next pages of the range, in
// order, read while a slot that has these pages is registered with an io_uring. Registered memory is
// pinned by the kernel (`FOLL_LONGTERM | FOLL_WRITE`): it keeps its frame until it is unregistered,
// and anything may be written to it. The page map shows the frame that is pinned, as nothing but
// the drop of the buffer changes the mapping, by its invariant. Each page that was pushed
// counts in its slot, and `unpin` alone takes that back; a slot is unregistered when its count is
// zero, and a buffer that is dropped before keeps its rings and its mapping for ever. So does one
// that is leaked. The page size is a field that is never written, and all runs are RAM.
unsafe impl Pinner for Buffer {
    type Error = PageError;

    fn page_size(&self) -> PageSize {
        self.page_size()
    }

    /// Where a huge page ends: kernels charge it once for each ring that has a part of it.
    fn cut_size(&self) -> PageSize {
        self.huge_page_size().max(PageSize::SIZE_2M)
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PageError> {
        let wanted = self.wanted(batch, AddressKind::Physical)?;
        // Without the privilege to know frames there is no point in pinning anything.
        let map = self.page_map()?;
        let slot = SLOT_BYTES.max(self.huge_page_size().bytes()).min(MAX_SLOT_BYTES);
        // Where a huge page ends, whether or not the buffer begins with one.
        let before = self.user_addr().offset_in(self.huge_page_size());
        let last = wanted.start.saturating_add(before) | slot.minus(1);
        let cut = last.minus(before).saturating_add(1);
        let held = self.slots.hold(wanted, cut, |ring, index, range| {
            let started = Instant::now();
            let offset = range.start;
            let len = range.end.saturating_sub(offset);
            let (Ok(from), Ok(bytes)) = (usize::try_from(offset), usize::try_from(len)) else {
                return Err(PageError::NotInBuffer { at: batch.next() });
            };
            // SAFETY: the bytes lie in the buffer, which is mapped as long as the ring is there: see the
            // drop of the buffer. By its invariant there are no references to them.
            let pinned = unsafe { ring.pin(index, self.at(from), bytes) };
            self.clock.pinned(started);
            pinned.map_err(|source| why(offset, len, source))
        })?;
        let started = Instant::now();
        let reported = self.report(map, held, batch);
        self.clock.has_read(started);
        reported
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, _dirty: bool) {
        // Nothing to mark: the pages have no file to be written to but one in memory, are dirty since
        // they were faulted in for writing, and pinned pages are not cleaned.
        let start = at.checked_offset_from(self.user_addr());
        let bytes = run.count().shifted_up(self.page_size().shift());
        if let Some(start) = start {
            // The run was pushed by `pin`, so it lies in the buffer.
            self.slots.let_go(start..start.saturating_add(bytes));
        }
    }
}

impl Buffer {
    /// How long pinning took until now.
    #[must_use]
    pub fn steps(&self) -> Steps {
        self.clock.steps()
    }

    /// Which bytes of the buffer a batch wants next, of a pinner with addresses of this kind.
    pub(super) fn wanted(
        &self,
        batch: &PinBatch<'_>,
        kind: AddressKind,
    ) -> Result<Range<u64>, PageError> {
        let unsupported = batch.flags() & (PinFlags::NOFAULT | PinFlags::PCI_P2PDMA);
        if !unsupported.is_empty() {
            return Err(PageError::Unsupported { flags: unsupported });
        }
        if batch.address_kind() != kind {
            return Err(PageError::AddressKind);
        }
        let (at, pages) = (batch.next(), batch.left());
        if batch.room() == 0 || pages == 0 {
            return Err(PageError::NoRoom);
        }
        let not_here = PageError::NotInBuffer { at };
        let start = at.checked_offset_from(self.user_addr());
        let Some(start) = start.filter(|start| *start < self.len()) else {
            return Err(not_here);
        };
        let available = self.len().minus(start).shifted_down(self.page_size().shift());
        if pages > available {
            let end = self.user_addr().checked_add(self.len());
            return Err(end.map_or(not_here, |at| PageError::NotInBuffer { at }));
        }
        let bytes = pages.shifted_up(self.page_size().shift());
        Ok(start..start.plus(bytes))
    }

    /// The page map, opened now if it was not before.
    fn page_map(&self) -> Result<&PageMap, PageError> {
        match self.map_of_pages.get() {
            Some(map) => Ok(map),
            // Two threads may open it at once: one of the files is closed again.
            None => PageMap::open().map(|map| self.map_of_pages.get_or_init(|| map)),
        }
    }

    /// Pushes the frames of what is held until the batch is full. The batch has room.
    fn report(
        &self,
        map: &PageMap,
        mut held: Held<'_>,
        batch: &mut PinBatch<'_>,
    ) -> Result<(), PageError> {
        let shift = self.page_size().shift();
        let mut frames = [Pfn::default(); FRAMES];
        let mut chunk = batch.room();
        loop {
            let offset = held.range().start;
            let left = held.range().end.saturating_sub(offset).shifted_down(shift);
            if left == 0 {
                return Ok(());
            }
            let count = usize::try_from(left).unwrap_or(FRAMES);
            let count = count.min(chunk.clamp(FEW_FRAMES, FRAMES));
            let frames = frames.get_mut(..count).unwrap_or_default();
            let from = self.user_addr().get().plus(offset);
            let read = map.read(UserAddr::new(from), frames);
            // What was read before an error is good.
            let known = match &read {
                Ok(()) => count,
                Err(error) => usize::try_from(error.offset().shifted_down(shift)).unwrap_or(0),
            };
            let room = batch.room();
            for run in runs(frames.get(..known).unwrap_or_default()) {
                // SAFETY: these are the frames of the next pages, as the page map shows them, and they
                // are registered with a ring; the slot counts them as handed over.
                if unsafe { batch.push(run) }.is_err() {
                    // Full: the batch has what it can hold.
                    return Ok(());
                }
                held.hand_over(run.count().shifted_up(shift));
            }
            read.map_err(|error| error.further(offset))?;
            if batch.room() == 0 {
                return Ok(());
            }
            // Each page may be a run. Where they are not, the next chunk can be larger.
            let taken = room.saturating_sub(batch.room());
            let sparse = taken <= room.shifted_down(3);
            chunk = if sparse { count.saturating_mul(2) } else { batch.room() };
        }
    }
}

/// The maximal runs of `frames`.
fn runs(frames: &[Pfn]) -> impl Iterator<Item = PageRun> + '_ {
    let follows = |a: &Pfn, b: &Pfn| a.checked_add(1) == Some(*b);
    frames.chunk_by(follows).filter_map(|run| {
        // A frame of the page map is not so high that it has no run.
        PageRun::new(*run.first()?, run.len() as u64, MemoryKind::Ram).ok()
    })
}
