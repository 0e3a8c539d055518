// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning pages of a [`Process`].
//!
//! ```text
//!  fast, without a lock:   entry ──► pin the folio ──► the same entry still? ──► a run
//!                            │              │                  │ no: give the pins back
//!                            ▼              ▼                  ▼
//!  under the lock:         fault it in, copy it, move it, pin it
//! ```

use super::fault::{PinFault, Want};
use super::frame::{Frame, NotPinned};
use super::machine::Inner;
use super::page_table::Entry;
use super::process::Process;
use super::vma::Found;
use crate::plan::Step;
use crate::sync::{lock, Ordering};
use crate::witness::{Call, ViolationKind};
use pinned_sgl::umem::{PinBatch, PinFlags, Pinner};
use pinned_sgl::{PageRun, PageSize, Pfn, UserAddr};

// SAFETY: a run is pushed after the pages were counted as pinned, for entries that still showed
// them then. A folio that is counted is neither moved nor freed, whatever becomes of the process:
// `Frame` sees to it, and `Frame` belongs to the memory. The page size is a constant of the memory.
// No run is `Mmio`: each frame belongs to a zone.
unsafe impl Pinner for Process {
    type Error = PinFault;

    fn page_size(&self) -> PageSize {
        self.memory.page_size()
    }

    /// The size of the largest folios that were asked for, or 2 MiB.
    fn cut_size(&self) -> PageSize {
        let order = self.largest_order.load(Ordering::Relaxed).try_into().unwrap_or(0u32);
        let folio = PageSize::from_shift(self.page_size().shift().saturating_add(order));
        folio.unwrap_or(PageSize::SIZE_2M).max(PageSize::SIZE_2M)
    }

    /// Pins pages; one call is one [`Step::Pin`]. A folio is one run.
    ///
    /// It stops short where the [limit](Process::set_pin_limit) says so, or where the batch is full.
    ///
    /// # Errors
    ///
    /// [`PinFault`] for the page that follows what was pushed.
    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PinFault> {
        let flags = batch.flags();
        if flags.contains(PinFlags::LONGTERM | PinFlags::PCI_P2PDMA) {
            return Err(PinFault::Invalid(batch.next()));
        }
        let planned = self.memory.inner.plan.step(Step::Pin).err();
        let (stop_after, fault) = match (planned, self.take_interrupt()) {
            (Some(failure), _) => (failure.after_pages, Some(PinFault::Injected as Fault)),
            (None, Some(pages)) => (pages, Some(PinFault::Interrupted as Fault)),
            (None, None) => (u64::MAX, None),
        };
        let limit = self.pin_limit.load(Ordering::Relaxed).max(1);
        let (mut left, want) = (stop_after.min(limit), Want::pinned(flags));
        while left != 0 && batch.left() != 0 && batch.room() != 0 {
            let at = batch.next();
            let run = self.pin_run(at, want, left.min(batch.left()))?;
            left = left.saturating_sub(run.count());
            // SAFETY: the frames of the pages from `at` on, each of which has just got a pin.
            if unsafe { batch.push(run) }.is_err() {
                self.memory.inner.unpin_run(at, run, false);
                break;
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault(batch.next())))
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        self.memory.inner.unpin_run(at, run, dirty);
    }

    /// Counts the pages: see [`Memory::leaked_pages`](super::Memory::leaked_pages). It is not
    /// a violation: a leak is reported because the alternative was worse.
    fn leaked(&self, _: UserAddr, run: PageRun) {
        self.memory.inner.leaked.fetch_add(run.count(), Ordering::Relaxed);
    }
}

type Fault = fn(UserAddr) -> PinFault;

impl Process {
    /// Pins some pages from `at` on, at most `max`, all in one folio.
    fn pin_run(&self, at: UserAddr, want: Want, max: u64) -> Result<PageRun, PinFault> {
        let inner = &self.memory.inner;
        let page = self.page_number(at);
        let found = lock(&self.vmas).find(page).ok_or(PinFault::NotMapped(at))?;
        if let Some(run) = inner.pin_fast(&found, want, max) {
            return Ok(run);
        }
        let vmas = lock(&self.vmas);
        let mut state = lock(&inner.state);
        // It may have been unmapped meanwhile.
        let found = vmas.find(page).ok_or(PinFault::NotMapped(at))?;
        let entry = inner.make_ready(&mut state, &found, want, at)?;
        inner.pin_entry(&found, entry, want, max).ok_or(PinFault::Busy(at))
    }
}

