// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Tiles`]: a window as the map calls of an IOMMU.
//!
//! The *exact* contract. Tiles cover the window, in order, without a gap and without a byte more:
//!
//! ```text
//!  iova   0x1ff000 0x200000                     0x600000 0x601000
//!  window    ├────────────────────────────────────────────┤
//!  tiles     ├─ 4K x1 ─┼───────── 2M x2 ───────────┼─ 4K x1 ┤
//! ```
#![forbid(unsafe_code)]

use crate::abridged::Abridged;
use crate::addr::{Iova, PhysAddr, UserAddr};
use crate::exact::{self, Exact as _};
use crate::page_size::{PageSize, PageSizes};
use crate::sgl::{Iter, MemoryKind, Segment, Window};
use crate::store::Storage;
use core::{fmt, iter::FusedIterator};

/// The arguments of one call that maps pages: `count` pages of `page_size` at `iova`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tile {
    /// Where the device sees the first byte.
    pub iova: Iova,
    /// Where memory has it.
    pub phys: PhysAddr,
    /// The size of each page: one that the IOMMU supports, and both addresses are multiples of it.
    pub page_size: PageSize,
    /// How many pages: never zero.
    pub count: u64,
    /// What the memory is made of.
    pub kind: MemoryKind,
}

impl Tile {
    /// The bytes of the tile; [`u64::MAX`] if 64 bits cannot count them, as can only be where a caller
    /// has changed its fields.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a tile is never empty")]
    pub const fn len(&self) -> u64 {
        if self.count > exact::u64::shifted_down(u64::MAX, self.page_size.shift()) {
            return u64::MAX;
        }
        self.bytes()
    }

    /// The user address of the first byte, in a tile of a domain that is given
    /// [user addresses](crate::umem::AddressKind::User).
    #[inline]
    #[must_use]
    pub const fn user(&self) -> UserAddr {
        UserAddr::new(self.phys.get())
    }

    /// The same for a tile that was cut off a segment: its fields are unchanged.
    #[inline]
    pub(crate) const fn bytes(&self) -> u64 {
        exact::u64::shifted_up(self.count, self.page_size.shift())
    }
}

impl From<Tile> for Segment {
    /// The memory of a tile.
    #[inline]
    fn from(tile: Tile) -> Self {
        Self::new(tile.phys, tile.len(), tile.kind)
    }
}

impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tile({:#x} -> {:#x}, {} x{})", self.iova, self.phys, self.page_size, self.count)
    }
}

