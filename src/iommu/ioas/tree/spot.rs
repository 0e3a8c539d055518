// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Spot`]: where a range lies in the tree, and how to go on from there.
#![forbid(unsafe_code)]

use super::node::{Entry, Node, Place, LEVELS};
use super::{IovaTree, TreeStore};
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::store::{Slab as _, NONE};

/// The ranges that overlap another one, found: the first of them, and where it ends. Good until the tree changes.
#[derive(Clone, Copy)]
pub(crate) struct Within {
    pub(super) first: Option<Spot>,
    pub(super) last: Iova,
}

impl Within {
    pub(crate) const fn first(&self) -> Option<Spot> {
        self.first
    }
}

/// Where a range lies in the tree: the way there. Good until the tree changes.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    /// A node of each level, leaves first, and which of its entries.
    pub(super) steps: [Step; LEVELS],
}

/// Small, as a spot is copied; without padding, so that it is written at once.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) node: u32,
    index: u32,
}

impl Step {
    pub(super) const NONE: Self = Self { node: NONE, index: 0 };

    #[inline]
    pub(super) fn new(node: u32, index: usize) -> Self {
        Self { node, index: u32::try_from(index).unwrap_or(u32::MAX) }
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        self.index as usize
    }
}

impl Spot {
    #[inline]
    pub(super) fn step(&self, level: usize) -> Step {
        self.steps.get(level).copied().unwrap_or(Step::NONE)
    }

    #[inline]
    pub(super) fn leaf(&self) -> Step {
        let [leaf, ..] = self.steps;
        leaf
    }
}

impl<T, S: TreeStore<T>> IovaTree<T, S> {
    #[inline]
    pub(super) fn node(&self, key: u32) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// The last range that begins at `at` or before, or the first one if none does; where the first one
    /// would be, if there is none.
    #[inline]
    pub(crate) fn near(&self, at: Iova) -> Spot {
        self.near_and_behind(at).0
    }

    /// The same, and where the range behind that one begins, if there is one.
    #[inline]
    pub(super) fn near_and_behind(&self, at: Iova) -> (Spot, Option<Iova>) {
        let mut spot = Spot { steps: [Step::NONE; LEVELS] };
        let (mut key, mut behind) = (self.root, None);
        let steps = spot.steps.get_mut(..self.levels).unwrap_or_default();
        for step in steps.iter_mut().rev() {
            let Some(node) = self.node(key) else {
                break;
            };
            // Before all of them is at the first one.
            let found = node.search(at).or_else(|| Some((0, node.link(0)?)));
            let (index, link) = found.unwrap_or((0, NONE));
            *step = Step::new(key, index);
            key = link;
            // The lowest node that has one more entry knows it.
            behind = node.first_of(index.plus(1)).or(behind);
        }
        (spot, behind)
    }

    /// The first range whose last address is `at` or above, in O(log n): the one that contains `at`,
    /// or the next one.
    pub(crate) fn spot_from(&self, at: Iova) -> Option<Spot> {
        let mut spot = self.near(at);
        let here = self.range_at(&spot)?;
        (here.last() >= at || self.go_on(&mut spot).is_some()).then_some(spot)
    }

    #[inline]
    pub(super) fn entry(&self, spot: &Spot) -> Option<Entry> {
        let leaf = spot.leaf();
        self.node(leaf.node)?.entry(leaf.index())
    }

    /// The range at a spot.
    #[inline]
    pub(crate) fn range_at(&self, spot: &Spot) -> Option<IovaRange> {
        self.entry(spot).map(|entry| entry.range)
    }

    /// The value at a spot, to change.
    #[inline]
    pub(crate) fn value_at(&mut self, spot: &Spot) -> Option<&mut T> {
        let key = self.entry(spot)?.link;
        self.values.get_mut(key)
    }

    /// Goes to the next range, in O(log n), and in O(1) on average when walking; `None` if there is none.
    #[inline]
    pub(crate) fn go_on(&self, spot: &mut Spot) -> Option<()> {
        for level in 0..self.levels {
            let step = spot.step(level);
            let next = step.index().plus(1);
            if next < self.node(step.node)?.len() {
                *spot.steps.get_mut(level)? = Step::new(step.node, next);
                return self.go_down(spot, level);
            }
        }
        None
    }

    /// Goes to the next range in front of which there is a gap of `len` addresses or more, and returns
    /// the addresses from the end of the range before to the last one in front of it. O(log n).
    pub(super) fn go_to_gap(&self, spot: &mut Spot, len: u64) -> Option<(Iova, Iova)> {
        let (mut level, mut looked_at) = (0usize, true);
        loop {
            let Step { node: key, .. } = spot.step(level);
            let node = self.node(key)?;
            match node.next_gap(spot.step(level).index(), looked_at, len) {
                Some(Place::In(index)) => {
                    *spot.steps.get_mut(level)? = Step::new(key, index);
                    level = level.checked_sub(1)?;
                    *spot.steps.get_mut(level)? = Step::new(node.link(index)?, 0);
                    looked_at = false;
                }
                Some(Place::Before(index)) => {
                    *spot.steps.get_mut(level)? = Step::new(key, index);
                    self.go_down(spot, level)?;
                    let before = node.range(index.checked_sub(1)?)?.last();
                    let behind = node.range(index)?.first();
                    return Some((before.checked_add(1)?, behind.checked_sub(1)?));
                }
                None => {
                    level = level.plus(1);
                    if level >= self.levels {
                        return None;
                    }
                    looked_at = true;
                }
            }
        }
    }

    /// The last address of all ranges.
    pub(super) fn last(&self) -> Option<Iova> {
        let root = self.node(self.root)?;
        root.range(root.len().checked_sub(1)?).map(|range| range.last())
    }

    /// Goes to the first range below the entry at a level.
    fn go_down(&self, spot: &mut Spot, level: usize) -> Option<()> {
        if level == 0 {
            return Some(());
        }
        let above = spot.step(level);
        let mut key = self.node(above.node)?.link(above.index())?;
        for step in spot.steps.get_mut(..level)?.iter_mut().rev() {
            *step = Step::new(key, 0);
            key = self.node(key)?.link(0)?;
        }
        Some(())
    }
}
