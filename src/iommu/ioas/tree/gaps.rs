// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Gaps`]: from gap to gap, past all that has none of the size that is wanted.
#![forbid(unsafe_code)]

use super::{IovaTree, Spot, TreeStore};
use crate::addr::Iova;
use crate::iova_range::IovaRange;

/// The gaps of at least `len` addresses, in order, cut down to `within`.
pub(in crate::iommu::ioas) struct Gaps<'a, T, S: TreeStore<T>> {
    tree: &'a IovaTree<T, S>,
    within: IovaRange,
    len: u64,
    next: Next,
}

/// Which gap comes next.
enum Next {
    /// What is within, and lies before all of this range.
    Before(Spot),
    /// One behind this range.
    Behind(Spot),
    /// All that is within.
    All,
    None,
}

impl<'a, T, S: TreeStore<T>> Gaps<'a, T, S> {
    pub(super) fn new(tree: &'a IovaTree<T, S>, within: IovaRange, len: u64) -> Self {
        let from = within.first();
        let next = tree.spot_from(from).map_or(Next::All, |spot| {
            let before = tree.range_at(&spot).is_some_and(|range| range.first() > from);
            if before {
                Next::Before(spot)
            } else {
                Next::Behind(spot)
            }
        });
        // Neighbours that touch have no gap between them.
        Self { tree, within, len: len.max(1), next }
    }

    /// The next gap, from its first address to its last one, perhaps more than is within.
    fn advance(&mut self) -> Option<(Iova, Iova)> {
        match core::mem::replace(&mut self.next, Next::None) {
            Next::Before(spot) => {
                self.next = Next::Behind(spot);
                let last = self.tree.range_at(&spot)?.first().checked_sub(1)?;
                Some((self.within.first(), last))
            }
            Next::Behind(mut spot) => {
                let Some(gap) = self.tree.go_to_gap(&mut spot, self.len) else {
                    return Some((self.tree.last()?.checked_add(1)?, Iova::new(u64::MAX)));
                };
                self.next = Next::Behind(spot);
                Some(gap)
            }
            Next::All => Some((self.within.first(), self.within.last())),
            Next::None => None,
        }
    }
}

impl<T, S: TreeStore<T>> Iterator for Gaps<'_, T, S> {
    type Item = IovaRange;

    fn next(&mut self) -> Option<IovaRange> {
        loop {
            let (first, last) = self.advance()?;
            if first > self.within.last() {
                self.next = Next::None;
                return None;
            }
            let gap = IovaRange::inclusive(first, last)
                .ok()
                .and_then(|gap| gap.intersection(&self.within));
            if let Some(gap) = gap.filter(|gap| gap.len().is_none_or(|len| len >= self.len)) {
                return Some(gap);
            }
        }
    }
}
