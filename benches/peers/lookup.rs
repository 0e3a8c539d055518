// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random lookup in the THP mix: from a byte of the list to its physical address.

use crate::contest::{Contest, Session, Target};
use crate::inputs::{self, Run, Scale};
use crate::peers::{self, Lookup, Sampled, Sorted, StaticTree};
use pinned_sgl::{Heap, Window};
use std::hint::black_box;

const OURS: &str = "pinned-sgl";
const MANY: &str = "pinned-sgl, many in one call";
const SEGMENT: &str = "pinned-sgl, the whole run";
const SAMPLED: &str = "sampled directory";
const STATIC: &str = "static B+-tree";
const BTREE: &str = "BTreeMap";
const RANGEMAP: &str = "rangemap";

/// Lookups that do not wait for each other.
#[inline(never)]
pub(crate) fn independent(list: &impl Lookup, offsets: &[u64]) -> u64 {
    offsets.iter().fold(0, |acc, offset| acc ^ list.phys(*offset))
}

/// The same lookups in one call.
#[inline(never)]
fn many(window: &Window<'_, Heap>, offsets: &[u64]) -> u64 {
    let mut acc = 0;
    window.phys_of_many(offsets, |phys| acc ^= phys.unwrap().get());
    acc
}

/// Where the run begins in the list and in memory, and how long it is, which peers read beside the address.
#[inline(never)]
fn segments(window: &Window<'_, Heap>, offsets: &[u64]) -> u64 {
    offsets.iter().fold(0, |acc, offset| {
        let (begin, segment) = window.segment_at(*offset).unwrap();
        acc ^ begin ^ segment.phys.get() ^ segment.len
    })
}

/// Each lookup waits for the answer before, as only this file knows that `nothing` is zero.
#[inline(never)]
fn dependent(list: &impl Lookup, offsets: &[u64]) -> u64 {
    let nothing = black_box(0u64);
    offsets.iter().fold(0, |last, offset| list.phys(offset ^ (last & nothing)))
}

/// Bytes anywhere: each byte of the list is as likely as every other.
pub(crate) fn by_byte(runs: &[Run], count: usize) -> Vec<u64> {
    let pages: u64 = runs.iter().map(|run| run.1).sum();
    let mut random = fastrand::Rng::with_seed(1);
    (0..count).map(|_| random.u64(..pages << 12)).collect()
}

/// Bytes in any run: each run is as likely as every other.
fn by_run(runs: &[Run], count: usize) -> Vec<u64> {
    let begins: Vec<u64> = runs
        .iter()
        .scan(0, |page, run| {
            let first = *page;
            *page += run.1;
            Some(first)
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(2);
    let offset = |_| {
        let index = random.usize(..runs.len());
        (begins[index] << 12) + random.u64(..runs[index].1 << 12)
    };
    (0..count).map(offset).collect()
}

const FREE: [&str; 2] = ["lookup, any byte", "lookup, any run"];
const CHAINED: [&str; 2] = ["lookup in a chain, any byte", "lookup in a chain, any run"];

/// Runs the contests.
pub(crate) fn run(session: &mut Session, scale: Scale) {
    if !FREE.iter().chain(&CHAINED).any(|title| session.wants(title)) {
        return;
    }
    let runs = inputs::thp_mix(scale.slots);
    let frames = inputs::frames(&runs);
    let list = inputs::list(runs.iter().copied());
    let window = list.whole().unwrap();
    let btree = peers::btree_of(&frames);
    let rangemap = peers::rangemap_of(&frames);
    drop(frames);
    let (sampled, sorted) = (Sampled::new(&runs), Sorted::new(&runs));
    let fixed = StaticTree::new(&runs);
    let (bytes, any_run) = (by_byte(&runs, scale.lookups), by_run(&runs, scale.lookups));

    for offset in bytes.iter().chain(&any_run).copied() {
        let expected = sorted.phys(offset);
        assert_eq!(Lookup::phys(&window, offset), expected);
        assert_eq!(btree.phys(offset), expected);
        assert_eq!(rangemap.phys(offset), expected);
        assert_eq!(sampled.phys(offset), expected);
        assert_eq!(fixed.phys(offset), expected);
    }

    for ((title, most), offsets) in FREE.into_iter().zip([15.0, 35.0]).zip([&bytes, &any_run]) {
        let offsets = &offsets[..];
        let contest = Contest::new(title, offsets.len() as u64, "lookup")
            .way(OURS, || independent(&window, black_box(offsets)))
            .way(MANY, || many(&window, black_box(offsets)))
            .way(SEGMENT, || segments(&window, black_box(offsets)))
            .way(BTREE, || independent(&btree, black_box(offsets)))
            .way(RANGEMAP, || independent(&rangemap, black_box(offsets)))
            .way(SAMPLED, || independent(&sampled, black_box(offsets)))
            .way(STATIC, || independent(&fixed, black_box(offsets)))
            .way("binary search in a Vec", || independent(&sorted, black_box(offsets)))
            .target(OURS, Target::Nanoseconds(most))
            .target(OURS, Target::Faster(7.0, BTREE))
            .target(OURS, Target::Faster(3.0, SAMPLED));
        session.run(contest);
    }

    for (title, offsets) in CHAINED.into_iter().zip([&bytes, &any_run]) {
        let offsets = &offsets[..];
        let contest = Contest::new(title, offsets.len() as u64, "lookup")
            .way(OURS, || dependent(&window, black_box(offsets)))
            .way(BTREE, || dependent(&btree, black_box(offsets)))
            .way(RANGEMAP, || dependent(&rangemap, black_box(offsets)))
            .way(SAMPLED, || dependent(&sampled, black_box(offsets)))
            .way(STATIC, || dependent(&fixed, black_box(offsets)))
            .way("binary search in a Vec", || dependent(&sorted, black_box(offsets)));
        session.run(contest);
    }
}
