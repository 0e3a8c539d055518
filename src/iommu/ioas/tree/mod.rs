// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IovaTree`]: values by address range, and the gaps between them.
//!
//! A balanced binary tree (AVL) in a slab, linked by keys. Each node knows the gap in front of its
//! range, and the largest one of those at and below it. That is all that a search for room needs to
//! pass by a subtree that has none:
//!
//! ```text
//!                  40..=4f                 gap 20, largest 30
//!                 ┌───┴───┐
//!              10..=1f  90..=9f            gap 10 │ gap 0, largest 30
//!                      ┌──┴──┐
//!                  80..=8f  a0..=af        gap 30 │ gap 0
//! ```
//!
//! A range that is appended changes no gap but its own, so hardly any node has to learn of it. The
//! first range has the addresses from zero in front of it. What comes after the last one is in no
//! node.
//!
//! A value stays in its place of the slab while it is in the tree: nodes are linked anew, never
//! moved, so a key is good until its range is removed.
#![forbid(unsafe_code)]

mod gaps;
mod node;
mod overlapping;

use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::store::{Slab, Slabs, NONE};
use crate::{abridged::Abridged, addr::Iova};
use core::{fmt, marker::PhantomData, num::NonZeroU8};

use node::{sum, sum_of, Link, Side};
pub(crate) use node::{InsertError, Node};
pub(crate) use overlapping::Overlapping;

/// Values under disjoint address ranges, in order; each has a key that is good until it is removed.
///
/// `n` is the number of ranges below. Nothing recurs, and nothing but [`insert`](Self::insert)
/// asks for memory.
pub(crate) struct IovaTree<T, S: Slabs<Node<T>>> {
    slab: S::Slab,
    root: u32,
    len: usize,
    values: PhantomData<T>,
}

impl<T, S: Slabs<Node<T>>> IovaTree<T, S> {
    /// An empty tree, whose nodes will be in `slab`.
    pub(crate) const fn new_in(slab: S::Slab) -> Self {
        Self { slab, root: NONE, len: 0, values: PhantomData }
    }

    /// The range under `key`, in O(1).
    #[inline]
    pub(crate) fn range_of(&self, key: u32) -> Option<IovaRange> {
        self.slab.get(key).map(|node| node.link.range)
    }

    /// The key of the range that contains `iova`, in O(log n).
    #[inline]
    pub(crate) fn key_of(&self, iova: Iova) -> Option<u32> {
        self.search(iova).map(|(key, _)| key)
    }

    /// The range that contains `iova`, in O(log n).
    #[inline]
    pub(crate) fn find(&self, iova: Iova) -> Option<(IovaRange, &T)> {
        self.search(iova).map(|(_, node)| (node.link.range, &node.value))
    }

    /// The range that contains `iova`, to change, in O(log n).
    pub(crate) fn find_mut(&mut self, iova: Iova) -> Option<(IovaRange, &mut T)> {
        let key = self.key_of(iova)?;
        self.slab.get_mut(key).map(|node| (node.link.range, &mut node.value))
    }

