// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Segments`]: a window in parts that a scatter-gather engine can take.
#![forbid(unsafe_code)]

use crate::abridged::Abridged;
use crate::addr::PhysAddr;
use crate::exact::{self, Exact as _};
use crate::sgl::{Iter, Segment, Window};
use crate::store::Storage;
use core::{fmt, iter::FusedIterator, num::NonZeroU64};

/// What a device can take in one segment, and how many of them. An absent limit means none.
///
/// Linux keeps these as `dma_parms` (`max_segment_size`, `segment_boundary_mask`), the queue limit
/// `max_segments` and `dma_mask`.
///
/// ```
/// use pinned_sgl::granule::SegmentLimits;
/// let limits = SegmentLimits::NONE.max_len(65536)?.boundary(1 << 32)?;
/// assert!(SegmentLimits::NONE.boundary(3000).is_err());
/// # Ok::<(), pinned_sgl::granule::SegmentError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SegmentLimits {
    max_len: Option<NonZeroU64>,
    /// Invariant: a power of two.
    boundary: Option<NonZeroU64>,
    max_segments: Option<u64>,
    /// Invariant: `2^n - 1`.
    addr_mask: Option<u64>,
    /// The granularity less one. Invariant: below `max_len` and `boundary`.
    granularity_mask: u64,
}

impl SegmentLimits {
    /// No limits: a segment is a maximal run.
    pub const NONE: Self = Self {
        max_len: None,
        boundary: None,
        max_segments: None,
        addr_mask: None,
        granularity_mask: 0,
    };

    /// No segment has more than `bytes` bytes: any number, which is not rounded to pages.
    ///
    /// # Errors
    ///
    /// [`SegmentError::ZeroLength`] for zero, [`SegmentError::FinerThanGranularity`].
    pub const fn max_len(self, bytes: u64) -> Result<Self, SegmentError> {
        match NonZeroU64::new(bytes) {
            Some(bytes) => Self { max_len: Some(bytes), ..self }.checked(),
            None => Err(SegmentError::ZeroLength),
        }
    }

    /// No segment crosses a multiple of `bytes`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::BoundaryNotAPowerOfTwo`] if it is none, [`SegmentError::FinerThanGranularity`].
    pub const fn boundary(self, bytes: u64) -> Result<Self, SegmentError> {
        match NonZeroU64::new(bytes) {
            Some(bytes) if bytes.is_power_of_two() => {
                Self { boundary: Some(bytes), ..self }.checked()
            }
            _ => Err(SegmentError::BoundaryNotAPowerOfTwo { boundary: bytes }),
        }
    }

    /// Contiguous memory is cut at multiples of `bytes` alone: of a disk's sectors, or of pages. What
    /// begins or ends between two such multiples still does.
    ///
    /// ```
    /// use pinned_sgl::{MemoryKind::Ram, PageRun, PageSize, Pfn, SegmentLimits, Sgl};
    /// let run = PageRun::ram(Pfn::new(0x10), 16)?;
    /// let sgl = Sgl::from_runs(PageSize::SIZE_4K, [run])?;
    /// let limits = SegmentLimits::NONE.max_len(10_000)?.granularity(512)?;
    /// let segments = sgl.window(0x100, 30_000)?.segments(&limits)?;
    /// assert!(segments.map(|segment| segment.len).eq([9_984, 9_728, 9_728, 560]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SegmentError::GranularityNotAPowerOfTwo`] if it is none, [`SegmentError::FinerThanGranularity`] if
    /// the greatest length or the boundary is below it, so that memory could not be cut.
    pub const fn granularity(self, bytes: u64) -> Result<Self, SegmentError> {
        if !bytes.is_power_of_two() {
            return Err(SegmentError::GranularityNotAPowerOfTwo { granularity: bytes });
        }
        Self { granularity_mask: exact::u64::minus(bytes, 1), ..self }.checked()
    }

