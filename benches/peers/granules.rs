// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks and tiles of a whole list.

use crate::contest::{Contest, Session, Target};
use crate::inputs::{self, Run, Scale, HUGE};
use pinned_sgl::{BlockSize, Heap, Iova, PageSize, PageSizes, Tile, Window};
use std::hint::black_box;

const FOLD: &str = "pinned-sgl, fold";
const NEXT: &str = "pinned-sgl, for loop";
const LINUX: &str = "Linux's loop over a Vec of runs";

/// Physical address and length of each run, in bytes.
fn bytes(runs: &[Run]) -> Vec<Run> {
    runs.iter().map(|&(start, count)| (start << 12, count << 12)).collect()
}

#[inline(never)]
fn blocks_by_fold(size: &BlockSize<'_, Heap>) -> u64 {
    size.blocks().fold(0, |acc, block| acc.rotate_left(1) ^ block.get())
}

#[inline(never)]
fn blocks_by_next(size: &BlockSize<'_, Heap>) -> u64 {
    let mut acc = 0u64;
    for block in size.blocks() {
        acc = acc.rotate_left(1) ^ block.get();
    }
    acc
}

/// Blocks as Linux finds them (`__rdma_block_iter_next()`).
#[inline(never)]
fn linux_blocks(runs: &[Run], shift: u32) -> u64 {
    let (mut acc, size) = (0u64, 1u64 << shift);
    let (mut index, mut advance) = (0, 0);
    while let Some(run) = runs.get(index) {
        let address = run.0 + advance;
        let mut delta = size - (address & (size - 1));
        while let Some(run) = runs.get(index) {
            if run.1 - advance > delta {
                break;
            }
            delta -= run.1 - advance;
            advance = 0;
            index += 1;
        }
        advance += delta;
        acc = acc.rotate_left(1) ^ (address & !(size - 1));
    }
    acc
}

#[inline]
fn mix(acc: u64, tile: (u64, u64, u64, u64)) -> u64 {
    acc.rotate_left(1) ^ tile.0 ^ tile.1 ^ tile.2 ^ tile.3
}

#[inline]
fn parts(tile: Tile) -> (u64, u64, u64, u64) {
    (tile.iova.get(), tile.phys.get(), tile.page_size.bytes(), tile.count)
}

#[inline(never)]
fn tiles_by_fold(window: Window<'_, Heap>, sizes: PageSizes) -> u64 {
    let tiles = window.tiles(sizes, Iova::new(0)).unwrap();
    tiles.fold(0, |acc, tile| mix(acc, parts(tile)))
}

#[inline(never)]
fn tiles_by_next(window: Window<'_, Heap>, sizes: PageSizes) -> u64 {
    let mut acc = 0;
    for tile in window.tiles(sizes, Iova::new(0)).unwrap() {
        acc = mix(acc, parts(tile));
    }
    acc
}

/// A tile by the rule of Linux's `iommu_pgsize()`.
#[inline]
fn iommu_pgsize(sizes: u64, iova: u64, phys: u64, size: u64) -> (u64, u64) {
    let merged = phys | iova;
    let mut fitting = sizes & (u64::MAX >> size.leading_zeros());
    if merged != 0 {
        fitting &= u64::MAX >> (63 - merged.trailing_zeros());
    }
    let shift = 63 - fitting.leading_zeros();
    let mut size = size;
    let larger = sizes & !(u64::MAX >> (63 - shift));
    if larger != 0 {
        let next = 1u64 << larger.trailing_zeros();
        if (iova ^ phys) & (next - 1) == 0 {
            let offset = next - (merged & (next - 1));
            if offset + next <= size {
                size = offset;
            }
        }
    }
    (1 << shift, size >> shift)
}

#[inline(never)]
fn linux_tiles(runs: &[Run], sizes: PageSizes) -> u64 {
    let (mut acc, mut iova) = (0, 0);
    for &(phys, len) in runs {
        let (mut phys, mut left) = (phys, len);
        while left > 0 {
            let (page_size, count) = iommu_pgsize(sizes.bits(), iova, phys, left);
            acc = mix(acc, (iova, phys, page_size, count));
            let mapped = page_size * count;
            (iova, phys, left) = (iova + mapped, phys + mapped, left - mapped);
        }
    }
    acc
}

fn blocks(session: &mut Session, title: &'static str, runs: &[Run], page_size: PageSize) {
    if !session.wants(title) {
        return;
    }
    let list = inputs::list(runs.iter().copied());
    let window = list.whole().unwrap();
    let sizes = PageSizes::from_bits_retain(page_size.bytes());
    let size = window.best_page_size(sizes, Iova::new(0)).unwrap().unwrap();
    let runs = bytes(runs);
    assert_eq!(blocks_by_fold(&size), linux_blocks(&runs, page_size.shift()));
    assert_eq!(blocks_by_next(&size), linux_blocks(&runs, page_size.shift()));
    let contest = Contest::new(title, size.block_count(), "block")
        .way(FOLD, || blocks_by_fold(black_box(&size)))
        .way(NEXT, || blocks_by_next(black_box(&size)))
        .way(LINUX, || linux_blocks(black_box(&runs), black_box(page_size.shift())))
        .target(FOLD, Target::Nanoseconds(1.0))
        .target(NEXT, Target::Nanoseconds(1.0));
    session.run(contest);
}

fn tiles(session: &mut Session, title: &'static str, runs: &[Run]) {
    if !session.wants(title) {
        return;
    }
    let list = inputs::list(runs.iter().copied());
    let window = list.whole().unwrap();
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M | PageSizes::SIZE_1G;
    let count = window.tile_count(sizes, Iova::new(0)).unwrap();
    let runs = bytes(runs);
    assert_eq!(tiles_by_fold(window, sizes), linux_tiles(&runs, sizes));
    assert_eq!(tiles_by_next(window, sizes), linux_tiles(&runs, sizes));
    let contest = Contest::new(title, count, "tile")
        .way(FOLD, || tiles_by_fold(black_box(window), black_box(sizes)))
        .way(NEXT, || tiles_by_next(black_box(window), black_box(sizes)))
        .way(LINUX, || linux_tiles(black_box(&runs), black_box(sizes)))
        .target(FOLD, Target::Nanoseconds(2.0))
        .target(NEXT, Target::Nanoseconds(2.0));
    session.run(contest);
}

/// Runs the contests.
pub(crate) fn run(session: &mut Session, scale: Scale) {
    let huge = inputs::scattered(scale.slots, HUGE);
    let fragmented = inputs::scattered(scale.pages, 0);
    let thp = inputs::thp_mix(scale.slots);
    blocks(session, "blocks of 4 KiB, 2 MiB runs", &huge[..huge.len() / 16], PageSize::SIZE_4K);
    blocks(session, "blocks of 2 MiB, 2 MiB runs", &huge, PageSize::SIZE_2M);
    blocks(session, "blocks of 4 KiB, THP mix", &thp[..thp.len() / 16], PageSize::SIZE_4K);
    blocks(session, "blocks of 4 KiB, fully fragmented", &fragmented, PageSize::SIZE_4K);
    tiles(session, "tiles of 4K|2M|1G, THP mix", &thp);
    tiles(session, "tiles of 4K|2M|1G, 2 MiB discontiguous", &huge);
    tiles(session, "tiles of 4K|2M|1G, fully fragmented", &fragmented);
}
