// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every small case: all page sequences of up to `longest` pages over a few frames, every window at
//! half-page steps, every granule.
//!
//! One page more is several times as many cases: each machine says how many it has the time for.

use super::{
    alloc::vec::Vec,
    block_law,
    merge_law::{self, Op},
    oracle::{self, Page},
    segment_law, tile_law, window_seek,
};
use pinned_sgl::{MemoryKind, PageRun, PageSize, PageSizes, Pfn};

const PAGE: PageSize = PageSize::SIZE_4K;
const HALF: u64 = 2048;

/// Calls `visit` with every sequence of 1 to `longest` of these pages.
fn sequences(alphabet: &[Page], longest: usize, visit: &mut dyn FnMut(&[Page])) {
    fn extend(
        alphabet: &[Page],
        longest: usize,
        so_far: &mut Vec<Page>,
        visit: &mut dyn FnMut(&[Page]),
    ) {
        for &page in alphabet {
            so_far.push(page);
            visit(so_far);
            if so_far.len() < longest {
                extend(alphabet, longest, so_far, visit);
            }
            so_far.pop();
        }
    }
    extend(alphabet, longest, &mut Vec::new(), visit);
}

fn ram(frames: &[u64]) -> Vec<Page> {
    frames.iter().map(|&pfn| (pfn, MemoryKind::Ram)).collect()
}

fn runs(pages: &[Page]) -> Vec<PageRun> {
    pages.iter().map(|&(pfn, kind)| PageRun::page(Pfn::new(pfn), kind).unwrap()).collect()
}

/// Page by page; as runs; as two lists joined, cut at every place.
pub fn every_sequence_merges_the_same_way_however_it_arrives(longest: usize) {
    let kinds = [(1, MemoryKind::Mmio), (2, MemoryKind::Mmio)];
    let alphabet = [ram(&[0, 1, 2]), kinds.to_vec()].concat();
    let mut seen = 0;
    sequences(&alphabet, longest, &mut |pages| {
        seen += 1;
        let model = oracle::maximal_runs(pages);
        assert_eq!(oracle::joined(&runs(pages)), model);
        let one_by_one = pages.iter().map(|&(pfn, kind)| Op::Page(Pfn::new(pfn), kind));
        merge_law::check(PAGE, &one_by_one.collect::<Vec<_>>());
        for cut in 0..=pages.len() {
            let (left, right) = pages.split_at(cut);
            merge_law::check(
                PAGE,
                &[Op::Sgl(oracle::maximal_runs(left)), Op::Runs(runs(right)), Op::Memory(0)],
            );
        }
    });
    assert_eq!(seen, (1..=longest as u32).map(|n| 5usize.pow(n)).sum::<usize>());
}

pub fn every_slice_merges(longest: usize) {
    sequences(&ram(&[0, 1, 2, 3]), longest, &mut |pages| {
        let slice = pages.iter().map(|&(pfn, _)| Pfn::new(pfn)).collect();
        merge_law::check(PAGE, &[Op::Pages(slice, MemoryKind::Ram)]);
    });
}

/// Every window at half-page steps whose offset is in the first page.
fn windows(pages: usize, visit: &mut dyn FnMut(u64, u64)) {
    let halves = 2 * pages as u64;
    for offset in 0..2 {
        for len in 1..=halves - offset {
            visit(offset * HALF, len * HALF);
        }
    }
}

pub fn every_window_finds_every_half_page(longest: usize) {
    sequences(&ram(&[0, 1, 3]), longest, &mut |pages| {
        windows(pages.len(), &mut |offset, len| {
            let at: Vec<u64> = (0..len / HALF).map(|half| half * HALF).collect();
            window_seek::check(PAGE, &runs(pages), &[(offset, len - 1), (HALF, HALF)], &at);
        });
    });
}

pub fn every_window_in_segments(longest: usize) {
    sequences(&ram(&[0, 1, 2]), longest, &mut |pages| {
        windows(pages.len(), &mut |offset, len| {
            for max_len in [None, Some(HALF), Some(3 * HALF), Some(4 * HALF), Some(7 * HALF)] {
                for boundary in [None, Some(HALF), Some(2 * HALF), Some(4 * HALF)] {
                    let most = max_len.unwrap_or(u64::MAX).min(boundary.unwrap_or(u64::MAX));
                    for granularity in [1, HALF, 2 * HALF].into_iter().filter(|g| *g <= most) {
                        let case =
                            segment_law::Case { offset, len, max_len, boundary, granularity };
                        segment_law::check(PAGE, pages, case);
                    }
                }
            }
        });
    });
}

/// Half a page, a page, two, four.
fn small_sizes() -> [PageSizes; 5] {
    [0x800, 0x1000, 0x1800, 0x5000, 0x7800].map(PageSizes::from_bits_retain)
}

/// Of four frames the sequences are two pages shorter.
pub fn every_window_in_blocks_and_tiles(longest: usize) {
    for (frames, longest) in [(&[0u64, 1, 2, 3][..], longest - 2), (&[2, 3][..], longest)] {
        sequences(&ram(frames), longest, &mut |pages| {
            windows(pages.len(), &mut |offset, len| {
                for iova in [0, HALF, 2 * HALF, 4 * HALF, 6 * HALF] {
                    for sizes in small_sizes() {
                        let case = block_law::Case { offset, len, iova, sizes };
                        block_law::check(PAGE, pages, case);
                        tile_law::check(PAGE, pages, case);
                    }
                }
            });
        });
    }
}
