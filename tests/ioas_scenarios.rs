// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces in the scenarios that iommufd and vfio are tested with. The IOMMU has pages of half
//! the size of the machine's, and huge ones of 1 MiB.
//!
//! | scenario | where |
//! |---|---|
//! | every alignment | `alignments.rs` |
//! | dirty tracking | `ioas_dirty.rs` |
//! | failing at every call | `fail_nth.rs` |
//! | modes of accounting | `umem_pin.rs` |

mod rig;

use pinned_sgl::granule::TileError;
use pinned_sgl::iommu::{Cuts, HeapIoas, IoasError, IovaRange, MapError, Placement, Prot};
use pinned_sgl::umem::{
    AccessError, AttachError, Attachment, PinErrorKind, PinFlags, PinRequest, Umem,
};
use pinned_sgl::{Iova, UserAddr};
use pinned_sgl_mock::{Fragmentation, Iommu, MapFault, PinFault, Step, Vma};
use rig::{bytes, iova, iovas, pattern, Pinned, Rig, BASE, HALF_AND_HUGE, P, RO, RW, WRITE_LONG};
use std::sync::Arc;

const AT: u64 = 0x1000_0000;

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;
type Fault = IoasError<MapFault>;

/// A space with one domain, and a region of `pages` pages.
fn setup(pages: u64) -> (Rig, Space, Arc<Iommu>, Arc<Pinned>) {
    let rig = Rig::new(Fragmentation::Seeded { seed: 11, run_order: 1 });
    rig.buffer(0, pages, Vma::read_write());
    let (umem, iommu, mut space) =
        (rig.pin(bytes(0, pages * P)), rig.iommu(HALF_AND_HUGE), Space::new());
    space.attach(iommu.clone()).unwrap();
    (rig, space, iommu, umem)
}

fn map(space: &mut Space, umem: &Arc<Pinned>, at: u64, pages: u64) -> Result<IovaRange, Fault> {
    let placed = Placement::At(iova(at));
    space.map_range(placed, umem.clone(), 0..pages * P, RW).map_err(|error| error.into_error())
}

#[track_caller]
fn end(rig: &Rig, space: Space, umem: Arc<Pinned>) {
    drop(space);
    assert_eq!(umem.attachments(), 0);
    drop(umem);
    rig.assert_idle();
}

#[test]
fn scenario_1_unmapping_and_overlaps() {
    let (rig, mut space, iommu, umem) = setup(24);
    assert_eq!(space.unmap(iovas(AT, P)), Err(IoasError::NotMapped { iova: iova(AT) }));
    for page in 0..10 {
        map(&mut space, &umem, AT + page * P, 1).unwrap();
    }
    for page in 0..10 {
        let start = iommu.stats();
        assert_eq!(space.unmap(iovas(AT + page * P, P)), Ok(P));
        assert_eq!(iommu.stats().flushes - start.flushes, 1);
    }
    let mapping = map(&mut space, &umem, AT, 2).unwrap();
    let cuts = |edge: u64| Err(IoasError::CutsMapping { edge: iova(edge), mapping });
    assert_eq!(space.unmap(iovas(AT, P)), cuts(AT + P - 1));
    assert_eq!(space.unmap(iovas(AT + P, P)), cuts(AT + P));
    assert_eq!((space.len(), iommu.mapped_bytes()), (1, u128::from(2 * P)));
    assert_eq!(space.unmap(mapping), Ok(2 * P));
    // Over an existing mapping: exactly, its head, its tail, inside it, and all around it.
    let existing = map(&mut space, &umem, AT + 8 * P, 8).unwrap();
    let calls = iommu.stats().map_calls;
    for (at, pages) in [(8, 8), (4, 8), (12, 8), (10, 2), (0, 24)] {
        let refused = map(&mut space, &umem, AT + at * P, pages);
        assert_eq!(refused, Err(IoasError::Overlap { existing }));
    }
    assert_eq!((iommu.stats().map_calls, umem.attachments()), (calls, 1));
    // On either side of it there is room.
    map(&mut space, &umem, AT, 8).unwrap();
    map(&mut space, &umem, AT + 16 * P, 8).unwrap();
    let start = iommu.stats();
    assert_eq!((space.unmap_all(), space.unmap_all()), (24 * P, 0));
    assert_eq!(iommu.stats().flushes - start.flushes, 1);
    assert!(space.is_empty() && iommu.mapped_pages() == 0);
    end(&rig, space, umem);
}

