// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinnedBatch`]: pins that have no other owner yet, and go back to the pinner that made them.
//!
//! ```text
//!  Pinner ──push──► PinBatch ┐
//!    ▲       fill            PinnedBatch ──accept──► SglBuilder, or the tiles of a stream
//!    └────── unpin ◄─ drop ──┘
//! ```

use super::batch::{behind, PinBatch, RunSlot};
use super::flags::PinFlags;
use super::pinner::Pinner;
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::sgl::{MemoryKind, PageRun, Sgl};
use crate::store::Storage;
use core::fmt;

/// Pins that have no other owner yet: dropping it unpins them, through the pinner that made them.
///
/// [`fill`](Self::fill) pins pages; a caller that wants them takes them with [`accept`](Self::accept) or
/// [`take_first`](Self::take_first). What the batch holds is read as of a [`PinBatch`].
pub struct PinnedBatch<'a, P: Pinner + ?Sized> {
    // Invariant: what `batch` holds was pushed by this pinner.
    pinner: &'a P,
    batch: PinBatch<'a>,
}

impl<'a, P: Pinner + ?Sized> PinnedBatch<'a, P> {
    /// An empty batch for the pages of `range`, in the memory of `slots`.
    ///
    /// What `slots` held before is overwritten. A batch of no slots has room for nothing. Unknown
    /// bits of `flags` are left out.
    #[must_use]
    pub fn new(pinner: &'a P, range: UserRange, flags: PinFlags, slots: &'a mut [RunSlot]) -> Self {
        let (kind, page) = (pinner.address_kind(), pinner.page_size());
        Self { pinner, batch: PinBatch::new(kind, page, range, flags, slots) }
    }

    /// Lets the pinner pin pages, behind those that the batch holds, as [`Pinner::pin`] says.
    ///
    /// # Errors
    ///
    /// The pinner's own, for the page that is next then; what was pinned before it is in the batch.
    pub fn fill(&mut self) -> Result<(), P::Error> {
        self.pinner.pin(&mut self.batch)
    }

    /// Hands the pins over to `take`, which gets the runs. If it fails or unwinds, the batch unpins
    /// them.
    ///
    /// # Errors
    ///
    /// That of `take`; nothing of the batch is pinned any more then.
    pub fn accept<R, E>(
        mut self,
        take: impl FnOnce(&PinBatch<'a>) -> Result<R, E>,
    ) -> Result<R, E> {
        let taken = take(&self.batch)?;
        self.batch.take_all();
        Ok(taken)
    }

    /// Hands the pins of the first run over: the user address of its first page, and the run. O(1).
    #[must_use = "the pins are the caller's now"]
    pub fn take_first(&mut self) -> Option<(UserAddr, PageRun)> {
        self.batch.take_first()
    }
}

impl<'a, P: Pinner + ?Sized> core::ops::Deref for PinnedBatch<'a, P> {
    type Target = PinBatch<'a>;

    #[inline]
    fn deref(&self) -> &PinBatch<'a> {
        &self.batch
    }
}

impl<P: Pinner + ?Sized> Drop for PinnedBatch<'_, P> {
    fn drop(&mut self) {
        // Mostly there is nothing, as all of it was taken.
        if self.batch.first().is_none() {
            return;
        }
        // SAFETY:
        // - "each page of the run was pushed to a batch by `pin`, for the user address that follows
        //   from `at`, and its pin has not been taken back": by the invariants of both types;
        // - "nothing relies on this pin any more": the runs were not taken, so no device was shown
        //   them.
        unsafe { unpin_runs(self.pinner, self.batch.start(), self.batch.runs(), false) };
    }
}

impl<P: Pinner + ?Sized> fmt::Debug for PinnedBatch<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.batch.fmt(f)
    }
}

/// Unpins a run, if it has pins.
///
/// # Safety
///
/// That of [`Pinner::unpin`].
#[inline]
unsafe fn unpin_run<P: Pinner + ?Sized>(pinner: &P, at: UserAddr, run: PageRun, dirty: bool) {
    if run.kind() != MemoryKind::Mmio {
        // SAFETY: as the caller promises.
        unsafe { pinner.unpin(at, run, dirty) };
    }
}

/// Unpins the runs of a list, whose first page is that of `start`.
///
/// # Safety
///
/// That of [`Pinner::unpin`], for each of the runs.
pub(super) unsafe fn unpin_list<P: Pinner + ?Sized, S: Storage>(
    pinner: &P,
    start: UserAddr,
    sgl: &Sgl<S>,
    dirty: bool,
) {
    match sgl.only() {
        // Most regions of few pages.
        // SAFETY: as the caller promises.
        Some(run) => unsafe { unpin_run(pinner, start, run, dirty) },
        // SAFETY: as the caller promises.
        None => unsafe { unpin_runs(pinner, start, sgl.runs(), dirty) },
    }
}

/// Unpins `runs`, which lie one behind the other from the page `start` on.
///
/// # Safety
///
/// That of [`Pinner::unpin`], for each of the runs.
pub(super) unsafe fn unpin_runs<P: Pinner + ?Sized>(
    pinner: &P,
    start: UserAddr,
    runs: impl Iterator<Item = PageRun>,
    dirty: bool,
) {
    let page = pinner.page_size();
    runs.fold(start, |at, run| {
        // SAFETY: the caller promises all that `unpin` asks for, for this run at `at`, which
        // advances by the pages of each run.
        unsafe { unpin_run(pinner, at, run, dirty) };
        behind(at, run.count(), page)
    });
}

/// Calls [`Pinner::leaked`] for each of `runs`, which lie one behind the other from the page `start`
/// on.
#[cold]
pub(super) fn report_leaked<P: Pinner + ?Sized>(
    pinner: &P,
    start: UserAddr,
    runs: impl Iterator<Item = PageRun>,
) {
    let page = pinner.page_size();
    runs.fold(start, |at, run| {
        if run.kind() != MemoryKind::Mmio {
            pinner.leaked(at, run);
        }
        behind(at, run.count(), page)
    });
}
