// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams: the same page table as a stored list gives, in batches of any size, and nothing left
//! behind when it fails.

mod rig;

use pinned_sgl::iommu::{IovaRange, MapError, Mapping, Prot, Readback, Stream, StreamError};
use pinned_sgl::umem::{
    Account, AttachError, PinBatch, PinError, PinErrorKind, PinFlags, PinRequest, Pinner, RunSlot,
};
use pinned_sgl::{Failed, MemoryKind, PageRun, PageSize, Pfn, ProviderId, UserAddr};
use pinned_sgl_mock::{
    Fragmentation, Iommu, Lie, MapFault, Mapped, Memory, PinFault, Process, Step, ViolationKind,
    Vma, Zone,
};
use rig::{bytes, iova, iovas, Eager, Rig, Watched, BASE, P, RO, RW, WRITE_LONG};
use std::ops::ControlFlow;
use std::sync::Arc;

const AT: u64 = 0x4000_0000;

type Refused<'a> = Failed<StreamError<PinFault, MapFault>, (&'a Process, &'a Iommu)>;
type Streamed<'a> = Stream<&'a Process, &'a Account, &'a Iommu, Vec<RunSlot>>;

fn stream<'a>(
    rig: &'a Rig,
    iommu: &'a Iommu,
    slots: usize,
    (offset, len): (u64, u64),
    prot: Prot,
) -> Result<Streamed<'a>, Refused<'a>> {
    let request = PinRequest::new(bytes(offset, len), WRITE_LONG);
    let slots = vec![None; slots];
    Stream::map(&*rig.process, &*rig.account, iommu, slots, request, iova(AT + offset % P), prot)
}

/// 40 single pages, then folios of 4 and of 256 pages, then single pages.
fn setup(fragmentation: Fragmentation) -> Rig {
    let rig = Rig::new(fragmentation);
    rig.buffer(0, 40, Vma::read_write());
    rig.buffer(40, 24, Vma::read_write().huge(2));
    rig.buffer(256, 256, Vma::read_write().huge(8));
    rig.buffer(64, 192, Vma::read_write());
    rig
}

fn entries(iommu: &Iommu) -> Vec<Mapped> {
    iommu.mapped(IovaRange::ALL)
}

#[test]
fn the_tiles_of_a_stored_list() {
    for fragmentation in [
        Fragmentation::None,
        Fragmentation::Reverse,
        Fragmentation::Seeded { seed: 1, run_order: 0 },
        Fragmentation::Seeded { seed: 2, run_order: 3 },
    ] {
        let rig = setup(fragmentation);
        let all = rig.fill(bytes(0, 512 * P), 1);
        for sizes in ["4K", "2K|1M", "1K|2K", "4K|16K|64K|1M", "2K|8K|2M"] {
            for (offset, len) in [(0, 512 * P), (P, 3 * P), (0x800, 300 * P), (39 * P, 2 * P)] {
                let stored = rig.iommu(sizes);
                let at = iova(AT + offset % P);
                let umem = rig.pin(bytes(offset, len));
                let mapping = Mapping::map(&*umem, &*stored, at, RW);
                let expected = entries(&stored);
                for slots in [1, 2, 3, 128] {
                    for limit in [3, u64::MAX] {
                        rig.process.set_pin_limit(limit);
                        let iommu = rig.iommu(sizes);
                        let streamed = stream(&rig, &iommu, slots, (offset, len), RW);
                        assert_eq!(streamed.is_ok(), mapping.is_ok());
                        let Ok(streamed) = streamed else { continue };
                        assert_eq!(entries(&iommu), expected);
                        assert_eq!(iommu.stats().map_calls, stored.stats().map_calls);
                        assert_eq!(iommu.stats().sync_calls, 1);
                        let seen = &all[offset as usize..(offset + len) as usize];
                        assert!(rig.device(&iommu).reads_as(at, seen).unwrap());
                        // Maximal runs come back.
                        let window = umem.whole().unwrap();
                        assert!(streamed.segments().eq(window.iter()));
                        let last = iova(at.get() + len - 1);
                        assert_eq!(streamed.translate(last), window.phys(len - 1));
                        assert_eq!(streamed.translate(iova(at.get() + len)), None);
                        assert_eq!(streamed.charge().pages(), umem.charge().pages());
                        assert_eq!(rig.memory.pinned_pages(), 2 * umem.charge().pages());
                        streamed.unmap().unwrap();
                        assert_eq!(entries(&iommu), []);
                        assert_eq!(rig.memory.pinned_pages(), umem.charge().pages());
                    }
                }
                assert_eq!(stored.stats().reads, 0);
            }
        }
        rig.assert_idle();
    }
}

