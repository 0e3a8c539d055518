// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinBatch`]: pages that have just been pinned, and belong to nobody else yet.
//!
//! ```text
//!  Pinner ──push──► PinBatch ──accept──► SglBuilder, or the tiles of a stream
//!                      │
//!                      └─ drop ─► unpinned
//! ```

use super::pinner::{PinFlags, Pinner};
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::few::Few;
use crate::sgl::{MemoryKind, PageRun};
use core::{fmt, mem::size_of};
use static_assertions::const_assert;

/// A place for a run in the memory of a batch: 32 bytes, so that a page of 4 KiB has 128.
pub type RunSlot = Option<PageRun>;

const_assert!(size_of::<RunSlot>() == 32);

/// The memory of a batch, from the heap: a page of 4 KiB; `None` if there is none.
#[cfg(feature = "alloc")]
pub(super) fn slots_on_the_heap() -> Option<alloc::vec::Vec<RunSlot>> {
    const SLOTS: usize = 128;
    const_assert!(size_of::<[RunSlot; SLOTS]>() == 4096);
    let mut slots = alloc::vec::Vec::new();
    slots.try_reserve_exact(SLOTS).ok()?;
    slots.resize(SLOTS, None);
    Some(slots)
}

/// Runs of pages that have just been pinned: dropping it unpins them.
///
/// A [`Pinner`] fills it; whoever wants the pages takes them with [`accept`](Self::accept).
pub struct PinBatch<'a, P: Pinner + ?Sized> {
    pinner: &'a P,
    slots: &'a mut [RunSlot],
    flags: PinFlags,
    /// The page at which the batch, or what is left of it, begins.
    start: UserAddr,
    // Invariant: the slots `taken..used` hold runs of `pages` pages together, each with one pin that
    // is ours, for the user pages from `start` on.
    taken: usize,
    used: usize,
    pages: u64,
    /// Pages that are still wanted.
    left: u64,
}

impl<'a, P: Pinner + ?Sized> PinBatch<'a, P> {
    /// An empty batch for the pages of `range`, in the memory of `slots`.
    ///
    /// What `slots` held before is overwritten. A batch of no slots has room for nothing.
    #[must_use]
    pub fn new(pinner: &'a P, range: UserRange, flags: PinFlags, slots: &'a mut [RunSlot]) -> Self {
        let page = pinner.page_size();
        Self {
            pinner,
            slots,
            flags,
            start: range.first_page(page),
            taken: 0,
            used: 0,
            pages: 0,
            left: range.page_count(page),
        }
    }

    /// How the pages are to be pinned.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> PinFlags {
        self.flags
    }

    /// The user address of the page that is to be pinned next.
    #[inline]
    #[must_use]
    pub fn next(&self) -> UserAddr {
        let bytes = self.pages.shifted_up(self.pinner.page_size().shift());
        // The address of a page of the range, or, where no page is left, of the one behind it.
        UserAddr::new(self.start.get().plus(bytes))
    }

    /// How many pages are still wanted.
    #[inline]
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// How many runs can be pushed for certain, whether or not they continue each other.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        self.slots.len().saturating_sub(self.used)
    }

    /// How many pages the batch holds.
    #[inline]
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.pages
    }

    /// Whether the batch holds no page.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// The runs that the batch holds.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + Clone + '_ {
        self.slots.iter().take(self.used).skip(self.taken).flatten().copied()
    }

    /// Takes a run whose pages have just been pinned, for the user pages from
    /// [`next`](Self::next) on. Called by the pinner. O(1).
    ///
    /// # Errors
    ///
    /// [`Rejected`] if there is no room for it, or if it has more pages than are wanted. The pins
    /// stay with the pinner then.
    ///
    /// # Safety
    ///
    /// The run is what the contract of [`Pinner`] says: the frames of these user pages, each with a
    /// pin that belongs to the batch from now on.
    #[inline]
    pub unsafe fn push(&mut self, run: PageRun) -> Result<(), Rejected> {
        if run.count() > self.left {
            return Err(Rejected::TooLong);
        }
        self.place(run).ok_or(Rejected::Full)?;
        self.pages = self.pages.plus(run.count());
        self.left = self.left.minus(run.count());
        Ok(())
    }

    /// Files the run: behind the last one, or merged with it.
    #[inline]
    fn place(&mut self, run: PageRun) -> Option<()> {
        let last = self.used.checked_sub(1).filter(|last| *last >= self.taken);
        let last = last.and_then(|last| self.slots.get_mut(last));
        if let Some(Some(last)) = last {
            if last.continues_with(&run) {
                // No merge where the count would need more than 64 bits.
                if let Ok(longer) = last.merged_with(&run) {
                    *last = longer;
                    return Some(());
                }
            }
        }
        *self.slots.get_mut(self.used)? = Some(run);
        self.used = self.used.plus(1);
        Some(())
    }

    /// Hands the pins over to `take`, which gets the runs. If it fails, the batch unpins them.
    ///
    /// # Errors
    ///
    /// That of `take`; nothing of the batch is pinned any more then.
    pub fn accept<R, E>(mut self, take: impl FnOnce(&Self) -> Result<R, E>) -> Result<R, E> {
        let taken = take(&self)?;
        self.taken = self.used;
        Ok(taken)
    }

    /// The first run that the batch holds.
    pub(crate) fn first(&self) -> Option<PageRun> {
        self.runs().next()
    }

    /// Hands the pins of the first run over: the user address of its first page, and the run. O(1).
    #[must_use = "the pins are the caller's now"]
    pub fn take_first(&mut self) -> Option<(UserAddr, PageRun)> {
        let run = self.first()?;
        let at = self.start;
        self.taken = self.taken.plus(1);
        self.pages = self.pages.minus(run.count());
        let bytes = run.count().shifted_up(self.pinner.page_size().shift());
        self.start = UserAddr::new(at.get().plus(bytes));
        Some((at, run))
    }
}

impl<P: Pinner + ?Sized> Drop for PinBatch<'_, P> {
    fn drop(&mut self) {
        // SAFETY: by the invariant, the pins of these runs are ours; nobody has taken them, so no
        // device was told of them.
        unsafe { unpin_runs(self.pinner, self.start, self.runs(), false) };
    }
}

impl<P: Pinner + ?Sized> fmt::Debug for PinBatch<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinBatch")
            .field("start", &self.start)
            .field("pages", &self.pages)
            .field("left", &self.left)
            .field("flags", &self.flags)
            .field("runs", &Few(self.runs()))
            .finish_non_exhaustive()
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
    let shift = pinner.page_size().shift();
    runs.fold(start.get(), |at, run| {
        if run.kind() != MemoryKind::Mmio {
            // SAFETY: the caller's promise is handed on; `at` advances by the pages of each run.
            unsafe { pinner.unpin(UserAddr::new(at), run, dirty) };
        }
        at.plus(run.count().shifted_up(shift))
    });
}

/// Why a batch does not take a run. The pins stay with the pinner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// The memory of the batch is full, and the run does not continue the last one.
    Full,
    /// The run has more pages than are wanted.
    TooLong,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the batch is full",
            Self::TooLong => "the run has more pages than are wanted",
        })
    }
}

impl core::error::Error for Rejected {}
