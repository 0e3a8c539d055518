// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sequential decode: every run of a list, in order.

use crate::contest::{Contest, Session, Target};
use crate::inputs::{self, Run, Scale, HUGE};
use crate::peers::Batches;
use pinned_sgl::{Heap, Sgl};
use std::hint::black_box;

const FOLD: &str = "pinned-sgl, fold";
const NEXT: &str = "pinned-sgl, for loop";

#[inline(never)]
fn by_fold(list: &Sgl<Heap>) -> u64 {
    list.runs().fold(0, |acc, run| acc ^ run.start().get() ^ run.count())
}

#[inline(never)]
fn by_next(list: &Sgl<Heap>) -> u64 {
    let mut acc = 0;
    for run in list.runs() {
        acc ^= run.start().get() ^ run.count();
    }
    acc
}

#[inline(never)]
fn vec(runs: &[Run]) -> u64 {
    runs.iter().fold(0, |acc, run| acc ^ run.0 ^ run.1)
}

fn contest(session: &mut Session, title: &'static str, runs: Vec<Run>) {
    if !session.wants(title) {
        return;
    }
    let list = inputs::list(runs.iter().copied());
    let batches = Batches::of(&runs);
    assert_eq!(batches.fold(), vec(&runs));
    assert_eq!(by_fold(&list), vec(&runs));
    assert_eq!(by_next(&list), vec(&runs));
    let contest = Contest::new(title, runs.len() as u64, "run")
        .way(FOLD, || by_fold(black_box(&list)))
        .way(NEXT, || by_next(black_box(&list)))
        .way("Vec of runs", || vec(black_box(&runs)))
        .way("two arrays, as iommufd's batches", || black_box(&batches).fold())
        .target(FOLD, Target::Nanoseconds(1.5))
        .target(NEXT, Target::Nanoseconds(1.5));
    session.run(contest);
}

/// Runs the contests.
pub(crate) fn run(session: &mut Session, scale: Scale) {
    contest(session, "decode, THP mix", inputs::thp_mix(scale.slots));
    contest(session, "decode, 2 MiB discontiguous", inputs::scattered(scale.slots, HUGE));
    contest(session, "decode, fully fragmented", inputs::scattered(scale.pages, 0));
}
