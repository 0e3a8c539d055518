// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Gaps`]: a walk from gap to gap, past all subtrees that have none of the size that is wanted.
//!
//! ```text
//!           Into ──► node ──► Out ──► Rest
//!                    │  ▲ │
//!        Into ◄──────┘  │ └──────► Into ..
//!         ..   Out ──► At
//! ```
//!
//! The gap in front of a range is crossed `At` its node, the one after all ranges last.
#![forbid(unsafe_code)]

use super::{IovaTree, Node, NONE};
use crate::exact::Exact as _;
use crate::{
    addr::Iova,
    iova_range::IovaRange,
    store::{Slab, Slabs},
};

/// Where the walk stands.
#[derive(Clone, Copy)]
enum Step {
    /// Before the ranges at and below a node, and the gaps in front of them.
    Into(u32),
    /// Before the range of a node itself, and the gap in front of it.
    At(u32),
    /// After the ranges at and below a node.
    Out(u32),
    /// After all ranges.
    Rest,
    Done,
}

/// The gaps of at least `len` bytes, in order, cut down to `within`.
pub(in crate::iommu::ioas) struct Gaps<'a, T, S: Slabs<Node<T>>> {
    tree: &'a IovaTree<T, S>,
    within: IovaRange,
    len: u64,
    step: Step,
}

impl<'a, T, S: Slabs<Node<T>>> Gaps<'a, T, S> {
    /// The first step is found in O(log n).
    pub(super) fn new(tree: &'a IovaTree<T, S>, within: IovaRange, len: u64) -> Self {
        // The gap in front of any earlier range ends before `within` begins.
        let step = tree.key_from(within.first()).map_or(Step::Rest, Step::At);
        // Neighbours that touch have no gap between them.
        Self { tree, within, len: len.max(1), step }
    }

    /// The addresses from `first` to `last` that are within, if they are as many as wanted.
    fn wanted(&self, first: Iova, last: Iova) -> Option<IovaRange> {
        let gap = IovaRange::inclusive(first, last).ok()?.intersection(&self.within)?;
        gap.len().is_none_or(|bytes| bytes >= self.len).then_some(gap)
    }

    /// The gap after all ranges.
    fn rest(&self) -> Option<IovaRange> {
        let last = self.tree.last_up_to(Iova::new(u64::MAX));
        let first = last.map_or(Some(Iova::new(0)), |(range, _)| range.last().checked_add(1))?;
        self.wanted(first, Iova::new(u64::MAX))
    }
}

impl<T, S: Slabs<Node<T>>> Iterator for Gaps<'_, T, S> {
    type Item = IovaRange;

    fn next(&mut self) -> Option<IovaRange> {
        let slab = &self.tree.slab;
        loop {
            match self.step {
                Step::Into(key) => {
                    let node = slab.get(key)?;
                    self.step = if node.gap < self.len {
                        Step::Out(key)
                    } else if node.link.left == NONE {
                        Step::At(key)
                    } else {
                        Step::Into(node.link.left)
                    };
                }
                Step::At(key) => {
                    let node = slab.get(key)?;
                    let after = node.link.range.first();
                    self.step = if node.link.range.last() >= self.within.last() {
                        Step::Done
                    } else if node.link.right == NONE {
                        Step::Out(key)
                    } else {
                        Step::Into(node.link.right)
                    };
                    let first = Iova::new(after.get().minus(node.before));
                    let gap = after.checked_sub(1).and_then(|last| self.wanted(first, last));
                    if gap.is_some() {
                        return gap;
                    }
                }
                Step::Out(key) => {
                    let parent = slab.get(key)?.link.parent;
                    self.step = match slab.get(parent) {
                        None => Step::Rest,
                        Some(above) if above.link.left == key => Step::At(parent),
                        Some(_) => Step::Out(parent),
                    };
                }
                Step::Rest => {
                    self.step = Step::Done;
                    return self.rest();
                }
                Step::Done => return None,
            }
        }
    }
}
