// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinBatch`]: runs of pages that have just been pinned.

use super::address_kind::AddressKind;
use super::flags::PinFlags;
use super::range::UserRange;
use crate::abridged::Abridged;
use crate::addr::UserAddr;
use crate::asserts::static_assert;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun};
use core::{fmt, mem::size_of};

/// A place for a run in the memory of a batch: at most 32 bytes, so that a page of 4 KiB has 128.
pub type RunSlot = Option<PageRun>;

// The kind, and behind its padding a provider, a start and a count.
static_assert!(size_of::<RunSlot>() == size_of::<(u8, [u64; 3])>());

/// How many slots are on the stack where a region has no more pages: nothing is allocated for them.
#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
pub(crate) const FEW: u8 = 8;

/// The memory of a batch, from the heap: a page of 4 KiB; `None` if there is none.
#[cfg(feature = "alloc")]
pub(super) fn slots_on_the_heap() -> Option<alloc::vec::Vec<RunSlot>> {
    const SLOTS: usize = 128;
    static_assert!(size_of::<[RunSlot; SLOTS]>() <= 4096);
    let mut slots = alloc::vec::Vec::new();
    slots.try_reserve_exact(SLOTS).ok()?;
    slots.resize(SLOTS, None);
    Some(slots)
}

/// Runs of pages that have just been pinned: what a [`Pinner`](super::Pinner) fills.
///
/// It is lent to [`Pinner::pin`](super::Pinner::pin) for the time of the call, by the
/// [`PinnedBatch`](super::PinnedBatch) that unpins what was pushed: there is no other way to get one, so that no other pinner can fill it.
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

impl<'a> PinBatch<'a> {
    /// An empty batch for the pages of `range`, as [`PinnedBatch::new`](super::PinnedBatch::new) says.
    pub(super) fn new(
        kind: AddressKind,
        page: PageSize,
        range: UserRange,
        flags: PinFlags,
        slots: &'a mut [RunSlot],
    ) -> Self {
        Self {
            slots,
            page,
            kind,
            flags: flags & PinFlags::all(),
            start: range.first_page(page),
            taken: 0,
            used: 0,
            pages: 0,
            mmio: 0,
            // As many as have a number of bytes; where there is one more, another batch gets it.
            left: range.page_count(page).min(u64::MAX.shifted_down(page.shift())),
        }
    }

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
        self.slots.get(self.taken..self.used).unwrap_or_default().iter().flatten().copied()
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
    /// The run is what the contract of [`Pinner`](super::Pinner) says: the frames of these user pages, of the kind
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

    /// Takes single pages of RAM, none of which continues the one before, as [`push`](Self::push) does, as
    /// many from the front as there is room for; returns how many. O(pages).
    ///
    /// # Safety
    ///
    /// That of [`push`](Self::push), for a run of each page.
    #[cfg(pinned_sgl_kbuild)]
    pub(crate) unsafe fn push_singles(&mut self, frames: &[u64]) -> usize {
        let limit = u64::MAX.shifted_down(self.page.shift());
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let slots = self.slots.get_mut(self.used..).unwrap_or_default();
        let mut pushed = 0usize;
        for (slot, frame) in slots.iter_mut().zip(frames).take(left) {
            if *frame > limit {
                break;
            }
            *slot = Some(PageRun::stored(*frame, 1, MemoryKind::Ram));
            pushed = pushed.plus(1);
        }
        self.used = self.used.plus(pushed);
        self.pages = self.pages.plus(pushed as u64);
        self.left = self.left.minus(pushed as u64);
        pushed
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

    /// The page at which the batch, or what is left of it, begins.
    pub(super) const fn start(&self) -> UserAddr {
        self.start
    }

    /// How many pages the batch holds that have a pin, and so count against a limit.
    pub(crate) const fn pinned_pages(&self) -> u64 {
        self.pages.saturating_sub(self.mmio)
    }

    /// The first run that the batch holds, and the user address of its first page.
    pub(crate) fn first(&self) -> Option<(UserAddr, PageRun)> {
        self.runs().next().map(|run| (self.start, run))
    }

    /// The run that the batch holds, if it holds one and no other.
    #[inline]
    pub(super) fn only(&self) -> Option<PageRun> {
        match self.slots.get(self.taken..self.used)? {
            [run] => *run,
            _ => None,
        }
    }

    /// Takes the first run out.
    pub(super) fn take_first(&mut self) -> Option<(UserAddr, PageRun)> {
        let (at, run) = self.first()?;
        self.taken = self.taken.plus(1);
        self.pages = self.pages.minus(run.count());
        if run.kind() == MemoryKind::Mmio {
            self.mmio = self.mmio.minus(run.count());
        }
        self.start = behind(at, run.count(), self.page);
        Some((at, run))
    }

    /// Takes all runs out.
    pub(super) fn take_all(&mut self) {
        self.taken = self.used;
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

/// The address of the page that lies `pages` pages behind `at`; zero where 64 bits end, behind the
/// last page that there is.
#[inline]
pub(super) fn behind(at: UserAddr, pages: u64, page: PageSize) -> UserAddr {
    UserAddr::new(at.get().wrapping_add(pages.shifted_up(page.shift())))
}
