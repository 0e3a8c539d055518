// SPDX-License-Identifier: MIT OR Apache-2.0
//! Uses every part of the core as a kernel would, so that its generic code is compiled for real.
//!
//! Compiled by `tests/kernel_like/run` with no cargo, no `alloc` and no `std`, with overflow checks
//! on; the object must not refer to a single panic, to 128-bit arithmetic, or to 64-bit division.
#![no_std]

use pinned_sgl::{
    granule::SegmentLimits,
    BuildError, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, Pool, Sgl, SglBuilder,
};

type List<'a> = Sgl<Pool<'a>>;
type Builder<'a> = SglBuilder<Pool<'a>>;

#[no_mangle]
pub fn probe_new<'a>(memory: &'a mut [[u8; 4096]], page: PageSize) -> Option<Builder<'a>> {
    SglBuilder::new_in(page, Pool::new(memory)).ok()
}

#[no_mangle]
pub fn probe_push_page(builder: &mut Builder<'_>, pfn: Pfn, kind: MemoryKind) -> Result<(), BuildError> {
    builder.push_page(pfn, kind)
}

#[no_mangle]
pub fn probe_push_pages(builder: &mut Builder<'_>, pages: &[Pfn]) -> Result<(), BuildError> {
    builder.push_pages(pages, MemoryKind::Ram)
}

#[no_mangle]
pub fn probe_push_run(builder: &mut Builder<'_>, run: PageRun) -> Result<(), BuildError> {
    builder.push_run(run)
}

#[no_mangle]
pub fn probe_push_sgl(builder: &mut Builder<'_>, sgl: &List<'_>) -> Result<(), BuildError> {
    builder.push_sgl(sgl)
}

#[no_mangle]
pub fn probe_finish<'a>(builder: Builder<'a>) -> Option<List<'a>> {
    builder.finish().ok()
}

#[no_mangle]
pub fn probe_lookup(sgl: &List<'_>, offset: u64, len: u64, at: u64) -> Option<u64> {
    let window = sgl.window(offset, len).ok()?.window(at, 1).ok()?;
    Some(window.phys(0)?.get() ^ window.run_count() ^ window.iter_at(at).next()?.len)
}

#[no_mangle]
pub fn probe_walk(sgl: &List<'_>) -> u64 {
    let mut sum = 0u64;
    for run in sgl {
        sum ^= run.start().get();
    }
    sgl.runs().fold(sum, |sum, run| sum ^ run.count())
}

#[no_mangle]
pub fn probe_granules(sgl: &List<'_>, sizes: PageSizes, iova: Iova, max: u64) -> Option<u64> {
    let window = sgl.whole().ok()?;
    let mut sum = window.page_count() ^ sgl.footprint() as u64;
    for pfn in window.pages() {
        sum ^= pfn.get();
    }
    let limits = SegmentLimits::NONE.max_len(max).ok()?.boundary(max).ok()?.max_segments(max);
    for segment in window.segments(&limits.addr_mask(max).ok()?).ok()? {
        sum ^= segment.phys.get();
    }
    let best = window.best_page_size(sizes, iova).ok()??;
    for block in best.blocks() {
        sum ^= block.get();
    }
    for tile in window.tiles(sizes, iova).ok()? {
        sum ^= tile.len();
    }
    sum ^= window.tile_count(sizes, iova).ok()? ^ window.segment_count(&limits);
    sum ^= best.blocks().fold(0, |sum, block| sum ^ block.get());
    Some(window.pages().fold(sum, |sum, pfn| sum ^ pfn.get()))
}
