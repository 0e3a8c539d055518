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
//!                   runs - 1, 11 │ shape 6 │ bits per start 6
//!                   shape 0..=32:  bits per offset
//!                   shape 33..=63: all runs have 2^(shape - 33) pages, and no offsets are stored
//!
//!  payload, each part a whole number of words:
//!    base     64 bits: lowest start frame 54 │ alignment 5 │ kind 2 │ unused 3
//!    provider 64 bits: only for device memory
//!    offsets  pages from the group's first page to each run       (cumulative: binary search)
//!    starts   (start frame - base) >> alignment, of each run      (frame of reference)
//! ```
//!
//! All words are little-endian; a field of width `w` at index `i` is the `w` bits from bit `i * w`
//! of its part. Frames in random order cost their bare width: `log2` of the host's memory over the
//! alignment of the runs. Nothing can be left out of that, so the format spends its care on the
//! rest: one key and one base for up to 2048 runs where lengths agree, one for 64 where they
//! differ. No field crosses into the next leaf, none is wider than 54 bits, and eight bytes can be
//! read at any field because head and keys lie behind.
#![forbid(unsafe_code)]

mod batch;
mod bits;
mod group;

use super::search::last_at_most;
use crate::exact::Exact as _;
use bits::{store, Field, WORD};
use group::key;

pub(super) use batch::{append, truncate, Batch, BATCH};
pub(super) use bits::load;
pub(super) use group::{Group, GroupRuns};

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

/// The group, from number `from` to number `to`, that holds page `page` of the list.
#[inline]
pub(super) fn find_group(leaf: &[u8], page: u64, from: usize, to: usize) -> usize {
    let head = head(leaf);
    let page = page.minus(FIRST_PAGE.get(head));
    let to = to.saturating_add(1).min(GROUPS.small(head) as usize);
    let first = |index: usize| key::FIRST.get(load(leaf, key_at(leaf, from.plus(index))));
    from.plus(last_at_most(to.saturating_sub(from), page, first))
}

/// The frame of page `page` of the list, which lies in group `index` of the leaf.
#[inline]
pub(super) fn lookup(leaf: &[u8], index: usize, page: u64) -> u64 {
    let group = group(leaf, index);
    let page = page.minus(first_page(leaf)).minus(group.first);
    let index = group.find(leaf, page);
    group.start(leaf, index).plus(page.minus(group.offset(leaf, index)))
}
