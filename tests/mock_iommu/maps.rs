// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping and unmapping: what is translated, what is refused, and the tables that it takes.

use super::{
    iova, is_bad_call, map, map_as, range, seen, sizes, tile, tiles, unmap, unmap_into, Bytes, K4,
    M2, RW,
};
use pinned_sgl::iommu::{Cuts, Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr, Tile};
use pinned_sgl_mock::{Call, Device, DmaFault, Iommu, MapFault, ViolationKind};
use std::collections::BTreeMap;
use std::pin::Pin;

/// Random maps and unmaps, honest ones, against a table of the smallest pages.
#[test]
fn translates_as_the_oracle() {
    let sets = ["2K|1M", "4K|2M|1G", "64K|512M", "4K", "4K|64K|2M", "8K|32K|1M|16M", "16K|32M"];
    for (seed, text) in sets.iter().enumerate() {
        for can_split in [false, true] {
            let sizes = sizes(text);
            let small = sizes.smallest().unwrap();
            // Not so large that the oracle gets slow.
            let top = sizes.largest().unwrap().bytes().min(64 << 20);
            let iommu = Iommu::config(sizes)
                .cuts([Cuts::Entries, Cuts::Anywhere][usize::from(can_split)])
                .build();
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            let mut oracle: BTreeMap<u64, u64> = BTreeMap::new();
            // What was mapped at a time, by its first address.
            let mut mappings: BTreeMap<u64, u64> = BTreeMap::new();
            let pages_of =
                |first: u64, len: u64| (first..first + len).step_by(small.bytes() as usize);
            for _ in 0..150 {
                // Addresses and memory agree modulo a large page, or not.
                let first = rng.u64(0..4 * top) & !small.mask();
                let most = if rng.bool() { 4 * small.bytes() } else { 2 * top };
                let len = (rng.u64(1..=most) + small.mask()) & !small.mask();
                if rng.u8(0..3) > 0 {
                    let skew = rng.u64(0..3) * [0, small.bytes()][rng.usize(0..2)];
                    let phys = 8 * top + first + skew;
                    let taken = oracle.range(first..first + len).next().map(|(iova, _)| *iova);
                    let mut done = 0;
                    let mut fault = None;
                    for tile in tiles(sizes, first, phys, len) {
                        let (bytes, result) = map_as(&iommu, tile, RW);
                        done += bytes;
                        if let Err(why) = result {
                            fault = Some(why);
                            break;
                        }
                        assert_eq!(bytes, tile.len());
                    }
                    match taken {
                        None => assert_eq!((done, fault), (len, None)),
                        Some(taken) => {
                            assert_eq!(fault, Some(MapFault::Exists { iova: iova(taken) }));
                            assert!(first + done <= taken);
                            if done > 0 {
                                assert_eq!(unmap(&iommu, first, done), done);
                            }
                            continue;
                        }
                    }
                    oracle.extend(pages_of(first, len).map(|at| (at, at - first + phys)));
                    mappings.insert(first, len);
                } else if let Some((&first, &len)) = mappings.range(first..).next() {
                    mappings.remove(&first);
                    let (mut cut, mut left) = (first, len);
                    if can_split {
                        // A part is unmapped; the rest stays.
                        cut += rng.u64(0..len) & !small.mask();
                        left = (rng.u64(0..first + len - cut) & !small.mask()) + small.bytes();
                        for (first, last) in [(first, cut), (cut + left, first + len)] {
                            if first < last {
                                mappings.insert(first, last - first);
                            }
                        }
                    }
                    assert_eq!(unmap(&iommu, cut, left), left);
                    pages_of(cut, left).for_each(|at| assert!(oracle.remove(&at).is_some()));
                }
                assert_eq!(iommu.mapped_bytes(), u128::from(oracle.len() as u64 * small.bytes()));
            }
            let mut seen = BTreeMap::new();
            for mapped in iommu.mapped(IovaRange::ALL) {
                let (first, len) = (mapped.range.first().get(), mapped.range.len().unwrap());
                assert!(sizes.has(PageSize::new(len).unwrap()));
                seen.extend(pages_of(first, len).map(|at| (at, at - first + mapped.phys.get())));
            }
            assert!(seen == oracle, "{text}");
            assert_eq!(iommu.mapped_pages() as usize, iommu.mapped(IovaRange::ALL).len());
            for _ in 0..1000 {
                let at = rng.u64(0..6 * top);
                let expected =
                    oracle.get(&(at & !small.mask())).map(|phys| phys + (at & small.mask()));
                assert_eq!(iommu.read(iova(at)).map(|entry| entry.phys.get()), expected);
            }
            let empty = Iommu::new(sizes).table_bytes();
            mappings.iter().for_each(|(first, len)| assert_eq!(unmap(&iommu, *first, *len), *len));
            assert_eq!((iommu.mapped_pages(), iommu.table_bytes()), (0, empty), "{text}");
            let stats = iommu.stats();
            assert!(can_split || stats.pages_mapped == stats.pages_unmapped);
            assert!(iommu.witness().is_clean());
        }
    }
}

