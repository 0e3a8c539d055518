// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values whose fields or arguments are any numbers: nothing panics.

use super::rig::{bytes, iova, P, RO, RW, WRITE_LONG};
use super::{built, scattered, Space, AT};
use pinned_sgl::iommu::{DirtyBitmap, IovaRange, Mapping, Placement, RangeGather, Remains, Stream};
use pinned_sgl::rdma::{Access, BlockLayout, MemoryRegion};
use pinned_sgl::umem::{Account, Accountant, Charge, PinRequest, Unaccounted, UserRange};
use pinned_sgl::{
    Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SegmentLimits, SglBuilder,
    UserAddr,
};
use pinned_sgl_mock::Nic;

const EDGES: [u64; 14] = [
    0,
    1,
    2,
    511,
    4095,
    4096,
    4097,
    1 << 32,
    (1 << 52) - 1,
    1 << 52,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 1,
    u64::MAX,
];

fn pairs() -> impl Iterator<Item = (u64, u64)> {
    EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b)))
}

fn every_size() -> impl Iterator<Item = PageSize> {
    (0..64).filter_map(PageSize::from_shift)
}

/// Fields that safe code can change.
#[test]
fn fields_of_any_number() {
    let sgl = built(Heap::new(), 3);
    let tile = sgl.whole().unwrap().tiles(PageSizes::SIZE_4K, iova(0)).unwrap().next().unwrap();
    let segment = sgl.whole().unwrap().iter().next().unwrap();
    for (a, b) in pairs() {
        for page in every_size() {
            let mut tile = tile;
            (tile.iova, tile.phys, tile.page_size, tile.count) =
                (Iova::new(a), PhysAddr::new(b), page, b);
            let exact = u128::from(b) << page.shift();
            assert_eq!(tile.len(), u64::try_from(exact).unwrap_or(u64::MAX));
            let _ = format!("{tile:?}");
        }
        let mut segment = segment;
        (segment.phys, segment.len) = (PhysAddr::new(a), b);
        assert_eq!(segment.last().get(), a.saturating_add(b.saturating_sub(1)));
        let _ = format!("{segment:?}");
        for sizes in [PageSizes::empty(), PageSizes::SIZE_4K, PageSizes::all()] {
            for at in EDGES {
                if let Ok(tiles) = segment.tiles(sizes, Iova::new(at)) {
                    let _ = (tiles.size_hint(), format!("{tiles:?}"));
                    let mapped = tiles.fold(0u64, |sum, tile| sum.wrapping_add(tile.len()));
                    assert_eq!(mapped, b);
                }
            }
        }
    }
}

#[test]
fn ranges_and_sizes_of_any_number() {
    for (a, b) in pairs() {
        let runs = PageRun::ram(Pfn::new(a), b);
        let user = UserRange::new(UserAddr::new(a), b);
        let range = IovaRange::new(Iova::new(a), b);
        let inclusive = IovaRange::inclusive(Iova::new(a), Iova::new(b));
        if let Ok(run) = runs {
            let _ = (run.last(), run.end(), run.continues_with(&run), format!("{run:?}"));
        }
        let mut gather = RangeGather::default();
        for range in [range, inclusive, Ok(IovaRange::ALL)].into_iter().flatten() {
            gather.add(range);
            assert!(range.len().is_none_or(|len| len > 0));
            for page in every_size() {
                let words = DirtyBitmap::words_for(range, page);
                assert!(words > 0);
                let layout = BlockLayout::new(range, page, Access::empty());
                let count = (layout.block_count(), layout.first_offset());
                assert!(count.0 > 0);
                for at in EDGES.map(Iova::new) {
                    assert_eq!(layout.locate(at).is_some(), range.contains(at));
                }
                let mut memory = [0; 4];
                if let Ok(mut bitmap) = DirtyBitmap::new(&mut memory, range, page) {
                    for (first, last) in pairs() {
                        if let Ok(set) = IovaRange::inclusive(Iova::new(first), Iova::new(last)) {
                            bitmap.set(set);
                            let here = range.intersection(&set).map(|both| both.first());
                            assert!(here.is_none_or(|iova| bitmap.is_set(iova)));
                        }
                    }
                    assert!(bitmap.count() <= 256);
                }
            }
        }
        assert!(gather.take().is_some() && gather.take().is_none());
        if let Ok(user) = user {
            let _ = (user.last(), format!("{user} {user:?}"));
            for page in every_size() {
                assert!(user.page_count(page) > 0);
                let _ = (user.first_page(page), user.page_offset(page));
            }
        }
        for page in every_size() {
            let addr = Iova::new(a);
            let _ = (addr.checked_align_up(page), addr.align_down(page), addr.offset_in(page));
            let _ = (Pfn::new(a).phys(page), PhysAddr::new(a).pfn(page));
            let sizes = PageSizes::from_bits_retain(b);
            let _ = (sizes.up_to(page), sizes.at_least(page), sizes.has(page));
        }
    }
}

