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
use crate::sgl::{check_run, check_storage, Sgl, SglBuilder};
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

/// Pins all pages of `range`, a batch at a time. `take` gets each batch and the bytes that are pinned with
/// it; what it does not take the batch unpins. Then `progress` gets the same number.
pub(crate) fn in_batches<P: Pinner + ?Sized, E: From<PinError<P::Error>>>(
    pinner: &P,
    range: UserRange,
    flags: PinFlags,
    slots: &mut [RunSlot],
    take: impl FnMut(PinnedBatch<'_, P>, u64) -> Result<(), E>,
    progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), E> {
    Batches::new(pinner, range, flags).each(slots, take, progress)
}

/// The batches of a range, one after the other.
struct Batches<'p, P: ?Sized> {
    pinner: &'p P,
    flags: PinFlags,
    /// What is still to be pinned.
    rest: Option<UserRange>,
    /// The page behind all that is pinned, and the bytes of that.
    next: UserAddr,
    pinned: u64,
}

impl<'p, P: Pinner + ?Sized> Batches<'p, P> {
    #[inline]
    const fn new(pinner: &'p P, range: UserRange, flags: PinFlags) -> Self {
        Self { pinner, flags, rest: Some(range), next: range.start(), pinned: 0 }
    }

    /// As [`in_batches`], for those that are still to come.
    fn each<E: From<PinError<P::Error>>>(
        &mut self,
        slots: &mut [RunSlot],
        mut take: impl FnMut(PinnedBatch<'_, P>, u64) -> Result<(), E>,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), E> {
        while let Some(rest) = self.rest {
            take(self.pin(rest, slots)?, self.pinned)?;
            self.report(&mut progress)?;
        }
        Ok(())
    }

    /// Pins pages of `rest`, the next ones.
    #[inline]
    fn pin<'s>(
        &mut self,
        rest: UserRange,
        slots: &'s mut [RunSlot],
    ) -> Result<PinnedBatch<'s, P>, PinError<P::Error>>
    where
        'p: 's,
    {
        let mut batch = PinnedBatch::new(self.pinner, rest, self.flags, slots);
        let filled = batch.fill();
        let (next, pages) = (batch.next(), batch.page_count());
        self.next = next;
        self.pinned = self.pinned.saturating_add(pages.shifted_up(self.pinner.page_size().shift()));
        self.rest = rest.rest_from(next);
        filled.map_err(|error| self.stopped(PinErrorKind::Pinner(error)))?;
        if pages == 0 {
            return Err(self.stopped(PinErrorKind::NoProgress));
        }
        Ok(batch)
    }

    /// Hands the bytes that are pinned to `progress`, which may cancel.
    #[inline]
    fn report(
        &self,
        progress: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), PinError<P::Error>> {
        match progress(self.pinned) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(self.stopped(PinErrorKind::Cancelled)),
        }
    }

    /// Why it ends here, behind all that is pinned.
    fn stopped(&self, kind: impl Into<PinErrorKind<P::Error>>) -> PinError<P::Error> {
        PinError { kind: kind.into(), at: self.next, pinned: self.pinned }
    }
}

/// Charges what `pinner` will pin of `range`, if it knows the flags.
pub(super) fn charge<P: Pinner + ?Sized, A: AccountantHolder>(
    pinner: &P,
    accountant: A,
    range: UserRange,
    flags: PinFlags,
) -> Result<Charge<A>, PinError<P::Error>> {
    let failed = |kind| PinError::new(kind, range.first_page(pinner.page_size()));
    if !PinFlags::all().contains_all(flags) {
        return Err(failed(PinErrorKind::UnknownFlags { bits: flags.bits() }));
    }
    let charge = Charge::new(accountant, pinner.charged_pages(range));
    charge.map_err(|error| failed(error.into()))
}

/// Pins all pages of a range: their list, charged for those that have a pin, which is known then. The pins are the
/// caller's. O(pages).
///
/// After each batch, the progress of the request gets the bytes that are pinned.
#[inline]
pub(super) fn pin_list<P, F, S, A>(
    pinner: &P,
    request: PinRequest<F>,
    mut storage: S,
    slots: &mut [RunSlot],
    charge: &mut Charge<A>,
) -> Result<Sgl<S>, PinError<P::Error>>
where
    P: Pinner + ?Sized,
    F: FnMut(u64) -> ControlFlow<()>,
    S: Storage,
    A: AccountantHolder,
{
    let PinRequest { range, flags, mut progress } = request;
    let page = pinner.page_size();
    let refused = |error| PinError::new(PinErrorKind::List(error), range.first_page(page));
    check_storage(page, &mut storage).map_err(refused)?;
    let mut batches = Batches::new(pinner, range, flags);
    let batch = batches.pin(range, slots)?;
    // Most regions of few pages are one run. A builder is large, and is not needed for that.
    if let (Some(run), None) = (batch.only(), batches.rest) {
        batches.report(&mut progress)?;
        charge.set(batch.pinned_pages()).map_err(|error| batches.stopped(error))?;
        let taken = batch.accept(|_| check_run(page, run));
        taken.map_err(|error| batches.stopped(PinErrorKind::List(error)))?;
        return Ok(Sgl::of_run(page, storage, run));
    }
    let mut unfinished = Unfinished::empty(pinner, range, storage);
    unfinished.take(batch, batches.pinned)?;
    batches.report(&mut progress)?;
    batches.each(slots, |batch, pinned| unfinished.take(batch, pinned), progress)?;
    unfinished.finish(charge)
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
    /// Nothing yet of `range`, whose list will be in `storage`.
    #[cfg(feature = "std")]
    pub(super) fn new(
        pinner: &'p P,
        range: UserRange,
        mut storage: S,
    ) -> Result<Self, PinError<P::Error>> {
        let page = pinner.page_size();
        let refused = |error| PinError::new(PinErrorKind::List(error), range.first_page(page));
        check_storage(page, &mut storage).map_err(refused)?;
        Ok(Self::empty(pinner, range, storage))
    }

    /// The same in a storage that was checked.
    #[inline]
    fn empty(pinner: &'p P, range: UserRange, storage: S) -> Self {
        let page = pinner.page_size();
        let builder = ManuallyDrop::new(SglBuilder::empty(page, storage));
        Self { pinner, start: range.first_page(page), builder, pinned_pages: 0 }
    }

    /// Pins all pages of `range`, of which there is nothing yet. O(pages).
    ///
    /// After each batch, `progress` gets the bytes that are pinned. If this fails, dropping it unpins what it has.
    #[cfg(feature = "std")]
    pub(super) fn pin(
        &mut self,
        range: UserRange,
        flags: PinFlags,
        slots: &mut [RunSlot],
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), PinError<P::Error>> {
        in_batches(self.pinner, range, flags, slots, |it, pinned| self.take(it, pinned), progress)
    }

    /// Takes the pages of a batch, `pinned` bytes with all before, or leaves them to be unpinned by it.
    fn take(&mut self, batch: PinnedBatch<'_, P>, pinned: u64) -> Result<(), PinError<P::Error>> {
        let (at, pages) = (batch.start(), batch.pinned_pages());
        let taken = batch.accept(|batch| self.builder.push_runs(batch.runs()));
        taken.map_err(|error| PinError { kind: PinErrorKind::List(error), at, pinned })?;
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
