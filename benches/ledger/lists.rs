// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations on lists: building, decoding, finding, breaking up.
#![forbid(unsafe_code)]

use super::{inputs, measured, Operation};
use pinned_sgl::descriptor::{ListMemory, NvmeSgl, Prp, TransferLimits};
use pinned_sgl::{
    Heap, Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SegmentLimits, Sgl,
    SglBuilder,
};
use std::hint::black_box;

pub(crate) const OPERATIONS: &[Operation] = &[
    ("build/one run", "page", || build(&inputs::together(PAGES))),
    ("build/every page a run", "page", || build(&inputs::apart(PAGES))),
    ("push/huge and small", "run", push_runs),
    ("fold/huge and small", "run", || fold_runs(&huge_and_small())),
    ("fold/huge pages", "run", || fold_runs(&huge_pages())),
    ("for/huge and small", "run", || for_runs(&huge_and_small())),
    ("for/huge pages", "run", || for_runs(&huge_pages())),
    ("for/every page a run", "run", || for_runs(&every_page_a_run())),
    ("find byte/one run", "lookup", || find_byte(&one_run())),
    ("find byte/huge and small", "lookup", || find_byte(&huge_and_small())),
    ("find byte/huge pages", "lookup", || find_byte(&huge_pages())),
    ("find byte/every page a run", "lookup", || find_byte(&every_page_a_run())),
    ("find run/huge and small", "lookup", || find_run(&huge_and_small())),
    ("find run/huge pages", "lookup", || find_run(&huge_pages())),
    ("find run/every page a run", "lookup", || find_run(&every_page_a_run())),
    ("pages/huge and small", "page", pages),
    ("segments/huge and small", "segment", segments),
    ("segments of a page/every page a run", "segment", || page_segments(&every_page_a_run())),
    ("prp/every page a run", "entry", || prp(&every_page_a_run())),
    ("nvme sgl/every page a run", "block", || nvme_sgl(&every_page_a_run())),
    ("tiles/huge and small", "tile", tiles),
    ("blocks/every page a run", "block", || blocks(&every_page_a_run())),
];

const PAGES: u64 = 1 << 16;
const LOOKUPS: u64 = 50_000;
const K4: PageSize = PageSize::SIZE_4K;

fn one_run() -> Sgl<Heap> {
    Sgl::from_pages(K4, inputs::together(PAGES)).expect("there is memory")
}

fn every_page_a_run() -> Sgl<Heap> {
    let mut builder = SglBuilder::new(K4).expect("4 KiB is a page");
    builder.push_pages(&inputs::apart(PAGES), Ram).expect("frames of memory");
    builder.finish().expect("there is memory")
}

fn huge_and_small() -> Sgl<Heap> {
    of_runs(inputs::huge_and_small())
}

fn huge_pages() -> Sgl<Heap> {
    of_runs(inputs::huge_pages())
}

fn of_runs(runs: Vec<PageRun>) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(K4).expect("4 KiB is a page");
    builder.push_runs(runs).expect("frames of memory");
    builder.finish().expect("there is memory")
}

/// In batches, as they are pinned.
fn build(pages: &[Pfn]) -> u64 {
    measured(|| {
        let mut builder = SglBuilder::<Heap>::new(K4).expect("4 KiB is a page");
        for batch in pages.chunks(512) {
            builder.push_pages(batch, Ram).expect("frames of memory");
        }
        builder.finish().expect("there is memory")
    })
    .page_count()
}

fn push_runs() -> u64 {
    let runs = inputs::huge_and_small();
    let list = measured(|| {
        let mut builder = SglBuilder::<Heap>::new(K4).expect("4 KiB is a page");
        for run in &runs {
            builder.push_run(*run).expect("frames of memory");
        }
        builder.finish().expect("there is memory")
    });
    list.run_count()
}

fn fold_runs(list: &Sgl<Heap>) -> u64 {
    measured(|| list.runs().fold(0, |all, run| all ^ run.start().get() ^ run.count()));
    list.run_count()
}

