// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Overlapping`]: the ranges that have an address of a range, in order.
#![forbid(unsafe_code)]

use super::{IovaTree, Node};
use crate::abridged::Abridged;
use crate::addr::Iova;
use crate::iova_range::IovaRange;
use crate::store::{Slab, Slabs, NONE};
use core::fmt;

/// Entries in order, up to a last address.
pub(crate) struct Overlapping<'a, T, S: Slabs<Node<T>>> {
    pub(super) tree: &'a IovaTree<T, S>,
    pub(super) next: u32,
    pub(super) last: Iova,
}

impl<T, S: Slabs<Node<T>>> Clone for Overlapping<'_, T, S> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T, S: Slabs<Node<T>>> fmt::Debug for Overlapping<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone().map(|(range, _)| range)).fmt(f)
    }
}

impl<'a, T, S: Slabs<Node<T>>> Iterator for Overlapping<'a, T, S> {
    type Item = (IovaRange, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let node = self.tree.slab.get(self.next)?;
        if node.link.range.first() > self.last {
            self.next = NONE;
            return None;
        }
        self.next = self.tree.after(self.next, node).unwrap_or(NONE);
        Some((node.link.range, &node.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(if self.next == NONE { 0 } else { self.tree.len }))
    }
}

impl<T, S: Slabs<Node<T>>> core::iter::FusedIterator for Overlapping<'_, T, S> {}
