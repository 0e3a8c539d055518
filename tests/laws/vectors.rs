// SPDX-License-Identifier: MIT OR Apache-2.0
//! What real systems answer: inputs and answers from Linux's own tests and from running its code.

use super::{
    alloc::{
        string::{String, ToString},
        vec,
        vec::Vec,
    },
    block_law,
    oracle::Page,
    storage::{store, Store},
    tile_law,
};
use pinned_sgl::granule::{SegmentLimits, TileError};
use pinned_sgl::{
    BuildError, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, Sgl, SglBuilder,
};

const P: u64 = 4096;
const MAX: u64 = u32::MAX as u64;

fn list(slices: &[&[u64]]) -> Sgl<Store> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    for slice in slices {
        let pages: Vec<Pfn> = slice.iter().copied().map(Pfn::new).collect();
        builder.push_pages(&pages, MemoryKind::Ram).unwrap();
    }
    builder.finish().unwrap()
}

fn run(pfn: u64, count: u64) -> Sgl<Store> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(pfn), count).unwrap()).unwrap();
    builder.finish().unwrap()
}

/// Merging under a maximum segment, as in `tools/testing/scatterlist`: segments as (frame, pages).
///
/// Linux bakes the maximum into the list and rounds it down to pages; here it is an argument of
/// iteration and is not rounded, so row 2 (a maximum of a page and a byte) agrees only because the
/// buffer has one page.
pub fn merge_under_a_maximum_segment() {
    type Row<'a> = (&'a [u64], &'a [u64], u64, &'a [(u64, u64)]);
    let rows: [Row<'_>; 19] = [
        (&[0], &[], P + 1, &[(0, 1)]),
        (&[0], &[], MAX, &[(0, 1)]),
        (&[0, 1], &[], MAX, &[(0, 2)]),
        (&[1, 0], &[], MAX, &[(1, 1), (0, 1)]),
        (&[0, 1, 2], &[], MAX, &[(0, 3)]),
        (&[0, 1, 2], &[3, 4, 5], MAX, &[(0, 6)]),
        (&[0, 1, 2], &[4, 5, 6], MAX, &[(0, 3), (4, 3)]),
        (&[0, 2, 1], &[], MAX, &[(0, 1), (2, 1), (1, 1)]),
        (&[0, 1, 3], &[], MAX, &[(0, 2), (3, 1)]),
        (&[1, 2, 4], &[], MAX, &[(1, 2), (4, 1)]),
        (&[1, 3, 4], &[], MAX, &[(1, 1), (3, 2)]),
        (&[0, 1, 3, 4], &[], MAX, &[(0, 2), (3, 2)]),
        (&[0, 1, 3, 4, 5], &[], MAX, &[(0, 2), (3, 3)]),
        (&[0, 1, 3, 4, 6], &[], MAX, &[(0, 2), (3, 2), (6, 1)]),
        (&[0, 1, 2, 3, 4], &[], MAX, &[(0, 5)]),
        (&[0, 1, 2, 3, 4], &[], 2 * P, &[(0, 2), (2, 2), (4, 1)]),
        (&[0, 1, 2, 3, 4, 5], &[], 2 * P, &[(0, 2), (2, 2), (4, 2)]),
        (&[0, 2, 3, 4, 5, 6], &[], 2 * P, &[(0, 1), (2, 2), (4, 2), (6, 1)]),
        (&[0, 1, 3, 4, 5, 6], &[7, 8, 9, 10, 11, 12], 12 * P, &[(0, 2), (3, 10)]),
    ];
    for (first, second, max, expected) in rows {
        let sgl = list(&[first, second]);
        let limits = SegmentLimits::NONE.max_len(max).unwrap();
        let segments = sgl.whole().unwrap().segments(&limits).unwrap();
        let segments: Vec<_> = segments.map(|s| (s.phys.get() / P, s.len / P)).collect();
        assert_eq!(segments, expected, "{first:?} {second:?} {max:#x}");
    }
    // Row 1: a maximum of nothing. Row 4: one byte of a page.
    assert!(SegmentLimits::NONE.max_len(0).is_err());
    let sgl = list(&[&[0]]);
    let byte = sgl.window(0, 1).unwrap();
    let lens: Vec<u64> = byte.segments(&SegmentLimits::NONE).unwrap().map(|s| s.len).collect();
    assert_eq!(lens, [1]);
}

/// Inconsistent input, where Linux describes foreign pages, is refused.
pub fn what_linux_gets_wrong() {
    // Pages {1, 5}, offset 0x1800, size 0x10000: Linux describes 16 pages that were not passed in.
    let sgl = list(&[&[1, 5]]);
    assert!(sgl.window(0x1800, 0x10000).is_err());
    assert!(sgl.window(0x1800, 0x100).is_err());
    assert!(sgl.window(0, 0x10000).is_err());
    assert!(sgl.window(0x800, 0x1800).is_ok());
    assert!(sgl.window(0x800, 0x1801).is_err());
    // {1, 2} with size 0x1800, then {2, 3}: Linux claims page 4. A list has whole pages, and a
    // repeated page is a run of its own.
    let sgl = list(&[&[1, 2], &[2, 3]]);
    assert!(sgl.whole().unwrap().pages().eq([1, 2, 2, 3].map(Pfn::new)));
    // 4 GiB of contiguous pages are one segment: lengths have 64 bits.
    let sgl = run(0, 1 << 20);
    let all: Vec<_> = sgl.whole().unwrap().iter().map(|s| s.len).collect();
    assert_eq!(all, [1 << 32]);
}

