// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Runs`]: the maximal runs of a list, in order.
#![forbid(unsafe_code)]

use super::leaves::{Found, Leaves};
use super::list::Sgl;
use super::packed::{self, Group, GroupRuns};
use super::run::{MemoryKind, PageRun};
use crate::abridged::Abridged;
use crate::exact::Exact as _;
use crate::store::Storage;
use core::{fmt, iter::FusedIterator, ops::Range};

/// The maximal runs of a range of pages, the first and the last of them clipped to the range.
///
/// Made by [`Sgl::runs`](super::Sgl::runs). A step is O(1); nothing is decoded ahead. `fold`, and
/// so `for_each`, `sum` and the like, decodes a group at a time and is faster than `next`.
#[must_use = "iterators do nothing unless they are walked"]
pub struct Runs<'a, S> {
    leaves: &'a Leaves<S>,
    /// The pages of the whole list: where its last group ends.
    total: u64,
    leaf: &'a [u8],
    leaf_index: usize,
    leaf_first: u64,
    group_index: usize,
    group_first: u64,
    /// The page after the last of the group.
    group_end: u64,
    kind: MemoryKind,
    /// The runs of the group that are still to come.
    group: GroupRuns<'a>,
    /// The first page of the run that comes next; below `at` where that run is clipped.
    run_first: u64,
    /// The page that comes next.
    at: u64,
    end: u64,
}

impl<'a, S: Storage> Runs<'a, S> {
    /// The runs of some pages of a list. O(log runs), and nothing is searched where there is only one run.
    #[inline]
    pub(super) fn of(sgl: &'a Sgl<S>, pages: Range<u64>) -> Self {
        let Some(run) = sgl.only() else {
            return Self::new(&sgl.leaves, sgl.pages, pages.start, pages.end);
        };
        Self {
            leaves: &sgl.leaves,
            total: sgl.pages,
            leaf: sgl.leaves.leaf(0),
            leaf_index: 0,
            leaf_first: 0,
            group_index: 0,
            group_first: 0,
            group_end: sgl.pages,
            kind: run.kind(),
            group: GroupRuns::only(run.start().get(), sgl.pages),
            run_first: 0,
            at: pages.start,
            end: pages.end,
        }
    }

    /// The runs of the pages from `from` up to `to`, of a list of `total` pages. O(log runs).
    #[inline]
    pub(super) fn new(leaves: &'a Leaves<S>, total: u64, from: u64, to: u64) -> Self {
        let Found { leaf, leaf_index, leaf_first, group: group_index } = leaves.find(from);
        let group = packed::group(leaf, group_index);
        let run = group.find(leaf, from.minus(leaf_first).minus(group.first));
        let mut runs = Self {
            leaves,
            total,
            leaf,
            leaf_index,
            leaf_first,
            group_index,
            group_first: 0,
            group_end: 0,
            kind: MemoryKind::Ram,
            group: GroupRuns::NONE,
            run_first: 0,
            at: from,
            end: to,
        };
        runs.enter(&group, run);
        runs
    }

    /// Goes to a run, by its number and its first page, of the group, which is the one that `group_index`
    /// names.
    #[inline]
    fn enter(&mut self, group: &Group, run: (usize, u64)) {
        self.group_first = self.leaf_first.plus(group.first);
        let (leaf, leaf_index, leaf_first) = (self.leaf, self.leaf_index, self.leaf_first);
        let found = Found { leaf, leaf_index, leaf_first, group: self.group_index };
        self.group_end = self.leaves.group_end(&found, self.total);
        self.kind = group.kind;
        let pages = self.group_end.minus(self.group_first);
        self.group = group.runs(self.leaf, run, pages);
        self.run_first = self.group_first.plus(run.1);
    }

    /// At the group after this one.
    ///
    /// By value: a loop over runs keeps what it needs in registers only while nothing else can
    /// have its address.
    #[inline(never)]
    fn at_next_group(mut self) -> Self {
        self.group_index = self.group_index.plus(1);
        if self.group_index >= packed::groups(self.leaf) {
            self.leaf_index = self.leaf_index.plus(1);
            self.leaf = self.leaves.leaf(self.leaf_index);
            self.leaf_first = self.group_end;
            self.group_index = 0;
        }
        let group = packed::group(self.leaf, self.group_index);
        self.enter(&group, (0, 0));
        self
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
            count = count.plus(self.group.len() as u64);
            if self.group_end >= self.end {
                let group = packed::group(self.leaf, self.group_index);
                let last = self.end.minus(1).minus(self.group_first);
                let behind = group.count.minus(group.find(self.leaf, last).0);
                return count.minus(behind as u64).plus(1);
            }
            self.at = self.group_end;
            self = self.at_next_group();
        }
        count
    }
}

impl<S: Storage> Iterator for Runs<'_, S> {
    type Item = PageRun;

    #[inline(always)]
    fn next(&mut self) -> Option<PageRun> {
        if self.at >= self.end {
            return None;
        }
        if self.group.len() == 0 {
            *self = self.clone().at_next_group();
        }
        let (start, end) = self.group.next()?;
        let skipped = self.at.minus(self.run_first);
        self.run_first = self.group_first.plus(end);
        let stop = self.run_first.min(self.end);
        let run = PageRun::stored(start.plus(skipped), stop.minus(self.at), self.kind);
        self.at = stop;
        Some(run)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let pages = usize::try_from(self.pages_left());
        (usize::from(self.at < self.end), pages.ok())
    }

    #[inline]
    fn fold<B, F>(mut self, init: B, mut f: F) -> B
    where
        F: FnMut(B, PageRun) -> B,
    {
        let mut acc = init;
        // After one step, what comes next is a whole run.
        if let Some(run) = self.next() {
            acc = f(acc, run);
        }
        while self.at < self.end {
            if self.group.len() == 0 {
                self = self.at_next_group();
            }
            let (at, kind) = (self.at.minus(self.group_first), self.kind);
            if self.group_end > self.end {
                // The last group, whose last run is clipped.
                for run in self {
                    acc = f(acc, run);
                }
                return acc;
            }
            (acc, _) = self.group.fold((acc, at), |(acc, at), (start, end)| {
                (f(acc, PageRun::stored(start, end.minus(at), kind)), end)
            });
            self.at = self.group_end;
            self.group.finish();
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
        Abridged(self.clone()).fmt(f)
    }
}