#[test]
fn scenario_2_ranges_with_gaps() {
    let (rig, mut space, iommu, umem) = setup(8);
    let other = rig.iommu("1K|4K");
    space.attach(other.clone()).unwrap();
    for index in 0..4 {
        map(&mut space, &umem, AT + index * 16 * P, 8).unwrap();
    }
    let len = 56 * P;
    for (first, len, edge) in [
        (AT + P, len - P, AT + P),
        (AT, len - P, AT + len - P - 1),
        (AT + 7 * P, len, AT + 7 * P),
        (AT - P, 2 * P, AT + P - 1),
        (AT + 20 * P, P, AT + 20 * P),
    ] {
        let refused = space.unmap(iovas(first, len)).unwrap_err();
        let IoasError::CutsMapping { edge: named, mapping } = refused else { panic!("{refused}") };
        assert_eq!(named, iova(edge));
        assert!(mapping.contains(named) && mapping.len() == Some(8 * P));
    }
    assert_eq!((space.len(), umem.attachments()), (4, 4));
    assert_eq!(
        space.unmap(iovas(AT + 8 * P, 8 * P)),
        Err(IoasError::NotMapped { iova: iova(AT + 8 * P) })
    );
    let before = [&iommu, &other].map(|iommu| iommu.stats().flushes);
    assert_eq!(space.unmap(iovas(AT - 3 * P, len + 5 * P)), Ok(32 * P));
    let after = [&iommu, &other].map(|iommu| iommu.stats().flushes);
    assert_eq!(after, before.map(|flushes| flushes + 1), "one flush for each domain");
    assert_eq!((iommu.mapped_pages(), other.mapped_pages(), space.len()), (0, 0, 0));
    end(&rig, space, umem);
}

#[test]
fn scenario_3_automatic_addresses() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 10, Vma::read_write());
    rig.buffer(256, 512, Vma::read_write().huge(8));
    let umem = rig.pin(bytes(0, 10 * P));
    let huge = rig.pin(bytes(300 * P, 400 * P));
    let iommu = rig.iommu(HALF_AND_HUGE);
    let mut space = Space::new();
    space.attach(iommu.clone()).unwrap();
    for reserved in [iovas(0x1000, 0x5000), iovas(0x101_0000, 0x800), iovas(0x101_8000, 1)] {
        space.reserve(reserved).unwrap();
    }
    let allowed = [iovas(0x100_8000, 0x4000), iovas(0x101_0000, 0x6_0000)];
    for round in 0..3 {
        for pages in 1..=10 {
            let placement = match round {
                0 => Placement::Anywhere,
                _ => Placement::Within(&allowed),
            };
            let placed = space.map_range(placement, umem.clone(), 0..pages * P, RO);
            let place = match placed {
                Ok(place) => place,
                Err(error) => {
                    assert_eq!((error.error(), round), (&IoasError::NoRoom { len: pages * P }, 2));
                    continue;
                }
            };
            let natural = 1 << (pages * P).trailing_zeros();
            assert!(round == 2 || place.first().get() % natural == 0, "{pages} pages at {place}");
            assert!(place.first().get() != 0 && place.len() == Some(pages * P));
            assert!(space.reserved().all(|reserved| reserved.intersection(&place).is_none()));
            if round > 0 {
                assert!(allowed.iter().any(|allowed| allowed.covers(&place)), "{place}");
            }
        }
    }
    // Where a huge page fits, the address agrees with the memory.
    let place = space.map(Placement::Anywhere, huge.clone(), RO).unwrap();
    let entries = iommu.mapped(place);
    assert_eq!(entries.iter().filter(|entry| entry.range.len() == Some(1 << 20)).count(), 0);
    assert_eq!(space.unmap(place), Ok(400 * P));
    let whole = rig.pin(bytes(250 * P + 6 * P, 512 * P));
    let place = space.map_range(Placement::Anywhere, whole.clone(), 10 * P..300 * P, RO).unwrap();
    let large = iommu.mapped(place).into_iter().find(|entry| entry.range.len() == Some(1 << 20));
    assert!(large.is_none(), "a huge page begins at page 256 of the region, and ends behind it");
    assert_eq!(space.unmap(place), Ok(290 * P));
    let place = space.map_range(Placement::Anywhere, whole.clone(), 10 * P..512 * P, RO).unwrap();
    let large = iommu.mapped(place).into_iter().find(|entry| entry.range.len() == Some(1 << 20));
    assert!(large.is_some(), "{place}");
    // Everything is reserved: there is no room.
    space.unmap_all();
    let all = space.reserve(IovaRange::ALL).unwrap();
    let error = space.map(Placement::Anywhere, umem.clone(), RO).unwrap_err();
    assert_eq!(*error.error(), IoasError::NoRoom { len: 10 * P });
    assert!(Arc::ptr_eq(&error.into_value(), &umem));
    let taken = map(&mut space, &umem, AT, 1);
    assert!(matches!(taken, Err(IoasError::Reserved { range }) if range.contains(iova(AT))));
    assert!(space.unreserve(all).is_ok());
    assert!(map(&mut space, &umem, AT, 1).is_ok());
    drop((huge, whole));
    end(&rig, space, umem);
}