impl<'a, S: Storage> Window<'a, S> {
    /// The map calls that show the window, exactly, to a device at `iova`.
    ///
    /// The page size of a tile is the largest that divides both addresses and fits in what is left
    /// of the run; its count stops where a larger size becomes usable, and only if a whole page of
    /// that size then fits. The rule of Linux's `iommu_pgsize()`.
    ///
    /// O(log runs), or O(runs) where the smallest IOMMU page is larger than a page of the list, as
    /// every run must be checked then.
    ///
    /// ```
    /// # use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, SglBuilder};
    /// # let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    /// builder.push_run(PageRun::ram(Pfn::new(0x3ff), 0x402)?)?;
    /// let sgl = builder.finish()?;
    /// let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M;
    /// let tiles = sgl.whole()?.tiles(sizes, Iova::new(0x1f_f000))?;
    /// let (small, large) = (PageSize::SIZE_4K, PageSize::SIZE_2M);
    /// let tiles = tiles.map(|tile| (tile.page_size, tile.count));
    /// assert!(tiles.eq([(small, 1), (large, 2), (small, 1)]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TileError`] if there are no sizes to choose from, if the window wraps at `iova`, or if
    /// something is not a multiple of the smallest size.
    pub fn tiles(&self, sizes: PageSizes, iova: Iova) -> Result<Tiles<'a, S>, TileError> {
        let runs = self.iter();
        let smallest = self.check_tiles(sizes, iova, runs.clone())?;
        let first = Segment::new(PhysAddr::new(0), 0, MemoryKind::Ram);
        let step = Step::of(sizes, smallest);
        Ok(Tiles { runs, rest: first, iova: iova.get(), sizes, step })
    }

    /// The smallest size, or why there are no [`tiles`](Self::tiles) of the runs of this window.
    #[inline]
    pub(crate) fn check_tiles(
        &self,
        sizes: PageSizes,
        iova: Iova,
        runs: Iter<'_, S>,
    ) -> Result<PageSize, TileError> {
        let len = self.len();
        let smallest = check_iova(sizes, iova, len)?;
        let mut offset = 0u64;
        for run in runs {
            check_segment(offset, &run, smallest)?;
            offset = offset.plus(run.len);
            if smallest <= self.page_size() {
                // Runs are whole pages: only the ends of the window can be misaligned.
                if len & smallest.mask() != 0 {
                    return Err(TileError::MisalignedEnd { offset: len, smallest });
                }
                break;
            }
        }
        Ok(smallest)
    }

    /// How many tiles the window has: the calls that map it. O(tiles), and nothing is built.
    ///
    /// ```
    /// # use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, Sgl};
    /// let run = PageRun::ram(Pfn::new(0x3ff), 0x402)?;
    /// let sgl = Sgl::from_runs(PageSize::SIZE_4K, [run])?;
    /// let (window, sizes) = (sgl.whole()?, PageSizes::SIZE_4K | PageSizes::SIZE_2M);
    /// assert_eq!(window.tile_count(sizes, Iova::new(0x1f_f000))?, 3);
    /// assert_eq!(window.tile_count(sizes, Iova::new(0))?, 1); // small pages only, in one call
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Window::tiles`].
    pub fn tile_count(&self, sizes: PageSizes, iova: Iova) -> Result<u64, TileError> {
        Ok(self.tiles(sizes, iova)?.fold(0u64, |count, _| count.plus(1)))
    }
}

impl Segment {
    /// The map calls that show these contiguous bytes to a device at `iova`: what [`Window::tiles`]
    /// gives for a window of this one run.
    ///
    /// ```
    /// # use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, SglBuilder};
    /// # let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    /// # builder.push_run(PageRun::ram(Pfn::new(0x3ff), 0x402)?)?;
    /// # let sgl = builder.finish()?;
    /// let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M;
    /// let segment = sgl.whole()?.iter().next().expect("it has a run");
    /// let tiles = segment.tiles(sizes, Iova::new(0x1f_f000))?;
    /// assert!(tiles.eq(sgl.whole()?.tiles(sizes, Iova::new(0x1f_f000))?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Window::tiles`]; offsets count from the first byte of the segment.
    pub fn tiles(&self, sizes: PageSizes, iova: Iova) -> Result<SegmentTiles, TileError> {
        let smallest = check_iova(sizes, iova, self.len)?;
        check_segment(0, self, smallest)?;
        let step = Step::of(sizes, smallest);
        Ok(SegmentTiles { rest: *self, iova: iova.get(), sizes, step })
    }
}

/// Whether `len` bytes fit at `iova`; the smallest size.
fn check_iova(sizes: PageSizes, iova: Iova, len: u64) -> Result<PageSize, TileError> {
    let smallest = sizes.smallest().ok_or(TileError::NoPageSizes)?;
    // Bytes that are none fit anywhere.
    if iova.checked_add(len.saturating_sub(1)).is_none() {
        return Err(TileError::Wraps { iova, len });
    }
    if !iova.is_aligned(smallest) {
        return Err(TileError::MisalignedIova { iova, smallest });
    }
    Ok(smallest)
}

/// Whether a run that begins at `offset` can be tiled.
fn check_segment(offset: u64, run: &Segment, smallest: PageSize) -> Result<(), TileError> {
    if !run.phys.is_aligned(smallest) {
        return Err(TileError::MisalignedMemory { offset, phys: run.phys, smallest });
    }
    if run.len & smallest.mask() != 0 {
        let end = offset.plus(run.len);
        return Err(TileError::MisalignedEnd { offset: end, smallest });
    }
    Ok(())
}

/// The tiles of one segment; made by [`Segment::tiles`]. A step is O(1).
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are walked"]
pub struct SegmentTiles {
    rest: Segment,
    /// Where the rest begins; wraps to zero only behind the last tile.
    iova: u64,
    sizes: PageSizes,
    step: Step,
}

impl Iterator for SegmentTiles {
    type Item = Tile;