    const fn checked(self) -> Result<Self, SegmentError> {
        let finest = match (self.max_len, self.boundary) {
            (Some(len), Some(boundary)) if len.get() < boundary.get() => len.get(),
            (_, Some(boundary)) => boundary.get(),
            (Some(len), None) => len.get(),
            (None, None) => return Ok(self),
        };
        if finest <= self.granularity_mask {
            let granularity = exact::u64::plus(self.granularity_mask, 1);
            return Err(SegmentError::FinerThanGranularity { bytes: finest, granularity });
        }
        Ok(self)
    }

    /// No more than `count` segments.
    #[must_use]
    pub const fn max_segments(self, count: u64) -> Self {
        Self { max_segments: Some(count), ..self }
    }

    /// No byte has an address above `mask`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::MaskNotContiguous`] if the mask is not of the form `2^n - 1`.
    pub const fn addr_mask(self, mask: u64) -> Result<Self, SegmentError> {
        if mask & mask.wrapping_add(1) != 0 {
            return Err(SegmentError::MaskNotContiguous { mask });
        }
        Ok(Self { addr_mask: Some(mask), ..self })
    }

    /// How long a segment is that begins at `phys` and that its length alone ends, not its memory.
    #[inline]
    const fn cut_len(&self, phys: PhysAddr, max: NonZeroU64) -> u64 {
        let end = exact::u64::plus(phys.get(), max.get());
        exact::u64::minus(max.get(), end & self.granularity_mask)
    }

    /// How much of contiguous bytes from `phys` on the next segment takes, but for the granularity.
    #[inline]
    fn take(&self, phys: PhysAddr, len: u64) -> u64 {
        let mut taken = self.max_len.map_or(len, |max| len.min(max.get()));
        if let Some(boundary) = self.boundary {
            let inside = boundary.get().minus(1);
            let to_boundary = boundary.get().minus(phys.get() & inside);
            taken = taken.min(to_boundary);
        }
        taken
    }
}

impl<'a, S: Storage> Window<'a, S> {
    /// The bytes of the window in segments: none longer than the limits say, none across a
    /// boundary, none of two kinds, as few as can be. Their lengths add up to the window.
    ///
    /// O(log runs), or O(runs) where the limits have a count or a mask that must be checked.
    ///
    /// ```
    /// # use pinned_sgl::{PageRun, PageSize, Pfn, SegmentLimits, Sgl};
    /// let run = PageRun::ram(Pfn::new(0x10), 3)?;
    /// let sgl = Sgl::from_runs(PageSize::SIZE_4K, [run])?;
    /// let limits = SegmentLimits::NONE.max_len(0x2000)?.boundary(0x4000)?;
    /// let segments = sgl.window(0x800, 0x2800)?.segments(&limits)?;
    /// let bytes = segments.map(|segment| (segment.phys.get(), segment.len));
    /// assert!(bytes.eq([(0x1_0800, 0x2000), (0x1_2800, 0x800)]));
    /// assert!(sgl.whole()?.segments(&limits.max_segments(1)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SegmentError`] if there would be too many segments, with how many are needed, or if an
    /// address is beyond the mask, with where.
    pub fn segments(&self, limits: &SegmentLimits) -> Result<Segments<'a, S>, SegmentError> {
        if let Some(mask) = limits.addr_mask {
            let mut offset = 0u64;
            for run in self.iter() {
                if run.last().get() > mask {
                    let reach = mask.checked_sub(run.phys.get());
                    let fine = reach.map_or(0, |bytes| bytes.plus(1));
                    return Err(SegmentError::Unreachable {
                        offset: offset.plus(fine),
                        phys: PhysAddr::new(run.phys.get().plus(fine)),
                        mask,
                    });
                }
                offset = offset.plus(run.len);
            }
        }
        let segments = Segments { runs: self.iter(), rest: None, limits: *limits };
        if let Some(max) = limits.max_segments {
            let needed = self.segment_count(limits);
            if needed > max {
                return Err(SegmentError::TooMany { needed, max });
            }
        }
        Ok(segments)
    }

    /// How many segments the window has under these lengths and boundaries; the limits on count
    /// and addresses are not looked at. O(runs), however many segments there are.
    ///
    /// ```
    /// # use pinned_sgl::{PageRun, PageSize, Pfn, SegmentLimits, Sgl};
    /// let run = PageRun::ram(Pfn::new(0x10), 3)?;
    /// let sgl = Sgl::from_runs(PageSize::SIZE_4K, [run])?;
    /// assert_eq!(sgl.whole()?.segment_count(&SegmentLimits::NONE.max_len(1000)?), 13);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segment_count(&self, limits: &SegmentLimits) -> u64 {
        self.iter().fold(0u64, |count, run| count.plus(limits.count_in(run)))
    }
}