#[test]
fn scenario_4_the_same_pages_twice() {
    let (rig, mut space, iommu, umem) = setup(16);
    let first = map(&mut space, &umem, AT, 16).unwrap();
    map(&mut space, &umem, 3 * AT, 16).unwrap();
    let mut second = Space::new();
    let other = rig.iommu("4K");
    second.attach(other.clone()).unwrap();
    // A part that lies across two mappings, at the same place and anywhere.
    map(&mut space, &umem, AT + 16 * P, 4).unwrap();
    let across = iovas(AT + 10 * P, 8 * P);
    assert_eq!(second.copy_from(&space, across, Placement::At(across.first()), RO), Ok(across));
    let elsewhere = second.copy_from(&space, across, Placement::Anywhere, RW).unwrap();
    assert_eq!((second.len(), umem.attachments()), (4, 7));
    assert_eq!((rig.pins(16), rig.account.charged()), (vec![1; 16], 16));
    rig.device(&iommu).write(iova(AT + 15 * P), b"shared").unwrap();
    for at in [across.first(), elsewhere.first()] {
        assert!(rig.device(&other).reads_as(iova(at.get() + 5 * P), b"shared").unwrap());
    }
    for page in 0..8 {
        let there = second.translate(iova(elsewhere.first().get() + page * P));
        assert_eq!(there, space.translate(iova(AT + (10 + page) * P)));
    }
    // A gap, and a place that is taken: nothing is copied.
    let gap = iovas(AT + 10 * P, 11 * P);
    let hole = IoasError::NotMapped { iova: iova(AT + 20 * P) };
    assert_eq!(second.copy_from(&space, gap, Placement::Anywhere, RW), Err(hole));
    let taken = second.copy_from(&space, first, Placement::At(iova(AT)), RW);
    assert!(matches!(taken, Err(IoasError::Overlap { .. })));
    let taken = second.copy_from(&space, across, Placement::At(iova(AT + 4 * P)), RW);
    assert!(matches!(taken, Err(IoasError::Overlap { .. })));
    assert_eq!((second.len(), other.mapped_bytes()), (4, u128::from(16 * P)));
    // The source goes first.
    drop(space);
    assert_eq!(rig.pins(16), [1; 16]);
    assert_eq!(second.unmap(across), Ok(8 * P));
    end(&rig, second, umem);
}

/// A region that is held elsewhere stays pinned when its mapping goes; nothing is cut.
#[test]
fn scenario_5_in_use_while_unmapped() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 512, Vma::read_write().huge(8));
    let umem = rig.pin(bytes(0, 512 * P));
    let iommu = rig.iommu(HALF_AND_HUGE);
    let mut space = Space::new();
    space.attach(iommu.clone()).unwrap();
    let place = space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    assert_eq!(iommu.mapped_pages(), 2);
    let access = Attachment::new(umem, true).unwrap();
    assert_eq!(space.unmap(place), Ok(512 * P));
    assert_eq!((rig.memory.pinned_pages(), iommu.stats().pages_unmapped), (512, 2));
    // SAFETY: no device was shown the memory under this attachment.
    drop(unsafe { access.release() });
    rig.assert_idle();
    // One page in the middle, pinned on its own: it alone stays when the domain goes.
    let umem = rig.pin(bytes(0, 512 * P));
    space.map(Placement::At(iova(AT)), umem, RW).unwrap();
    let page = rig.pin(bytes(300 * P, P));
    drop(space);
    let pins = rig.pins(512);
    assert!(pins.iter().enumerate().all(|(at, pins)| *pins == u64::from(at == 300)));
    drop(page);
    rig.assert_idle();
}

