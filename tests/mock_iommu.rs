// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mock IOMMU and its devices against an oracle, at the edges, and telling of every mistake.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::integer_division,
    clippy::unwrap_used,
    reason = "a test may panic: that is how it fails"
)]

use pinned_sgl::iommu::{
    Cuts, DirtyDomain, Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain,
};
use pinned_sgl::store::Slab;
use pinned_sgl::{
    Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SglBuilder, Tile, Window,
};
use pinned_sgl_mock::{
    Bus, BusError, BusErrorReason, Call, Device, DmaFault, FailingSlab, Iommu, Key, Lie, MapFault,
    Nic, NicError, NicFault, Plan, Step, Violation, ViolationKind,
};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Mutex;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;

/// Memory of bytes, zero until written, up to an end.
struct Bytes {
    bytes: Mutex<HashMap<u64, u8>>,
    end: u64,
}

impl Bytes {
    fn new(end: u64) -> Self {
        Self { bytes: Mutex::default(), end }
    }

    fn check(&self, at: u64) -> Result<(), BusError> {
        let error = BusError::new(PhysAddr::new(at), BusErrorReason::NoMemory);
        if at < self.end {
            Ok(())
        } else {
            Err(error)
        }
    }
}

impl Bus for Bytes {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        for (at, byte) in (phys.get()..).zip(bytes) {
            self.check(at)?;
            *byte = self.bytes.lock().unwrap().get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        for (at, byte) in (phys.get()..).zip(bytes) {
            self.check(at)?;
            self.bytes.lock().unwrap().insert(at, *byte);
        }
        Ok(())
    }
}

fn sizes(text: &str) -> PageSizes {
    text.parse().unwrap()
}

fn range(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// The tiles that map contiguous memory.
fn tiles(sizes: PageSizes, iova: u64, phys: u64, len: u64) -> Vec<Tile> {
    // Pages of the list as small as it can have them.
    let page = PageSize::new(1 << 10).unwrap();
    let mut builder = SglBuilder::new(page).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(phys >> 10), len >> 10).unwrap()).unwrap();
    let sgl = builder.finish().unwrap();
    let window: Window<'_, _> = sgl.whole().unwrap();
    window.tiles(sizes, Iova::new(iova)).unwrap().collect()
}

/// One tile, of any arguments whatever.
fn tile(iova: u64, phys: u64, page_size: u64, count: u64) -> Tile {
    // A tile cannot be made but by a window.
    let mut tile = tiles(PageSizes::SIZE_4K, 0, 0, K4)[0];
    tile.iova = Iova::new(iova);
    tile.phys = PhysAddr::new(phys);
    tile.page_size = PageSize::new(page_size).unwrap();
    tile.count = count;
    tile.kind = MemoryKind::Ram;
    tile
}

fn map_as(iommu: &Iommu, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.map(tile, prot) }
}

fn map(iommu: &Iommu, iova: u64, phys: u64, len: u64) {
    for tile in tiles(iommu.page_sizes(), iova, phys, len) {
        assert_eq!(map_as(iommu, tile, RW), (tile.len(), Ok(())), "{tile:?}");
    }
}

fn unmap_into(iommu: &Iommu, gone: IovaRange, gather: &mut RangeGather) -> u64 {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.unmap_range(gone, std::iter::empty(), Pin::new(gather)) }
}

fn unmap(iommu: &Iommu, first: u64, len: u64) -> u64 {
    let mut gather = RangeGather::default();
    let bytes = unmap_into(iommu, range(first, len), &mut gather);
    iommu.flush(Pin::new(&mut gather));
    bytes
}

fn lie(iommu: &Iommu, lie: Lie) {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.lie(lie) }
}

fn iova(iova: u64) -> Iova {
    Iova::new(iova)
}

fn seen(kind: ViolationKind, call: Call, at: u64) -> Violation {
    Violation::new(kind, call).iova(iova(at))
}