    /// The value under `key`, to change, in O(1).
    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.slab.get_mut(key).map(|node| &mut node.value)
    }

    /// The first range whose last address is `iova` or above, in O(log n): the one that contains
    /// `iova`, or the next one.
    pub(crate) fn first_from(&self, iova: Iova) -> Option<(IovaRange, &T)> {
        let node = self.slab.get(self.key_from(iova)?)?;
        Some((node.link.range, &node.value))
    }

    /// The key of [`first_from`](Self::first_from).
    pub(crate) fn key_from(&self, iova: Iova) -> Option<u32> {
        let (mut key, mut found) = (self.root, None);
        while let Some(node) = self.slab.get(key) {
            let range = node.link.range;
            if range.last() < iova {
                key = node.link.right;
            } else {
                found = Some(key);
                if range.first() <= iova {
                    break;
                }
                key = node.link.left;
            }
        }
        found
    }

    /// The last range whose first address is `iova` or below, in O(log n): the one that contains
    /// `iova`, or the one before.
    pub(crate) fn last_up_to(&self, iova: Iova) -> Option<(IovaRange, &T)> {
        let node = self.slab.get(self.key_up_to(iova)?)?;
        Some((node.link.range, &node.value))
    }

    /// The key of [`last_up_to`](Self::last_up_to).
    pub(crate) fn key_up_to(&self, iova: Iova) -> Option<u32> {
        let (mut key, mut found) = (self.root, None);
        while let Some(node) = self.slab.get(key) {
            let range = node.link.range;
            if range.first() > iova {
                key = node.link.left;
            } else {
                found = Some(key);
                if range.last() >= iova {
                    break;
                }
                key = node.link.right;
            }
        }
        found
    }

    /// The key of the range after that of `key`, in O(log n), and in O(1) on average when walking.
    #[inline]
    pub(crate) fn next(&self, key: u32) -> Option<u32> {
        self.after(key, self.slab.get(key)?)
    }

    /// The key of the range after `node`, which is under `key`.
    fn after(&self, key: u32, node: &Node<T>) -> Option<u32> {
        let mut below = node.link.right;
        if below != NONE {
            loop {
                let left = self.slab.get(below)?.link.left;
                if left == NONE {
                    return Some(below);
                }
                below = left;
            }
        }
        let (mut child, mut above) = (key, node.link.parent);
        loop {
            let link = &self.slab.get(above)?.link;
            if link.left == child {
                return Some(above);
            }
            (child, above) = (above, link.parent);
        }
    }

    /// The ranges that overlap `range`, in order. The first is found in O(log n), each of the rest
    /// in O(1) on average.
    pub(crate) fn overlapping(&self, range: IovaRange) -> Overlapping<'_, T, S> {
        let next = self.key_from(range.first()).unwrap_or(NONE);
        Overlapping { tree: self, next, last: range.last() }
    }

    /// All ranges, in order.
    pub(crate) fn iter(&self) -> Overlapping<'_, T, S> {
        self.overlapping(IovaRange::ALL)
    }

    /// Hands the ranges that overlap `range` to `f`, in order, to change their values.
    pub(crate) fn for_each_mut(&mut self, range: IovaRange, mut f: impl FnMut(IovaRange, &mut T)) {
        let mut next = self.key_from(range.first());
        while let Some((key, node)) = next.and_then(|key| Some((key, self.slab.get_mut(key)?))) {
            if node.link.range.first() > range.last() {
                return;
            }
            f(node.link.range, &mut node.value);
            next = self.next(key);
        }
    }

    /// Lets the range under `key` end at `last`, in O(log n): not before it begins, and not behind
    /// where the next one begins. Returns whether that was possible; nothing has changed if not.
    pub(crate) fn set_last(&mut self, key: u32, last: Iova) -> bool {
        let Some(first) = self.range_of(key).map(|range| range.first()) else {
            return false;
        };
        let next = self.next(key);
        let limit = next.and_then(|next| self.range_of(next)).map(|range| range.first());
        let (Ok(range), true) =
            (IovaRange::inclusive(first, last), limit.is_none_or(|limit| last < limit))
        else {
            return false;
        };
        self.change(key, |node| node.link.range = range);
        if let Some(next) = next {
            let begin = last.get().plus(1);
            self.change(next, |node| {
                node.before = node.link.range.first().get().minus(begin);
            });
            self.settle(next);
        }
        true
    }

    /// Lets the range under `key` begin at `first`, which is one of its addresses, in O(log n). Returns
    /// whether it is; nothing has changed if not.
    pub(crate) fn set_first(&mut self, key: u32, first: Iova) -> bool {
        let Some(old) = self.range_of(key).filter(|range| range.contains(first)) else {
            return false;
        };
        let Ok(range) = IovaRange::inclusive(first, old.last()) else {
            return false;
        };
        self.change(key, |node| {
            node.before = node.before.plus(first.get().minus(old.first().get()));
            node.link.range = range;
        });
        self.settle(key);
        true
    }

    /// The gaps within `within` that have at least `len` addresses there, in order.
    pub(super) fn gaps(&self, within: IovaRange, len: u64) -> gaps::Gaps<'_, T, S> {
        gaps::Gaps::new(self, within, len)
    }

    /// The first answer of `fits`, which is asked about the gaps within `within` that have at least
    /// `len` bytes there, from low to high. What lies outside of `within` does not count.
    ///
    /// Each gap is found in O(log n). A gap of no bytes is none, even if `len` is zero.
    pub(crate) fn fit(
        &self,
        within: IovaRange,
        len: u64,
        fits: impl FnMut(IovaRange) -> Option<Iova>,
    ) -> Option<Iova> {
        self.gaps(within, len).find_map(fits)
    }

    /// Adds a range, in O(log n), and returns its key.
    ///
    /// # Errors
    ///
    /// [`InsertError`] if it overlaps a range that is there, or if there is no memory; nothing has
    /// changed then.
    pub(crate) fn insert(&mut self, range: IovaRange, value: T) -> Result<u32, InsertError<T>> {
        let (mut key, mut parent, mut side) = (self.root, NONE, Side::Left);
        // Where the gap begins that the range is put into, and the range at its end.
        let (mut begin, mut after) = (0, NONE);
        while let Some(node) = self.slab.get(key) {
            let there = node.link.range;
            side = if range.last() < there.first() {
                after = key;
                Side::Left
            } else if range.first() > there.last() {
                begin = there.last().get().plus(1);
                Side::Right
            } else {
                let existing = self.first_from(range.first()).map_or(there, |(first, _)| first);
                return Err(InsertError::Overlap { existing, value });
            };
            (parent, key) = (key, node.child(side));
        }
        let before = range.first().get().minus(begin);
        let key = match self.slab.insert(Node::single(range, parent, before, value)) {
            Ok(key) => key,
            Err(node) => return Err(InsertError::OutOfMemory { value: node.value }),
        };
        if parent == NONE {
            self.root = key;
        } else {
            self.change(parent, |node| node.set_child(side, key));
        }
        self.change(after, |node| {
            let begin = range.last().get().plus(1);
            node.before = node.link.range.first().get().minus(begin);
        });
        self.len = self.len.plus(1);
        self.settle(parent);
        self.settle(after);
        Ok(key)
    }

    /// Keeps a value and a range beside the tree, in the same slab; returns its key. It is found by the
    /// key only.
    ///
    /// # Errors
    ///
    /// The value, if there is no memory.
    pub(crate) fn keep(&mut self, range: IovaRange, value: T) -> Result<u32, T> {
        self.slab.insert(Node::single(range, NONE, 0, value)).map_err(|node| node.value)
    }

    /// What is [kept](Self::keep) under `key`, or is in the tree under it.
    pub(crate) fn get(&self, key: u32) -> Option<(IovaRange, &T)> {
        self.slab.get(key).map(|node| (node.link.range, &node.value))
    }

    /// Takes out what is [kept](Self::keep) under `key`.
    pub(crate) fn remove_kept(&mut self, key: u32) -> Option<T> {
        self.slab.remove(key).map(|node| node.value)
    }

    /// Takes the range that begins at `first` out, in O(log n).
    pub(crate) fn remove(&mut self, first: Iova) -> Option<(IovaRange, T)> {
        let (key, node) = self.search(first)?;
        if node.link.range.first() != first {
            return None;
        }
        self.remove_key(key)
    }

    /// Takes the range under `key` out, in O(log n).
    pub(crate) fn remove_key(&mut self, key: u32) -> Option<(IovaRange, T)> {
        let &Node { link, before, gap, .. } = self.slab.get(key)?;
        let Link { range, left, right, parent, height } = link;
        // Its place and the gap in front of it become part of the next gap.
        let after = self.next(key).unwrap_or(NONE);
        let begin = range.first().get().minus(before);
        self.change(after, |node| node.before = node.link.range.first().get().minus(begin));
        // What replaces the node, and the lowest node below which something changed.
        let (heir, lowest) = if left == NONE || right == NONE {
            (if left == NONE { right } else { left }, parent)
        } else {
            let heir = after;
            let Link { right: orphan, parent: above, .. } = self.slab.get(heir)?.link;
            let lowest = if heir == right {
                heir
            } else {
                self.change(above, |node| node.link.left = orphan);
                self.change(orphan, |node| node.link.parent = above);
                self.change(heir, |node| node.link.right = right);
                self.change(right, |node| node.link.parent = heir);
                above
            };
            self.change(left, |node| node.link.parent = heir);
            self.change(heir, |node| {
                node.link.left = left;
                // What the nodes above have seen in this place so far.
                (node.link.height, node.gap) = (height, gap);
            });
            (heir, lowest)
        };
        self.change(heir, |node| node.link.parent = parent);
        self.replace(parent, key, heir);
        let node = self.slab.remove(key)?;
        self.len = self.len.minus(1);
        self.settle(lowest);
        self.settle(after);
        Some((range, node.value))
    }

    #[inline]
    fn search(&self, iova: Iova) -> Option<(u32, &Node<T>)> {
        let mut key = self.root;
        loop {
            let node = self.slab.get(key)?;
            if iova < node.link.range.first() {
                key = node.link.left;
            } else if iova > node.link.range.last() {
                key = node.link.right;
            } else {
                return Some((key, node));
            }
        }
    }

    #[inline]
    fn change(&mut self, key: u32, change: impl FnOnce(&mut Node<T>)) {
        if let Some(node) = self.slab.get_mut(key) {
            change(node);
        }
    }

    /// Links `new` where `old` is a child of `parent`, or the root.
    fn replace(&mut self, parent: u32, old: u32, new: u32) {
        if parent == NONE {
            self.root = new;
        } else {
            self.change(parent, |node| {
                let side = if node.link.left == old { Side::Left } else { Side::Right };
                node.set_child(side, new);
            });
        }
    }

    #[inline]
    fn height(&self, key: u32) -> u8 {
        self.slab.get(key).map_or(0, |node| node.link.height.get())
    }

    /// Balances the nodes from `key` upwards and notes in them what lies below them, up to the first
    /// that sees no difference.
    ///
    /// Where two nodes have changed, one is above the other. It is settled after that, which finds
    /// nothing left to do if the first walk came by.
    fn settle(&mut self, mut key: u32) {
        while let Some(node) = self.slab.get(key) {
            let old = (node.link.height, node.gap);
            let parent = node.link.parent;
            let left = sum(self.slab.get(node.link.left));
            let right = sum(self.slab.get(node.link.right));
            let new = if left.0 > right.0.saturating_add(1) {
                self.rise(key, Side::Left)
            } else if right.0 > left.0.saturating_add(1) {
                self.rise(key, Side::Right)
            } else {
                let new = sum_of(node.before, left, right);
                if new != old {
                    self.change(key, |node| (node.link.height, node.gap) = new);
                }
                new
            };
            if new == old {
                return;
            }
            key = parent;
        }
    }

    /// Balances node `key`, whose child on `side` is too tall, and returns the sum of the one in its
    /// place now.
    fn rise(&mut self, key: u32, side: Side) -> (NonZeroU8, u64) {
        let child = self.slab.get(key).map_or(NONE, |node| node.child(side));
        if let Some(node) = self.slab.get(child) {
            if self.height(node.child(side.other())) > self.height(node.child(side)) {
                self.rotate(child, side.other());
            }
        }
        self.rotate(key, side)
    }

    /// Puts the child on `side` in the place of node `key`, and the node below it:
    ///
    /// ```text
    ///       key             child
    ///      ┌─┴─┐            ┌─┴─┐
    ///    child  c    ──►    a  key       (side: left)
    ///   ┌─┴─┐                 ┌─┴─┐
    ///   a   b                 b   c
    /// ```
    fn rotate(&mut self, key: u32, side: Side) -> (NonZeroU8, u64) {
        let (child, parent) =
            self.slab.get(key).map_or((NONE, NONE), |node| (node.child(side), node.link.parent));
        let inner = self.slab.get(child).map_or(NONE, |node| node.child(side.other()));
        self.change(inner, |node| node.link.parent = key);
        self.change(key, |node| {
            node.set_child(side, inner);
            node.link.parent = child;
        });
        self.change(child, |node| {
            node.set_child(side.other(), key);
            node.link.parent = parent;
        });
        self.replace(parent, key, child);
        self.sum_up(key);
        self.sum_up(child)
    }

    /// Updates what a node knows of those below it.
    fn sum_up(&mut self, key: u32) -> (NonZeroU8, u64) {
        let Some(node) = self.slab.get(key) else {
            return (NonZeroU8::MIN, 0);
        };
        let left = sum(self.slab.get(node.link.left));
        let new = sum_of(node.before, left, sum(self.slab.get(node.link.right)));
        self.change(key, |node| (node.link.height, node.gap) = new);
        new
    }
}

/// Ranges only: what is mapped may not have a `Debug`, or a long one.
impl<T, S: Slabs<Node<T>>> fmt::Debug for IovaTree<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IovaTree")
            .field("len", &self.len)
            .field("ranges", &Abridged(self.iter().map(|(range, _)| range)))
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