#[test]
fn scenario_7_memory_that_is_not_there() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(1, 7, Vma::read_write());
    for (first, pages, missing) in [(4, 8, 8), (0, 4, 0), (0, 1, 0), (9, 2, 9)] {
        let request = PinRequest::new(bytes(first * P, pages * P), WRITE_LONG);
        let error = Umem::pin(&*rig.process, &*rig.account, request).unwrap_err();
        let at = UserAddr::new(BASE + missing * P);
        assert!(
            matches!(&error.error().kind, PinErrorKind::Pinner(PinFault::NotMapped(why)) if *why == at)
        );
        assert_eq!(error.error().pinned, (missing - first) * P);
        rig.assert_idle();
    }
}

#[test]
fn scenario_8_attaching_to_mappings() {
    let (rig, mut space, iommu, umem) = setup(8);
    rig.buffer(8, 8, Vma::read_write());
    let half = rig.pin(bytes(8 * P + P / 2, 4 * P));
    for index in 0..3 {
        map(&mut space, &umem, AT + index * 16 * P, 8).unwrap();
    }
    let other = rig.iommu("1K|4K");
    let id = space.attach(other.clone()).unwrap();
    let seen = |iommu: &Iommu| {
        let first = |page: u64| iommu.lookup(iova(AT + page * P)).map(|entry| entry.phys);
        (0..64).map(first).collect::<Vec<_>>()
    };
    assert_eq!(seen(&iommu), seen(&other));
    assert!(Arc::ptr_eq(&space.detach(id).unwrap(), &other));
    assert_eq!((other.mapped_pages(), other.stats().flushes), (0, 1));
    assert_eq!(space.detach(id).map(drop), Err(IoasError::NoSuchDomain));
    // Failing at any tile of any mapping: as before.
    let tiles = other.stats().map_calls;
    for n in 0..tiles {
        for after in [0, 1] {
            rig.plan.fail_step_at(Step::Map, n, after);
            let error = space.attach(other.clone()).unwrap_err();
            let injected =
                |error: &_| matches!(error, MapError::Domain { error: MapFault::Injected, .. });
            assert!(matches!(
                error.error(),
                IoasError::Replay { range, error } if injected(error) && range.len() == Some(8 * P)
            ));
            assert_eq!(other.mapped_pages(), 0);
            assert_eq!((space.len(), space.domains().count()), (3, 1));
        }
    }
    rig.plan.succeed();
    // Pages too large for a mapping that begins inside one; an aperture that is too small.
    let place = space.map(Placement::At(iova(AT + 64 * P + P / 2)), half.clone(), RW).unwrap();
    let error = space.attach(rig.iommu("4K|2M")).unwrap_err();
    assert!(matches!(
        error.error(),
        IoasError::Replay { range, error: MapError::Tiles(_) } if *range == place
    ));
    let aperture = iovas(AT, 36 * P);
    let narrow = Arc::new(rig.config("1K|4K").aperture(aperture).build());
    let error = space.attach(narrow.clone()).unwrap_err();
    assert!(matches!(
        error.error(),
        IoasError::Replay { range, error: MapError::Aperture { .. } }
            if *range == iovas(AT + 32 * P, 8 * P)
    ));
    assert_eq!((narrow.mapped_pages(), space.domains().count()), (0, 1));
    // Attached to nothing, it decides where there is room.
    space.unmap_all();
    space.attach(narrow).unwrap();
    let place = space.map(Placement::Anywhere, umem.clone(), RW).unwrap();
    assert!(aperture.covers(&place));
    drop(half);
    end(&rig, space, umem);
}