fn is_bad_call(seen: &[Violation], call: Call, at: u64) -> bool {
    let [seen] = seen else { return false };
    matches!(seen.kind, ViolationKind::BadCall { .. })
        && (seen.call, seen.iova) == (call, Some(iova(at)))
}

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
        // What has been emptied is in nobody's way.
        assert_eq!(unmap(&iommu, 3 * M2 - K4, K4), K4);
        map(&iommu, 2 * M2, 0, M2);
        assert_eq!(unmap(&iommu, M2, 2 * M2), 2 * M2);
        assert!(iommu.witness().is_clean());
    }
}

#[test]
fn cuts_without_splitting() {
    let iommu = Iommu::new(sizes("4K|2M"));
    let cut = |at| vec![seen(ViolationKind::UnmapCuts, Call::Unmap, at)];
    let hole = |at| seen(ViolationKind::UnmapOfNothing, Call::Unmap, at);
    map(&iommu, 0, 0, 3 * M2);
    // It begins inside an entry: nothing happens, not even to what follows.
    assert_eq!(unmap(&iommu, M2 + K4, 2 * M2 - K4), 0);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 3));
    assert_eq!(unmap(&iommu, M2 + K4, K4), 0);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 3));
    // It ends inside one: more goes than was asked for.
    assert_eq!(unmap(&iommu, 0, M2 + K4), 2 * M2);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 1));
    // A hole ends it.
    map(&iommu, M2 - K4, 0, K4);
    assert_eq!(unmap(&iommu, M2 - K4, 2 * M2), K4);
    assert_eq!(iommu.witness().take(), [hole(M2)]);
    assert_eq!(unmap(&iommu, 0, K4), 0);
    assert_eq!(iommu.witness().take(), [hole(0)]);
    assert_eq!(unmap(&iommu, 2 * M2, M2), M2);
}

#[test]
fn cuts_with_splitting() {
    let iommu = Iommu::config(sizes("4K|64K|2M")).cuts(Cuts::Anywhere).build();
    map(&iommu, 0, M2, 2 * M2);
    let device = Device::new(&iommu, Bytes::new(u64::MAX));
    device.prefetch(range(0, 2 * M2)).unwrap();
    device.bus_write(0x1_2345, 7);
    assert_eq!(unmap(&iommu, 0x1_0000 + K4, K4), K4);
    // 31 of 64K and 15 of 4K instead of one of 2M.
    assert_eq!(iommu.mapped_pages(), 31 + 15 + 1);
    assert_eq!(iommu.lookup(iova(0x1_2000)).unwrap().phys, PhysAddr::new(M2 + 0x1_2000));
    assert_eq!(iommu.lookup(iova(0x2_0000)).unwrap().range, range(0x2_0000, 0x1_0000));
    assert_eq!(iommu.lookup(iova(0x1_1000)), None);
    let gone = iova(0x1_1fff);
    assert_eq!(device.read(gone, &mut [0]), Err(DmaFault::NotMapped { iova: gone }));
    assert_eq!(device.reads_as(iova(0x1_2345), &[7]), Ok(true));
    // Both edges in one large page; then across two.
    assert_eq!(unmap(&iommu, M2 + K4, M2 - 2 * K4), M2 - 2 * K4);
    assert_eq!(iommu.mapped_pages(), 31 + 15 + 2);
    assert_eq!(unmap(&iommu, 0x1_2000, M2 - 0x1_2000 + K4), M2 - 0x1_2000 + K4);
    assert_eq!(unmap(&iommu, 0, 0x1_1000), 0x1_1000);
    assert_eq!(unmap(&iommu, 2 * M2 - K4, K4), K4);
    assert_eq!((iommu.mapped_pages(), iommu.mapped_bytes()), (0, 0));
    iommu.witness().assert_clean();
    // Below the smallest pages there is nothing to split into.
    map(&iommu, 0, 0, K4);
    assert_eq!(unmap(&iommu, 0, K4 / 2), 0);
    assert!(is_bad_call(&iommu.witness().take()[..], Call::Unmap, 0));
    assert_eq!(unmap(&iommu, 0, K4), K4);
}