#[test]
fn tables_are_made_and_freed() {
    let iommu = Iommu::new(sizes("4K|2M|1G"));
    let empty = iommu.table_bytes();
    // 64 bits: 12 + 9 + 9 + 9 + 9 + 9 + 7.
    assert_eq!(empty, 128 * 8);
    map(&iommu, 0x7000, 0x7000, K4);
    assert_eq!(iommu.table_bytes(), empty + 5 * 4096);
    map(&iommu, 1 << 30, 1 << 30, 1 << 30);
    assert_eq!((iommu.table_bytes(), iommu.mapped_pages()), (empty + 5 * 4096, 2));
    assert_eq!((unmap(&iommu, 1 << 30, 1 << 30), unmap(&iommu, 0x7000, K4)), (1 << 30, K4));
    assert_eq!(iommu.table_bytes(), empty);
    // With as few levels as the aperture needs.
    let low = Iommu::config(PageSizes::SIZE_4K).aperture(range(0, 1 << 21)).build();
    map(&low, 0, 0, M2);
    assert_eq!(low.table_bytes(), 4096);
    assert_eq!(unmap(&low, 0, M2), M2);
    assert!(iommu.witness().is_clean() && low.witness().is_clean());
}

/// Mapping over a mapping of 2M + 4K, whose pages are of two sizes.
#[test]
fn nothing_is_mapped_over_a_mapping() {
    for strict in [false, true] {
        let iommu = Iommu::config(sizes("4K|2M")).strict_overlap(strict).build();
        map(&iommu, M2, M2, M2 + K4);
        let before = iommu.mapped(IovaRange::ALL);
        // Exact, head, tail, inside, cover: what is asked for, what is done, what is in the way.
        for (tile, done, at) in [
            (tile(M2, 0, M2, 1), 0, M2),
            (tile(2 * M2, 0, K4, 1), 0, 2 * M2),
            (tile(M2 - K4, 0, K4, 3), K4, M2),
            (tile(2 * M2, 0, K4, 2), 0, 2 * M2),
            (tile(M2 + 5 * K4, 0, K4, 2), 0, M2 + 5 * K4),
            (tile(0, 0, M2, 4), M2, M2),
            (tile(2 * M2, 0, M2, 1), 0, 2 * M2),
        ] {
            let expected = (done, Err(MapFault::Exists { iova: iova(at) }));
            assert_eq!(map_as(&iommu, tile, RW), expected, "{tile:?}");
            let violation = seen(ViolationKind::MapOverMap, Call::Map, at);
            assert_eq!(iommu.witness().take(), vec![violation; usize::from(strict)]);
            if done > 0 {
                assert_eq!(unmap(&iommu, tile.iova.get(), done), done);
            }
            assert_eq!(iommu.mapped(IovaRange::ALL), before);
        }
        // In the way of a large page is the first small one, wherever in it that is.
        map(&iommu, 3 * M2 - K4, 0, K4);
        assert_eq!(unmap(&iommu, 2 * M2, K4), K4);
        let expected = (0, Err(MapFault::Exists { iova: iova(3 * M2 - K4) }));
        assert_eq!(map_as(&iommu, tile(2 * M2, 0, M2, 1), RW), expected);
        assert_eq!(iommu.witness().take().len(), usize::from(strict));
        // What has been emptied is not in the way.
        assert_eq!(unmap(&iommu, 3 * M2 - K4, K4), K4);
        map(&iommu, 2 * M2, 0, M2);
        assert_eq!(unmap(&iommu, M2, 2 * M2), 2 * M2);
        assert!(iommu.witness().is_clean());
    }
}

