// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning a range, batch by batch, into a list: what [`Umem`](super::Umem) begins with.
//!
//! ```text
//!  Pinner ──► PinnedBatch ──► Unfinished (SglBuilder) ──► Sgl
//!                  │              │
//!                  └── drop ──────┴── drop ──► unpinned
//! ```

use super::batch::{behind, RunSlot};
use super::charge::{AccountantHolder, Charge};
use super::error::{PinError, PinErrorKind};
use super::flags::PinFlags;
use super::pinned_batch::{unpin_runs, PinnedBatch};
use super::pinner::Pinner;
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::sgl::{BuildError, Sgl, SglBuilder};
use crate::store::Storage;
use core::{fmt, mem::ManuallyDrop, ops::ControlFlow};

/// What is to be pinned and how, and what is called as it goes on.
///
/// ```
/// use core::ops::ControlFlow;
/// use pinned_sgl::{UserAddr, umem::{PinFlags, PinRequest, UserRange}};
/// let range = UserRange::new(UserAddr::new(0x7000_0000), 1 << 30)?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM)
///     .with_progress(|pinned| match pinned {
///         0x2000_0000.. => ControlFlow::Break(()), // half of it is enough to cancel
///         _ => ControlFlow::Continue(()),
///     });
/// # let _ = request;
/// # Ok::<(), pinned_sgl::RangeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct PinRequest<F = fn(u64) -> ControlFlow<()>> {
    pub(crate) range: UserRange,
    pub(super) flags: PinFlags,
    pub(super) progress: F,
}

impl PinRequest {
    /// A request without a `progress`.
    #[must_use]
    pub fn new(range: UserRange, flags: PinFlags) -> Self {
        Self { range, flags, progress: |_| ControlFlow::Continue(()) }
    }
}

impl<F> PinRequest<F> {
    /// Calls `progress` after each batch with how many bytes, of whole pages, are pinned by now. Where it
    /// says [`ControlFlow::Break`], pinning stops and all is undone.
    #[must_use]
    pub fn with_progress<G: FnMut(u64) -> ControlFlow<()>>(self, progress: G) -> PinRequest<G> {
        PinRequest { range: self.range, flags: self.flags, progress }
    }

    /// Range, flags and progress.
    pub(crate) fn into_parts(self) -> (UserRange, PinFlags, F) {
        (self.range, self.flags, self.progress)
    }

    /// As [`with_progress`](Self::with_progress), for threads: `progress` is called by all of them.
    #[must_use]
    pub fn with_shared_progress<G>(self, progress: G) -> PinRequest<G>
    where
        G: Fn(u64) -> ControlFlow<()> + Sync,
    {
        PinRequest { range: self.range, flags: self.flags, progress }
    }

    /// The bytes that are to be pinned.
    #[must_use]
    pub const fn range(&self) -> UserRange {
        self.range
    }

    /// How they are to be pinned.
    #[must_use]
    pub const fn flags(&self) -> PinFlags {
        self.flags
    }
}

impl<F> fmt::Debug for PinRequest<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinRequest")
            .field("range", &self.range)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// What pinning comes to.
pub(super) type Pinned<'p, P, S> = Result<Unfinished<'p, P, S>, PinError<<P as Pinner>::Error>>;

/// Pins all pages of `range`, a batch at a time. `take` gets each batch and the bytes that are pinned with
/// it; what it does not take the batch unpins. Then `progress` gets the same number.
pub(crate) fn in_batches<P: Pinner + ?Sized, E: From<PinError<P::Error>>>(
    pinner: &P,
    range: UserRange,
    flags: PinFlags,
    slots: &mut [RunSlot],
    mut take: impl FnMut(PinnedBatch<'_, P>, u64) -> Result<(), E>,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), E> {
    let (mut rest, mut pinned) = (range, 0u64);
    loop {
        let mut batch = PinnedBatch::new(pinner, rest, flags, &mut *slots);
        let filled = batch.fill();
        let (next, pages) = (batch.next(), batch.page_count());
        pinned = pinned.saturating_add(pages.shifted_up(pinner.page_size().shift()));
        let failed = |kind| E::from(PinError { kind, at: next, pinned });
        filled.map_err(|error| failed(PinErrorKind::Pinner(error)))?;
        if pages == 0 {
            return Err(failed(PinErrorKind::NoProgress));
        }
        take(batch, pinned)?;
        if progress(pinned).is_break() {
            return Err(failed(PinErrorKind::Cancelled));
        }
        match rest.rest_from(next) {
            Some(left) => rest = left,
            None => return Ok(()),
        }
    }
}

/// Pages that are pinned and listed, and have no other owner yet: dropping it unpins them.
pub(super) struct Unfinished<'p, P: Pinner + ?Sized, S: Storage> {
    pinner: &'p P,
    start: UserAddr,
    // Invariant: every page in it has one pin that is ours, for the user pages from `start` on.
    builder: ManuallyDrop<SglBuilder<S>>,
    /// How many of the pages have a pin.
    pinned_pages: u64,
}