/// The segments of a window; made by [`Window::segments`]. A step is O(1).
#[must_use = "iterators do nothing unless they are walked"]
pub struct Segments<'a, S> {
    runs: Iter<'a, S>,
    /// What is left of the current run.
    rest: Option<Segment>,
    limits: SegmentLimits,
}

impl SegmentLimits {
    /// How many segments a run has: those up to the first boundary, those between two boundaries,
    /// and those behind the last.
    #[inline]
    fn count_in(&self, run: Segment) -> u64 {
        // Of bytes without a boundary inside: those that are cut off, and the last one.
        let cut_into = |phys, bytes: u64| match self.max_len {
            Some(max) if max.get() < bytes => {
                let rest = bytes.minus(self.cut_len(phys, max));
                let each = NonZeroU64::new(max.get() & !self.granularity_mask).unwrap_or(max);
                div_ceil(rest.saturating_sub(max.get()), each).plus(2)
            }
            _ => u64::from(bytes > 0),
        };
        let in_one = |bytes| cut_into(PhysAddr::new(0), bytes);
        let Some(boundary) = self.boundary.map(NonZeroU64::get) else {
            return cut_into(run.phys, run.len);
        };
        let inside = boundary.minus(1);
        let head = run.len.min(boundary.minus(run.phys.get() & inside));
        let rest = run.len.minus(head);
        let whole = rest.shifted_down(boundary.trailing_zeros());
        let between = if whole > 0 { whole.times(in_one(boundary)) } else { 0 };
        cut_into(run.phys, head).plus(between).plus(in_one(rest & inside))
    }

    /// Cuts the first segment off a run; the second part is what is left. Limits without a granularity
    /// are spared the question for one.
    #[inline]
    fn cut<const GRANULAR: bool>(&self, run: Segment) -> (Segment, Option<Segment>) {
        let mut taken = self.take(run.phys, run.len);
        if taken == run.len {
            return (run, None);
        }
        let mut end = run.phys.get().plus(taken);
        if GRANULAR {
            // A boundary is a multiple of the granularity, and stays.
            end &= !self.granularity_mask;
            taken = end.minus(run.phys.get());
        }
        let rest = Segment::new(PhysAddr::new(end), run.len.minus(taken), run.kind);
        (Segment::new(run.phys, taken, run.kind), Some(rest))
    }
}

/// `value / divisor`, rounded up, bit by bit: 32-bit kernels cannot divide 64 bits.
///
/// O(log of the quotient), so where there is nothing to divide it costs next to nothing.
#[inline]
fn div_ceil(value: u64, divisor: NonZeroU64) -> u64 {
    let (mut quotient, mut left) = (0u64, value);
    let mut bit = divisor.leading_zeros().saturating_sub(value.leading_zeros());
    loop {
        let part = divisor.get().shifted_up(bit);
        quotient = quotient.shifted_up(1);
        if left >= part {
            left = left.minus(part);
            quotient |= 1;
        }
        match bit.checked_sub(1) {
            Some(lower) => bit = lower,
            None => return quotient.plus(u64::from(left > 0)),
        }
    }
}

