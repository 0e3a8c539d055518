// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains that break their contract: whatever they report, what a device may reach is never freed,
//! and the value that was built on the lie says so.

mod rig;

use pinned_sgl::iommu::{
    CutError, Domain, HeapIoas, IoasError, IovaRange, MapError, Mapping, Placement, Prot, Remains,
};
use pinned_sgl::sgl::Segment;
use pinned_sgl::{Iova, PageSizes, Tile};
use pinned_sgl_mock::{Call, Fragmentation, Iommu, Lie, MapFault, ViolationKind, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RW};
use std::{pin::Pin, sync::Arc};

const AT: u64 = 0x4000_0000;
const MAP_LIES: [Lie; 4] = [Lie::MapsMore, Lie::MapsLess, Lie::MapsPartOfPage, Lie::FailsWithMore];
const UNMAP_LIES: [Lie; 4] =
    [Lie::UnmapsMore, Lie::UnmapsLess, Lie::UnmapsPartOfPage, Lie::UnmapsNothing];

fn lie(iommu: &Iommu, lie: Lie) {
    // SAFETY: memory that exists in this test only, and is never freed after a breach.
    unsafe { iommu.lie(lie) };
}

/// Eight pages, each on its own.
fn setup() -> (Rig, Arc<Pinned>, Arc<Iommu>) {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 8, Vma::read_write());
    let (umem, iommu) = (rig.pin(bytes(0, 8 * P)), rig.iommu("4K"));
    (rig, umem, iommu)
}

/// All pages are pinned and charged for ever, which was reported; the device may still write to them.
#[track_caller]
fn assert_leaked(rig: &Rig, iommu: Arc<Iommu>) {
    assert_eq!((rig.pins(8), rig.account.charged()), (vec![1; 8], 8));
    assert_eq!(rig.memory.leaked_pages(), 8);
    rig.witness.assert_clean();
    rig.process.exit();
    let device = rig.device(&iommu);
    for page in 0..8 {
        // Where it still reaches something, that is still pinned.
        let _ = device.write(iova(AT + page * P), b"late");
    }
    rig.witness.assert_clean();
    let reaches = iommu.mapped(IovaRange::ALL).first().map(|entry| entry.range.first());
    drop(device);
    drop(iommu);
    let seen = rig.witness.take().into_iter().map(|seen| (seen.kind, seen.call, seen.iova));
    let still_mapped = |iova| (ViolationKind::StillMapped, Call::Drop, Some(iova));
    assert!(seen.eq(reaches.map(still_mapped)));
}

#[test]
fn lies_of_map() {
    for what in MAP_LIES {
        let (rig, umem, iommu) = setup();
        lie(&iommu, what);
        let error = Mapping::map(umem, iommu.clone(), iova(AT), RW).unwrap_err();
        let MapError::Breach(breach) = error.error() else { panic!("{what:?}: {error:?}") };
        assert_eq!(breach.range, iovas(AT, P), "{what:?}");
        let (umem, _) = error.into_value();
        assert_eq!((umem.attachments(), umem.is_dirty()), (1, true));
        drop(umem);
        assert_leaked(&rig, iommu);
    }
}

/// A domain that takes all runs at once, of which it maps so many, and what it says of that.
struct Whole(Arc<Iommu>, fn(u64) -> (u64, Result<(), MapFault>), usize);

// SAFETY: what is mapped, and what is unmapped, is reported as the domain inside does; but for what the
// test is about, for which memory is never freed.
unsafe impl Domain for Whole {
    type Error = MapFault;
    type Gather = <Iommu as Domain>::Gather;

    const MAPS_RUNS: bool = true;

    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: that of the caller.
        unsafe { self.0.map(tile, prot) }
    }

    unsafe fn map_runs(
        &self,
        at: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
    ) -> (u64, Result<(), MapFault>) {
        // SAFETY: that of the caller.
        let (mapped, _) = unsafe { self.0.map_runs(at, runs.take(self.2), prot) };
        (self.1)(mapped)
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Self::Gather>) -> u64 {
        // SAFETY: that of the caller.
        unsafe { self.0.unmap(tile, gather) }
    }

    fn flush(&self, gather: Pin<&mut Self::Gather>) {
        self.0.flush(gather);
    }
}