/// The last address of 64 bits, and the edges of an aperture.
#[test]
fn edges_of_the_address_space() {
    let top = u64::MAX - M2 + 1;
    let iommu = Iommu::new(sizes("4K|2M"));
    let device = Device::new(&iommu, Bytes::new(u64::MAX));
    map(&iommu, top - K4, 0, M2 + K4);
    assert_eq!(iommu.mapped_pages(), 513);
    assert_eq!(unmap(&iommu, top - K4, M2 + K4), M2 + K4);
    map(&iommu, top, M2, M2);
    device.write(iova(u64::MAX), &[5]).unwrap();
    assert_eq!(device.reads_as(iova(u64::MAX), &[5]), Ok(true));
    device.prefetch(range(top, M2)).unwrap();
    let wraps = Err(DmaFault::Wraps { iova: iova(u64::MAX) });
    assert_eq!(device.write(iova(u64::MAX), &[5, 5]), wraps);
    assert_eq!(iommu.read(iova(u64::MAX)), Some(Entry::new(PhysAddr::new(2 * M2 - 1), 1)));
    assert_eq!(unmap(&iommu, top, M2), M2);
    assert_eq!(
        device.read(iova(u64::MAX), &mut [0]),
        Err(DmaFault::NotMapped { iova: iova(u64::MAX) })
    );
    iommu.witness().assert_clean();

    let bad = |tile: Tile, iommu: &Iommu| {
        assert_eq!(map_as(iommu, tile, RW), (0, Err(MapFault::BadCall)), "{tile:?}");
        assert!(is_bad_call(&iommu.witness().take(), Call::Map, tile.iova.get()));
        let mut gather = RangeGather::default();
        // SAFETY: memory that exists in this test only.
        assert_eq!(unsafe { iommu.unmap(tile, Pin::new(&mut gather)) }, 0);
        assert_eq!((iommu.witness().take().len(), gather.take()), (1, None));
    };
    for bad_tile in [
        tile(0, 0, 8192, 1),
        tile(0, 0, K4, 0),
        tile(K4 / 2, 0, K4, 1),
        tile(0, K4 / 2, K4, 1),
        tile(M2 + K4, 0, M2, 1),
        tile(u64::MAX - K4 + 1, 0, K4, 2),
        tile(0, u64::MAX - K4 + 1, K4, 2),
        tile(0, 0, M2, u64::MAX >> 20),
        tile(0, 0, M2, u64::MAX),
    ] {
        bad(bad_tile, &iommu);
    }
    assert_eq!(map_as(&iommu, tile(0, 0, K4, 1), Prot::NOEXEC), (0, Err(MapFault::BadCall)));
    assert_eq!(iommu.witness().take().len(), 1);

    let aperture = range(0x10_0000, 0x20_0000);
    let narrow = Iommu::config(sizes("4K|1M|1G")).aperture(aperture).build();
    for outside in [0xf_f000, 0x30_0000, 1 << 40, u64::MAX - K4 + 1] {
        bad(tile(outside, 0, K4, 1), &narrow);
        assert_eq!((narrow.lookup(iova(outside)), unmap(&narrow, outside, K4)), (None, 0));
        assert_eq!(narrow.witness().take().len(), 1);
    }
    bad(tile(0, 0, 1 << 30, 1), &narrow);
    map(&narrow, 0x10_0000, 0, 0x20_0000);
    assert_eq!((narrow.mapped_pages(), narrow.sync_map(aperture)), (2, Ok(())));
    assert_eq!(narrow.sync_map(IovaRange::ALL), Err(MapFault::BadCall));
    assert_eq!(narrow.witness().take().len(), 1);
    assert_eq!(unmap(&narrow, 0x10_0000, 0x20_0000), 0x20_0000);
    // A page as large as the whole aperture, and as half of all there is.
    let one = Iommu::config(sizes("4K|1M")).aperture(range(0, 1 << 20)).build();
    map(&one, 0, 0, 1 << 20);
    assert_eq!((one.mapped_pages(), unmap(&one, 0, 1 << 20)), (1, 1 << 20));
    let huge = Iommu::new(sizes("1|8E"));
    assert_eq!(map_as(&huge, tile(1 << 63, 0, 1 << 63, 1), RW), (1 << 63, Ok(())));
    assert_eq!(map_as(&huge, tile(0, 1 << 63, 1 << 63, 1), RW), (1 << 63, Ok(())));
    assert_eq!(huge.mapped_bytes(), 1 << 64);
    let mut gather = RangeGather::default();
    assert_eq!(unmap_into(&huge, IovaRange::ALL, &mut gather), u64::MAX);
    assert_eq!(map_as(&huge, tile(u64::MAX, 77, 1, 1), RW), (1, Ok(())));
    assert_eq!(huge.lookup(iova(u64::MAX)).unwrap().phys, PhysAddr::new(77));
    assert_eq!(unmap(&huge, u64::MAX, 1), 1);
    huge.witness().assert_clean();
    // No page size at all: nothing can be mapped, and nothing goes wrong.
    bad(tile(0, 0, K4, 1), &Iommu::new(PageSizes::empty()));
}