impl Inner {
    /// Pins a page that is as it is wanted, and those that follow it in its folio.
    fn pin_fast(&self, found: &Found, want: Want, max: u64) -> Option<PageRun> {
        let entry = found.table.load(found.index);
        if !self.is_ready(found, entry, want) {
            return None;
        }
        let (pfn, frame) = self.frame_of(entry)?;
        let order = frame.order();
        let (head, pages) = pages_in_folio(found, entry, pfn, order, max)?;
        let folio = self.frame(head)?;
        if !folio.try_pin(pages) {
            return None;
        }
        // The folio may have been another one by the time it was pinned. If it was, the entry has
        // changed, or the size of the folio.
        let same = found.table.matching(found.index, entry, pages) == pages;
        if !same || frame.order() != order {
            self.unpin_folio(head, folio, pages);
            return None;
        }
        self.count_pins(found, pfn, pages, want)
    }

    /// Pins a page and those that follow it in its folio, under the lock of the memory: nothing
    /// changes meanwhile.
    fn pin_entry(&self, found: &Found, entry: Entry, want: Want, max: u64) -> Option<PageRun> {
        let (pfn, frame) = self.frame_of(entry)?;
        let (head, pages) = pages_in_folio(found, entry, pfn, frame.order(), max)?;
        self.frame(head).filter(|folio| folio.try_pin(pages))?;
        self.count_pins(found, pfn, pages, want)
    }

    fn frame_of(&self, entry: Entry) -> Option<(u64, &Frame)> {
        let pfn = entry.pfn()?;
        Some((pfn, self.frame(pfn)?))
    }

    /// Counts the pins of single pages; those of the folio have been counted.
    fn count_pins(&self, found: &Found, pfn: u64, pages: u64, want: Want) -> Option<PageRun> {
        for (pfn, page) in (pfn..pfn.saturating_add(pages)).zip(found.page..) {
            let user = UserAddr::new(page << self.page.shift());
            self.frame(pfn)?.add_pin(user, want.write);
        }
        PageRun::new(Pfn::new(pfn), pages, self.kind_of(pfn)).ok()
    }

    fn unpin_folio(&self, head: u64, folio: &Frame, pages: u64) {
        if folio.unpin(pages) {
            self.free(&mut lock(&self.state), head);
        }
    }

    /// Takes one pin of each page back, and reports what is wrong with that.
    fn unpin_run(&self, at: UserAddr, run: PageRun, dirty: bool) {
        // Held to the end: nothing is mapped, unmapped or flushed while pages lose their pins.
        let reach = self.reach.get().map(lock);
        let pages = run.start().get()..run.end().get();
        let mut seen = Vec::new();
        let mut not_pinned = Vec::new();
        let mut saw = |pfn, kind| seen.push(self.about(kind, Call::Unpin, Pfn::new(pfn)));
        let mut next = at.align_down(self.page);
        for pfn in pages.clone() {
            let at = next;
            // A wrong address may wrap: it is found out.
            next = UserAddr::new(at.get().wrapping_add(self.page.bytes()));
            match self.peek(pfn).map_or(Err(NotPinned), |frame| frame.drop_pin(at, dirty)) {
                Ok(last) => {
                    if last.lost {
                        saw(pfn, ViolationKind::DirtyLost);
                    }
                    if last.elsewhere {
                        saw(pfn, ViolationKind::UnpinnedElsewhere { at });
                    }
                }
                Err(NotPinned) => {
                    saw(pfn, ViolationKind::NotPinned);
                    not_pinned.push(pfn);
                }
            }
        }
        if let Some(reach) = &reach {
            seen.extend(self.unpinned_too_early(reach, run));
        }
        // Only now may a frame get another owner.
        let mut left = pages;
        while !left.is_empty() {
            // A folio at a time. A page that is not pinned may belong to none.
            let size = 1u64.checked_shl(self.order_of(left.start)).unwrap_or(1);
            let head = left.start & !(size - 1);
            let stop = head.saturating_add(size).min(left.end);
            let pinned = (left.start..stop)
                .filter(|pfn| not_pinned.binary_search(pfn).is_err())
                .count() as u64;
            if let Some(folio) = self.frame(head).filter(|_| pinned != 0) {
                self.unpin_folio(head, folio, pinned);
            }
            left.start = stop;
        }
        drop(reach);
        self.witness.saw_all(seen);
    }
}

/// The first frame of a folio, and how many pages, at most `max`, follow `pfn` both in it and in the
/// address space. `None` if the entry has changed.
fn pages_in_folio(
    found: &Found,
    entry: Entry,
    pfn: u64,
    order: u32,
    max: u64,
) -> Option<(u64, u64)> {
    let size = 1u64.checked_shl(order)?;
    let inside = pfn & (size - 1);
    let max = max.min(found.left).min(size.checked_sub(inside)?);
    let pages = found.table.matching(found.index, entry, max);
    (pages != 0).then_some((pfn.checked_sub(inside)?, pages))
}