impl<S: Storage> Iterator for Segments<'_, S> {
    type Item = Segment;

    #[inline]
    fn next(&mut self) -> Option<Segment> {
        let run = match self.rest.take() {
            Some(rest) => rest,
            None => self.runs.next()?,
        };
        let (segment, rest) = self.limits.cut::<true>(run);
        self.rest = rest;
        Some(segment)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (runs, _) = self.runs.size_hint();
        let rest = self.rest.map_or(0, |rest| rest.len);
        let bytes = self.runs.bytes_left().saturating_add(rest);
        (runs.saturating_add(usize::from(rest > 0)), usize::try_from(bytes).ok())
    }

    #[inline]
    fn fold<B, F>(self, init: B, f: F) -> B
    where
        F: FnMut(B, Segment) -> B,
    {
        if self.limits.granularity_mask == 0 {
            self.fold_cut::<false, _, _>(init, f)
        } else {
            self.fold_cut::<true, _, _>(init, f)
        }
    }
}

impl<S: Storage> Segments<'_, S> {
    #[inline]
    fn fold_cut<const GRANULAR: bool, B, F>(self, init: B, mut f: F) -> B
    where
        F: FnMut(B, Segment) -> B,
    {
        let limits = self.limits;
        let mut all_of = |acc, run: Option<Segment>| {
            let (mut acc, mut rest) = (acc, run);
            while let Some(run) = rest {
                let (segment, left) = limits.cut::<GRANULAR>(run);
                acc = f(acc, segment);
                rest = left;
            }
            acc
        };
        let acc = all_of(init, self.rest);
        self.runs.fold(acc, |acc, run| all_of(acc, Some(run)))
    }
}

impl<S: Storage> FusedIterator for Segments<'_, S> {}

impl<S> Clone for Segments<'_, S> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), ..*self }
    }
}

impl<S: Storage> fmt::Debug for Segments<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}

/// Why numbers do not make [`SegmentLimits`], or why a window cannot be given to a device in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentError {
    /// A segment has at least one byte.
    ZeroLength,
    /// A boundary is a power of two.
    BoundaryNotAPowerOfTwo {
        /// What was given.
        boundary: u64,
    },
    /// A granularity is a power of two.
    GranularityNotAPowerOfTwo {
        /// What was given.
        granularity: u64,
    },
    /// The greatest length or the boundary is below the granularity.
    FinerThanGranularity {
        /// The smaller of the two.
        bytes: u64,
        /// The granularity.
        granularity: u64,
    },
    /// A mask has all its ones at the bottom.
    MaskNotContiguous {
        /// What was given.
        mask: u64,
    },
    /// The device does not take so many segments.
    TooMany {
        /// How many the window needs.
        needed: u64,
        /// How many the device takes.
        max: u64,
    },
    /// The device does not reach a byte of the window.
    Unreachable {
        /// The first such byte, counted from the start of the window.
        offset: u64,
        /// Its address.
        phys: PhysAddr,
        /// The highest address that the device reaches.
        mask: u64,
    },
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroLength => f.write_str("a maximum segment length of zero bytes"),
            Self::BoundaryNotAPowerOfTwo { boundary } => {
                write!(f, "a boundary is a power of two, not {boundary:#x}")
            }
            Self::GranularityNotAPowerOfTwo { granularity } => {
                write!(f, "a granularity is a power of two, not {granularity:#x}")
            }
            Self::FinerThanGranularity { bytes, granularity } => {
                write!(
                    f,
                    "segments of {bytes:#x} bytes cannot end at multiples of {granularity:#x}"
                )
            }
            Self::MaskNotContiguous { mask } => {
                write!(f, "an address mask is of the form 2^n - 1, not {mask:#x}")
            }
            Self::TooMany { needed, max } => {
                write!(f, "the window needs {needed} segments, the device takes {max}")
            }
            Self::Unreachable { offset, phys, mask } => {
                write!(f, "byte {offset:#x} of the window, at {phys}, is beyond {mask:#x}")
            }
        }
    }
}

impl core::error::Error for SegmentError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_up() {
        let edges =
            [0, 1, 2, 3, 5, 4095, 4096, 4097, 65536, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX];
        for value in edges {
            for divisor in edges.into_iter().filter_map(NonZeroU64::new) {
                assert_eq!(
                    div_ceil(value, divisor),
                    value.div_ceil(divisor.get()),
                    "{value} {divisor}"
                );
            }
        }
    }
}
