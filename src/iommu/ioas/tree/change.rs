// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges come and go, and begin or end elsewhere.
#![forbid(unsafe_code)]

use super::node::{Entry, InsertError, Node, LEAST, LEVELS, MOST};
use super::spot::Step;
use super::{IovaTree, Spot, TreeStore};
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::store::{Slab as _, NONE};

impl<T, S: TreeStore<T>> IovaTree<T, S> {
    /// Adds a range, in O(log n), and returns the key of its value.
    ///
    /// # Errors
    ///
    /// [`InsertError`] if it overlaps a range that is there, or if there is no memory; nothing has
    /// changed then.
    pub(crate) fn insert(&mut self, range: IovaRange, value: T) -> Result<u32, InsertError<T>> {
        let spot = match self.room_for(range) {
            Ok(spot) => spot,
            Err(existing) => return Err(InsertError::Overlap { existing, value }),
        };
        let Some(mut spare) = self.take_nodes(&spot) else {
            return Err(InsertError::OutOfMemory { value });
        };
        match self.values.insert(value) {
            Ok(link) => {
                self.link(&spot, Entry { range, gap: 0, link }, &mut spare);
                Ok(link)
            }
            Err(value) => {
                self.give_back(spare);
                Err(InsertError::OutOfMemory { value })
            }
        }
    }

    /// Where a range is to be put in a leaf, or the first one that it overlaps.
    fn room_for(&self, range: IovaRange) -> Result<Spot, IovaRange> {
        let (mut spot, behind) = self.near_and_behind(range.first());
        let Some(here) = self.range_at(&spot) else {
            return Ok(spot);
        };
        if here.first() > range.first() {
            return if here.first() <= range.last() { Err(here) } else { Ok(spot) };
        }
        if here.last() >= range.first() {
            return Err(here);
        }
        if behind.is_some_and(|behind| behind <= range.last()) {
            let next = self.go_on(&mut spot).and_then(|()| self.range_at(&spot));
            return Err(next.unwrap_or(here));
        }
        let [leaf, ..] = &mut spot.steps;
        *leaf = Step::new(leaf.node, leaf.index().plus(1));
        Ok(spot)
    }

    /// As many empty nodes as it takes to put an entry in at a spot; none if there is no memory for all.
    fn take_nodes(&mut self, spot: &Spot) -> Option<Spare> {
        let full = |step: &&Step| self.node(step.node).is_some_and(|node| node.len() >= MOST);
        let full = spot.steps.iter().take(self.levels).take_while(full).count();
        // A new root if the one that is there is full; the first one if there is none.
        let grows = full == self.levels;
        let mut spare = Spare { keys: [NONE; LEVELS], len: 0 };
        if full == 0 && !grows {
            return Some(spare);
        }
        if grows && self.levels >= LEVELS {
            return None;
        }
        for place in spare.keys.iter_mut().take(full.plus(usize::from(grows))) {
            let Ok(key) = self.nodes.insert(Node::EMPTY) else {
                self.give_back(spare);
                return None;
            };
            *place = key;
            spare.len = spare.len.plus(1);
        }
        Some(spare)
    }

    fn give_back(&mut self, mut spare: Spare) {
        while let Some(key) = spare.next() {
            self.nodes.remove(key);
        }
    }

    /// Puts an entry in at a spot, with the nodes that this takes.
    fn link(&mut self, spot: &Spot, entry: Entry, spare: &mut Spare) -> Option<()> {
        self.len = self.len.plus(1);
        if self.levels == 0 {
            self.root = spare.next()?;
            self.levels = 1;
            self.nodes.get_mut(self.root)?.push(entry);
            return Some(());
        }
        let (mut level, mut index, mut entry) = (0, spot.leaf().index(), entry);
        loop {
            let Step { node: key, .. } = spot.step(level);
            let node = self.nodes.get_mut(key)?;
            if node.len() < MOST {
                node.open(index, entry);
                return self.settle(spot, level, index, false);
            }
            let (end_key, cut, above) = (spare.next()?, Node::cut_for(index), level.plus(1));
            self.move_entries(key, cut, MOST.minus(cut), end_key)?;
            match index.checked_sub(cut) {
                None | Some(0) => self.nodes.get_mut(key)?.open(index, entry),
                Some(index) => self.nodes.get_mut(end_key)?.open(index, entry),
            }
            entry = self.node(end_key)?.sum(end_key)?;
            let begin = self.node(key)?.sum(key)?;
            if above == self.levels {
                let root = spare.next()?;
                let node = self.nodes.get_mut(root)?;
                node.push(begin);
                node.push(entry);
                (self.root, self.levels) = (root, above.plus(1));
                return Some(());
            }
            let step = spot.step(above);
            self.nodes.get_mut(step.node)?.set(step.index(), begin);
            (level, index) = (above, step.index().plus(1));
        }
    }