/// A tile is unmapped, by itself or as many with `unmap_range`, in one call.
#[test]
fn unmaps_by_tile() {
    let iommu = Iommu::new(sizes("4K|2M"));
    map(&iommu, M2 - K4, M2 - K4, M2 + K4);
    let mut gather = RangeGather::default();
    for tile in tiles(sizes("4K|2M"), M2 - K4, M2 - K4, M2 + K4) {
        // SAFETY: memory that exists in this test only.
        assert_eq!(unsafe { iommu.unmap(tile, Pin::new(&mut gather)) }, tile.len());
    }
    assert_eq!(gather.take(), Some(range(M2 - K4, M2 + K4)));
    map(&iommu, M2 - K4, M2 - K4, M2 + K4);
    let all = range(M2 - K4, M2 + K4);
    let mut computed = 0;
    let tiles = std::iter::repeat_with(|| {
        computed += 1;
        tile(0, 0, K4, 1)
    });
    // SAFETY: memory that exists in this test only.
    assert_eq!(unsafe { iommu.unmap_range(all, tiles, Pin::new(&mut gather)) }, M2 + K4);
    assert_eq!((gather.take(), iommu.stats().unmap_calls, computed), (Some(all), 3, 0));
    assert_eq!(iommu.mapped_pages(), 0);
    iommu.witness().assert_clean();
}

#[test]
fn a_million_pages() {
    let iommu = Iommu::new(PageSizes::SIZE_4K);
    let million = 1 << 20;
    for page in 0..million {
        let tile = tile_like(page * K4, (page ^ 1) * K4);
        assert_eq!(map_as(&iommu, tile, RW).0, K4);
    }
    assert_eq!(iommu.mapped_pages(), million);
    // 2048 tables of the lowest level, and few above.
    assert!((2048..2060).contains(&(iommu.table_bytes() / 4096)));
    assert_eq!(iommu.lookup(iova(12345 * K4)).unwrap().phys, PhysAddr::new(12344 * K4));
    assert_eq!(unmap(&iommu, 0, million * K4), million * K4);
    map(&iommu, 0, 0, million * K4);
    assert_eq!(unmap(&iommu, 0, million * K4), million * K4);
    iommu.witness().assert_clean();
}

/// [`tile`], without making a list for each.
fn tile_like(iova: u64, phys: u64) -> Tile {
    thread_local!(static TILE: Tile = tile(0, 0, K4, 1));
    let mut tile = TILE.with(|tile| *tile);
    tile.iova = Iova::new(iova);
    tile.phys = PhysAddr::new(phys);
    tile
}

#[test]
fn what_stays_mapped_is_reported() {
    let iommu = Iommu::new(sizes("4K|2M"));
    let witness = iommu.witness().clone();
    map(&iommu, 3 * M2, 0, M2);
    map(&iommu, 7 * M2 - K4, 0, K4);
    drop(iommu);
    assert_eq!(witness.take(), [seen(ViolationKind::StillMapped, Call::Drop, 3 * M2)]);
    let iommu = Iommu::new(sizes("4K"));
    let witness = iommu.witness().clone();
    drop(iommu);
    witness.assert_clean();
}