fn for_runs(list: &Sgl<Heap>) -> u64 {
    measured(|| {
        let mut all = 0;
        for run in list.runs() {
            all ^= run.start().get() ^ run.count();
        }
        all
    });
    list.run_count()
}

/// The address of a byte, at places in no order.
fn find_byte(list: &Sgl<Heap>) -> u64 {
    let window = list.whole().expect("it has pages");
    measured(|| {
        for number in inputs::numbers(LOOKUPS) {
            black_box(window.phys(number % window.len()).expect("inside of it"));
        }
    });
    LOOKUPS
}

/// What is left of the run there.
fn find_run(list: &Sgl<Heap>) -> u64 {
    let window = list.whole().expect("it has pages");
    measured(|| {
        for number in inputs::numbers(LOOKUPS) {
            black_box(window.iter_at(number % window.len()).next().expect("inside of it"));
        }
    });
    LOOKUPS
}

fn pages() -> u64 {
    let list = huge_and_small();
    measured(|| list.whole().expect("it has pages").pages().fold(0, |all, page| all ^ page.get()));
    list.page_count()
}

fn segments() -> u64 {
    let list = huge_and_small();
    let limits = SegmentLimits::NONE.max_len(1 << 16).expect("a length");
    let (count, _) = measured(|| {
        let segments =
            list.whole().expect("it has pages").segments(&limits).expect("it can be cut so");
        segments.fold((0, 0), |(count, all), segment| (count + 1, all ^ segment.phys.get()))
    });
    count
}

/// What PRPs are made of.
fn page_segments(list: &Sgl<Heap>) -> u64 {
    let limits = SegmentLimits::NONE.boundary(K4.bytes()).expect("a power of two");
    let segments = list.whole().expect("it has pages").segments(&limits).expect("it can be cut so");
    measured(|| segments.fold(0, |all, segment| all ^ segment.phys.get()));
    PAGES
}

fn prp(list: &Sgl<Heap>) -> u64 {
    let window = list.whole().expect("it has pages");
    let format = Prp::new(K4, TransferLimits::NONE).expect("4 KiB is a page");
    let plan = format.plan(window.iter()).expect("whole pages");
    let mut pages = vec![[[0; 8]; 512]; plan.list_pages() as usize];
    let places = (0..).map(|index| PhysAddr::new(index << 12));
    let mut lists: Vec<_> =
        places.zip(&mut pages).map(|(at, page)| ListMemory::new(at, page)).collect();
    measured(|| plan.write(&mut lists)).expect("as many lists as are needed");
    plan.entries()
}

fn nvme_sgl(list: &Sgl<Heap>) -> u64 {
    let window = list.whole().expect("it has pages");
    let format = NvmeSgl::new(1, TransferLimits::NONE).expect("at any byte");
    let plan = format.plan(window.iter()).expect("whole pages");
    let mut slots = vec![[0; 16]; plan.blocks() as usize];
    let mut list = [ListMemory::new(PhysAddr::new(0), &mut slots)];
    measured(|| plan.write(&mut list)).expect("as many slots as are needed");
    plan.blocks()
}

fn tiles() -> u64 {
    let list = huge_and_small();
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M;
    let (count, _) = measured(|| {
        let tiles =
            list.whole().expect("it has pages").tiles(sizes, Iova::new(0)).expect("whole pages");
        tiles.fold((0, 0), |(count, all), tile| (count + 1, all ^ tile.phys.get() ^ tile.count))
    });
    count
}

fn blocks(list: &Sgl<Heap>) -> u64 {
    let window = list.whole().expect("it has pages");
    let size = window.best_page_size(PageSizes::SIZE_4K, Iova::new(0)).expect("whole pages");
    let size = size.expect("4 KiB will do");
    measured(|| size.blocks().fold(0, |all, block| all ^ block.get()));
    size.block_count()
}
