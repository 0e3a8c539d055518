// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Runs`]: the maximal runs of a list, in order.
#![forbid(unsafe_code)]

use super::leaves::Leaves;
use super::packed::{self, Group};
use super::run::PageRun;
use super::storage::Storage;
use core::{fmt, iter::FusedIterator};

/// The maximal runs of a range of pages, the first and the last of them clipped to the range.
///
/// Made by [`Sgl::runs`](super::Sgl::runs). A step is O(1); nothing is decoded ahead. `fold`, and
/// so `for_each`, `sum` and the like, decodes a group at a time and is faster than `next`.
pub struct Runs<'a, S> {
    leaves: &'a Leaves<S>,
    leaf: &'a [u8],
    leaf_index: usize,
    leaf_first: u64,
    group: Group,
    group_index: usize,
    /// The page after the last of the group.
    group_end: u64,
    /// The run that comes next, as a number in the group, and its first page.
    index: usize,
    run_first: u64,
    /// The page that comes next.
    at: u64,
    end: u64,
    /// The pages of the whole list: where its last group ends.
    total: u64,
}

impl<'a, S: Storage> Runs<'a, S> {
    /// The runs of the pages from `from` up to `to`, of a list of `total` pages. O(log runs).
    #[inline]
    pub(super) fn new(leaves: &'a Leaves<S>, total: u64, from: u64, to: u64) -> Self {
        let (leaf_index, leaf_first) = leaves.find(from);
        let leaf = leaves.leaf(leaf_index);
        let group_index = packed::find_group(leaf, from.wrapping_sub(leaf_first));
        let group = packed::group(leaf, group_index);
        let group_first = leaf_first.wrapping_add(group.first);
        let index = group.find(leaf, from.wrapping_sub(group_first));
        let mut runs = Self {
            leaves,
            leaf,
            leaf_index,
            leaf_first,
            group,
            group_index,
            group_end: total,
            index,
            run_first: group_first.wrapping_add(group.offset(leaf, index)),
            at: from,
            end: to,
            total,
        };
        runs.group_end = runs.find_group_end();
        runs
    }

    #[inline]
    fn group_first(&self) -> u64 {
        self.leaf_first.wrapping_add(self.group.first)
    }

    /// Where the next group begins.
    #[inline]
    fn find_group_end(&self) -> u64 {
        match packed::group_first(self.leaf, self.group_index.wrapping_add(1)) {
            Some(first) => self.leaf_first.wrapping_add(first),
            None => self.leaves.first_page(self.leaf_index.wrapping_add(1)).unwrap_or(self.total),
        }
    }

    fn next_group(&mut self) {
        self.group_index = self.group_index.wrapping_add(1);
        if self.group_index >= packed::groups(self.leaf) {
            self.leaf_index = self.leaf_index.wrapping_add(1);
            self.leaf = self.leaves.leaf(self.leaf_index);
            self.leaf_first = self.group_end;
            self.group_index = 0;
        }
        self.group = packed::group(self.leaf, self.group_index);
        self.group_end = self.find_group_end();
        self.index = 0;
        self.run_first = self.group_first();
    }

    /// The pages that are still to come.
    #[inline]
    pub(crate) fn pages_left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// How many runs are still to come. O(groups), nothing is decoded.
    pub(crate) fn count_left(mut self) -> u64 {
        let mut count = 0u64;
        while self.at < self.end {
            if self.group_end >= self.end {
                let last = self.end.wrapping_sub(1).wrapping_sub(self.group_first());
                let last = self.group.find(self.leaf, last);
                return count.wrapping_add((last.wrapping_sub(self.index) as u64).wrapping_add(1));
            }
            count = count.wrapping_add(self.group.count.wrapping_sub(self.index) as u64);
            self.at = self.group_end;
            self.next_group();
        }
        count
    }
}

impl<S: Storage> Iterator for Runs<'_, S> {
    type Item = PageRun;

    #[inline]
    fn next(&mut self) -> Option<PageRun> {
        if self.at >= self.end {
            return None;
        }
        let next = self.index.wrapping_add(1);
        let next_first = if next < self.group.count {
            self.group_first().wrapping_add(self.group.offset(self.leaf, next))
        } else {
            self.group_end
        };
        let skipped = self.at.wrapping_sub(self.run_first);
        let stop = next_first.min(self.end);
        let start = self.group.start(self.leaf, self.index).wrapping_add(skipped);
        let run = PageRun::stored(start, stop.wrapping_sub(self.at), self.group.kind);
        self.at = stop;
        self.index = next;
        self.run_first = next_first;
        if next == self.group.count && stop < self.end {
            self.next_group();
        }
        Some(run)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let pages = usize::try_from(self.pages_left());
        (usize::from(self.at < self.end), pages.ok())
    }

    fn fold<B, F>(mut self, init: B, mut f: F) -> B
    where
        F: FnMut(B, PageRun) -> B,
    {
        let mut acc = init;
        // After one step, what comes next is a whole run.
        while let Some(run) = self.next() {
            acc = f(acc, run);
            while self.at < self.end && self.group_end <= self.end {
                let pages = self.group_end.wrapping_sub(self.group_first());
                let kind = self.group.kind;
                acc = self.group.fold(self.leaf, self.index, pages, acc, |acc, start, count| {
                    f(acc, PageRun::stored(start, count, kind))
                });
                self.at = self.group_end;
                if self.at < self.end {
                    self.next_group();
                }
            }
        }
        acc
    }

    fn count(self) -> usize {
        usize::try_from(self.count_left()).unwrap_or(usize::MAX)
    }
}

impl<S: Storage> FusedIterator for Runs<'_, S> {}

impl<S> Clone for Runs<'_, S> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<S: Storage> fmt::Debug for Runs<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