/// Numbers that no domain can mean: each is a breach of all that was asked for.
#[test]
fn lies_of_map_runs() {
    type Said = fn(u64) -> (u64, Result<(), MapFault>);
    let lies: [(usize, Said); 6] = [
        (3, |mapped| (mapped, Ok(()))),
        (8, |mapped| (mapped - P, Ok(()))),
        (8, |mapped| (mapped + P, Ok(()))),
        (8, |mapped| (mapped + P, Err(MapFault::Injected))),
        (3, |mapped| (mapped - 1, Err(MapFault::Injected))),
        (0, |_| (u64::MAX, Err(MapFault::Injected))),
    ];
    for (index, (taken, said)) in lies.into_iter().enumerate() {
        let (rig, umem, iommu) = setup();
        let domain = Whole(iommu.clone(), said, taken);
        let error = Mapping::map(umem, &domain, iova(AT), RW).unwrap_err();
        let MapError::Breach(breach) = error.error() else { panic!("{index}: {error:?}") };
        assert_eq!(breach.range, iovas(AT, 8 * P), "{index}");
        drop(error);
        drop(domain);
        assert_leaked(&rig, iommu);
    }
    // The truth is none.
    let (rig, umem, iommu) = setup();
    let domain = Whole(iommu, |mapped| (mapped, Ok(())), usize::MAX);
    let mapping = Mapping::map(umem, &domain, iova(AT), RW).unwrap();
    assert_eq!(domain.0.mapped_bytes(), u128::from(8 * P));
    assert!(mapping.unmap().is_ok() && domain.0.mapped_bytes() == 0 && rig.witness.is_clean());
    // One that stops between two runs may say so: what it mapped is unmapped again.
    for taken in 1..8 {
        let (rig, umem, iommu) = setup();
        let domain = Whole(iommu, |mapped| (mapped, Err(MapFault::Injected)), taken);
        let error = Mapping::map(umem, &domain, iova(AT), RW).unwrap_err();
        let stopped = MapError::Domain { error: MapFault::Injected, mapped: taken as u64 * P };
        assert_eq!((*error.error(), domain.0.mapped_bytes()), (stopped, 0));
        assert!(error.into_value().0.attachments() == 0 && rig.witness.is_clean());
    }
}

/// A lie made while a failed map is undone is a breach, too.
#[test]
fn lies_of_undoing() {
    for what in UNMAP_LIES {
        let (rig, umem, iommu) = setup();
        lie(&iommu, what);
        rig.plan.fail_at(3);
        let error = Mapping::map(umem, iommu.clone(), iova(AT), RW).unwrap_err();
        let MapError::Breach(breach) = error.error() else { panic!("{what:?}: {error:?}") };
        assert_eq!(breach.range, iovas(AT, 3 * P), "{what:?}");
        assert_eq!(error.into_value().0.attachments(), 1);
        assert_leaked(&rig, iommu);
    }
}

#[test]
fn lies_of_unmap() {
    for what in UNMAP_LIES {
        for by_drop in [false, true] {
            let (rig, umem, iommu) = setup();
            let mapping = Mapping::map(umem, iommu.clone(), iova(AT), RW).unwrap();
            lie(&iommu, what);
            if by_drop {
                drop(mapping);
            } else {
                let error = mapping.unmap().unwrap_err();
                assert_eq!(error.error().range, iovas(AT, 8 * P));
                assert_ne!(error.error().reported, 8 * P);
                assert_eq!(error.into_value().0.attachments(), 1);
            }
            assert_leaked(&rig, iommu);
        }
    }
}

/// What lies around a part that was not unmapped is still mapped, and can go.
#[test]
fn lies_of_unmapping_a_part() {
    for what in UNMAP_LIES {
        let (rig, umem, iommu) = setup();
        let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
        lie(&iommu, what);
        let error = mapping.unmap_range(2 * P..5 * P).unwrap_err();
        let CutError::Breach(breach) = error.error() else { panic!("{error:?}") };
        assert_eq!(breach.range, iovas(AT + 2 * P, 3 * P));
        let Remains::Around { head, tail, region, .. } = error.into_value() else { panic!() };
        let (head, tail) = (head.unwrap(), tail.unwrap());
        assert_eq!((head.len(), tail.len(), umem.attachments()), (2 * P, 3 * P, 3));
        drop(region);
        assert!(head.unmap().is_ok() && tail.unmap().is_ok());
        assert_eq!(umem.attachments(), 1);
        drop(umem);
        assert_leaked(&rig, iommu);
    }
}

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// The address space goes on without the range that is not known any more.
fn assert_poisoned(space: &mut Space, rig: &Rig, iommu: &Arc<Iommu>) {
    let poisoned = iovas(AT, 8 * P);
    let poison = |error: &IoasError<_>| *error == IoasError::Poisoned { range: poisoned };
    assert!(poison(&space.unmap(poisoned).unwrap_err()));
    assert!(poison(&space.unmap(iovas(0, u64::MAX)).unwrap_err()));
    assert_eq!((space.len(), space.mapping_at(iova(AT)).is_none()), (1, true));
    assert_eq!(space.translate(iova(AT)), None);
    rig.buffer(8, 2, Vma::read_write());
    let other = rig.pin(bytes(8 * P, 2 * P));
    let taken = space.map(Placement::At(iova(AT)), other.clone(), RW).unwrap_err();
    assert!(poison(taken.error()));
    assert_eq!(space.reserve(iovas(0, 2 * AT)).map(drop).unwrap_err(), *taken.error());
    assert_eq!(space.poisoned().collect::<Vec<_>>(), [poisoned]);
    let place = space.map(Placement::Anywhere, other, RW).unwrap();
    assert!(place.intersection(&poisoned).is_none());
    rig.device(iommu).write(place.first(), b"fine").unwrap();
    assert_eq!(space.unmap(place).unwrap(), 2 * P);
}