#[test]
fn what_would_be_too_many_entries_is_not_split() {
    for (text, splits) in [("4K|1G", true), ("4K|2G", false), ("4K|1G|8E", false)] {
        let iommu = Iommu::config(sizes(text)).cuts(Cuts::Anywhere).build();
        assert_eq!(iommu.cuts() == Cuts::Anywhere, splits, "{text}");
    }
    let iommu = Iommu::config(sizes("4K|8E")).cuts(Cuts::Anywhere).build();
    assert_eq!(map_as(&iommu, tile(0, 0, 1 << 63, 1), RW), (1 << 63, Ok(())));
    assert_eq!(unmap(&iommu, K4, K4), 0);
    let cut = seen(ViolationKind::UnmapCuts, Call::Unmap, K4);
    assert_eq!(iommu.witness().take(), [cut]);
    assert_eq!(unmap(&iommu, 0, 1 << 63), 1 << 63);
    drop(iommu);
}

/// What a device writes, where it does not matter who it is.
trait BusWrite {
    fn bus_write(&self, at: u64, byte: u8);
}

impl<B: Bus> BusWrite for Device<&Iommu, B> {
    fn bus_write(&self, at: u64, byte: u8) {
        self.write(iova(at), &[byte]).unwrap();
    }
}

#[test]
fn devices_reach_what_is_mapped() {
    let (iommu, bus) = (Iommu::new(sizes("4K|2M")), Bytes::new(0x10_0000));
    let device = Device::new(&iommu, &bus);
    map(&iommu, 0x1000, 0x8000, K4);
    map(&iommu, 0x2000, 0x3000, K4);
    device.write(iova(0x1ffe), &[1, 2, 3, 4]).unwrap();
    assert_eq!(device.reads_as(iova(0x1ffe), &[1, 2, 3, 4]), Ok(true));
    assert_eq!(device.reads_as(iova(0x1ffe), &[1, 2, 3, 5]), Ok(false));
    let mut bytes = [0; 2];
    bus.read(PhysAddr::new(0x3000), &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4]);
    // It stops at the first byte that is not there.
    let hole = Err(DmaFault::NotMapped { iova: iova(0x3000) });
    assert_eq!(device.write(iova(0x2fff), &[9, 9]), hole);
    assert_eq!(device.read(iova(0x2fff), &mut [0; 2]), hole);
    assert_eq!(device.prefetch(range(0x1000, 0x2001)), hole);
    assert_eq!(device.prefetch(range(0x1000, 0x2000)), Ok(()));
    assert_eq!(device.reads_as(iova(0x2fff), &[9]), Ok(true));
    assert_eq!(device.read(iova(0), &mut []), Ok(()));
    // As it is permitted; an entry may do one and not the other.
    map_as(&iommu, tile(0x5000, 0, K4, 1), Prot::READ).1.unwrap();
    map_as(&iommu, tile(0x6000, 0, K4, 1), Prot::WRITE).1.unwrap();
    for known in [false, true] {
        let denied = |at, write| Err(DmaFault::NotPermitted { iova: iova(at), write });
        assert_eq!(device.write(iova(0x5000), &[1]), denied(0x5000, true), "{known}");
        assert_eq!(device.read(iova(0x6000), &mut [1]), denied(0x6000, false), "{known}");
        assert_eq!(device.read(iova(0x5000), &mut [1]), Ok(()));
        assert_eq!(device.write(iova(0x6000), &[1]), Ok(()));
    }
    // The bus has no memory there.
    map(&iommu, 0x7000, 0x10_0000, K4);
    let error = BusError::new(PhysAddr::new(0x10_0001), BusErrorReason::NoMemory);
    assert_eq!(device.write(iova(0x7001), &[1]), Err(DmaFault::Bus(error)));
    assert_eq!(unmap(&iommu, 0x1000, 2 * K4) + unmap(&iommu, 0x5000, 3 * K4), 5 * K4);
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

