// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad input: a typed error that says where, and nothing has changed.

use pinned_sgl::granule::{SegmentError, TileError};
use pinned_sgl::{
    BuildError, Heap, Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, PhysAddr,
    RangeError, SegmentLimits, Sgl, SglBuilder, WindowError,
};

const PAGE: PageSize = PageSize::SIZE_4K;
/// The first frame without a byte address.
const OUT: u64 = 1 << 52;

/// A builder with some runs, open ones and packed ones.
fn builder() -> SglBuilder<Heap> {
    let mut builder = SglBuilder::new(PAGE).unwrap();
    for pfn in (0..100).rev() {
        builder.push_page(Pfn::new(pfn), Ram).unwrap();
    }
    builder
}

/// What `push` refuses, and that the builder is as it was before.
#[track_caller]
fn refused(push: impl FnOnce(&mut SglBuilder<Heap>) -> Result<(), BuildError>, error: BuildError) {
    let mut builder = builder();
    assert_eq!(push(&mut builder), Err(error));
    assert_eq!((builder.page_count(), builder.run_count()), (100, 100));
    // The last run can still grow.
    builder.push_page(Pfn::new(1), Ram).unwrap();
    let sgl = builder.finish().unwrap();
    let pages = (0..100).rev().chain([1]).map(Pfn::new);
    assert!(sgl.whole().unwrap().pages().eq(pages));
    assert_eq!(sgl.run_count(), 100);
}

#[test]
fn frames_without_an_address() {
    let out = |index| BuildError::AddressTooLarge { index };
    refused(|builder| builder.push_page(Pfn::new(OUT), Ram), out(0));
    refused(|builder| builder.push_page(Pfn::new(u64::MAX), Ram), out(0));
    refused(|builder| builder.push_run(PageRun::ram(Pfn::new(OUT - 1), 2).unwrap()), out(0));
    // In slices: behind contiguous pages, behind scattered ones, in the middle of a run.
    let mut pages: Vec<Pfn> = (1000..1200).map(Pfn::new).collect();
    pages.push(Pfn::new(OUT));
    refused(|builder| builder.push_pages(&pages, Ram), out(200));
    let mut pages: Vec<Pfn> = (0..300).map(|i| Pfn::new(10 * i)).collect();
    pages.extend([Pfn::new(OUT), Pfn::new(5)]);
    refused(|builder| builder.push_pages(&pages, Ram), out(300));
    let pages: Vec<Pfn> = (OUT - 3..OUT + 3).map(Pfn::new).collect();
    refused(|builder| builder.push_pages(&pages, Ram), out(0));
    let runs = [(1, 5), (500, 1), (OUT - 4, 5)].map(|(pfn, n)| PageRun::ram(Pfn::new(pfn), n));
    refused(|builder| builder.push_runs(runs.map(Result::unwrap)), out(2));
}

#[test]
fn lists_of_too_many_bytes() {
    let all = PageRun::ram(Pfn::new(0), OUT - 1).unwrap();
    refused(|builder| builder.push_run(all), BuildError::TooManyPages { index: 0 });
    let most = PageRun::ram(Pfn::new(0), OUT - 101).unwrap();
    let page = PageRun::ram(Pfn::new(0), 1).unwrap();
    let one_too_many = BuildError::TooManyPages { index: 1 };
    refused(|builder| builder.push_runs([most, page]), one_too_many);
    // Scattered pages, too.
    refused(
        |builder| {
            let less = PageRun::ram(Pfn::new(0), OUT - 101 - 2).unwrap();
            builder.push_runs([less])?;
            let result = builder.push_pages(&[9, 7, 5, 3].map(Pfn::new), Ram);
            assert_eq!(builder.page_count(), OUT - 3);
            // Back to what `refused` looks for.
            *builder = self::builder();
            result
        },
        BuildError::TooManyPages { index: 2 },
    );
}

#[test]
fn page_sizes_of_lists() {
    for shift in (0..10).chain(31..64) {
        let page = PageSize::from_shift(shift).unwrap();
        assert_eq!(SglBuilder::<Heap>::new(page).unwrap_err(), BuildError::PageSize { page });
    }
    for shift in 10..=30 {
        assert!(SglBuilder::<Heap>::new(PageSize::from_shift(shift).unwrap()).is_ok());
    }
    let mut other = SglBuilder::<Heap>::new(PageSize::SIZE_64K).unwrap();
    other.push_page(Pfn::new(1), Ram).unwrap();
    let other = other.finish().unwrap();
    let error = BuildError::OtherPageSize { page: PageSize::SIZE_64K, expected: PAGE };
    refused(|builder| builder.push_sgl(&other), error);
}

