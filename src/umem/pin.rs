// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning a range, batch by batch, into a list: what [`Umem`](super::Umem) begins with.
//!
//! ```text
//!  Pinner ──► PinBatch ──► Unfinished (SglBuilder) ──► Sgl
//!                │             │
//!                └── drop ─────┴── drop ──► unpinned
//! ```

use super::batch::{unpin_runs, PinBatch, RunSlot};
use super::error::PinErrorKind;
use super::pinner::{PinFlags, Pinner};
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::sgl::{Sgl, SglBuilder, Storage};
use core::{fmt, ops::ControlFlow};

/// What is to be pinned and how, and who is told of the progress.
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
/// # Ok::<(), pinned_sgl::umem::RangeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct PinRequest<F = fn(u64) -> ControlFlow<()>> {
    pub(super) range: UserRange,
    pub(super) flags: PinFlags,
    pub(super) progress: F,
}

impl PinRequest {
    /// A request that nobody watches.
    #[must_use]
    pub fn new(range: UserRange, flags: PinFlags) -> Self {
        Self { range, flags, progress: |_| ControlFlow::Continue(()) }
    }
}

impl<F> PinRequest<F> {
    /// Tells `progress` after each batch how many bytes, of whole pages, are pinned by now. Where it
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

/// Why pinning stopped, at which page, and how many bytes were pinned before.
pub(super) struct Stopped<E> {
    pub(super) kind: PinErrorKind<E>,
    pub(super) at: UserAddr,
    pub(super) pinned: u64,
}

/// Pages that are pinned and listed, and belong to nobody else yet: dropping it unpins them.
pub(super) struct Unfinished<'p, P: Pinner + ?Sized, S: Storage> {
    pinner: &'p P,
    start: UserAddr,
    // Invariant: every page in it has one pin that is ours, for the user pages from `start` on.
    builder: Option<SglBuilder<S>>,
}

impl<'p, P: Pinner + ?Sized, S: Storage> Unfinished<'p, P, S> {
    /// Pins all pages of `range`, and tells after each batch how many bytes it had. O(pages).
    pub(super) fn pin(
        pinner: &'p P,
        range: UserRange,
        flags: PinFlags,
        storage: S,
        slots: &mut [RunSlot],
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self, Stopped<P::Error>> {
        let page = pinner.page_size();
        let start = range.first_page(page);
        let mut pinned = 0u64;
        let failed = |kind, at, pinned| Stopped { kind, at, pinned };
        let builder = SglBuilder::new_in(page, storage)
            .map_err(|error| failed(PinErrorKind::List(error), start, 0))?;
        let mut this = Self { pinner, start, builder: Some(builder) };
        let mut rest = range;
        loop {
            let at = rest.first_page(page);
            let mut batch = PinBatch::new(pinner, rest, flags, slots);
            let outcome = pinner.pin(&mut batch);
            let (next, left) = (batch.next(), batch.left());
            let bytes = batch.page_count().shifted_up(page.shift());
            pinned = pinned.saturating_add(bytes);
            // If it failed, the batch unpins what it holds, and `this` the rest.
            outcome.map_err(|error| failed(PinErrorKind::Pinner(error), next, pinned))?;
            if bytes == 0 {
                return Err(failed(PinErrorKind::NoProgress, next, pinned));
            }
            this.take(batch).map_err(|kind| failed(kind, at, pinned))?;
            if progress(bytes).is_break() {
                return Err(failed(PinErrorKind::Cancelled, next, pinned));
            }
            if left == 0 {
                return Ok(this);
            }
            // Pages are left, so the next one has an address, and it lies before the last byte.
            let len = range.last().checked_offset_from(next).map_or(0, |more| more.plus(1));
            rest = UserRange::new(next, len)
                .map_err(|_| failed(PinErrorKind::NoProgress, next, pinned))?;
        }
    }

    /// Takes the pages of a batch, or leaves them to be unpinned by it.
    fn take(&mut self, batch: PinBatch<'_, P>) -> Result<(), PinErrorKind<P::Error>> {
        let builder = self.builder.as_mut().ok_or(PinErrorKind::OutOfMemory)?;
        batch.accept(|batch| builder.push_runs(batch.runs())).map_err(PinErrorKind::List)
    }

    /// Takes the pages of another one, which begins where this one ends.
    #[cfg(feature = "std")]
    pub(super) fn append<T: Storage>(
        &mut self,
        mut next: Unfinished<'p, P, T>,
    ) -> Result<(), PinErrorKind<P::Error>> {
        if let (Some(builder), Some(other)) = (&mut self.builder, &next.builder) {
            builder.push_runs(other.runs()).map_err(PinErrorKind::List)?;
        }
        next.builder = None;
        Ok(())
    }

    /// The list; whoever gets it owns the pins.
    pub(super) fn finish(mut self) -> Result<Sgl<S>, Stopped<P::Error>> {
        let builder = self.builder.take().map(SglBuilder::finish);
        let failed = |start: UserAddr, pages: u64, shift: u32| {
            let pinned = pages.shifted_up(shift);
            let at = UserAddr::new(start.get().plus(pinned));
            Stopped { kind: PinErrorKind::OutOfMemory, at, pinned }
        };
        match builder {
            Some(Ok(sgl)) => Ok(sgl),
            Some(Err(error)) => {
                // Dropping `self` unpins what the builder still holds.
                let builder = self.builder.insert(error.into_builder());
                Err(failed(self.start, builder.page_count(), builder.page_size().shift()))
            }
            None => Err(failed(self.start, 0, 0)),
        }
    }
}

impl<P: Pinner + ?Sized, S: Storage> Drop for Unfinished<'_, P, S> {
    fn drop(&mut self) {
        if let Some(builder) = &self.builder {
            // SAFETY: by the invariant the pins are ours, and no device was told of the pages.
            unsafe { unpin_runs(self.pinner, self.start, builder.runs(), false) };
        }
    }
}