#[test]
fn stale_until_flushed() {
    let (iommu, bus) = (Iommu::new(sizes("4K|2M")), Bytes::new(u64::MAX));
    let (one, other) = (Device::new(&iommu, &bus), Device::new(&iommu, &bus));
    for (phys, byte) in [(0x5000, 5), (0x6000, 6), (M2, 7)] {
        bus.write(PhysAddr::new(phys), &[byte]).unwrap();
    }
    map(&iommu, 0, 0x5000, K4);
    one.prefetch(range(0, K4)).unwrap();
    assert_eq!((iommu.stats().tlb_misses, iommu.tlb_len()), (1, 1));
    let mut gather = RangeGather::default();
    assert_eq!(unmap_into(&iommu, range(0, K4), &mut gather), K4);
    // Devices of one domain share what it remembers, also when something else is mapped.
    assert_eq!(other.reads_as(iova(0), &[5]), Ok(true));
    map(&iommu, 0, 0x6000, K4);
    assert_eq!(one.reads_as(iova(0), &[5]), Ok(true));
    // A flush of something else does not help, nor does that of nothing.
    let mut elsewhere = RangeGather::default();
    iommu.flush(Pin::new(&mut elsewhere));
    elsewhere.add(range(K4, K4));
    iommu.flush(Pin::new(&mut elsewhere));
    assert_eq!((iommu.stats().flushes, one.reads_as(iova(0), &[5])), (1, Ok(true)));
    iommu.flush(Pin::new(&mut gather));
    assert_eq!((iommu.stats().flushes, one.reads_as(iova(0), &[6])), (2, Ok(true)));
    // What was not remembered is gone at once.
    iommu.forget_all();
    assert_eq!(unmap_into(&iommu, range(0, K4), &mut gather), K4);
    assert_eq!(one.read(iova(0), &mut [0]), Err(DmaFault::NotMapped { iova: iova(0) }));
    // Any part of a large page that is flushed takes all of it away; small ones stay.
    map(&iommu, 0, M2, 2 * M2);
    one.prefetch(range(0, 2 * M2)).unwrap();
    assert_eq!(unmap_into(&iommu, range(0, 2 * M2), &mut gather), 2 * M2);
    map(&iommu, K4, 0x5000, K4);
    assert_eq!(one.reads_as(iova(0), &[7]), Ok(true));
    let mut part = RangeGather::default();
    part.add(range(M2 - 1, 1));
    iommu.flush(Pin::new(&mut part));
    assert_eq!((iommu.tlb_len(), one.reads_as(iova(K4), &[5])), (1, Ok(true)));
    assert_eq!(one.read(iova(M2), &mut [0]), Ok(()));
    // Pages of two sizes are remembered for one address, as hardware may.
    assert_eq!(unmap_into(&iommu, range(K4, K4), &mut gather), K4);
    map(&iommu, 0, 4 * M2, M2);
    assert_eq!(one.reads_as(iova(0), &[0]), Ok(true));
    assert_eq!(one.reads_as(iova(K4), &[5]), Ok(true));
    iommu.flush(Pin::new(&mut gather));
    assert_eq!((iommu.tlb_len(), one.reads_as(iova(K4), &[0])), (0, Ok(true)));
    assert_eq!(unmap(&iommu, 0, M2), M2);
    iommu.witness().assert_clean();

    // A small IOTLB forgets the oldest.
    for (entries, hits) in [(0, 0), (1, 1), (2, 2)] {
        let iommu = Iommu::config(sizes("4K")).tlb_entries(entries).build();
        map(&iommu, 0, 0, 2 * K4);
        let device = Device::new(&iommu, &bus);
        for at in [0, K4, K4, 0] {
            device.read(iova(at), &mut [0]).unwrap();
        }
        assert_eq!((iommu.stats().tlb_hits, iommu.tlb_len()), (hits, entries));
        assert_eq!(unmap(&iommu, 0, 2 * K4), 2 * K4);
    }
}

fn written(iommu: &Iommu, clear: bool, gather: &mut RangeGather) -> Vec<u64> {
    let mut seen = Vec::new();
    let all = iommu.aperture();
    let see = |range: IovaRange| seen.push(range.first().get());
    iommu.read_dirty(all, clear, Pin::new(gather), see).unwrap();
    seen
}

