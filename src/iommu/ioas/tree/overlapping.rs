// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Overlapping`]: the ranges that have an address of a range, in order.
#![forbid(unsafe_code)]

use super::{IovaTree, Spot, TreeStore};
use crate::abridged::Abridged;
use crate::addr::Iova;
use crate::iova_range::IovaRange;
use crate::store::Slab as _;
use core::fmt;

/// Entries in order, up to a last address.
pub(crate) struct Overlapping<'a, T, S: TreeStore<T>> {
    pub(super) tree: &'a IovaTree<T, S>,
    pub(super) next: Option<Spot>,
    pub(super) last: Iova,
}

impl<T, S: TreeStore<T>> Clone for Overlapping<'_, T, S> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T, S: TreeStore<T>> fmt::Debug for Overlapping<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone().map(|(range, _)| range)).fmt(f)
    }
}

impl<'a, T, S: TreeStore<T>> Iterator for Overlapping<'a, T, S> {
    type Item = (IovaRange, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let mut spot = self.next.take()?;
        let entry = self.tree.entry(&spot).filter(|entry| entry.range.first() <= self.last)?;
        if entry.range.last() < self.last {
            self.next = self.tree.go_on(&mut spot).map(|()| spot);
        }
        Some((entry.range, self.tree.values.get(entry.link)?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.next.map_or(0, |_| self.tree.len)))
    }
}

impl<T, S: TreeStore<T>> core::iter::FusedIterator for Overlapping<'_, T, S> {}
