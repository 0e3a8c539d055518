// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Placement`]: where a mapping goes, and the [`Alignment`] at which large pages fit.
//!
//! An IOMMU page needs an IOVA and a physical address that agree in all bits below its size. So the
//! best place for a window is one that agrees, modulo the largest page that fits anywhere in it, with
//! the memory there:
//!
//! ```text
//!  window         ├───┬──────────────────────────┬───┤
//!  memory             ├ a whole aligned 2M page ─┤
//!                 └─┬─┘
//!               phase: iova ≡ phys - offset (mod 2M)
//! ```
#![forbid(unsafe_code)]

use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::page_size::{PageSize, PageSizes};
use crate::sgl::Segment;

/// Where a mapping goes in an [`Ioas`](super::Ioas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement<'a> {
    /// At this address and no other.
    At(Iova),
    /// Wherever there is room, so that the largest pages fit, and never at address 0.
    Anywhere,
    /// As [`Anywhere`](Self::Anywhere), in one of these ranges. They are tried in order.
    Within(&'a [IovaRange]),
}

/// Addresses that agree with `phase` modulo `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    size: PageSize,
    phase: u64,
}

impl Alignment {
    const fn new(size: PageSize, phase: u64) -> Self {
        Self { size, phase: phase & size.mask() }
    }

    /// The one at which the largest of `sizes` that fits anywhere in `runs` can be used, which are
    /// mapped one behind the other. O(runs).
    ///
    /// Memory in which no large page fits, or whose large pages begin at its first byte, goes to a
    /// multiple of the largest power of two that divides its length, so that mappings of one size
    /// lie side by side without gaps.
    pub(super) fn best(runs: impl Iterator<Item = Segment>, sizes: PageSizes) -> Self {
        let smallest = sizes.smallest().unwrap_or(PageSize::SIZE_4K);
        let mut best = Self::new(smallest, 0);
        let mut offset = 0u64;
        for run in runs {
            let larger = sizes.bits() & !best.size.mask() & !best.size.bytes();
            if let Some(size) = largest_page(&run, PageSizes::from_bits_retain(larger)) {
                // Memory that is not a multiple of the smallest size fits nowhere.
                let phase = run.phys.get().wrapping_sub(offset) & !smallest.mask();
                best = Self::new(size, phase);
            }
            offset = offset.plus(run.len);
        }
        if best.phase == 0 {
            let largest = sizes.largest().unwrap_or(smallest);
            let divides = PageSize::from_shift(offset.trailing_zeros());
            let natural = divides.map_or(largest, |size| size.min(largest));
            best.size = best.size.max(natural);
        }
        best
    }

    /// The same agreement modulo the next smaller of `sizes`, if there is one.
    pub(super) fn relaxed(self, sizes: PageSizes) -> Option<Self> {
        let smaller = PageSizes::from_bits_retain(sizes.bits() & self.size.mask());
        smaller.largest().map(|size| Self::new(size, self.phase))
    }

    /// The first address in `gap` at which `len` bytes begin that fit. Address 0 never does.
    pub(super) fn first_in(self, gap: IovaRange, len: u64) -> Option<Iova> {
        let from = gap.first().get().max(1);
        let first = from.checked_add(self.phase.wrapping_sub(from) & self.size.mask())?;
        let range = IovaRange::new(Iova::new(first), len).ok()?;
        gap.covers(&range).then_some(range.first())
    }
}

/// The largest of `sizes` of which a whole aligned page lies in the run.
fn largest_page(run: &Segment, sizes: PageSizes) -> Option<PageSize> {
    let fits = |size: &PageSize| {
        let begin = run.phys.checked_align_up(*size);
        let last = begin.and_then(|begin| begin.checked_add(size.mask()));
        last.is_some_and(|last| last <= run.last())
    };
    sizes.sizes().filter(fits).last()
}

#[cfg(all(test, feature = "alloc", not(loom)))]
mod tests {
    use super::*;
    use crate::{PageRun, Pfn, SglBuilder};

    fn best(runs: &[(u64, u64)], offset: u64, sizes: &str) -> (u64, u64) {
        let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
        for (start, count) in runs {
            builder.push_run(PageRun::ram(Pfn::new(*start), *count).unwrap()).unwrap();
        }
        let sgl = builder.finish().unwrap();
        let window = sgl.window(offset, sgl.byte_len() - offset).unwrap();
        let Alignment { size, phase } = Alignment::best(window.iter(), sizes.parse().unwrap());
        (size.bytes(), phase)
    }

    #[test]
    fn large_pages_decide() {
        let huge = 2 << 20;
        assert_eq!(best(&[(0x200, 0x200)], 0, "4K|2M|1G"), (huge, 0));
        // Begins 0x10 pages before a huge page.
        assert_eq!(best(&[(0x3f0, 0x410)], 0, "4K|2M"), (huge, 0x1f_0000));
        // A small run, then a huge page: the huge page decides.
        assert_eq!(best(&[(7, 3), (0x200, 0x200)], 0, "4K|2M"), (huge, (2 << 20) - 0x3000));
        assert_eq!(best(&[(7, 3), (0x200, 0x200)], 0x800, "2K|2M"), (huge, (2 << 20) - 0x2800));
    }

    #[test]
    fn without_large_pages_the_length_decides() {
        assert_eq!(best(&[(7, 4)], 0, "4K|2M"), (0x4000, 0));
        assert_eq!(best(&[(7, 6)], 0, "4K|2M"), (0x2000, 0));
        assert_eq!(best(&[(7, 5)], 0, "4K|2M"), (0x1000, 0));
        assert_eq!(best(&[(7, 1)], 0x800, "2K|1M"), (0x800, 0));
    }

    #[test]
    fn address_zero_is_never_given() {
        let all = IovaRange::ALL;
        let page = Alignment::new(PageSize::SIZE_4K, 0);
        assert_eq!(page.first_in(all, 1), Some(Iova::new(0x1000)));
        let shifted = Alignment::new(PageSize::SIZE_2M, 0x3000);
        assert_eq!(shifted.first_in(all, 0x1000), Some(Iova::new(0x3000)));
        assert_eq!(shifted.relaxed(PageSizes::SIZE_4K | PageSizes::SIZE_2M), Some(page));
        assert_eq!(page.relaxed(PageSizes::SIZE_4K), None);
        let end = IovaRange::inclusive(Iova::new(u64::MAX - 4095), Iova::new(u64::MAX)).unwrap();
        assert_eq!(page.first_in(end, 4096), Some(end.first()));
        assert_eq!(page.first_in(end, 4097), None);
        assert_eq!(shifted.first_in(end, 1), None);
    }
}