#[test]
fn dirty_pages() {
    let iommu = Iommu::config(sizes("4K|2M")).cuts(Cuts::Anywhere).build();
    let device = Device::new(&iommu, Bytes::new(u64::MAX));
    map(&iommu, 0, 0, 2 * M2 + 2 * K4);
    let mut gather = RangeGather::default();
    // Not noted unless asked for; also not read.
    device.write(iova(0), &[1]).unwrap();
    assert!(written(&iommu, false, &mut gather).is_empty());
    iommu.set_dirty_tracking(true).unwrap();
    device.read(iova(2 * M2), &mut [0]).unwrap();
    assert!(written(&iommu, false, &mut gather).is_empty());
    // Noted although the entry was remembered before; whole entries are told.
    device.bus_write(K4, 1);
    device.bus_write(2 * M2, 1);
    device.write(iova(2 * M2 - 1), &[]).unwrap();
    assert_eq!(written(&iommu, false, &mut gather), [0, 2 * M2]);
    assert!(iommu.lookup(iova(5)).unwrap().dirty);
    // Parts of a range, and entries that are touched only.
    let mut seen = Vec::new();
    let part = range(M2 - 1, 2);
    iommu.read_dirty(part, false, Pin::new(&mut gather), |range| seen.push(range)).unwrap();
    assert_eq!((seen, gather.take()), (vec![range(0, M2)], None));
    // Cleared and not flushed: the next write is lost, until it is.
    assert_eq!(written(&iommu, true, &mut gather), [0, 2 * M2]);
    device.bus_write(K4, 2);
    assert!(written(&iommu, false, &mut gather).is_empty());
    iommu.flush(Pin::new(&mut gather));
    device.bus_write(K4, 3);
    assert_eq!(written(&iommu, true, &mut gather), [0]);
    iommu.flush(Pin::new(&mut gather));
    device.bus_write(0, 3);
    assert_eq!(written(&iommu, false, &mut gather), [0]);
    // What is split stays dirty, all of it; what is mapped anew is clean.
    assert_eq!(unmap(&iommu, K4, M2 - 2 * K4), M2 - 2 * K4);
    assert_eq!(written(&iommu, false, &mut gather), [0, M2 - K4]);
    assert_eq!(unmap(&iommu, 0, K4), K4);
    map(&iommu, 0, 0, K4);
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4]);
    iommu.flush(Pin::new(&mut gather));
    // Stopped and started: what was written between is not told, what is written later is.
    device.bus_write(M2 - 1, 1);
    iommu.set_dirty_tracking(false).unwrap();
    device.bus_write(M2, 1);
    iommu.set_dirty_tracking(true).unwrap();
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4]);
    iommu.flush(Pin::new(&mut gather));
    device.bus_write(M2 - 1, 1);
    device.bus_write(M2, 1);
    assert_eq!(written(&iommu, false, &mut gather), [M2 - K4, M2]);
    // An entry that was clean when it was first remembered is told once, too.
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4, M2]);
    iommu.flush(Pin::new(&mut gather));
    device.read(iova(M2), &mut [0]).unwrap();
    device.bus_write(M2, 1);
    assert_eq!(written(&iommu, true, &mut gather), [M2]);
    device.bus_write(M2, 1);
    assert!(written(&iommu, false, &mut gather).is_empty());
    iommu.flush(Pin::new(&mut gather));
    device.bus_write(M2, 1);
    device.bus_write(M2 - 1, 1);
    // A stale entry is served, and has no bit to set in what took its place.
    device.read(iova(0), &mut [0]).unwrap();
    let mut late = RangeGather::default();
    assert_eq!(unmap_into(&iommu, range(0, K4), &mut late), K4);
    map(&iommu, 0, 8 * M2, K4);
    device.bus_write(0, 1);
    assert!(!iommu.lookup(iova(0)).unwrap().dirty);
    // Failing by plan.
    iommu.plan().fail_step_at(Step::Dirty, 0, 1);
    let (mut told, ask) = (0, range(0, 4 * M2));
    let result = iommu.read_dirty(ask, true, Pin::new(&mut gather), |_| told += 1);
    assert_eq!((result, told), (Err(MapFault::Injected), 1));
    assert_eq!(written(&iommu, false, &mut gather), [M2]);
    iommu.plan().fail_step_at(Step::Dirty, 0, 0);
    assert_eq!(iommu.set_dirty_tracking(false), Err(MapFault::Injected));
    assert_eq!(unmap(&iommu, 0, K4) + unmap(&iommu, M2 - K4, M2 + 3 * K4), M2 + 4 * K4);
    iommu.witness().assert_clean();
}