/// Pages of the IOMMU that are larger than those of the machine: folios that fit, or an error.
#[test]
fn pages_larger_than_those_of_the_machine() {
    let rig = setup(Fragmentation::Reverse);
    for (offset, len, fits) in [(40, 24, true), (256, 256, true), (41, 4, false), (0, 4, false)] {
        for slots in [1, 2, 128] {
            let iommu = rig.iommu("16K");
            let range = (offset * P, len * P);
            let streamed = stream(&rig, &iommu, slots, range, RW);
            match streamed {
                Ok(streamed) => {
                    assert!(fits && entries(&iommu).len() as u64 == len / 4);
                    drop(streamed);
                }
                Err(error) => {
                    assert!(!fits && matches!(error.error(), StreamError::Map(MapError::Tiles(_))));
                }
            }
            rig.assert_idle();
        }
    }
}

/// Every call fails once: pins, maps after none, one or many pages, the last sync.
#[test]
fn failure_at_every_call() {
    for (fragmentation, slots) in
        [(Fragmentation::None, 1), (Fragmentation::Seeded { seed: 7, run_order: 2 }, 2)]
    {
        let rig = setup(fragmentation);
        for step in [Step::Pin, Step::Map, Step::SyncMap] {
            for after in [0, 1, 5] {
                let mut failures = 0;
                loop {
                    let domain = Eager::new(&rig, "2K|4K|16K");
                    rig.plan.fail_step_at(step, failures, after);
                    let request = PinRequest::new(bytes(0x800, 80 * P), WRITE_LONG);
                    let (process, slots) = (rig.process.clone(), vec![None; slots]);
                    let account = rig.account.clone();
                    let streamed = Stream::map(
                        process,
                        account,
                        &domain,
                        slots,
                        request,
                        iova(AT + 0x800),
                        RW,
                    );
                    let (done, mapped) = match streamed {
                        Ok(streamed) => (streamed.unmap().is_ok(), 80 * P),
                        Err(error) => {
                            let injected = match error.error() {
                                StreamError::Pin(PinError {
                                    kind: PinErrorKind::Pinner(PinFault::Injected(_)),
                                    ..
                                }) => step == Step::Pin,
                                StreamError::Map(MapError::Domain { error: _, .. }) => {
                                    step != Step::Pin
                                }
                                _ => false,
                            };
                            assert!(injected, "{error:?}");
                            let mapped = match error.error() {
                                StreamError::Map(MapError::Domain { mapped, .. }) => *mapped,
                                _ => 0,
                            };
                            (false, mapped)
                        }
                    };
                    let stats = domain.iommu.stats();
                    assert!(mapped <= 80 * P && stats.pages_mapped == stats.pages_unmapped);
                    assert_eq!((domain.iommu.mapped_bytes(), domain.iommu.tlb_len()), (0, 0));
                    rig.assert_idle();
                    if done {
                        break;
                    }
                    failures += 1;
                }
                assert_eq!(failures == 1, step == Step::SyncMap, "{step:?}: {failures}");
                rig.plan.succeed();
            }
        }
    }
}

