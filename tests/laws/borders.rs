// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists that cross every border of the storage: leaves, pieces of the directory, groups; built, undone, built on.

use super::{
    alloc::{vec, vec::Vec},
    storage::{store, Failing},
};
use pinned_sgl::{MemoryKind, PageRun, PageSize, Pfn, Pool, Sgl, SglBuilder, Storage};

/// Run `index` of a list without order: 1 to 3 pages, none of which continues another.
fn scattered(index: u64) -> PageRun {
    let start = (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 26) & !7;
    PageRun::ram(Pfn::new(start), 1 + index % 3).unwrap()
}

/// The same with 20 small runs after 20 large ones, which are packed apart.
fn large_and_small(index: u64) -> PageRun {
    let run = scattered(index);
    let count = if index / 20 % 2 == 0 { run.count() << 9 } else { run.count() };
    PageRun::ram(run.start(), count).unwrap()
}

/// Every run is found, at its first and its last page, and decoded in order.
fn check<S: Storage>(sgl: &Sgl<S>, runs: impl Iterator<Item = PageRun> + Clone) {
    let (mut page, shift) = (0, sgl.page_size().shift());
    let window = sgl.whole().unwrap();
    let mut begins = Vec::new();
    for run in runs.clone() {
        begins.push(page << shift);
        for (page, pfn) in
            [(page, run.start().get()), (page + run.count() - 1, run.end().get() - 1)]
        {
            assert_eq!(window.phys(page << shift).unwrap().get(), pfn << shift, "page {page}");
        }
        for inside in [page, page + run.count() / 2, page + run.count() - 1] {
            let (begin, segment) = window.segment_at(inside << shift).unwrap();
            assert_eq!(
                (begin, segment.len),
                (page << shift, run.count() << shift),
                "page {inside}"
            );
            assert_eq!(
                (segment.phys.get(), segment.kind),
                (run.start().get() << shift, run.kind())
            );
        }
        page += run.count();
    }
    assert_eq!(sgl.page_count(), page);
    let mut starts = Vec::new();
    window.phys_of_many(&begins, |phys| starts.push(phys.unwrap().get() >> shift));
    assert!(starts.into_iter().eq(runs.clone().map(|run| run.start().get())));
    assert!(sgl.runs().eq(runs.clone()));
    let mut folded = Vec::new();
    sgl.runs().for_each(|run| folded.push(run));
    assert!(folded.into_iter().eq(runs));
}

/// The storage fails at every piece; what was pushed is undone, and the list goes on, or ends.
pub fn undone_at_every_piece() {
    undone(scattered);
    undone(large_and_small);
}

fn undone(scattered: impl Fn(u64) -> PageRun + Copy) {
    for goes_on in [false, true] {
        for chunk in [1, 65, 300, 700, 2500] {
            for pieces in 0..75 {
                let mut memory = vec![[0u8; 512]; 800];
                let (storage, budget) = Failing::new(Pool::new(&mut memory), pieces);
                let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, storage).unwrap();
                let mut count = 0;
                while builder.push_runs((count..count + chunk).map(scattered)).is_ok() {
                    count += chunk;
                }
                // Other runs than those that were undone, so that nothing stale can pass for them.
                let long = |index| PageRun::ram(scattered(index).start(), 5).unwrap();
                let undone = count;
                let run = |index| if index < undone { scattered(index) } else { long(index) };
                while builder.push_run(run(count)).is_ok() {
                    count += 1;
                }
                budget.set(if goes_on { usize::MAX } else { 1 });
                if goes_on {
                    builder.push_runs((count..count + 3000).map(run)).unwrap();
                    count += 3000;
                }
                let sgl = match builder.finish() {
                    Ok(sgl) => sgl,
                    Err(error) => {
                        budget.set(usize::MAX);
                        error.into_value().finish().unwrap()
                    }
                };
                assert_eq!(sgl.run_count(), count);
                check(&sgl, (0..count).map(run));
            }
        }
    }
}