#[test]
fn maps_fail_by_plan() {
    let plan = Plan::new();
    let iommu = Iommu::config(sizes("4K|2M")).plan(&plan).build();
    for (after, done) in [(0, 0), (3, 3), (8, 7), (u64::MAX, 7)] {
        plan.fail_step_at(Step::Map, 1, after);
        assert_eq!(map_as(&iommu, tile(M2, 0, K4, 2), RW), (2 * K4, Ok(())));
        let failed = map_as(&iommu, tile(0, 0, K4, 8), RW);
        assert_eq!(failed, (done * K4, Err(MapFault::Injected)));
        assert_eq!(iommu.mapped_pages(), 2 + done);
        assert_eq!(
            unmap(&iommu, M2, 2 * K4) + unmap_or_nothing(&iommu, done * K4),
            (2 + done) * K4
        );
    }
    // What is in the way comes first if it is met first.
    map(&iommu, 2 * K4, 0, K4);
    let exists = Err(MapFault::Exists { iova: iova(2 * K4) });
    plan.fail_step_at(Step::Map, 0, 5);
    assert_eq!(map_as(&iommu, tile(0, 0, K4, 8), RW), (2 * K4, exists));
    assert_eq!(unmap(&iommu, 0, 3 * K4), 3 * K4);
    plan.fail_step_at(Step::SyncMap, 0, 0);
    assert_eq!(iommu.sync_map(range(0, K4)), Err(MapFault::Injected));
    assert_eq!(iommu.sync_map(range(0, K4)), Ok(()));
    let stats = iommu.stats();
    assert_eq!((stats.map_calls, stats.sync_calls, stats.reads), (10, 2, 0));
    assert_eq!(stats.pages_mapped, stats.pages_unmapped);
    iommu.witness().assert_clean();
}

