// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BlockSize`] and [`Blocks`]: a window as aligned blocks of one size, for an RDMA NIC.
//!
//! The *cover* contract. Blocks lie on multiples of their size, in the NIC's address space and in
//! memory; the first and the last may reach past the window:
//!
//! ```text
//!  iova     │        │   ├─── window ───┼──────────────┤ │
//!  blocks   ├────────┼───────┼────────┼────────┼────────┤
//!           0        p      2p       3p       4p       5p
//!                    └ align_down(iova)        align_up(iova + len) ┘
//! ```
//!
//! A block can hold the bytes of one address only if all of them are contiguous in it. That is what
//! the best page size proves, so blocks are made from a [`BlockSize`] and from nothing else.
#![forbid(unsafe_code)]

use super::tiles::TileError;
use crate::abridged::Abridged;
use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::page_size::{PageSize, PageSizes};
use crate::sgl::{Iter, Segment, Window};
use crate::store::Storage;
use core::{fmt, iter::FusedIterator};

impl<'a, S: Storage> Window<'a, S> {
    /// The largest of `sizes` in which the window, seen at `iova`, can be cut into blocks; `None`
    /// if even the smallest is too large.
    ///
    /// A size `p` is feasible if every maximal run `k` has `phys ≡ iova (mod p)` where it begins,
    /// and every run after the first begins at a multiple of `p`. Sizes above the smallest one that
    /// covers the window with one block are left alone: they would gain nothing. The rule of Linux's
    /// `ib_umem_find_best_pgsz()`.
    ///
    /// O(runs); O(1) more for the size itself.
    ///
    /// ```
    /// # use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SglBuilder};
    /// # let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    /// builder.push_run(PageRun::ram(Pfn::new(0x400), 64)?)?;
    /// let sgl = builder.finish()?;
    /// let window = sgl.whole()?;
    /// let sizes: PageSizes = "4K|64K|256K".parse()?;
    /// let size = window.best_page_size(sizes, Iova::new(0x41_0000))?.expect("pages are aligned");
    /// assert_eq!(size.page_size(), PageSize::SIZE_64K);
    /// assert_eq!(size.blocks().next(), Some(PhysAddr::new(0x40_0000)));
    /// assert_eq!(size.block_count(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TileError::NoPageSizes`], or [`TileError::Wraps`] if the window wraps at `iova`.
    pub fn best_page_size(
        &self,
        sizes: PageSizes,
        iova: Iova,
    ) -> Result<Option<BlockSize<'a, S>>, TileError> {
        let runs = self.iter().map(|run| (run.phys, run.len));
        let largest = sizes.best_for(runs, iova, self.len())?;
        Ok(largest.map(|page_size| BlockSize { window: *self, iova, page_size }))
    }
}

impl PageSizes {
    /// The largest of these sizes in which memory can be cut into blocks that is seen at `iova` and lies in `runs`,
    /// `len` bytes: [`Window::best_page_size`] for memory that is in no list, as where the DMA API has mapped it.
    /// Where each run begins, and how long it is, is what is looked at; none continues the one before. O(runs).
    ///
    /// ```
    /// # use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};
    /// let sizes: PageSizes = "4K|64K".parse()?;
    /// let mapped = [(PhysAddr::new(0x2_0000), 0x1_0000), (PhysAddr::new(0x7_0000), 0x800)];
    /// let best = sizes.best_for(mapped, Iova::new(0x40_0000), 0x1_0800)?;
    /// assert_eq!(best, Some(PageSize::SIZE_64K));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TileError::NoPageSizes`], or [`TileError::Wraps`] if the memory wraps at `iova` or is empty.
    pub fn best_for(
        self,
        runs: impl IntoIterator<Item = (PhysAddr, u64)>,
        iova: Iova,
        len: u64,
    ) -> Result<Option<PageSize>, TileError> {
        let smallest = self.smallest().ok_or(TileError::NoPageSizes)?;
        let last = len.checked_sub(1).and_then(|more| iova.checked_add(more));
        let last = last.ok_or(TileError::Wraps { iova, len })?;
        // The bits in which addresses must agree with memory: p is feasible if none is below p. Runs
        // but the first begin where a block does.
        let (mut differs, mut begins, mut at) = (0u64, 0u64, iova.get());
        for (phys, len) in runs {
            differs |= phys.get() ^ at | at & begins;
            if differs & smallest.mask() != 0 {
                return Ok(None);
            }
            // Behind the last run 64 bits may end.
            at = at.wrapping_add(len);
            begins = u64::MAX;
        }
        // A block of this size covers the memory, wherever it begins.
        let covers = 64u32.minus((iova.get() ^ last.get()).leading_zeros());
        let cap = PageSize::from_shift(covers).and_then(|covers| self.at_least(covers).smallest());
        let mut usable = self;
        if let Some(cap) = cap {
            usable = usable.up_to(cap);
        }
        if let Some(agreed) = PageSize::from_shift(differs.trailing_zeros()) {
            usable = usable.up_to(agreed);
        }
        Ok(usable.largest())
    }
}

