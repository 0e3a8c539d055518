// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Node`]: a range and its place in the tree; and why none was made.
#![forbid(unsafe_code)]

use crate::iova_range::IovaRange;
use crate::store::NONE;
use core::{fmt, num::NonZeroU8};

/// A range and its place in the tree.
pub struct Node<T> {
    pub(super) link: Link,
    /// The bytes between the range before and this one, or between zero and this one.
    pub(super) before: u64,
    /// The largest `before` at and below this node.
    pub(super) gap: u64,
    pub(super) value: T,
}

/// What a lookup reads: half of a cache line.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) range: IovaRange,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) parent: u32,
    /// One more than that of the taller child. (It is never zero, so a free place needs no flag.)
    pub(super) height: NonZeroU8,
}

#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl<T> Node<T> {
    pub(super) const fn single(range: IovaRange, parent: u32, before: u64, value: T) -> Self {
        let height = NonZeroU8::MIN;
        let link = Link { range, left: NONE, right: NONE, parent, height };
        Self { link, before, gap: before, value }
    }

    #[inline]
    pub(super) const fn child(&self, side: Side) -> u32 {
        match side {
            Side::Left => self.link.left,
            Side::Right => self.link.right,
        }
    }

    #[inline]
    pub(super) fn set_child(&mut self, side: Side, key: u32) {
        match side {
            Side::Left => self.link.left = key,
            Side::Right => self.link.right = key,
        }
    }
}

impl<T> fmt::Debug for Node<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.link.range).finish()
    }
}

/// The height of a node, or none, and the largest gap at and below it.
pub(super) fn sum<T>(node: Option<&Node<T>>) -> (u8, u64) {
    node.map_or((0, 0), |node| (node.link.height.get(), node.gap))
}

/// The same of a node, from what its children know.
pub(super) fn sum_of(before: u64, left: (u8, u64), right: (u8, u64)) -> (NonZeroU8, u64) {
    let height = NonZeroU8::MIN.saturating_add(left.0.max(right.0));
    (height, before.max(left.1).max(right.1))
}

/// Why a range was not made; the value comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InsertError<T> {
    /// The range overlaps one that is there: this one first.
    Overlap {
        /// That range.
        existing: IovaRange,
        /// What was to be inserted.
        value: T,
    },
    /// There is no memory for another node.
    OutOfMemory {
        /// What was to be inserted.
        value: T,
    },
}