/// vfio, version 1: a mapping of small pages is cut in any order. Version 2: it goes whole.
#[test]
fn scenario_10_cutting() {
    for seed in 0..20 {
        let (rig, mut space, iommu, umem) = setup(16);
        let other = rig.iommu("4K");
        space.attach(other.clone()).unwrap();
        let mapping = map(&mut space, &umem, AT, 16).unwrap();
        let device = rig.device(&other);
        device.prefetch(mapping).unwrap();
        let mut pages: Vec<u64> = (0..16).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut pages);
        let mut left = 16;
        for page in pages {
            let range = iovas(AT + page * P, P);
            if left == 16 {
                assert!(matches!(space.unmap(range), Err(IoasError::CutsMapping { .. })));
            }
            assert_eq!(space.unmap_cutting(range), Ok(P));
            left -= 1;
            assert!(device.write(range.first(), b"late").is_err());
            let bytes =
                space.mappings(mapping).map(|part| part.range().len().unwrap()).sum::<u64>();
            assert_eq!(bytes, left * P);
            assert_eq!(iommu.mapped_bytes(), u128::from(left * P));
            assert_eq!(other.mapped_bytes(), u128::from(left * P));
            assert_eq!(umem.attachments(), space.len());
        }
        assert!(space.is_empty());
        end(&rig, space, umem);
    }
}

#[test]
fn scenario_10_huge_pages_are_not_cut() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 512, Vma::read_write().huge(8));
    let umem = rig.pin(bytes(0, 512 * P));
    for can_split in [false, true] {
        let iommu = Arc::new(
            rig.config(HALF_AND_HUGE)
                .cuts([Cuts::Entries, Cuts::Anywhere][usize::from(can_split)])
                .build(),
        );
        let mut space = Space::new();
        space.attach(iommu.clone()).unwrap();
        let mapping = map(&mut space, &umem, AT, 512).unwrap();
        let edge = iova(AT + 10 * P);
        let entry = iovas(AT, 1 << 20);
        let refused = IoasError::CutsEntry { edge, entry };
        for part in [iovas(AT + 10 * P, P), iovas(AT + 10 * P, 400 * P), iovas(AT, 10 * P)] {
            let start = iommu.stats();
            let cut = space.unmap_cutting(part);
            if can_split {
                let bytes = part.len().unwrap();
                assert_eq!(cut, Ok(bytes));
                assert_eq!(iommu.mapped_bytes(), u128::from(512 * P - bytes));
                space.unmap_all();
                map(&mut space, &umem, AT, 512).unwrap();
            } else {
                assert_eq!(cut, Err(refused));
                assert_eq!((space.len(), iommu.stats()), (1, start));
            }
        }
        let half = space.split(iova(AT + 0x400));
        assert!(matches!(half, Err(IoasError::CutsEntry { .. })), "not even a page of the IOMMU");
        // At the edge between the two huge pages it is cut; neither is unmapped.
        let start = iommu.stats();
        space.split(iova(AT + (1 << 20))).unwrap();
        space.split(iova(AT + (1 << 20))).unwrap();
        assert_eq!((space.len(), iommu.stats()), (2, start));
        assert_eq!(space.unmap(iovas(AT, 1 << 20)), Ok(1 << 20));
        assert_eq!(space.split(iova(AT)), Err(IoasError::NotMapped { iova: iova(AT) }));
        assert_eq!(space.unmap(mapping), Ok(1 << 20));
        drop(space);
    }
    // Edges must be those of every domain.
    let mut space = Space::new();
    space.attach(rig.iommu("4K")).unwrap();
    map(&mut space, &umem, AT, 512).unwrap();
    space.split(iova(AT + 9 * P)).unwrap();
    space.split(iova(AT + 500 * P)).unwrap();
    assert_eq!(space.len(), 3);
    space.attach(rig.iommu(HALF_AND_HUGE)).unwrap();
    let cut = space.split(iova(AT + 490 * P));
    assert!(cut.is_ok(), "the head of a huge page is small pages");
    end(&rig, space, umem);
}

#[test]
fn scenario_10_mapping_limit() {
    let (rig, mut space, _, umem) = setup(4);
    space.set_mapping_limit(3);
    for index in 0..3 {
        map(&mut space, &umem, AT + 4 * index * P, 4).unwrap();
    }
    let full = Err(IoasError::MappingLimit { limit: 3 });
    assert_eq!(map(&mut space, &umem, 2 * AT, 4), full);
    assert_eq!(space.split(iova(AT + P)), full.map(drop));
    assert_eq!(space.unmap_cutting(iovas(AT + P, P)), full.map(|_: IovaRange| 0));
    assert_eq!(space.unmap_cutting(iovas(AT + 3 * P, P)), Ok(P), "there are not more of them");
    space.reserve(iovas(3 * AT, P)).unwrap();
    assert_eq!(space.unmap(iovas(AT, 4 * P)), Ok(3 * P));
    map(&mut space, &umem, 2 * AT, 2).unwrap();
    assert_eq!((space.len(), umem.attachments()), (3, 3));
    end(&rig, space, umem);
}