fn unmap_or_nothing(iommu: &Iommu, len: u64) -> u64 {
    if len == 0 {
        0
    } else {
        unmap(iommu, 0, len)
    }
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
fn what_stays_mapped_is_told() {
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

#[test]
fn lies_are_told_once() {
    let iommu = Iommu::new(sizes("4K|2M"));
    let t = tile(0, 0, K4, 4);
    let failed = Err(MapFault::Injected);
    for (told, expected) in [
        (Lie::MapsMore, (5 * K4, Ok(()))),
        (Lie::MapsLess, (3 * K4, Ok(()))),
        (Lie::MapsPartOfPage, (4 * K4 - 1, failed)),
        (Lie::FailsWithMore, (5 * K4, failed)),
    ] {
        lie(&iommu, told);
        // A lie about one thing is not told about another.
        assert_eq!(iommu.read(iova(0)), None);
        assert_eq!(map_as(&iommu, t, RW), expected, "{told:?}");
        assert_eq!(iommu.mapped_pages(), if told == Lie::FailsWithMore { 0 } else { 4 });
        if told == Lie::FailsWithMore {
            assert_eq!(map_as(&iommu, t, RW), (4 * K4, Ok(())));
        }
        assert_eq!(unmap(&iommu, 0, 4 * K4), 4 * K4);
    }
    for (told, expected) in [
        (Lie::UnmapsMore, 5 * K4),
        (Lie::UnmapsLess, 3 * K4),
        (Lie::UnmapsPartOfPage, 4 * K4 - 1),
        (Lie::UnmapsNothing, 0),
    ] {
        lie(&iommu, told);
        assert_eq!(map_as(&iommu, t, RW), (4 * K4, Ok(())));
        assert_eq!(unmap(&iommu, 0, 4 * K4), expected, "{told:?}");
        assert_eq!(iommu.mapped_pages(), if told == Lie::UnmapsNothing { 4 } else { 0 });
    }
    let at = |phys, len| Some(Entry::new(PhysAddr::new(phys), len));
    for (told, expected) in [
        (Lie::ReadsNothing, None),
        (Lie::ReadsElsewhere, at(0x1010, K4 - 0x10)),
        (Lie::ReadsEmpty, at(0x10, 0)),
        (Lie::ReadsTooLong, at(0x10, u64::MAX)),
    ] {
        lie(&iommu, told);
        assert_eq!(iommu.read(iova(0x10)), expected, "{told:?}");
        assert_eq!(iommu.read(iova(0x10)), at(0x10, K4 - 0x10));
    }
    assert_eq!((iommu.stats().reads, unmap(&iommu, 0, 4 * K4)), (12, 4 * K4));
    iommu.witness().assert_clean();
}

#[test]
fn a_domain_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Iommu>();
    is_shared::<Nic<Bytes>>();
    let (iommu, bus) = (Iommu::new(sizes("4K|2M")), Bytes::new(u64::MAX));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (iommu, bus) = (&iommu, &bus);
            scope.spawn(move || {
                let device = Device::new(iommu, bus);
                for _ in 0..50 {
                    let first = thread * 8 * K4;
                    map(iommu, first, first, 8 * K4);
                    device.write(iova(first), &[1; 8 * K4 as usize][..9000]).unwrap();
                    assert_eq!(unmap(iommu, first, 8 * K4), 8 * K4);
                    let gone = Err(DmaFault::NotMapped { iova: iova(first) });
                    assert_eq!(device.read(iova(first), &mut [0]), gone);
                }
            });
        }
    });
    iommu.witness().assert_clean();
}