fn list() -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PAGE).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(0x10), 4).unwrap()).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(0x21), 2).unwrap()).unwrap();
    builder.finish().unwrap()
}

#[test]
fn runs_and_windows() {
    assert_eq!(PageRun::ram(Pfn::new(1), 0), Err(RangeError::Empty));
    let sgl = list();
    let window = |offset, len| sgl.window(offset, len).map(|_| ()).unwrap_err();
    assert_eq!(window(0, 0), WindowError::Empty);
    assert_eq!(window(4096, 1), WindowError::OffsetBeyondFirstPage { offset: 4096, page: PAGE });
    let beyond = |offset, len| WindowError::Beyond { offset, len, available: 0x6000 };
    assert_eq!(window(0, 0x6001), beyond(0, 0x6001));
    assert_eq!(window(1, 0x6000), beyond(1, 0x6000));
    assert_eq!(window(1, u64::MAX), beyond(1, u64::MAX));
    let empty = SglBuilder::<Heap>::new(PAGE).unwrap().finish().unwrap();
    assert_eq!(empty.whole().map(|_| ()), Err(WindowError::Empty));
    assert_eq!((empty.runs().next(), empty.is_empty()), (None, true));
}

#[test]
fn limits() {
    let none = SegmentLimits::NONE;
    assert_eq!(none.max_len(0), Err(SegmentError::ZeroLength));
    for boundary in [0, 3, 4097, u64::MAX] {
        assert_eq!(none.boundary(boundary), Err(SegmentError::BoundaryNotAPowerOfTwo { boundary }));
    }
    for mask in [1 << 63, 2, 0xf0, u64::MAX - 1] {
        assert_eq!(none.addr_mask(mask), Err(SegmentError::MaskNotContiguous { mask }));
    }
    let sgl = list();
    let window = sgl.whole().unwrap();
    let segments = |limits| window.segments(&limits).map(|_| ()).unwrap_err();
    assert_eq!(segments(none.max_segments(1)), SegmentError::TooMany { needed: 2, max: 1 });
    let beyond =
        SegmentError::Unreachable { offset: 0x4000, phys: PhysAddr::new(0x2_1000), mask: 0x1_ffff };
    assert_eq!(segments(none.addr_mask(0x1_ffff).unwrap()), beyond);
}

#[test]
fn page_sizes_and_iovas() {
    let sgl = list();
    let window = sgl.whole().unwrap();
    let best = |sizes, iova| window.best_page_size(sizes, Iova::new(iova)).map(|_| ()).unwrap_err();
    let tiles = |sizes, iova| window.tiles(sizes, Iova::new(iova)).map(|_| ()).unwrap_err();
    assert_eq!(best(PageSizes::empty(), 0), TileError::NoPageSizes);
    assert_eq!(tiles(PageSizes::empty(), 0), TileError::NoPageSizes);
    let (iova, len) = (Iova::new(u64::MAX - 0x5ffe), 0x6000);
    assert_eq!(best(PageSizes::SIZE_4K, iova.get()), TileError::Wraps { iova, len });
    assert_eq!(tiles(PageSizes::SIZE_4K, iova.get()), TileError::Wraps { iova, len });
    let (iova, smallest) = (Iova::new(0x800), PAGE);
    assert_eq!(tiles(PageSizes::SIZE_4K, 0x800), TileError::MisalignedIova { iova, smallest });
    // Pages of the IOMMU that are larger than those of the list: every run counts.
    let smallest = PageSize::new(8192).unwrap();
    let phys = PhysAddr::new(0x2_1000);
    let error = TileError::MisalignedMemory { offset: 0x4000, phys, smallest };
    assert_eq!(tiles(smallest.into(), 0), error);
    let part = sgl.window(0, 0x1000).unwrap();
    let error = part.tiles(smallest.into(), Iova::new(0)).map(|_| ()).unwrap_err();
    assert_eq!(error, TileError::MisalignedEnd { offset: 0x1000, smallest });
}