/// Each of several users has its own reservations, which may overlap; one that goes takes nothing from
/// the others.
#[test]
fn reserved_addresses() {
    let (rig, mut space, _, umem) = setup(8);
    let existing = map(&mut space, &umem, AT, 8).unwrap();
    let taken = space.reserve(iovas(AT + 7 * P, 4 * P));
    assert_eq!(taken, Err(IoasError::Overlap { existing }));
    assert_eq!(space.reserved().count(), 0);
    let pages = |first: u64, pages: u64| iovas(AT + first * P, pages * P);
    let mut held: Vec<_> = [(8, 2), (12, 2), (9, 4), (8, 6), (20, 1)]
        .map(|(first, count)| space.reserve(pages(first, count)).unwrap())
        .into();
    let reserved = |space: &Space| space.reserved().collect::<Vec<_>>();
    assert_eq!(reserved(&space), [pages(8, 6), pages(20, 1)]);
    assert!(matches!(map(&mut space, &umem, AT + 13 * P, 2), Err(IoasError::Reserved { .. })));
    // Reserved addresses are not unmapped, and do not matter to what is.
    assert!(matches!(space.unmap(pages(8, 6)), Err(IoasError::NotMapped { .. })));
    assert_eq!(space.unmap(iovas(AT, 16 * P)), Ok(8 * P));
    assert_eq!(reserved(&space), [pages(8, 6), pages(20, 1)]);
    // The one over all of it goes; then the first, of which another has a page.
    for (index, left) in
        [(3, &[(8, 6), (20, 1)][..]), (0, &[(9, 5), (20, 1)]), (1, &[(12, 2), (20, 1)])]
    {
        assert!(space.unreserve(held.remove(index)).is_ok());
        let left: Vec<_> = left.iter().map(|(first, count)| pages(*first, *count)).collect();
        assert_eq!(reserved(&space), left);
    }
    map(&mut space, &umem, AT + 8 * P, 4).unwrap();
    // It is of this space, and of no other.
    let mut other = Space::new();
    other.reserve(pages(0, 64)).unwrap();
    let mine = other.unreserve(held.remove(0)).unwrap_err();
    assert_eq!(mine.range(), pages(12, 2));
    assert_eq!((reserved(&other), reserved(&space).len()), (vec![pages(0, 64)], 2));
    assert!(space.unreserve(mine).is_ok());
    // Dropped, it stays as long as the space.
    drop(held);
    assert_eq!(reserved(&space), [pages(20, 1)]);
    end(&rig, space, umem);
}

/// The first and the last addresses there are.
#[test]
fn the_ends_of_the_address_space() {
    let (rig, mut space, iommu, umem) = setup(4);
    assert_eq!(map(&mut space, &umem, 0, 4), Ok(iovas(0, 4 * P)), "0 was asked for");
    let top = u64::MAX - 4 * P + 1;
    assert_eq!(map(&mut space, &umem, top, 4), Ok(iovas(top, 4 * P)));
    let wraps = map(&mut space, &umem, u64::MAX - P + 1, 2).unwrap_err();
    let why = TileError::Wraps { iova: Iova::new(u64::MAX - P + 1), len: 2 * P };
    assert_eq!(wraps, IoasError::Map(MapError::Tiles(why)));
    let device = rig.device(&iommu);
    device.write(iova(u64::MAX - 3), b"last").unwrap();
    assert!(device.reads_as(iova(4 * P - 4), b"last").unwrap());
    assert_eq!(space.translate(iova(u64::MAX)), umem.whole().unwrap().phys(4 * P - 1));
    space.split(iova(top + 2 * P)).unwrap();
    assert_eq!(space.unmap_cutting(iovas(u64::MAX - P + 1, P)), Ok(P));
    assert_eq!(space.unmap_cutting(iovas(0, P)), Ok(P));
    assert_eq!(space.unmap(IovaRange::ALL), Ok(6 * P));
    // Nothing that fits is ever placed at 0.
    let zero = [iovas(0, 4 * P + P / 2)];
    let place = space.map(Placement::Within(&zero), umem.clone(), RW).unwrap();
    assert_eq!(place, iovas(P / 2, 4 * P));
    let none = [iovas(0, 4 * P + P / 2 - 1)];
    assert!(space.map(Placement::Within(&none), umem.clone(), RW).is_err());
    let last = [IovaRange::inclusive(iova(top), iova(u64::MAX)).unwrap()];
    assert_eq!(space.map(Placement::Within(&last), umem.clone(), RW).unwrap(), last[0]);
    end(&rig, space, umem);
}