impl<'p, P: Pinner + ?Sized, S: Storage> Unfinished<'p, P, S> {
    /// Nothing yet of `range`.
    #[inline]
    pub(super) fn new(pinner: &'p P, range: UserRange, storage: S) -> Pinned<'p, P, S> {
        let page = pinner.page_size();
        let start = range.first_page(page);
        match SglBuilder::new_in(page, storage) {
            Ok(builder) => {
                Ok(Self { pinner, start, builder: ManuallyDrop::new(builder), pinned_pages: 0 })
            }
            Err(error) => Err(PinError::new(PinErrorKind::List(error), start)),
        }
    }

    /// Pins all pages of `range`, of which there is nothing yet. O(pages).
    ///
    /// After each batch, `progress` gets the bytes that are pinned. If this fails, dropping it unpins what it has.
    pub(super) fn pin(
        &mut self,
        range: UserRange,
        flags: PinFlags,
        slots: &mut [RunSlot],
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), PinError<P::Error>> {
        let (pinner, start) = (self.pinner, self.start);
        let take = |batch: PinnedBatch<'_, P>, pinned| {
            let at = batch.first().map_or(start, |(at, _)| at);
            let failed = |error| PinError { kind: PinErrorKind::List(error), at, pinned };
            self.take(batch).map_err(failed)
        };
        in_batches(pinner, range, flags, slots, take, progress)
    }

    /// Takes the pages of a batch, or leaves them to be unpinned by it.
    fn take(&mut self, batch: PinnedBatch<'_, P>) -> Result<(), BuildError> {
        let pages = batch.pinned_pages();
        batch.accept(|batch| self.builder.push_runs(batch.runs()))?;
        self.pinned_pages = self.pinned_pages.saturating_add(pages);
        Ok(())
    }

    /// Takes the pages of another one, which begins where this one ends.
    #[cfg(feature = "std")]
    pub(super) fn append<T: Storage>(
        &mut self,
        next: Unfinished<'p, P, T>,
    ) -> Result<(), PinErrorKind<P::Error>> {
        self.builder.push_runs(next.builder.runs()).map_err(PinErrorKind::List)?;
        self.pinned_pages = self.pinned_pages.saturating_add(next.pinned_pages);
        drop(next.into_builder());
        Ok(())
    }

    /// Why it ends here, behind all of its pages.
    fn stopped(&self, kind: impl Into<PinErrorKind<P::Error>>) -> PinError<P::Error> {
        let (pages, page) = (self.builder.page_count(), self.builder.page_size());
        PinError {
            kind: kind.into(),
            at: behind(self.start, pages, page),
            pinned: pages.shifted_up(page.shift()),
        }
    }

    /// The list, charged for the pages that have a pin, which is known now; the pins are the caller's then.
    #[inline]
    pub(super) fn finish<A: AccountantHolder>(
        mut self,
        charge: &mut Charge<A>,
    ) -> Result<Sgl<S>, PinError<P::Error>> {
        // If it fails, dropping `self` unpins what the builder still holds.
        charge.set(self.pinned_pages).map_err(|error| self.stopped(error))?;
        self.builder.pack().map_err(|error| self.stopped(error))?;
        Ok(self.into_builder().into_packed())
    }

    /// The builder; the pins are the caller's then.
    fn into_builder(self) -> SglBuilder<S> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "the container is not used again": `this` is neither used nor dropped afterwards.
        unsafe { ManuallyDrop::take(&mut this.builder) }
    }
}

impl<P: Pinner + ?Sized, S: Storage> Drop for Unfinished<'_, P, S> {
    fn drop(&mut self) {
        // SAFETY:
        // - "each page of the run was pushed to a batch by `pin`, for the user address that follows
        //   from `at`, and its pin has not been taken back": by the invariant;
        // - "nothing relies on this pin any more": only this value has seen the list.
        unsafe { unpin_runs(self.pinner, self.start, self.builder.runs(), false) };
        // SAFETY: "the container is not used again": `self` is being dropped.
        unsafe { ManuallyDrop::drop(&mut self.builder) };
    }
}