/// What is refused before a page is pinned, and what the progress stops.
#[test]
fn refused_and_cancelled() {
    let rig = setup(Fragmentation::Alternate);
    let iommu = rig.iommu("4K");
    let (process, account) = (&*rig.process, &*rig.account);
    let calls = rig.plan.calls();
    let map = |flags, at: u64, prot| {
        let request = PinRequest::new(bytes(0, 8 * P), flags);
        let streamed =
            Stream::map(process, account, &*iommu, vec![None; 2], request, iova(at), prot);
        streamed.unwrap_err().into_error()
    };
    let map_kind = |kind| match kind {
        StreamError::Map(kind) => kind,
        other => panic!("{other:?}"),
    };
    let read_only = MapError::Attach(AttachError::ReadOnly);
    assert_eq!(map_kind(map(PinFlags::LONGTERM, AT, RW)), read_only);
    assert_eq!(map_kind(map(WRITE_LONG, AT, Prot::empty())), MapError::NoAccess);
    let wraps = map_kind(map(WRITE_LONG, u64::MAX - P + 1, RW));
    assert!(matches!(wraps, MapError::Tiles(_)));
    account.set_limit(7);
    let full = map(WRITE_LONG, AT, RW);
    assert!(matches!(full, StreamError::Pin(PinError { kind: PinErrorKind::Charge(_), .. })));
    account.set_limit(u64::MAX);
    assert_eq!((rig.plan.calls(), iommu.stats().map_calls), (calls, 0));
    let none = stream(&rig, &iommu, 0, (0, 8 * P), RW).unwrap_err();
    assert!(matches!(
        none.error(),
        StreamError::Pin(PinError { kind: PinErrorKind::NoProgress, .. })
    ));
    for stop_at in [1, 3, 5, 7] {
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG).with_progress(|pinned| {
            if pinned >= stop_at * P {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let error = Stream::map(process, account, &*iommu, vec![None; 1], request, iova(AT), RW);
        let error = error.unwrap_err();
        assert!(matches!(
            error.error(),
            StreamError::Pin(PinError { kind: PinErrorKind::Cancelled, at, pinned, .. })
                if *pinned == stop_at * P && *at == UserAddr::new(BASE + stop_at * P)
        ));
        rig.assert_idle();
    }
    // A hole: the error of the pinner, and nothing is left.
    rig.process.unmap(bytes(5 * P, P)).unwrap();
    let error = stream(&rig, &iommu, 2, (0, 8 * P), RW).unwrap_err();
    let hole = UserAddr::new(BASE + 5 * P);
    assert!(matches!(
        error.error(),
        StreamError::Pin(PinError { kind: PinErrorKind::Pinner(PinFault::NotMapped(at)), .. }) if *at == hole
    ));
    rig.assert_idle();
}

/// Pages are charged while they are pinned, and dirty if the device could write.
#[test]
fn charges_and_dirt() {
    let rig = setup(Fragmentation::Reverse);
    for (prot, dirty) in [(RW, true), (RO, false), (Prot::WRITE, true)] {
        let (watched, iommu) = (Watched::new(&rig), rig.iommu("4K"));
        let request = PinRequest::new(bytes(0, 6 * P), WRITE_LONG);
        let slots = vec![None; 2];
        let streamed =
            Stream::map(&watched, &*rig.account, &*iommu, slots, request, iova(AT), prot).unwrap();
        if dirty {
            rig.device(&iommu).write(iova(AT + P), b"device").unwrap();
        }
        drop(streamed);
        assert!(watched.calls().iter().all(|(_, charged)| *charged == 6));
        for page in 0..6 {
            let pfn = rig.process.frame_at(UserAddr::new(BASE + page * P)).unwrap();
            assert_eq!(rig.memory.clean(pfn), dirty);
        }
        rig.assert_idle();
    }
}

/// A device that has everything in its IOTLB reaches nothing afterwards.
#[test]
fn flushed_before_unpinned() {
    let rig = setup(Fragmentation::Seeded { seed: 8, run_order: 1 });
    for slots in [1, 3, 128] {
        let domain = Eager::new(&rig, "4K|16K");
        let request = PinRequest::new(bytes(0, 60 * P), WRITE_LONG);
        let (process, account) = (&*rig.process, &*rig.account);
        let streamed =
            Stream::map(process, account, &domain, vec![None; slots], request, iova(AT), RW);
        drop(streamed.unwrap());
        assert_eq!(domain.iommu.tlb_len(), 0);
        let device = rig.device(&domain.iommu);
        for page in 0..60 {
            assert!(device.write(iova(AT + page * P), b"late").is_err());
        }
        rig.assert_idle();
    }
}

/// Lies of the page table, and of unmapping: what is not known to be unmapped stays pinned.
#[test]
fn breaches_leak() {
    let lies = [
        Lie::ReadsNothing,
        Lie::ReadsEmpty,
        Lie::UnmapsMore,
        Lie::UnmapsLess,
        Lie::UnmapsPartOfPage,
        Lie::UnmapsNothing,
    ];
    for what in lies {
        for by_drop in [false, true] {
            let rig = setup(Fragmentation::Alternate);
            let iommu = rig.iommu("4K");
            let streamed = stream(&rig, &iommu, 3, (0, 8 * P), RW).unwrap();
            // SAFETY: memory that exists in this test only, and is not freed after the breach.
            unsafe { iommu.lie(what) };
            if by_drop {
                drop(streamed);
            } else {
                let error = streamed.unmap().unwrap_err();
                assert_eq!(error.error().range.first(), iova(AT), "{what:?}");
            }
            assert_eq!((rig.pins(8), rig.account.charged()), (vec![1; 8], 8), "{what:?}");
            assert_eq!(rig.memory.leaked_pages(), 8, "{what:?}");
            rig.process.exit();
            for page in 0..8 {
                // Where it still reaches something, that is still pinned.
                let _ = rig.device(&iommu).write(iova(AT + page * P), b"late");
            }
            rig.witness.assert_clean();
            let left = entries(&iommu).first().map(|entry| entry.range.first());
            drop(iommu);
            let seen = rig.witness.take().into_iter().map(|seen| (seen.kind, seen.iova));
            assert!(seen.eq(left.map(|iova| (ViolationKind::StillMapped, Some(iova)))));
        }
    }
    for what in [Lie::MapsMore, Lie::MapsLess, Lie::MapsPartOfPage, Lie::FailsWithMore] {
        let rig = setup(Fragmentation::Alternate);
        let iommu = rig.iommu("4K");
        // SAFETY: as above.
        unsafe { iommu.lie(what) };
        let error = stream(&rig, &iommu, 2, (0, 8 * P), RW).unwrap_err();
        assert!(matches!(error.error(), StreamError::Map(MapError::Breach(_))), "{what:?}");
        // The page that the lie was about; those of the batch that no device was shown are free.
        assert_eq!(rig.pins(8), [1, 0, 0, 0, 0, 0, 0, 0], "{what:?}");
        assert_eq!((rig.account.charged(), rig.memory.leaked_pages()), (8, 1));
        rig.process.exit();
        let _ = rig.device(&iommu).write(iova(AT), b"late");
        rig.witness.assert_clean();
        std::mem::forget(iommu);
    }
}

/// A lie while a stream that failed is undone: what was mapped stays pinned, all else is free.
#[test]
fn breaches_while_undoing() {
    for what in [Lie::ReadsNothing, Lie::UnmapsLess, Lie::UnmapsNothing] {
        let rig = setup(Fragmentation::Alternate);
        let iommu = rig.iommu("4K");
        // SAFETY: memory that exists in this test only, and is not freed after the breach.
        unsafe { iommu.lie(what) };
        rig.plan.fail_step_at(Step::Map, 5, 0);
        let error = stream(&rig, &iommu, 2, (0, 8 * P), RW).unwrap_err();
        assert!(matches!(error.error(), StreamError::Map(MapError::Breach(_))), "{what:?}");
        assert_eq!(rig.pins(8), [1, 1, 1, 1, 1, 0, 0, 0], "{what:?}");
        assert_eq!((rig.account.charged(), rig.memory.leaked_pages()), (8, 5));
        rig.witness.assert_clean();
        std::mem::forget(iommu);
    }
}

/// Runs as long as can be, up to the first hole.
#[test]
fn readback() {
    let rig = setup(Fragmentation::None);
    let umem = rig.pin(bytes(0, 64 * P));
    let iommu = rig.iommu("4K|16K");
    let first = Mapping::map_range(&*umem, 0..20 * P, &*iommu, iova(AT), RW).unwrap();
    let second =
        Mapping::map_range(&*umem, 20 * P..40 * P, &*iommu, iova(AT + 20 * P), RO).unwrap();
    let mut all = Readback::new(&*iommu, IovaRange::inclusive(iova(AT), iova(u64::MAX)).unwrap());
    let segment = all.next().unwrap();
    let start = umem.whole().unwrap().phys(0).unwrap();
    assert_eq!((segment.phys, segment.len), (start, 40 * P), "merged across the mappings");
    assert_eq!((all.next(), all.next_iova()), (None, Some(iova(AT + 40 * P))));
    assert_eq!(all.next(), None);
    // Clipped at both ends, inside of entries.
    let mut part = Readback::new(&*iommu, iovas(AT + 5 * P + 7, 13));
    let segment = part.next().unwrap();
    assert_eq!((segment.phys.get(), segment.len), (start.get() + 5 * P + 7, 13));
    assert_eq!((part.next(), part.next_iova()), (None, None));
    drop((first, second));
    assert_eq!(Readback::new(&*iommu, IovaRange::ALL).count(), 0);
    drop(umem);
    rig.assert_idle();
}

/// Memory without a kernel's page: never pinned, never unpinned.
struct Registers;

// SAFETY: runs of registers have no pins.
unsafe impl Pinner for Registers {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        let run =
            PageRun::new(Pfn::new(0xfee00), batch.left(), MemoryKind::Mmio).map_err(|_| ())?;
        // SAFETY: registers are always where they are.
        unsafe { batch.push(run) }.map_err(|_| ())
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, _: bool) {
        panic!("{run:?} has no pins");
    }
}

#[test]
fn only_ram_is_streamed() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x1000..0x1100)
        .zone(Zone::Device(ProviderId(3)), 0x8000..0x8100)
        .build()
        .unwrap();
    let rig = Rig::on(memory);
    rig.buffer(0, 2, Vma::read_write());
    rig.buffer(2, 2, Vma::read_write().zone(Zone::Device(ProviderId(3))));
    let iommu = rig.iommu("4K");
    let request = PinRequest::new(bytes(0, 4 * P), PinFlags::WRITE | PinFlags::PCI_P2PDMA);
    let (process, account) = (&*rig.process, &*rig.account);
    let error = Stream::map(process, account, &*iommu, vec![None; 4], request, iova(AT), RW);
    let device = MemoryKind::Device(ProviderId(3));
    assert!(
        matches!(error.unwrap_err().error(), StreamError::NotRam { kind, .. } if *kind == device)
    );
    let error = Stream::map(&Registers, account, &*iommu, vec![None; 4], request, iova(AT), RW);
    assert!(matches!(
        error.unwrap_err().error(),
        StreamError::NotRam { kind: MemoryKind::Mmio, .. }
    ));
    rig.assert_idle();
    // A list takes both.
    let umem = rig.pin_as(bytes(0, 4 * P), PinFlags::WRITE | PinFlags::PCI_P2PDMA);
    let kinds: Vec<_> = umem.sgl().runs().map(|run| run.kind()).collect();
    assert_eq!(kinds, [MemoryKind::Ram, device]);
    let mapping = Mapping::map(umem.clone(), Arc::clone(&iommu), iova(AT), RW).unwrap();
    assert_eq!(mapping.len(), 4 * P);
    drop((mapping, umem));
    rig.assert_idle();
}