#[test]
fn a_card_checks_every_byte() {
    let (plan, bus) = (Plan::new(), Bytes::new(0x9000));
    let nic = Nic::new(&bus).with_plan(&plan).with_page_sizes(sizes("4K|64K"));
    let witness = nic.witness().clone();
    let p = PageSize::SIZE_4K;
    let block = |at: u64| PhysAddr::new(at);
    let three = || [0x8000, 0x2000, 0x5000].map(PhysAddr::new).into_iter();
    let (first, len) = (0x7_1ff0, 0x10 + 0x1000 + 0x10);
    let key = nic.register(iova(first), len, p, three(), true).unwrap();
    assert_eq!((nic.regions(), nic.blocks()), (1, 3));
    let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
    nic.write(key, iova(first), &bytes).unwrap();
    let mut back = vec![0; len as usize];
    nic.read(key, iova(first), &mut back).unwrap();
    assert_eq!(back, bytes);
    for (phys, at) in [(0x8ff0, 0), (0x2000, 0x10), (0x5000, 0x1010), (0x500f, len - 1)] {
        let mut byte = [0];
        bus.read(block(phys), &mut byte).unwrap();
        assert_eq!(byte[0], at as u8);
    }
    // A byte before, a byte behind, and all that wraps, although the blocks have them.
    for (at, count) in [(first - 1, 1), (first - 1, 2), (first + len, 1), (first + len - 1, 2)] {
        let out = Err(NicFault::OutOfBounds { iova: iova(at) });
        assert_eq!(nic.read(key, iova(at), &mut back[..count]), out);
        assert_eq!(nic.write(key, iova(at), &bytes[..count]), out);
    }
    let wraps = Err(NicFault::OutOfBounds { iova: iova(u64::MAX) });
    assert_eq!(nic.read(key, iova(u64::MAX), &mut [0; 2]), wraps);
    assert_eq!(nic.read(key, iova(0), &mut []), Ok(()));
    // Other keys, and what may not be written.
    let read_only = nic.register(iova(0), 1, p, [block(0x8000)].into_iter(), false).unwrap();
    let denied = Err(NicFault::NotPermitted { iova: iova(0) });
    assert_eq!((nic.write(read_only, iova(0), &[1]), read_only != key), (denied, true));
    let guess = Key::new(77);
    assert_eq!(nic.read(guess, iova(0), &mut [0]), Err(NicFault::NoRegion { key: guess }));
    witness.assert_clean();
    // Bad registrations: an error, and told.
    let register = |at, len, size: u64, blocks: &[u64]| {
        let blocks = blocks.iter().copied().map(PhysAddr::new);
        nic.register(iova(at), len, PageSize::new(size).unwrap(), blocks, true)
    };
    for (result, why) in [
        (register(0, 0, K4, &[]), NicError::Range),
        (register(u64::MAX, 2, K4, &[0, 0]), NicError::Range),
        (
            register(0, 1, 8192, &[0]),
            NicError::PageSize { page_size: PageSize::new(8192).unwrap() },
        ),
        (register(0xfff, 2, K4, &[0]), NicError::BlockCount { needs: 2 }),
        (register(0xfff, 2, K4, &[0; 3]), NicError::BlockCount { needs: 2 }),
        (register(0, 1, K4, &[]), NicError::BlockCount { needs: 1 }),
        (register(0, 1, K4, &[0x800]), NicError::Misaligned { block: block(0x800) }),
    ] {
        assert_eq!(result, Err(why));
    }
    let bad = witness.take();
    assert_eq!(bad.len(), 7);
    assert!(bad.iter().all(|violation| matches!(violation.kind, ViolationKind::BadCall { .. })));
    // As many blocks as anybody likes, which nobody has room for.
    let endless = std::iter::repeat(block(0));
    let many = nic.register(iova(0), 1 << 63, p, endless, true);
    assert_eq!(many, Err(NicError::TooManyBlocks));
    plan.fail_step_at(Step::Map, 0, 0);
    assert_eq!(register(0, 1, K4, &[0]), Err(NicError::Injected));
    assert_eq!((nic.regions(), nic.blocks()), (2, 4));
    // The last byte of 64 bits.
    let top = register(u64::MAX, 1, K4, &[0x3000]).unwrap();
    nic.write(top, iova(u64::MAX), &[9]).unwrap();
    assert_eq!(nic.invalidate(top), Ok(()));
    assert_eq!(nic.invalidate(top), Err(NicFault::NoRegion { key: top }));
    assert_eq!(nic.read(top, iova(u64::MAX), &mut [0]), Err(NicFault::NoRegion { key: top }));
    assert_eq!(witness.take().len(), 1);
    nic.invalidate(read_only).unwrap();
    drop(nic);
    assert_eq!(witness.take(), [seen(ViolationKind::StillMapped, Call::Drop, first)]);
}

/// A slab that never fails.
#[derive(Default)]
struct Plain(Vec<Option<u64>>);

// SAFETY: a value stays in its place; places are not used twice.
unsafe impl Slab<u64> for Plain {
    fn insert(&mut self, value: u64) -> Result<u32, u64> {
        self.0.push(Some(value));
        Ok(self.0.len() as u32 - 1)
    }

    fn get(&self, key: u32) -> Option<&u64> {
        self.0.get(key as usize)?.as_ref()
    }

    fn get_mut(&mut self, key: u32) -> Option<&mut u64> {
        self.0.get_mut(key as usize)?.as_mut()
    }

    fn remove(&mut self, key: u32) -> Option<u64> {
        self.0.get_mut(key as usize)?.take()
    }
}

#[test]
fn a_slab_fails_by_plan() {
    let plan = Plan::new();
    let mut slab = FailingSlab::new(Plain::default(), &plan);
    plan.fail_step_at(Step::Alloc, 1, 0);
    let key = slab.insert(5).unwrap();
    assert_eq!(slab.insert(6), Err(6));
    let next = slab.insert(7).unwrap();
    *slab.get_mut(key).unwrap() += 1;
    assert_eq!(slab.get(key), Some(&6));
    assert_eq!((slab.remove(key), slab.get(key)), (Some(6), None));
    assert_eq!(slab.into_inner().0, [None, Some(7)]);
    assert_eq!(next, 1);
}