    /// Writes down above a node what has changed in it: no gap has grown but around `index`, or any one
    /// may have if entries have `moved`. Stops where nothing is seen of it.
    fn settle(
        &mut self,
        spot: &Spot,
        level: usize,
        mut index: usize,
        mut moved: bool,
    ) -> Option<()> {
        for level in level..self.levels.minus(1) {
            let (Step { node: key, .. }, above) = (spot.step(level), spot.step(level.plus(1)));
            let node = self.node(key)?;
            let (range, mut gap) = (node.span()?, node.gap_around(index));
            index = above.index();
            let mut node = self.nodes.get_mut(above.node)?;
            let known = node.gap(index).filter(|_| !moved).unwrap_or(u64::MAX);
            moved = false;
            if gap < known {
                gap = self.node(key)?.largest_gap(gap, known);
                node = self.nodes.get_mut(above.node)?;
            }
            if !node.update(index, range, gap)? {
                break;
            }
        }
        Some(())
    }

    /// Takes the range that begins at `first` out, in O(log n).
    pub(crate) fn remove(&mut self, first: Iova) -> Option<(IovaRange, T)> {
        let spot = self.near(first);
        if self.range_at(&spot)?.first() != first {
            return None;
        }
        self.remove_at(&spot)
    }

    /// Takes the range at a spot out, in O(log n).
    pub(crate) fn remove_at(&mut self, spot: &Spot) -> Option<(IovaRange, T)> {
        let (leaf, index) = (spot.leaf(), spot.leaf().index());
        let entry = self.nodes.get_mut(leaf.node)?.remove(index)?;
        self.len = self.len.minus(1);
        self.mend(spot, index)?;
        Some((entry.range, self.values.remove(entry.link)?))
    }

    /// Takes ranges out, from the one at a spot on, as many as lie in one node, up to the first that is not `wanted`;
    /// their values are [kept](Self::keep), under keys that `removed` has then. O(log n), and O(1) on average for each
    /// where there are many.
    pub(crate) fn remove_from(
        &mut self,
        spot: &Spot,
        removed: &mut Removed,
        mut wanted: impl FnMut(IovaRange, &T) -> bool,
    ) {
        (removed.next, removed.len) = (0, 0);
        let (leaf, index) = (spot.leaf(), spot.leaf().index());
        let Some(node) = self.nodes.get_mut(leaf.node) else { return };
        let entries = (index..node.len()).map_while(|index| node.entry(index));
        let entries = entries.take_while(|entry| {
            self.values.get(entry.link).is_some_and(|value| wanted(entry.range, value))
        });
        for (place, entry) in removed.keys.iter_mut().zip(entries) {
            *place = entry.link;
            removed.len = removed.len.plus(1);
        }
        if removed.len > 0 {
            node.remove_some(index, removed.len);
            self.len = self.len.minus(removed.len);
            self.mend(spot, index);
        }
    }

    /// Puts the tree in order where entries were taken out of a leaf, at `index`.
    fn mend(&mut self, spot: &Spot, index: usize) -> Option<()> {
        let mut level = 0;
        while level.plus(1) < self.levels && self.node(spot.step(level).node)?.len() < LEAST {
            level = level.plus(1);
            let above = spot.step(level);
            self.fill(above.node, above.index().saturating_sub(1))?;
        }
        self.settle(spot, level, index, level != 0)?;
        while self.levels > 1 && self.node(self.root)?.len() == 1 {
            let root = self.root;
            self.root = self.node(root)?.link(0)?;
            self.levels = self.levels.minus(1);
            self.nodes.remove(root);
        }
        Some(())
    }

