// SPDX-License-Identifier: MIT OR Apache-2.0
//! Building a list: from frames one by one, and from runs.

use crate::contest::{Contest, Session, Target};
use crate::inputs::{self, Scale, HUGE};
use crate::peers;
use pinned_sgl::{Heap, MemoryKind, PageRun, PageSize, Pfn, Sgl, SglBuilder};
use std::hint::black_box;

const OURS: &str = "pinned-sgl";
const READ: &str = "reading once (xor)";
const SCATTERLIST: &str = "scatterlist, in used memory";

#[inline(never)]
fn build(pages: &[Pfn]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
    builder.push_pages(pages, MemoryKind::Ram).unwrap();
    builder.finish().unwrap()
}

#[inline(never)]
fn push_each(pages: &[Pfn]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
    for page in pages {
        builder.push_page(*page, MemoryKind::Ram).unwrap();
    }
    builder.finish().unwrap()
}

#[inline(never)]
fn build_runs(runs: &[PageRun]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
    builder.push_runs(runs.iter().copied()).unwrap();
    builder.finish().unwrap()
}

#[inline(never)]
fn push_each_run(runs: &[PageRun]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
    for run in runs {
        builder.push_run(*run).unwrap();
    }
    builder.finish().unwrap()
}

#[inline(never)]
fn vec_of_runs(runs: &[PageRun]) -> Vec<(u64, u64)> {
    let mut vec = Vec::new();
    for run in runs {
        vec.push((run.start().get(), run.count()));
    }
    vec
}

fn from_pages<'a>(title: &'static str, pages: &'a [Pfn]) -> Contest<'a> {
    let (mut tables, mut batches) = (peers::Tables::new(), peers::Batches::default());
    Contest::new(title, pages.len() as u64, "page")
        .way(OURS, || build(black_box(pages)))
        .way("pinned-sgl, page by page", || push_each(black_box(pages)))
        .way(READ, || peers::read_once(black_box(pages)))
        .way("Vec of runs", || peers::vec_of(black_box(pages)))
        .way("two arrays, as iommufd's batches, in used memory", move || {
            batches.fill(black_box(pages));
            black_box(&batches);
        })
        .way(SCATTERLIST, move || {
            peers::scatterlist_of(black_box(pages), &mut tables);
            black_box(tables.as_ptr());
        })
        .way("scatterlist, in fresh memory", || {
            let mut tables = peers::Tables::new();
            peers::scatterlist_of(black_box(pages), &mut tables);
            tables
        })
        .way("BTreeMap", || peers::btree_of(black_box(pages)))
        .way("rangemap", || peers::rangemap_of(black_box(pages)))
}

fn from_runs<'a>(title: &'static str, runs: &'a [PageRun]) -> Contest<'a> {
    Contest::new(title, runs.len() as u64, "run")
        .way(OURS, || build_runs(black_box(runs)))
        .way("pinned-sgl, run by run", || push_each_run(black_box(runs)))
        .way("Vec of runs", || vec_of_runs(black_box(runs)))
        .target(OURS, Target::Nanoseconds(5.0))
        .target("pinned-sgl, run by run", Target::Nanoseconds(5.0))
}

/// Runs the contests.
pub(crate) fn run(session: &mut Session, scale: Scale) {
    let pages = inputs::frames(&[(1 << 20, scale.pages)]);
    let contest = from_pages("build, contiguous", &pages);
    session.run(contest.target(OURS, Target::Times(1.5, READ)));

    let pages = inputs::frames(&inputs::scattered(scale.pages >> HUGE, HUGE));
    let contest = from_pages("build, runs of 512", &pages);
    session.run(contest.target(OURS, Target::Times(1.5, READ)));

    let pages = inputs::frames(&inputs::scattered(scale.pages >> 2, 2));
    session.run(from_pages("build, runs of 4", &pages));

    let pages = inputs::frames(&inputs::scattered(scale.pages, 0));
    let contest = from_pages("build, fully fragmented", &pages);
    session.run(contest.target(OURS, Target::Times(0.65, SCATTERLIST)));

    let page_runs = |runs: Vec<inputs::Run>| -> Vec<PageRun> {
        let run = |(start, count)| PageRun::ram(Pfn::new(start), count).unwrap();
        runs.into_iter().map(run).collect()
    };
    let folios = page_runs(inputs::scattered(scale.slots, HUGE));
    session.run(from_runs("build from folios, 2 MiB discontiguous", &folios));
    let folios = page_runs(inputs::thp_mix(scale.slots));
    session.run(from_runs("build from folios, THP mix", &folios));
}