/// Lists of as many pages as can be, of every size of a page.
#[test]
fn lists_of_all_pages_that_there_are() {
    for shift in 0..64 {
        let page = PageSize::from_shift(shift).unwrap();
        let Ok(mut builder) = SglBuilder::new(page) else { continue };
        let top = u64::MAX >> shift;
        for (start, count) in pairs() {
            if let Ok(run) = PageRun::ram(Pfn::new(start), count) {
                let _ = (builder.push_run(run), builder.push_runs([run, run]));
            }
            let _ = builder.push_pages(&[Pfn::new(start), Pfn::new(count)], MemoryKind::Mmio);
            let _ = builder.push_page(Pfn::new(count), MemoryKind::Ram);
        }
        let left = top - builder.page_count();
        if left > 0 {
            builder.push_run(PageRun::ram(Pfn::new(0), left).unwrap()).unwrap();
        }
        assert!(builder.push_page(Pfn::new(0), MemoryKind::Ram).is_err());
        let sgl = builder.finish().unwrap();
        assert_eq!((sgl.page_count(), sgl.byte_len()), (top, top << shift));
        for (offset, len) in pairs().chain([(0, sgl.byte_len())]) {
            let Ok(window) = sgl.window(offset, len) else { continue };
            let _ = (window.page_count(), window.run_count(), format!("{window:?}"));
            let _ = (window.pages().take(3).count(), window.pages().size_hint());
            for (at, more) in pairs() {
                let _ = (window.phys(at), window.segment_at(at), window.iter_at(at).next());
                let _ = window.window(at, more).map(|window| window.page_offset());
                for sizes in
                    [PageSizes::all(), PageSizes::SIZE_4K, PageSizes::from_bits_retain(more)]
                {
                    if let Ok(Some(blocks)) = window.best_page_size(sizes, Iova::new(at)) {
                        let _ = (blocks.block_count(), blocks.blocks().take(2).count());
                        let _ = blocks.shrink(page).map(|less| less.block_count());
                        let _ = format!("{blocks:?}");
                    }
                    if let Ok(tiles) = window.tiles(sizes, Iova::new(at)) {
                        let _ = (tiles.size_hint(), tiles.take(5).count());
                    }
                }
                let limits = SegmentLimits::NONE;
                let limits = limits.max_len(at).unwrap_or(limits);
                let limits = limits.boundary(more).unwrap_or(limits);
                let limits = limits.addr_mask(more).unwrap_or(limits).max_segments(at);
                let _ = window.segment_count(&limits);
                let _ = window
                    .segments(&limits)
                    .map(|segments| (segments.size_hint(), segments.take(4).count()));
            }
        }
    }
}

/// Calls with any numbers on a mapping, an address space, a stream, a registration and a region.
#[test]
fn values_that_are_asked_for_any_number() {
    let rig = scattered(8);
    let (iommu, nic) = (rig.iommu("4K|64K"), Nic::new(rig.memory.clone()));
    let umem = rig.pin(bytes(0, 8 * P));
    let mut mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
    let mut space = Space::new();
    space.attach(rig.iommu("4K")).unwrap();
    space.set_mapping_limit(3);
    let region = MemoryRegion::register(umem.clone(), &nic, iova(AT), Access::REMOTE_READ).unwrap();
    let edges = EDGES.into_iter().chain([AT, AT + P, AT + 8 * P - 1, 8 * P, P]);
    let edges: Vec<u64> = edges.collect();
    for &a in &edges {
        let _ = (mapping.edges(a), mapping.translate(Iova::new(a)), space.translate(Iova::new(a)));
        let _ = (region.layout().locate(Iova::new(a)), space.split(Iova::new(a)));
        let _ = (umem.read(a, &mut [0; 9]), umem.write(a, &[0; 9]), umem.read(a, &mut []));
        let _ = (space.read(Iova::new(a), &mut [0; 9]), space.write(Iova::new(a), &[1; 9]));
        mapping = match mapping.split_at(a) {
            Ok((head, tail)) => {
                drop((head, tail));
                Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap()
            }
            Err(error) => error.into_value(),
        };
        for &b in &edges {
            let _ = (
                umem.window(a..b),
                space.map_range(Placement::At(Iova::new(a)), umem.clone(), a..b, RO),
            );
            let Ok(range) = IovaRange::new(Iova::new(a), b) else { continue };
            let mut other = Space::new();
            let within = [range, IovaRange::ALL];
            let _ = space.map_range(Placement::Within(&within[..1]), umem.clone(), 0..P, RW);
            let _ = space.mappings(range).count();
            if let Ok(reservation) = space.reserve(range) {
                assert!(other.unreserve(reservation).is_err(), "it is of another space");
            }
            let _ = (space.unmap_cutting(range), space.unmap(range));
            let _ = other.copy_from(&space, range, Placement::At(Iova::new(b)), RO);
            let _ = Mapping::map_range(&*umem, a..b, &*iommu, Iova::new(b), RO);
            let access = Access::REMOTE_READ;
            let _ = MemoryRegion::register_range(&*umem, a..b, &nic, Iova::new(b), access);
            mapping = match mapping.unmap_range(a..b) {
                Err(error) => match error.into_value() {
                    Remains::Whole(mapping) => mapping,
                    around => panic!("{around:?}"),
                },
                gone => {
                    drop(gone);
                    Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap()
                }
            };
        }
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let second = rig.iommu("4K");
        let stream = Stream::map(
            &*rig.process,
            &Unaccounted,
            &*second,
            [None; 2],
            request,
            Iova::new(a),
            RW,
        );
        if let Ok(stream) = stream {
            for &b in &edges {
                let _ = stream.translate(Iova::new(b));
            }
        }
    }
    drop((mapping, space, region, umem));
    rig.assert_idle();
}

/// Accounts of any numbers, given back more often than charged.
#[test]
fn accounts_of_any_number() {
    for (a, b) in pairs() {
        let account = Account::new(a);
        let charge = Charge::new(&account, b);
        assert_eq!(charge.is_ok(), b <= account.limit());
        account.uncharge(u64::MAX);
        account.set_limit(b);
        let more = Charge::new(&account, a);
        drop((charge, more));
        assert_eq!(account.charged(), 0);
        account.uncharge(a);
        assert_eq!(account.charged(), 0);
    }
}