/// All runs but the first are undone: it is packed as one of many, and alone.
pub fn one_run_is_left() {
    let too_far = PageRun::ram(Pfn::new(1 << 52), 1).unwrap();
    let page = |index| PageRun::ram(scattered(index).start(), 1).unwrap();
    for run in [scattered, page] {
        for first in 1..9 {
            for others in [0, 1, 62, 63, 64, 65, 200] {
                let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
                builder.push_run(run(first)).unwrap();
                let behind = (100..100 + others).map(run);
                builder.push_runs(behind.chain([too_far])).unwrap_err();
                let sgl = builder.finish().unwrap();
                assert_eq!(sgl.run_count(), 1);
                check(&sgl, core::iter::once(run(first)));
            }
        }
    }
}

/// Far beyond the leaves that double, and with many pieces of directory: a list of `count` runs in a
/// pool, and one of four times as many.
pub fn many_leaves(count: u64) {
    let mut memory = vec![[0xa5u8; 512]; (count / 37) as usize];
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Pool::new(&mut memory)).unwrap();
    builder.push_runs((0..count).map(scattered)).unwrap();
    let sgl = builder.finish().unwrap();
    assert!(sgl.footprint() as u64 > count / 100 * 512);
    check(&sgl, (0..count).map(scattered));

    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_runs((0..4 * count).map(scattered)).unwrap();
    let sgl = builder.finish().unwrap();
    check(&sgl, (0..4 * count).map(scattered));

    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_runs((0..count).map(large_and_small)).unwrap();
    check(&builder.finish().unwrap(), (0..count).map(large_and_small));
}

/// Cells are as large as the list is long: where runs of terabytes lie beside those of a page, many
/// leaves share one.
pub fn many_leaves_in_one_cell() {
    let run = |index: u64| match index {
        0 | 9_000 => PageRun::ram(Pfn::new(index << 36), 1 << 33).unwrap(),
        _ => scattered(index),
    };
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_runs((0..10_000).map(run)).unwrap();
    check(&builder.finish().unwrap(), (0..10_000).map(run));
}

/// Bitmaps that end in, and around, each of their words, of all units that matter; and what would need
/// a word too many.
pub fn bitmaps_of_every_length() {
    for unit in [0, 1, 9, 30, 31] {
        for word in 1..=9 {
            for last in 64 * word - 2..64 * word + 2 {
                for before in [3, 30, 63] {
                    // As many runs as fit before the last begins, one of which fills the gap.
                    let before = before.min(last - 1);
                    let run = |index: u64| {
                        let units = match index {
                            2 => last - (before - 1),
                            index if index == before => 7,
                            _ => 1,
                        };
                        PageRun::ram(scattered(index).start(), units << unit).unwrap()
                    };
                    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
                    builder.push_runs((0..=before).map(run)).unwrap();
                    check(&builder.finish().unwrap(), (0..=before).map(run));
                }
            }
        }
    }
}

/// A group counts 2048 runs: pages that are repeated need no bits at all, and could be more.
pub fn a_page_repeated_many_times() {
    let page = PageRun::page(Pfn::new(77), MemoryKind::Ram).unwrap();
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_runs((0..10_000).map(|_| page)).unwrap();
    let sgl = builder.finish().unwrap();
    assert_eq!(sgl.run_count(), 10_000);
    check(&sgl, (0..10_000).map(|_| page));
}

/// A leaf spans 2^32 pages.
pub fn runs_of_terabytes() {
    for count in [1 << 29, 1 << 30, 1 << 31, (1 << 31) + 1, 1 << 32, 1 << 33] {
        let run = move |index: u64| PageRun::ram(Pfn::new((index * 7 % 5) << 40), count).unwrap();
        let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
        builder.push_runs((0..500).map(run)).unwrap();
        check(&builder.finish().unwrap(), (0..500).map(run));
    }
}

/// Equality looks at the runs, not only at how many there are.
pub fn lists_differ() {
    let list = |last: u64, kind, page| {
        let mut builder = SglBuilder::new_in(page, store()).unwrap();
        builder.push_pages(&[3, 1, last].map(Pfn::new), kind).unwrap();
        builder.finish().unwrap()
    };
    let a = list(9, MemoryKind::Ram, PageSize::SIZE_4K);
    assert!(a == list(9, MemoryKind::Ram, PageSize::SIZE_4K));
    assert!(a != list(7, MemoryKind::Ram, PageSize::SIZE_4K));
    assert!(a != list(9, MemoryKind::Mmio, PageSize::SIZE_4K));
    assert!(a != list(9, MemoryKind::Ram, PageSize::SIZE_16K));
}
