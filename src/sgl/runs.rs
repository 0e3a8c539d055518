// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Runs`]: the maximal runs of a list, in order.
#![forbid(unsafe_code)]

use super::leaves::{Found, Leaves};
use super::list::Sgl;
use super::packed::{self, GroupRuns};
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
    place: Place<'a, S>,
    /// The runs of the group there that are still to come.
    group: GroupRuns<'a>,
    /// The page after the last.
    end: u64,
}

/// Where a group lies, and the pages it has.
struct Place<'a, S> {
    leaves: &'a Leaves<S>,
    /// The pages of the whole list: where its last group ends.
    total: u64,
    leaf_index: usize,
    group_index: usize,
    first: u64,
    /// The page after the last of the group.
    end: u64,
    kind: MemoryKind,
}

impl<'a, S: Storage> Place<'a, S> {
    /// A group that was found, and the runs there of its pages from `pages.start` up to `pages.end`; both
    /// may lie beyond it.
    #[inline]
    fn enter(
        (leaves, total): (&'a Leaves<S>, u64),
        found: &Found<'a>,
        pages: Range<u64>,
    ) -> (Self, GroupRuns<'a>) {
        let group = packed::group(found.leaf, found.group);
        let first = found.leaf_first.plus(group.first);
        let end = leaves.group_end(found, total);
        let from = pages.start.saturating_sub(first);
        let run = if from == 0 { (0, 0) } else { group.find(found.leaf, from) };
        let runs = group.runs(found.leaf, run, from..end.min(pages.end).minus(first));
        let (leaf_index, group_index) = (found.leaf_index, found.group);
        (Self { leaves, total, leaf_index, group_index, first, end, kind: group.kind }, runs)
    }

    /// Goes to the group after this one, which lies in `leaf`, and takes its runs up to page `end`.
    #[inline(never)]
    fn next_group(&mut self, mut leaf: &'a [u8], end: u64) -> GroupRuns<'a> {
        let (mut leaf_index, mut group) = (self.leaf_index, self.group_index.plus(1));
        if group >= packed::groups(leaf) {
            (leaf_index, group) = (leaf_index.plus(1), 0);
            leaf = self.leaves.leaf(leaf_index);
        }
        let found = Found { leaf, leaf_index, leaf_first: packed::first_page(leaf), group };
        let runs;
        (*self, runs) = Self::enter((self.leaves, self.total), &found, 0..end);
        runs
    }
}

impl<S> Clone for Place<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Place<'_, S> {}

impl<'a, S: Storage> Runs<'a, S> {
    /// The runs of some pages of a list. O(log runs), and nothing is searched where there is only one run.
    #[inline]
    pub(super) fn of(sgl: &'a Sgl<S>, pages: Range<u64>) -> Self {
        let Some(run) = sgl.only() else {
            return Self::new(&sgl.leaves, sgl.pages, pages.start, pages.end);
        };
        let place = Place {
            leaves: &sgl.leaves,
            total: sgl.pages,
            leaf_index: 0,
            group_index: 0,
            first: 0,
            end: sgl.pages,
            kind: run.kind(),
        };
        let end = pages.end;
        let group = GroupRuns::only(sgl.leaves.leaf(0), run.start().get(), pages);
        Self { place, group, end }
    }

    /// The runs of the pages from `from` up to `to`, of a list of `total` pages. O(log runs).
    #[inline]
    pub(super) fn new(leaves: &'a Leaves<S>, total: u64, from: u64, to: u64) -> Self {
        let (place, group) = Place::enter((leaves, total), &leaves.find(from), from..to);
        Self { place, group, end: to }
    }

    /// Goes to the group after this one, if that has pages of the range; otherwise nothing is still to come.
    #[inline(always)]
    fn next_group(&mut self) -> Option<()> {
        if self.place.end >= self.end {
            return None;
        }
        // In a copy: a loop over runs keeps what it needs in registers only while nothing else can have its
        // address.
        let mut place = self.place;
        self.group = place.next_group(self.group.leaf(), self.end);
        self.place = place;
        Some(())
    }

    /// The pages that are still to come.
    #[inline]
    pub(crate) fn pages_left(&self) -> u64 {
        self.end.minus(self.place.first.plus(self.group.pages().start))
    }

    /// How many runs are still to come. O(groups), nothing is decoded.
    pub(crate) fn count_left(mut self) -> u64 {
        let mut count = 0u64;
        loop {
            let (leaf, pages) = (self.group.leaf(), self.group.pages());
            if !pages.is_empty() {
                let group = packed::group(leaf, self.place.group_index);
                let run = |page| group.find(leaf, page).0;
                let runs = run(pages.end.minus(1)).minus(run(pages.start)).plus(1);
                count = count.plus(runs as u64);
            }
            if self.next_group().is_none() {
                return count;
            }
        }
    }
}

impl<S: Storage> Iterator for Runs<'_, S> {
    type Item = PageRun;

    #[inline(always)]
    fn next(&mut self) -> Option<PageRun> {
        if self.group.pages().is_empty() {
            self.next_group()?;
        }
        let (start, count) = self.group.next()?;
        Some(PageRun::stored(start, count, self.place.kind))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let pages = self.pages_left();
        (usize::from(pages > 0), usize::try_from(pages).ok())
    }

    #[inline]
    fn fold<B, F>(mut self, init: B, mut f: F) -> B
    where
        F: FnMut(B, PageRun) -> B,
    {
        let mut acc = init;
        while self.place.end <= self.end {
            let kind = self.place.kind;
            acc = self
                .group
                .fold_whole(acc, |acc, (start, count)| f(acc, PageRun::stored(start, count, kind)));
            if self.next_group().is_none() {
                return acc;
            }
        }
        // The last group, whose last run is clipped.
        for run in self {
            acc = f(acc, run);
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
