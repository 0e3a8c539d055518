// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed format: how runs lie in a leaf, in 2-5 bytes each (16 where every run changes kind).
//!
//! A *leaf* is a piece of memory that holds groups of runs. Payload grows from the front, keys from
//! the back; each leaf can be read on its own:
//!
//! ```text
//!  0                                                                        leaf.len()
//!  ├─ payload 0 ─┼─ payload 1 ─┼─ .. ─┼──── free ────┼─ .. ─┼─ key 1 ─┼─ key 0 ─┼ head ┤
//!
//!  head   64 bits:  page of the list at which the leaf begins 54 │ groups 10
//!
//!  key    64 bits:  first page, from the leaf's first 32 │ payload at, in words 9 │
//!                   runs - 1, 11 (or unit 5 │ runs - 1, 6) │ shape 6 │ bits per start 6
//!                   shape 0..=32:  bits per offset; offsets are multiples of 2^unit pages
//!                   shape 33:      offsets are a bitmap of a word, with a bit for 2^unit pages
//!                   shape 34:      offsets are a bitmap of several words, runs - 1 has 8 bits, and the guide the unit
//!                   shape 35..=63: all runs have 2^(shape - 35) pages, and no offsets are stored
//!
//!  payload, each part a whole number of words:
//!    base     64 bits: lowest start frame 54 │ alignment 5 │ kind 2 │ unused 3
//!    provider 64 bits: only for device memory
//!    offsets  pages from the group's first page to each run       (cumulative: binary search)
//!    or       guide    64 bits, only before several words: first page, from the first of the list, its
//!                       lowest 32 │ unused 7 │ words - 1, 4 │ unit 5 │ bits per start 6 │ open 1 │ group 9
//!             bitmap   words of: bits in those before, 8 │ bits 56       (a run is counted out)
//!    starts   (start frame - base) >> alignment, of each run      (frame of reference)
//! ```
//!
//! All words are little-endian; a field of width `w` at index `i` is the `w` bits from bit `i * w`
//! of its part. Frames in random order cost their bare width: `log2` of the host's memory over the
//! alignment of the runs. Nothing can be left out of that, so the format spends its care on the
//! rest: one key and one base for up to 2048 runs where lengths agree, one for 255 where they
//! are small, one for 64 where they differ. No field crosses into the next leaf, none is wider than 54 bits, and eight bytes can be
//! read at any field because head and keys lie behind.
#![forbid(unsafe_code)]

mod batch;
mod bitmap;
mod bits;
mod direct;
mod group;
mod group_runs;

use super::run::MemoryKind;
use super::search::last_at_most;
use crate::exact::Exact as _;
use bits::{store, Field, Fields, WORD};
use group::key;

pub(super) use batch::{append, put_only, truncate, Batch, BATCH, LARGE_LOG2};
pub(super) use bits::{load, mask};
pub(super) use direct::{open, Direct};
pub(super) use group::Group;
pub(super) use group_runs::GroupRuns;

/// So many groups behind one are searched without a branch: the sum of the steps.
const FEW_GROUPS: usize = 7;

/// The fields of the head of a leaf.
const FIRST_PAGE: Field = Field::new(10, 54);
const GROUPS: Field = Field::new(0, 10);

#[inline]
fn head(leaf: &[u8]) -> u64 {
    load(leaf, leaf.len().minus(WORD))
}

/// How many groups a leaf has.
#[inline]
pub(super) fn groups(leaf: &[u8]) -> usize {
    GROUPS.small(head(leaf)) as usize
}

/// The page of the list at which a leaf begins.
#[inline]
pub(super) fn first_page(leaf: &[u8]) -> u64 {
    FIRST_PAGE.get(head(leaf))
}

#[inline]
fn set_head(leaf: &mut [u8], first_page: u64, groups: usize) {
    let at = leaf.len().minus(WORD);
    store(leaf, at, FIRST_PAGE.of(first_page) | GROUPS.of(groups as u64));
}

/// Makes `leaf` an empty leaf that begins at page `first_page` of the list.
pub(super) fn clear(leaf: &mut [u8], first_page: u64) {
    set_head(leaf, first_page, 0);
}

#[inline]
fn key_at(leaf: &[u8], group: usize) -> usize {
    leaf.len().minus(group.plus(2).times(WORD))
}

/// Group `index` of a leaf, which must have it.
#[inline]
pub(super) fn group(leaf: &[u8], index: usize) -> Group {
    Group::read(leaf, load(leaf, key_at(leaf, index)))
}

/// The first page of group `index`, counted from the first of the leaf; `None` beyond the last.
#[inline]
pub(super) fn group_first(leaf: &[u8], index: usize) -> Option<u64> {
    (index < groups(leaf)).then(|| key::FIRST.get(load(leaf, key_at(leaf, index))))
}

/// The first page of group `index`, counted from the first of the leaf, and how many runs it has; `None`
/// beyond the last.
#[inline]
pub(super) fn group_span(leaf: &[u8], index: usize) -> Option<(u64, usize)> {
    (index < groups(leaf)).then(|| Group::span(load(leaf, key_at(leaf, index))))
}

/// The group, from number `from` to number `to`, that holds page `page`, counted from the first of
/// the leaf.
#[inline]
pub(super) fn find_group(leaf: &[u8], page: u64, from: usize, to: usize) -> usize {
    if from == to {
        return from;
    }
    let first = |index: usize| key::FIRST.get(load(leaf, key_at(leaf, index)));
    let last = to.min(groups(leaf).saturating_sub(1));
    // Their keys lie side by side: to read some more costs less than a wrong guess.
    let near = last.min(from.plus(FEW_GROUPS));
    let found = [4, 2, 1].into_iter().fold(from, |group, step| {
        let next = group.plus(step).min(near);
        if first(next) <= page {
            next
        } else {
            group
        }
    });
    if found < near || near == last {
        return found;
    }
    near.plus(last_at_most(last.minus(near).plus(1), page, |index| first(near.plus(index))))
}

/// A frame whose run is found, and not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    leaf: &'a [u8],
    start: Fields,
    /// What the start is relative to, and the pages before the frame.
    beyond: u64,
}

/// The frame of page `page`, counted from the first of the leaf, which lies in group `index`.
#[inline]
pub(super) fn lookup(leaf: &[u8], index: usize, page: u64) -> Frame<'_> {
    let group = group(leaf, index);
    let page = page.minus(group.first);
    let (run, first) = group.find(leaf, page);
    group.frame(leaf, run, page.minus(first))
}

/// The run of a leaf that has no other: its start frame, and what it is made of.
#[inline]
pub(super) fn only(leaf: &[u8]) -> (u64, MemoryKind) {
    Group::only(leaf, load(leaf, key_at(leaf, 0)))
}

impl Frame<'_> {
    #[inline]
    pub(super) fn get(mut self) -> u64 {
        self.beyond.plus(self.start.next(self.leaf))
    }
}