/// The proof that a window, seen at an IOVA, can be cut into blocks of one size.
///
/// Made by [`Window::best_page_size`].
pub struct BlockSize<'a, S> {
    window: Window<'a, S>,
    iova: Iova,
    page_size: PageSize,
}

impl<'a, S: Storage> BlockSize<'a, S> {
    /// The size of a block.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The IOVA of the first byte of the window.
    #[inline]
    #[must_use]
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// The window.
    #[inline]
    #[must_use]
    pub const fn window(&self) -> Window<'a, S> {
        self.window
    }

    /// The same with smaller blocks, for a device that has reasons to want them; `None` if
    /// `page_size` is larger than this one.
    ///
    /// Where one size is feasible, every smaller one is. Whether the device supports it is for the
    /// caller to know.
    #[must_use]
    pub fn shrink(self, page_size: PageSize) -> Option<Self> {
        (page_size <= self.page_size).then_some(Self { page_size, ..self })
    }

    /// How many blocks there are:
    /// `(align_up(iova + len, p) - align_down(iova, p)) / p`. O(1).
    #[inline]
    #[must_use]
    pub fn block_count(&self) -> u64 {
        let shift = self.page_size.shift();
        let last = self.iova.get().plus(self.window.len().minus(1));
        let first = self.iova.get().shifted_down(shift);
        last.shifted_down(shift).minus(first).plus(1)
    }

    /// The physical addresses of the blocks, in order. O(log runs).
    #[inline]
    pub fn blocks(&self) -> Blocks<'a, S> {
        Blocks {
            runs: self.window.iter(),
            shift: self.page_size.shift(),
            before: self.iova.offset_in(self.page_size),
            next: 0,
            here: 0,
            left: self.block_count(),
        }
    }
}

impl<S> Clone for BlockSize<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for BlockSize<'_, S> {}

impl<S: Storage> fmt::Debug for BlockSize<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockSize")
            .field("page_size", &self.page_size)
            .field("iova", &self.iova)
            .field("window", &self.window)
            .finish()
    }
}

/// The physical addresses of blocks; made by [`BlockSize::blocks`]. A step is O(1).
///
/// Block `i` holds the address of every byte of the window whose IOVA lies in
/// `align_down(iova, p) + i * p ..+ p`.
#[must_use = "iterators do nothing unless they are walked"]
pub struct Blocks<'a, S> {
    runs: Iter<'a, S>,
    shift: u32,
    /// Bytes of the first block that lie before the window.
    before: u64,
    /// The next block, and how many more the current run has.
    next: u64,
    here: u64,
    /// How many blocks are still to come.
    left: u64,
}

/// The first block of a run, and how many blocks the run has; only the first run has bytes before.
#[inline]
fn blocks_of(run: Segment, shift: u32, before: u64) -> (u64, u64) {
    let last = run.len.minus(1);
    // `before + last` is below the size of a block plus the window; where it needs more than 64
    // bits, so does the last IOVA.
    let blocks = before.plus(last).shifted_down(shift).plus(1);
    (run.phys.get().minus(before), blocks)
}

impl<S: Storage> Iterator for Blocks<'_, S> {
    type Item = PhysAddr;

    #[inline]
    fn next(&mut self) -> Option<PhysAddr> {
        if self.here == 0 {
            let before = core::mem::take(&mut self.before);
            (self.next, self.here) = blocks_of(self.runs.next()?, self.shift, before);
        }
        let block = PhysAddr::new(self.next);
        // Behind the last block 64 bits may end.
        self.next = self.next.wrapping_add(1u64.shifted_up(self.shift));
        self.here = self.here.minus(1);
        self.left = self.left.minus(1);
        Some(block)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        match usize::try_from(self.left) {
            Ok(left) => (left, Some(left)),
            Err(_) => (usize::MAX, None),
        }
    }

    #[inline]
    fn fold<B, F>(self, init: B, mut f: F) -> B
    where
        F: FnMut(B, PhysAddr) -> B,
    {
        let Self { runs, shift, before, next, here, .. } = self;
        let size = 1u64.shifted_up(shift);
        let mut all_of = |acc, (first, count): (u64, u64)| {
            let (mut acc, mut block) = (acc, first);
            for _ in 0..count {
                acc = f(acc, PhysAddr::new(block));
                block = block.wrapping_add(size);
            }
            acc
        };
        let acc = all_of(init, (next, here));
        let (acc, _) = runs.fold((acc, before), |(acc, before), run| {
            (all_of(acc, blocks_of(run, shift, before)), 0)
        });
        acc
    }

    fn count(self) -> usize {
        self.size_hint().0
    }
}

impl<S: Storage> FusedIterator for Blocks<'_, S> {}

impl<S> Clone for Blocks<'_, S> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), ..*self }
    }
}

impl<S: Storage> fmt::Debug for Blocks<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}
