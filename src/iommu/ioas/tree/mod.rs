// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IovaTree`]: values by address range, and the gaps between them.
//!
//! A B+-tree: nodes of a slab that are linked by keys, with values of another slab below the leaves. An
//! entry of a node is a range of addresses and the largest gap in it, so a search for room passes by all
//! that has none:
//!
//! ```text
//!                      10..=4f, gap 20  │  80..=af, gap 0             between the two: 30
//!                    ┌────────┘              └────────┐
//!        10..=1f │ 40..=4f               80..=8f │ 90..=9f │ a0..=af
//!           │         │                     │         │         │
//!         value     value                 value     value     value
//! ```
//!
//! What lies before the first range and behind the last one is in no node.
//!
//! A value stays in its place of the slab while it is in the tree; what moves are entries. A node that has
//! few is joined with one beside it, so that removal gives nodes back and never needs any; insertion
//! takes what it needs before it changes anything.
#![forbid(unsafe_code)]

mod change;
mod gaps;
mod node;
mod overlapping;
mod spot;

use crate::iova_range::IovaRange;
use crate::store::{Slab, Slabs, NONE};
use crate::{abridged::Abridged, addr::Iova};
use core::fmt;

pub(crate) use change::Removed;
pub(crate) use node::{InsertError, Node};
pub(crate) use overlapping::Overlapping;
pub(crate) use spot::{Spot, Within};

/// Where a tree keeps its values and its nodes.
pub trait TreeStore<T>: Slabs<T> + Slabs<Node> {}

impl<T, S: Slabs<T> + Slabs<Node>> TreeStore<T> for S {}

/// Values under disjoint address ranges, in order; each has a key that is good until it is removed.
///
/// `n` is the number of ranges below. Nothing recurs, and nothing but [`insert`](Self::insert)
/// asks for memory.
pub(crate) struct IovaTree<T, S: TreeStore<T>> {
    values: <S as Slabs<T>>::Slab,
    nodes: <S as Slabs<Node>>::Slab,
    root: u32,
    /// Of nodes: none before the first range came.
    levels: usize,
    len: usize,
}

impl<T, S: TreeStore<T>> IovaTree<T, S> {
    /// An empty tree, whose values and nodes will be in these slabs.
    pub(crate) const fn new_in(
        values: <S as Slabs<T>>::Slab,
        nodes: <S as Slabs<Node>>::Slab,
    ) -> Self {
        Self { values, nodes, root: NONE, levels: 0, len: 0 }
    }

    /// The range that contains `iova`, in O(log n).
    #[inline]
    pub(crate) fn find(&self, iova: Iova) -> Option<(IovaRange, &T)> {
        let mut key = self.root;
        for _ in 1..self.levels {
            (_, key) = self.node(key)?.search(iova)?;
        }
        let leaf = self.node(key)?;
        let (index, key) = leaf.search(iova)?;
        let range = leaf.range(index).filter(|range| range.contains(iova))?;
        Some((range, self.values.get(key)?))
    }

    /// The value under `key`, which is in the tree or [kept](Self::keep) beside it; in O(1).
    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.values.get(key)
    }

    /// The same, to change.
    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.values.get_mut(key)
    }

    /// The first range whose last address is `iova` or above, in O(log n): the one that contains
    /// `iova`, or the next one.
    pub(crate) fn first_from(&self, iova: Iova) -> Option<(IovaRange, &T)> {
        let entry = self.entry(&self.spot_from(iova)?)?;
        Some((entry.range, self.values.get(entry.link)?))
    }

    /// The ranges that overlap `range`, in order. The first is found in O(log n), each of the rest
    /// in O(1) on average.
    pub(crate) fn overlapping(&self, range: IovaRange) -> Overlapping<'_, T, S> {
        self.walk(self.within(range))
    }

    /// Finds the ranges that overlap `range`, in O(log n), for all that is done with them before the tree changes.
    pub(crate) fn within(&self, range: IovaRange) -> Within {
        Within { first: self.spot_from(range.first()), last: range.last() }
    }

    /// [`overlapping`](Self::overlapping) ranges that were found.
    pub(crate) const fn walk(&self, Within { first, last }: Within) -> Overlapping<'_, T, S> {
        Overlapping { tree: self, next: first, last }
    }

    /// All ranges, in order.
    pub(crate) fn iter(&self) -> Overlapping<'_, T, S> {
        self.overlapping(IovaRange::ALL)
    }

    /// Hands the ranges that overlap `range` to `f`, in order, to change their values.
    pub(crate) fn for_each_mut(&mut self, range: IovaRange, f: impl FnMut(IovaRange, &mut T)) {
        self.walk_mut(self.within(range), f);
    }

    /// The same for ranges that were found.
    pub(crate) fn walk_mut(
        &mut self,
        Within { first, last }: Within,
        mut f: impl FnMut(IovaRange, &mut T),
    ) {
        let Some(mut spot) = first else { return };
        while let Some(entry) = self.entry(&spot).filter(|entry| entry.range.first() <= last) {
            let Some(value) = self.values.get_mut(entry.link) else { return };
            f(entry.range, value);
            if entry.range.last() >= last || self.go_on(&mut spot).is_none() {
                return;
            }
        }
    }

    /// The gaps within `within` that have at least `len` addresses there, in order. Each is found in
    /// O(log n). A gap of no addresses is none, even if `len` is zero.
    pub(super) fn gaps(&self, within: IovaRange, len: u64) -> gaps::Gaps<'_, T, S> {
        gaps::Gaps::new(self, within, len)
    }

    /// Keeps a value beside the tree, in the same slab; returns its key. It is found by the key only.
    ///
    /// # Errors
    ///
    /// The value, if there is no memory.
    pub(crate) fn keep(&mut self, value: T) -> Result<u32, T> {
        self.values.insert(value)
    }

    /// Takes out what is [kept](Self::keep) under `key`.
    pub(crate) fn remove_kept(&mut self, key: u32) -> Option<T> {
        self.values.remove(key)
    }
}

/// Ranges only: what is mapped may not have a `Debug`, or a long one.
impl<T, S: TreeStore<T>> fmt::Debug for IovaTree<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IovaTree")
            .field("len", &self.len)
            .field("ranges", &Abridged(self.iter().map(|(range, _)| range)))
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