    #[inline]
    fn next(&mut self) -> Option<Tile> {
        if self.rest.len == 0 {
            return None;
        }
        let tile = cut(self.sizes, &mut self.step, self.iova, self.rest);
        self.rest = behind(self.rest, &tile);
        self.iova = self.iova.wrapping_add(tile.bytes());
        Some(tile)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let smallest = self.sizes.smallest().map_or(0, PageSize::shift);
        let most = usize::try_from(self.rest.len.shifted_down(smallest)).ok();
        (usize::from(self.rest.len > 0), most)
    }
}

impl FusedIterator for SegmentTiles {}

impl fmt::Debug for SegmentTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}

/// The tiles of a window; made by [`Window::tiles`]. A step is O(1).
#[must_use = "iterators do nothing unless they are walked"]
pub struct Tiles<'a, S> {
    runs: Iter<'a, S>,
    /// What is left of the current run; empty before the first.
    rest: Segment,
    /// Where the rest begins; wraps to zero only behind the last tile.
    iova: u64,
    sizes: PageSizes,
    step: Step,
}

/// The size of the last tile, which is most often the size of the next.
#[derive(Clone, Copy, Debug)]
struct Step {
    size: PageSize,
    /// The next larger size; `u64::MAX` if there is none, of which no whole page lies behind any address.
    larger: u64,
}

impl Step {
    /// The largest size that divides `both` addresses and fits in `len`.
    #[inline(never)]
    fn choose(sizes: PageSizes, both: u64, len: u64) -> Self {
        // Bit n: both addresses are multiples of 2^n; and a page of 2^n fits.
        let divides = !both & both.wrapping_sub(1) | lowest_bit(both);
        let fits = u64::MAX.shifted_down(len.leading_zeros());
        // The smallest size divides and fits, so there is a largest.
        let usable = PageSizes::from_bits_retain(sizes.bits() & divides & fits);
        let size = usable.largest().unwrap_or(PageSize::SIZE_4K);
        Self::of(sizes, size)
    }

    const fn of(sizes: PageSizes, size: PageSize) -> Self {
        let larger = lowest_bit(sizes.bits() & !size.mask() & !size.bytes());
        Self { size, larger: if larger == 0 { u64::MAX } else { larger } }
    }

    /// Whether `choose` would choose this again.
    #[inline]
    fn holds(self, both: u64, len: u64) -> bool {
        let larger = self.larger;
        both & self.size.mask() == 0
            && len >= self.size.bytes()
            && (len < larger || both & larger.minus(1) != 0)
    }
}

/// The first tile of `rest`, which is not empty, at `iova`.
#[inline]
fn cut(sizes: PageSizes, step: &mut Step, iova: u64, rest: Segment) -> Tile {
    let (phys, len) = (rest.phys.get(), rest.len);
    let both = iova | phys;
    // No arithmetic from one tile to the next, only a guess that the processor gets right.
    if !step.holds(both, len) {
        *step = Step::choose(sizes, both, len);
    }
    let Step { size, larger } = *step;
    let mut bytes = len;
    if len >= larger && (iova ^ phys) & larger.minus(1) == 0 {
        let distance = larger.minus(iova & larger.minus(1));
        if distance.checked_add(larger).is_some_and(|whole| whole <= len) {
            bytes = distance;
        }
    }
    let count = bytes.shifted_down(size.shift());
    Tile { iova: Iova::new(iova), phys: rest.phys, page_size: size, count, kind: rest.kind }
}

/// The lowest bit of `value` that is set.
#[inline]
const fn lowest_bit(value: u64) -> u64 {
    value & value.wrapping_neg()
}

/// What is left of `rest` behind `tile`.
#[inline]
fn behind(rest: Segment, tile: &Tile) -> Segment {
    // Memory, and addresses, may end where 64 bits do: then there is no address behind the last tile.
    let phys = PhysAddr::new(rest.phys.get().wrapping_add(tile.bytes()));
    Segment::new(phys, rest.len.minus(tile.bytes()), rest.kind)
}

impl<'a, S: Storage> Tiles<'a, S> {
    /// The runs of which no tile was taken yet.
    #[inline]
    pub(crate) fn runs(&self) -> Iter<'a, S> {
        self.runs.clone()
    }
}

