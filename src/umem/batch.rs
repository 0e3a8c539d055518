// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinBatch`] and [`PinnedBatch`]: pages that have just been pinned, and have no other owner yet.
//!
//! ```text
//!  Pinner ──push──► PinBatch ┐
//!    ▲       fill            PinnedBatch ──accept──► SglBuilder, or the tiles of a stream
//!    └────── unpin ◄─ drop ──┘
//! ```

use super::address_kind::AddressKind;
use super::pinner::{PinFlags, Pinner};
use super::range::UserRange;
use crate::abridged::Abridged;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun};
use core::{fmt, mem::size_of};
use static_assertions::const_assert;

/// A place for a run in the memory of a batch: at most 32 bytes, so that a page of 4 KiB has 128.
pub type RunSlot = Option<PageRun>;

// The kind, and behind its padding a provider, a start and a count.
const_assert!(size_of::<RunSlot>() == size_of::<(u8, [u64; 3])>());

/// The memory of a batch, from the heap: a page of 4 KiB; `None` if there is none.
#[cfg(feature = "alloc")]
pub(super) fn slots_on_the_heap() -> Option<alloc::vec::Vec<RunSlot>> {
    const SLOTS: usize = 128;
    const_assert!(size_of::<[RunSlot; SLOTS]>() <= 4096);
    let mut slots = alloc::vec::Vec::new();
    slots.try_reserve_exact(SLOTS).ok()?;
    slots.resize(SLOTS, None);
    Some(slots)
}

/// Runs of pages that have just been pinned: what a [`Pinner`] fills.
///
/// It is lent to [`Pinner::pin`] for the time of the call, by the [`PinnedBatch`] that unpins what was
/// pushed: there is no other way to get one, so that no other pinner can fill it.
pub struct PinBatch<'a> {
    slots: &'a mut [RunSlot],
    page: PageSize,
    kind: AddressKind,
    flags: PinFlags,
    /// The page at which the batch, or what is left of it, begins.
    start: UserAddr,
    // Invariant: the slots `taken..used` hold runs of `pages` pages together, each with one pin that
    // is ours, for the user pages from `start` on.
    taken: usize,
    used: usize,
    pages: u64,
    /// Pages of these that have no pin, and cost nothing.
    mmio: u64,
    /// Pages that are still wanted.
    left: u64,
}

impl PinBatch<'_> {
    /// What the addresses of the runs are to be: those of the pinner that the batch is of. A pinner to which
    /// another one forwards refuses a batch whose addresses are not its own.
    #[inline]
    #[must_use]
    pub const fn address_kind(&self) -> AddressKind {
        self.kind
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
        behind(self.start, self.pages, self.page)
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
    /// [`Rejected`] if there is no room for it, if it has more pages than are wanted, or if its last
    /// byte has no address. The pins stay with the pinner then.
    ///
    /// # Safety
    ///
    /// The run is what the contract of [`Pinner`] says: the frames of these user pages, of the kind
    /// that they are, each with a pin that belongs to the batch from now on.
    #[inline]
    pub unsafe fn push(&mut self, run: PageRun) -> Result<(), Rejected> {
        if run.count() > self.left {
            return Err(Rejected::TooLong);
        }
        if run.last().phys(self.page).is_none() {
            return Err(Rejected::AddressTooLarge);
        }
        self.append(run).ok_or(Rejected::Full)?;
        self.pages = self.pages.plus(run.count());
        self.left = self.left.minus(run.count());
        if run.kind() == MemoryKind::Mmio {
            self.mmio = self.mmio.plus(run.count());
        }
        Ok(())
    }

    /// Files the run: behind the last one, or merged with it.
    #[inline]
    fn append(&mut self, run: PageRun) -> Option<()> {
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
}

impl fmt::Debug for PinBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinBatch")
            .field("start", &self.start)
            .field("pages", &self.pages)
            .field("left", &self.left)
            .field("flags", &self.flags)
            .field("runs", &Abridged(self.runs()))
            .finish_non_exhaustive()
    }
}

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
    /// What `slots` held before is overwritten. A batch of no slots has room for nothing. Bits of
    /// Unknown bits of `flags` are left out.
    #[must_use]
    pub fn new(pinner: &'a P, range: UserRange, flags: PinFlags, slots: &'a mut [RunSlot]) -> Self {
        let page = pinner.page_size();
        let batch = PinBatch {
            slots,
            page,
            kind: pinner.address_kind(),
            flags: flags & PinFlags::all(),
            start: range.first_page(page),
            taken: 0,
            used: 0,
            pages: 0,
            mmio: 0,
            // As many as have a number of bytes; where there is one more, another batch gets it.
            left: range.page_count(page).min(u64::MAX.shifted_down(page.shift())),
        };
        Self { pinner, batch }
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
        self.batch.taken = self.batch.used;
        Ok(taken)
    }

    /// The first run that the batch holds.
    pub(crate) fn first(&self) -> Option<(UserAddr, PageRun)> {
        self.runs().next().map(|run| (self.batch.start, run))
    }

    /// How many pages the batch holds that have a pin, and so count against a limit.
    pub(crate) const fn pinned_pages(&self) -> u64 {
        self.batch.pages.saturating_sub(self.batch.mmio)
    }

    /// Hands the pins of the first run over: the user address of its first page, and the run. O(1).
    #[must_use = "the pins are the caller's now"]
    pub fn take_first(&mut self) -> Option<(UserAddr, PageRun)> {
        let (at, run) = self.first()?;
        let batch = &mut self.batch;
        batch.taken = batch.taken.plus(1);
        batch.pages = batch.pages.minus(run.count());
        if run.kind() == MemoryKind::Mmio {
            batch.mmio = batch.mmio.minus(run.count());
        }
        batch.start = behind(at, run.count(), batch.page);
        Some((at, run))
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
        // SAFETY:
        // - "each page of the run was pushed to a batch by `pin`, for the user address that follows
        //   from `at`, and its pin has not been taken back": by the invariants of both types;
        // - "nothing relies on this pin any more": the runs were not taken, so no device was shown
        //   them.
        unsafe { unpin_runs(self.pinner, self.batch.start, self.batch.runs(), false) };
    }
}

impl<P: Pinner + ?Sized> fmt::Debug for PinnedBatch<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.batch.fmt(f)
    }
}

/// The address of the page that lies `pages` pages behind `at`; zero where 64 bits end, behind the
/// last page that there is.
pub(super) fn behind(at: UserAddr, pages: u64, page: PageSize) -> UserAddr {
    UserAddr::new(at.get().wrapping_add(pages.shifted_up(page.shift())))
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
        if run.kind() != MemoryKind::Mmio {
            // SAFETY: the caller promises all that `unpin` asks for, for this run at `at`, which
            // advances by the pages of each run.
            unsafe { pinner.unpin(at, run, dirty) };
        }
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

/// Why a batch does not take a run. The pins stay with the pinner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// The memory of the batch is full, and the run does not continue the last one.
    Full,
    /// The run has more pages than are wanted.
    TooLong,
    /// The byte address of the last page needs more than 64 bits.
    AddressTooLarge,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the batch is full",
            Self::TooLong => "the run has more pages than are wanted",
            Self::AddressTooLarge => "the byte address of the run needs more than 64 bits",
        })
    }
}

impl core::error::Error for Rejected {}
