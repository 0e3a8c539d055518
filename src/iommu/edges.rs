// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a mapping may be cut: at the edges of page table entries.
//!
//! ```text
//!  run       ├──────────────────────────────────────────────────┤
//!  entries   ├4K┼4K┼────────── 2M ──────────┼───── 2M ─────┼4K┼4K┤
//!  offset                 ▲
//!               below ◄───┴────► above
//! ```
//!
//! The entries of a run are the largest aligned pages that fit in it, so each can be found from the
//! ends of the run alone: no page table is read, and no tile is counted.
#![forbid(unsafe_code)]

use super::domain::{Cuts, Domain};
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::page_size::PageSizes;
use crate::sgl::Window;
use crate::store::Storage;

/// The nearest places at or around `offset` where a mapping may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// At or before the offset.
    pub below: u64,
    /// At or behind the offset.
    pub above: u64,
}

impl Edges {
    /// Those around byte `offset` of `window`, mapped at `iova` in pages of `sizes`. O(log runs +
    /// sizes).
    ///
    /// The ends of the window are edges; so is every offset beyond them.
    pub(super) fn around<S: Storage>(
        window: &Window<'_, S>,
        sizes: PageSizes,
        iova: Iova,
        offset: u64,
    ) -> Self {
        let Some((begin, run)) = window.segment_at(offset) else {
            return Self { below: offset, above: offset };
        };
        let first = iova.get().plus(begin);
        let at = iova.get().plus(offset);
        let last = first.plus(run.len.minus(1));
        let differs = first ^ run.phys.get();
        // The largest page around `at` that lies in the run, and at the same place of a page there.
        let mut entry = (at, at);
        for size in sizes.sizes() {
            let page = (at & !size.mask(), at | size.mask());
            if differs & size.mask() == 0 && first <= page.0 && page.1 <= last {
                entry = page;
            }
        }
        if entry.0 == at {
            return Self { below: offset, above: offset };
        }
        let from = |address: u64| address.minus(iova.get());
        Self { below: from(entry.0), above: from(entry.1).plus(1) }
    }

    /// Those around byte `offset` of `window`, mapped at `iova` in `domain`, at which the domain can cut
    /// it. O(log runs + sizes).
    pub(super) fn of_domain<D: Domain + ?Sized, S: Storage>(
        domain: &D,
        window: &Window<'_, S>,
        iova: Iova,
        offset: u64,
    ) -> Self {
        let sizes = domain.page_sizes();
        match (domain.cuts(), sizes.smallest()) {
            (Cuts::Anywhere, Some(smallest)) => Self::around(window, smallest.into(), iova, offset),
            (Cuts::Entries, Some(_)) => Self::around(window, sizes, iova, offset),
            (Cuts::Never, _) | (_, None) if offset != 0 && offset < window.len() => {
                Self { below: 0, above: window.len() }
            }
            _ => Self { below: offset, above: offset },
        }
    }

    /// Whether the offset itself is an edge.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.below == self.above
    }
}

#[cfg(all(test, feature = "alloc", not(loom)))]
mod tests {
    use super::*;
    use crate::{PageRun, PageSize, Pfn, SglBuilder};

    /// The edges are where the tiles say: at every page of every tile.
    #[test]
    fn edges_are_those_of_the_tiles() {
        let half = 2048;
        for sizes in ["2K", "4K", "2K|8K", "4K|16K", "4K|8K|64K", "2K|4K|8K|16K|32K"] {
            let sizes: PageSizes = sizes.parse().unwrap();
            let smallest = sizes.smallest().unwrap().bytes();
            for (start, count) in [(0, 40), (3, 33), (5, 8), (16, 16)] {
                let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
                builder.push_run(PageRun::ram(Pfn::new(start), count).unwrap()).unwrap();
                builder.push_run(PageRun::ram(Pfn::new(100), 9).unwrap()).unwrap();
                let sgl = builder.finish().unwrap();
                for iova in (0..20).map(|step| Iova::new(step * smallest.max(half))) {
                    let window = sgl.whole().unwrap();
                    let Ok(tiles) = window.tiles(sizes, iova) else {
                        continue;
                    };
                    let mut edges = vec![];
                    for tile in tiles {
                        for page in 0..tile.count {
                            edges
                                .push(tile.iova.get() - iova.get() + page * tile.page_size.bytes());
                        }
                    }
                    edges.push(window.len());
                    for offset in (0..=window.len()).step_by(512) {
                        let below = *edges.iter().filter(|edge| **edge <= offset).max().unwrap();
                        let above = *edges.iter().filter(|edge| **edge >= offset).min().unwrap();
                        let around = Edges::around(&window, sizes, iova, offset);
                        // Inside the smallest page there is no finer edge to be found.
                        assert_eq!(around, Edges { below, above }, "{sizes} {iova} {offset:#x}");
                    }
                }
            }
        }
    }
}