fn best(
    sgl: &Sgl<Store>,
    offset: u64,
    len: u64,
    sizes: &str,
    iova: u64,
) -> Option<(String, Vec<u64>)> {
    let window = sgl.window(offset, len).unwrap();
    let best = window.best_page_size(sizes.parse().unwrap(), Iova::new(iova)).unwrap()?;
    Some((best.page_size().to_string(), best.blocks().map(|block| block.get()).collect()))
}

/// `ib_umem_find_best_pgsz()` and the block iterator.
pub fn best_page_size_and_blocks() {
    let found = |size: &str, blocks: &[u64]| Some((size.to_string(), blocks.to_vec()));
    let low = run(0x200, 4);
    assert_eq!(best(&low, 0, 16384, "4K,2M,1G", 0), found("2M", &[0x20_0000]));

    let sizes = "4K,64K,256K";
    let four_m = run(0x400, 64);
    assert_eq!(best(&four_m, 0, 0x4_0000, sizes, 0x40_0000), found("256K", &[0x40_0000]));
    assert_eq!(
        best(&four_m, 0, 0x4_0000, sizes, 0x41_0000),
        found("64K", &[0x40_0000, 0x41_0000, 0x42_0000, 0x43_0000])
    );
    let (size, blocks) = best(&four_m, 0, 0x4_0000, sizes, 0x40_1000).unwrap();
    assert_eq!((size.as_str(), blocks.len()), ("4K", 64));

    assert_eq!(best(&run(0x413, 4), 0, 16384, "8K,2M", 0), None);

    let page = run(0x700, 1);
    assert_eq!(best(&page, 0x800, 0x400, "4K,2M", 0x7f_0800), found("4K", &[0x70_0000]));
    let all = "512,1K,2K,4K";
    assert_eq!(best(&page, 0x800, 0x400, all, 0x7f_0800), found("1K", &[0x70_0800]));
    assert_eq!(best(&page, 0x800, 0x400, "4K", 0), None);

    let window = page.window(0x800, 0x400).unwrap();
    let iova = Iova::new(u64::MAX - 0x100);
    let wraps = window.best_page_size(PageSizes::SIZE_4K, iova).unwrap_err();
    assert_eq!(wraps, TileError::Wraps { iova, len: 0x400 });
}

fn tiles(iova: u64, phys: u64, bytes: u64) -> Vec<(String, u64)> {
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M | PageSizes::SIZE_1G;
    let sgl = run(phys / P, bytes / P);
    let tiles = sgl.whole().unwrap().tiles(sizes, Iova::new(iova)).unwrap();
    tiles.map(|tile| (tile.page_size.to_string(), tile.count)).collect()
}

/// `iommu_pgsize()`.
pub fn exact_tiles() {
    const G: u64 = 1 << 30;
    let rows = [
        (0, 0, P, "4K", 1),
        (0x1000, 0x1000, 0x40_0000, "4K", 511),
        (0x1000, 0x1000, 0x20_1000, "4K", 513),
        (0x1000, 0x2000, 0x60_0000, "4K", 1536),
        (0x20_0000, 0x20_0000, G, "2M", 512),
        (0x3fe0_0000, 0x3fe0_0000, 2 * G, "2M", 1),
        (0, 0, 3 * G, "1G", 3),
        (0xffff_ffff_ffff_f000, 0x1000, P, "4K", 1),
    ];
    for (iova, phys, bytes, size, count) in rows {
        assert_eq!(tiles(iova, phys, bytes)[0], (size.to_string(), count), "{iova:#x} {phys:#x}");
    }
    let split = tiles(0x1f_f000, 0x3f_f000, 0x40_2000);
    assert_eq!(split, [("4K".into(), 1), ("2M".into(), 2), ("4K".into(), 1)]);
}

/// Numbers at the very end of 64 bits.
pub fn the_last_byte_is_a_byte() {
    let top: Vec<Page> = vec![((1 << 52) - 1, MemoryKind::Ram)];
    let sizes = PageSizes::from_bits_retain(u64::MAX);
    let case = block_law::Case { offset: 0, len: P, iova: u64::MAX - P + 1, sizes };
    block_law::check(PageSize::SIZE_4K, &top, case);
    tile_law::check(PageSize::SIZE_4K, &top, case);

    // The largest list there is: all of memory, one page short of 2^64 bytes.
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, store()).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(1), (1 << 52) - 1).unwrap()).unwrap();
    let more = builder.push_page(Pfn::new(0), MemoryKind::Ram);
    assert_eq!(more, Err(BuildError::TooManyPages { index: 0 }));
    let sgl = builder.finish().unwrap();
    assert_eq!(sgl.byte_len(), u64::MAX - P + 1);
    let window = sgl.whole().unwrap();
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_1G;
    let tiles: Vec<_> = window.tiles(sizes, Iova::new(P)).unwrap().collect();
    assert_eq!(tiles.len(), 2);
    assert_eq!(tiles.iter().map(|tile| tile.len()).sum::<u64>(), window.len());
    let best = window.best_page_size(sizes, Iova::new(P)).unwrap().unwrap();
    assert_eq!((best.page_size(), best.block_count()), (PageSize::SIZE_1G, 1 << 34));
}