impl<S: Storage> Iterator for Tiles<'_, S> {
    type Item = Tile;

    #[inline]
    fn next(&mut self) -> Option<Tile> {
        if self.rest.len == 0 {
            self.rest = self.runs.next()?;
        }
        let tile = cut(self.sizes, &mut self.step, self.iova, self.rest);
        self.rest = behind(self.rest, &tile);
        self.iova = self.iova.wrapping_add(tile.bytes());
        Some(tile)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (runs, _) = self.runs.size_hint();
        let bytes = self.runs.bytes_left().plus(self.rest.len);
        let smallest = self.sizes.smallest().map_or(0, PageSize::shift);
        let most = usize::try_from(bytes.shifted_down(smallest)).ok();
        (runs.saturating_add(usize::from(self.rest.len > 0)), most)
    }

    #[inline]
    fn fold<B, F>(self, init: B, mut f: F) -> B
    where
        F: FnMut(B, Tile) -> B,
    {
        let Self { runs, rest, iova, sizes, step } = self;
        let mut all_of = move |(mut acc, mut iova, mut step): (B, u64, Step), run: Segment| {
            let mut rest = run;
            while rest.len > 0 {
                let tile = cut(sizes, &mut step, iova, rest);
                rest = behind(rest, &tile);
                iova = iova.wrapping_add(tile.bytes());
                acc = f(acc, tile);
            }
            (acc, iova, step)
        };
        let begin = all_of((init, iova, step), rest);
        runs.fold(begin, all_of).0
    }
}

impl<S: Storage> FusedIterator for Tiles<'_, S> {}

impl<S> Clone for Tiles<'_, S> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), ..*self }
    }
}

impl<S: Storage> fmt::Debug for Tiles<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}

/// Why a window cannot be mapped at an IOVA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TileError {
    /// The set of page sizes is empty.
    NoPageSizes,
    /// The last byte of the window would need an IOVA of more than 64 bits.
    Wraps {
        /// The IOVA of the first byte.
        iova: Iova,
        /// The bytes of the window.
        len: u64,
    },
    /// The IOVA is not a multiple of the smallest size.
    MisalignedIova {
        /// The IOVA of the first byte.
        iova: Iova,
        /// The smallest size.
        smallest: PageSize,
    },
    /// A run begins, in memory, at no multiple of the smallest size.
    MisalignedMemory {
        /// Where the run begins in the window.
        offset: u64,
        /// Where it begins in memory.
        phys: PhysAddr,
        /// The smallest size.
        smallest: PageSize,
    },
    /// A run, or the window, ends at no multiple of the smallest size.
    MisalignedEnd {
        /// Where it ends in the window.
        offset: u64,
        /// The smallest size.
        smallest: PageSize,
    },
}

impl TileError {
    /// The same error, seen from a start that lies `distance` bytes before.
    pub(crate) fn further(self, distance: u64) -> Self {
        match self {
            Self::MisalignedMemory { offset, phys, smallest } => {
                Self::MisalignedMemory { offset: offset.plus(distance), phys, smallest }
            }
            Self::MisalignedEnd { offset, smallest } => {
                Self::MisalignedEnd { offset: offset.plus(distance), smallest }
            }
            Self::NoPageSizes | Self::Wraps { .. } | Self::MisalignedIova { .. } => self,
        }
    }
}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPageSizes => f.write_str("no page sizes to choose from"),
            Self::Wraps { iova, len } => {
                write!(f, "{len:#x} bytes at IOVA {iova} need more than 64 bits")
            }
            Self::MisalignedIova { iova, smallest } => {
                write!(f, "IOVA {iova} is not a multiple of {smallest}, the smallest page size")
            }
            Self::MisalignedMemory { offset, phys, smallest } => write!(
                f,
                "memory at {phys}, byte {offset:#x} of the window, is not a multiple of \
                 {smallest}, the smallest page size"
            ),
            Self::MisalignedEnd { offset, smallest } => write!(
                f,
                "contiguous memory ends at byte {offset:#x} of the window, not at a multiple of \
                 {smallest}, the smallest page size"
            ),
        }
    }
}

impl core::error::Error for TileError {}