    /// Fills one of two nodes, under the entries of a node at `index` and behind it, from the other, or
    /// makes both one.
    fn fill(&mut self, above: u32, index: usize) -> Option<()> {
        let node = self.node(above)?;
        let (left, right) = (node.link(index)?, node.link(index.plus(1))?);
        let [few, more] = [left, right].map(|key| self.node(key).map_or(0, Node::len));
        let (all, half) = (few.plus(more), few.plus(more) >> 1);
        if few == 0 {
            self.nodes.get_mut(above)?.remove(index)?;
            self.nodes.remove(left);
            return Some(());
        }
        if more == 0 || all <= MOST.minus(LEAST) {
            self.move_entries(right, 0, more, left)?;
            self.nodes.get_mut(above)?.remove(index.plus(1))?;
            self.nodes.remove(right);
        } else {
            for _ in half..few {
                let entry = self.nodes.get_mut(left)?.pop()?;
                self.nodes.get_mut(right)?.open(0, entry);
            }
            self.move_entries(right, 0, half.saturating_sub(few), left)?;
            let entry = self.node(right)?.sum(right)?;
            self.nodes.get_mut(above)?.set(index.plus(1), entry);
        }
        let entry = self.node(left)?.sum(left)?;
        self.nodes.get_mut(above)?.set(index, entry);
        Some(())
    }

    /// Moves entries of a node, `count` from the one at `at` on, behind those of another one, where there is room. One
    /// by one: few are moved, and a node is a kilobyte.
    fn move_entries(&mut self, from: u32, at: usize, count: usize, to: u32) -> Option<()> {
        for index in at..at.plus(count) {
            let entry = self.node(from)?.entry(index)?;
            self.nodes.get_mut(to)?.push(entry);
        }
        self.nodes.get_mut(from)?.remove_some(at, count);
        Some(())
    }

    /// Lets the range at a spot end at `last`, in O(log n): not before it begins, and not behind
    /// where the next one begins. Returns whether that was possible; nothing has changed if not.
    pub(crate) fn set_last(&mut self, spot: &Spot, last: Iova) -> bool {
        let mut next = *spot;
        let limit = self.go_on(&mut next).and_then(|()| self.range_at(&next));
        let range = self.range_at(spot).filter(|_| limit.is_none_or(|next| last < next.first()));
        let range = range.and_then(|range| IovaRange::inclusive(range.first(), last).ok());
        range.and_then(|range| self.set_range(spot, range)).is_some()
    }

    /// Lets the range at a spot begin at `first`, which is one of its addresses, in O(log n). Returns
    /// whether it is; nothing has changed if not.
    pub(crate) fn set_first(&mut self, spot: &Spot, first: Iova) -> bool {
        let range = self.range_at(spot).filter(|range| range.contains(first));
        let range = range.and_then(|range| IovaRange::inclusive(first, range.last()).ok());
        range.and_then(|range| self.set_range(spot, range)).is_some()
    }

    fn set_range(&mut self, spot: &Spot, range: IovaRange) -> Option<()> {
        let leaf = spot.leaf();
        let entry = self.entry(spot)?;
        self.nodes.get_mut(leaf.node)?.set(leaf.index(), Entry { range, ..entry });
        self.settle(spot, 0, leaf.index(), false)
    }
}

/// The keys of values whose ranges were taken out, in order.
pub(crate) struct Removed {
    keys: [u32; MOST],
    next: usize,
    len: usize,
}

impl Removed {
    pub(crate) const NOTHING: Self = Self { keys: [NONE; MOST], next: 0, len: 0 };
}

impl Iterator for Removed {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let key = self.keys.get(..self.len)?.get(self.next).copied()?;
        self.next = self.next.plus(1);
        Some(key)
    }
}

/// Empty nodes, to be used one after the other.
struct Spare {
    keys: [u32; LEVELS],
    len: usize,
}

impl Spare {
    fn next(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        self.keys.get(self.len).copied()
    }
}