/// The CPU reads and writes what a device would, in any number of mappings.
#[test]
fn by_the_cpu() {
    let (rig, mut space, iommu, umem) = setup(8);
    rig.buffer(8, 4, Vma::read_write());
    let read_only = rig.pin_as(bytes(8 * P, 4 * P), PinFlags::LONGTERM);
    let mut all = rig.fill(bytes(0, 12 * P), 1);
    map(&mut space, &umem, AT, 4).unwrap();
    let tail = Placement::At(iova(AT + 4 * P));
    space.map_range(tail, umem.clone(), 4 * P..8 * P, RW).unwrap();
    let refused = space.map(Placement::Anywhere, read_only.clone(), RW).unwrap_err().into_error();
    assert_eq!(refused, IoasError::Map(MapError::Attach(AttachError::ReadOnly)));
    space.map(Placement::At(iova(AT + 8 * P)), read_only.clone(), RO).unwrap();
    let mut seen = vec![0; 11 * P as usize];
    space.read(iova(AT + 0x123), &mut seen).unwrap();
    assert_eq!(seen, all[0x123..0x123 + seen.len()]);
    let written = pattern(5 * P, 9);
    space.write(iova(AT + 0x7ff), &written).unwrap();
    all[0x7ff..0x7ff + written.len()].copy_from_slice(&written);
    assert_eq!(rig.read(bytes(0, 12 * P)), all);
    assert!(rig.device(&iommu).reads_as(iova(AT), &all).unwrap());
    // A hole, and memory that may not be written: the first such address, and nothing was done.
    let error = space.read(iova(AT + P), &mut [7; 12 * P as usize]).unwrap_err();
    assert_eq!(error, AccessError::NotMapped { at: iova(AT + 12 * P) });
    let error = space.write(iova(AT + 7 * P), &[7; 2 * P as usize]).unwrap_err();
    assert_eq!(error, AccessError::NotPermitted { at: iova(AT + 8 * P) });
    let error = space.write(iova(u64::MAX), &[7; 2]).unwrap_err();
    assert_eq!(error, AccessError::NotMapped { at: iova(u64::MAX) });
    assert_eq!(rig.read(bytes(0, 12 * P)), all);
    assert!(space.read(iova(0), &mut []).is_ok());
    assert_eq!(iommu.stats().reads, 0);
    drop(read_only);
    end(&rig, space, umem);
}

/// What is asked for nothing, or for neither reading nor writing.
#[test]
fn refused_without_asking_a_domain() {
    let (rig, mut space, iommu, umem) = setup(4);
    let at = Placement::At(iova(AT));
    let refused = space.map(at, umem.clone(), Prot::NOEXEC).unwrap_err().into_error();
    assert_eq!(refused, IoasError::Map(MapError::NoAccess));
    for range in [0..0, 4 * P..5 * P, 0..4 * P + 1] {
        let refused = space.map_range(at, umem.clone(), range, RW).unwrap_err().into_error();
        assert!(matches!(refused, IoasError::Map(MapError::Window(_))));
    }
    for (at, range) in [(AT + 1, 0..P), (AT, 1..P), (AT, 0..P + 1), (AT + 0x400, 0..P)] {
        let refused =
            space.map_range(Placement::At(iova(at)), umem.clone(), range, RW).unwrap_err();
        assert!(matches!(refused.error(), IoasError::Map(MapError::Tiles(_))));
    }
    assert_eq!((iommu.stats().map_calls, space.len(), umem.attachments()), (0, 0, 0));
    assert_eq!(space.unmap(IovaRange::ALL), Err(IoasError::NotMapped { iova: iova(0) }));
    end(&rig, space, umem);
}