#[test]
fn an_address_space_is_poisoned_by_lies_of_map() {
    for what in MAP_LIES {
        let (rig, umem, iommu) = setup();
        let mut space = Space::new();
        let honest = rig.iommu("2K|4K");
        space.attach(honest.clone()).unwrap();
        space.attach(iommu.clone()).unwrap();
        lie(&iommu, what);
        let error = space.map(Placement::At(iova(AT)), umem, RW).unwrap_err();
        assert!(matches!(error.error(), IoasError::Breach(_)), "{what:?}: {error:?}");
        assert_eq!(error.into_value().attachments(), 1);
        assert_poisoned(&mut space, &rig, &iommu);
        drop(space);
        assert_eq!(honest.mapped_pages(), 0);
        assert_leaked(&rig, iommu);
    }
}

#[test]
fn an_address_space_is_poisoned_by_lies_of_unmap() {
    for what in UNMAP_LIES {
        for detach in [false, true] {
            let (rig, umem, iommu) = setup();
            let mut space = Space::new();
            let id = space.attach(iommu.clone()).unwrap();
            space.map(Placement::At(iova(AT)), umem, RW).unwrap();
            lie(&iommu, what);
            if detach {
                assert!(matches!(space.detach(id), Err(IoasError::Breach(_))), "{what:?}");
                assert_eq!(space.domains().count(), 0);
                space.attach(iommu.clone()).unwrap();
            } else {
                let error = space.unmap(iovas(AT, 8 * P)).unwrap_err();
                assert!(matches!(error, IoasError::Breach(_)), "{what:?}: {error:?}");
            }
            assert_poisoned(&mut space, &rig, &iommu);
            drop(space);
            assert_leaked(&rig, iommu);
        }
    }
}

/// A breach while mappings are replayed, or while they are taken out of a domain that failed.
#[test]
fn an_address_space_is_poisoned_while_attaching() {
    for what in MAP_LIES {
        let (rig, umem, iommu) = setup();
        let mut space = Space::new();
        space.map(Placement::At(iova(AT)), umem, RW).unwrap();
        lie(&iommu, what);
        let error = space.attach(iommu.clone()).unwrap_err();
        assert!(matches!(error.error(), IoasError::Breach(_)), "{what:?}: {error:?}");
        drop(error);
        let honest = rig.iommu("4K");
        space.attach(honest.clone()).unwrap();
        assert_poisoned(&mut space, &rig, &honest);
        drop(space);
        assert_eq!(honest.mapped_pages(), 0);
        assert_leaked(&rig, iommu);
    }
    // One mapping is in when the second fails; taking it out again is what goes wrong.
    for what in UNMAP_LIES {
        let (rig, umem, iommu) = setup();
        rig.buffer(20, 2, Vma::read_write());
        let other = rig.pin(bytes(20 * P, 2 * P));
        let mut space = Space::new();
        space.map(Placement::At(iova(AT)), umem, RW).unwrap();
        space.map(Placement::At(iova(2 * AT)), other, RW).unwrap();
        lie(&iommu, what);
        // Eight tiles, a sync, and the first tile of the other one.
        rig.plan.fail_at(9);
        let error = space.attach(iommu.clone()).unwrap_err();
        assert!(matches!(error.error(), IoasError::Breach(_)), "{what:?}: {error:?}");
        drop(error);
        assert_eq!(space.unmap(iovas(2 * AT, 2 * P)).unwrap(), 2 * P);
        let honest = rig.iommu("4K");
        space.attach(honest.clone()).unwrap();
        assert_poisoned(&mut space, &rig, &honest);
        drop(space);
        assert_leaked(&rig, iommu);
    }
}

/// What was copied before a breach is unmapped; what the lie was about is not used again.
#[test]
fn a_breach_of_one_of_two_domains_is_known_to_both() {
    for what in UNMAP_LIES {
        let (rig, umem, iommu) = setup();
        let honest = rig.iommu("4K");
        let mut space = Space::new();
        space.attach(iommu.clone()).unwrap();
        space.attach(honest.clone()).unwrap();
        space.map(Placement::At(Iova::new(AT)), umem, RW).unwrap();
        // The latest domain is asked first, and honest.
        lie(&iommu, what);
        assert!(matches!(space.unmap(iovas(AT, 8 * P)), Err(IoasError::Breach(_))));
        assert_eq!(honest.mapped_pages(), 0);
        assert_poisoned(&mut space, &rig, &honest);
        drop(space);
        assert_leaked(&rig, iommu);
    }
}
