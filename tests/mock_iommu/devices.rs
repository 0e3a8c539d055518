// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices and cards: what they reach, through stale entries too, and what is noted of their writes.

use super::{
    iova, map, map_as, range, seen, sizes, tile, unmap, unmap_into, write_byte, Bytes, K4, M2,
};
use pinned_sgl::iommu::{Cuts, DirtyDomain, Domain, IovaRange, Prot, RangeGather};
use pinned_sgl::{PageSize, PhysAddr};
use pinned_sgl_mock::{
    Bus, BusError, Call, Device, DmaFault, Iommu, Key, MapFault, Nic, NicError, NicFault, Plan,
    Step, ViolationKind,
};
use std::pin::Pin;

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
    let error = BusError::NoMemory(PhysAddr::new(0x10_0001));
    assert_eq!(device.write(iova(0x7001), &[1]), Err(DmaFault::Bus(error)));
    assert_eq!(unmap(&iommu, 0x1000, 2 * K4) + unmap(&iommu, 0x5000, 3 * K4), 5 * K4);
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
    // Noted although the entry was remembered before; whole entries are reported.
    write_byte(&device, K4, 1);
    write_byte(&device, 2 * M2, 1);
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
    write_byte(&device, K4, 2);
    assert!(written(&iommu, false, &mut gather).is_empty());
    iommu.flush(Pin::new(&mut gather));
    write_byte(&device, K4, 3);
    assert_eq!(written(&iommu, true, &mut gather), [0]);
    iommu.flush(Pin::new(&mut gather));
    write_byte(&device, 0, 3);
    assert_eq!(written(&iommu, false, &mut gather), [0]);
    // What is split stays dirty, all of it; what is mapped anew is clean.
    assert_eq!(unmap(&iommu, K4, M2 - 2 * K4), M2 - 2 * K4);
    assert_eq!(written(&iommu, false, &mut gather), [0, M2 - K4]);
    assert_eq!(unmap(&iommu, 0, K4), K4);
    map(&iommu, 0, 0, K4);
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4]);
    iommu.flush(Pin::new(&mut gather));
    // Stopped and started: what was written between is not reported, what is written later is.
    write_byte(&device, M2 - 1, 1);
    iommu.set_dirty_tracking(false).unwrap();
    write_byte(&device, M2, 1);
    iommu.set_dirty_tracking(true).unwrap();
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4]);
    iommu.flush(Pin::new(&mut gather));
    write_byte(&device, M2 - 1, 1);
    write_byte(&device, M2, 1);
    assert_eq!(written(&iommu, false, &mut gather), [M2 - K4, M2]);
    // An entry that was clean when it was first remembered is reported once, too.
    assert_eq!(written(&iommu, true, &mut gather), [M2 - K4, M2]);
    iommu.flush(Pin::new(&mut gather));
    device.read(iova(M2), &mut [0]).unwrap();
    write_byte(&device, M2, 1);
    assert_eq!(written(&iommu, true, &mut gather), [M2]);
    write_byte(&device, M2, 1);
    assert!(written(&iommu, false, &mut gather).is_empty());
    iommu.flush(Pin::new(&mut gather));
    write_byte(&device, M2, 1);
    write_byte(&device, M2 - 1, 1);
    // A stale entry is served, and has no bit to set in what took its place.
    device.read(iova(0), &mut [0]).unwrap();
    let mut late = RangeGather::default();
    assert_eq!(unmap_into(&iommu, range(0, K4), &mut late), K4);
    map(&iommu, 0, 8 * M2, K4);
    write_byte(&device, 0, 1);
    assert!(!iommu.lookup(iova(0)).unwrap().dirty);
    // Failing by plan.
    iommu.plan().fail_step_at(Step::Dirty, 0, 1);
    let (mut reported, ask) = (0, range(0, 4 * M2));
    let result = iommu.read_dirty(ask, true, Pin::new(&mut gather), |_| reported += 1);
    assert_eq!((result, reported), (Err(MapFault::Injected), 1));
    assert_eq!(written(&iommu, false, &mut gather), [M2]);
    iommu.plan().fail_step_at(Step::Dirty, 0, 0);
    assert_eq!(iommu.set_dirty_tracking(false), Err(MapFault::Injected));
    assert_eq!(unmap(&iommu, 0, K4) + unmap(&iommu, M2 - K4, M2 + 3 * K4), M2 + 4 * K4);
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
    // Bad registrations: an error, and reported.
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
    // As many blocks as can be named, for which there is no room.
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
