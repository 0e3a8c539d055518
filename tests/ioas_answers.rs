// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an address space answers, to the letter: where it maps, what it refuses and why, and at which
//! address.

mod rig;

use pinned_sgl::iommu::{HeapIoas, IoasError, IovaRange, MapError, Mapping, Placement, PoolIoas};
use pinned_sgl::store::SlabSlot;
use pinned_sgl::PageSize;
use pinned_sgl_mock::{Fragmentation, Iommu, Lie, MapFault, Step, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RO, RW};
use std::sync::Arc;

const AT: u64 = 0x1000_0000;
const HUGE: u64 = 0x20_0000;

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;
type Fault = IoasError<MapFault>;

/// 4 MiB in huge pages, all of it pinned.
fn setup() -> (Rig, Arc<Pinned>) {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 1024, Vma::read_write().huge(9));
    let umem = rig.pin(bytes(0, 2 * HUGE));
    (rig, umem)
}

fn space(rig: &Rig, domains: &[&str]) -> Space {
    let mut space = Space::new();
    for sizes in domains {
        space.attach(rig.iommu(sizes)).unwrap();
    }
    space
}

fn map(space: &mut Space, place: Placement<'_>, umem: &Arc<Pinned>) -> Result<IovaRange, Fault> {
    space.map(place, umem.clone(), RW).map_err(|error| error.into_error())
}

/// A mapping knows of its own addresses only, though its region goes on before and behind it.
#[test]
fn a_mapping_translates_no_other_address() {
    let (rig, umem) = setup();
    let mut space = space(&rig, &["4K"]);
    let place = Placement::At(iova(AT));
    space.map_range(place, umem.clone(), 2 * P..5 * P, RW).unwrap();
    let mapping = space.mapping_at(iova(AT)).unwrap();
    for at in [0, AT - P, AT - 1, AT + 3 * P, AT + 4 * P, u64::MAX] {
        assert_eq!(mapping.translate(iova(at)), None, "{at:#x}");
    }
    for offset in [0, P - 1, P, 3 * P - 1] {
        let phys = umem.whole().unwrap().phys(2 * P + offset);
        assert_eq!(mapping.translate(iova(AT + offset)), phys, "{offset:#x}");
    }
}

/// Every domain can map at a multiple of the largest of the smallest sizes, whether or not it has that
/// size; and the largest page of any of them fits.
#[test]
fn anywhere_in_domains_of_different_page_sizes() {
    let (rig, umem) = setup();
    for domains in
        [&["4K|2M", "16K"][..], &["4K|2M", "64K|2M"], &["16K", "4K|2M"], &["4K", "4K|2M"]]
    {
        let mut space = space(&rig, domains);
        let place = map(&mut space, Placement::Anywhere, &umem);
        assert_eq!(place, Ok(iovas(HUGE, 2 * HUGE)), "{domains:?}");
    }
    // 192 KiB have room for 64 KiB: at a multiple of them, though at none of 2 MiB.
    let mut space = space(&rig, &["4K|2M", "64K|2M"]);
    let within = [iovas(0x11_1000, 0x2_f000)];
    let mut part = || {
        let place = Placement::Within(&within);
        space.map_range(place, umem.clone(), 0..0x1_0000, RW).map_err(|error| error.into_error())
    };
    assert_eq!(part(), Ok(iovas(0x12_0000, 0x1_0000)));
    assert_eq!(part(), Ok(iovas(0x13_0000, 0x1_0000)));
    assert_eq!(part(), Err(IoasError::NoRoom { len: 0x1_0000 }));
    drop((space, umem));
    rig.assert_idle();
}

/// A copy goes where `map` would have put the memory, however badly it lies in the source.
#[test]
fn a_copy_is_placed_by_its_memory() {
    let (rig, umem) = setup();
    let mut source = space(&rig, &["4K"]);
    let range = map(&mut source, Placement::At(iova(0x1000)), &umem).unwrap();
    for (domains, entries, first) in [("16K", 256, 0x4000), ("4K|2M", 2, HUGE)] {
        let mut other = Space::new();
        let iommu = rig.iommu(domains);
        other.attach(iommu.clone()).unwrap();
        let copied = other.copy_from(&source, range, Placement::Anywhere, RW);
        assert_eq!(copied, Ok(iovas(first, 2 * HUGE)), "{domains}");
        assert_eq!(iommu.mapped_pages(), entries);
        other.unmap_all();
        assert_eq!(map(&mut other, Placement::Anywhere, &umem), copied);
        other.unmap_all();
        // Half a page before the second huge page, in two mappings: the huge page decides.
        source.unmap_all();
        for part in [HUGE - 0x8000..HUGE, HUGE..2 * HUGE] {
            let at = Placement::At(iova(0x7000 + part.start));
            source.map_range(at, umem.clone(), part, RW).unwrap();
        }
        let parts = iovas(0x7000 + HUGE - 0x8000, HUGE + 0x8000);
        let copied = other.copy_from(&source, parts, Placement::Anywhere, RW).unwrap();
        let first = if domains == "16K" { 0x4000 } else { HUGE - 0x8000 };
        assert_eq!(copied, iovas(first, HUGE + 0x8000), "{domains}");
        source.unmap_all();
        map(&mut source, Placement::At(iova(0x1000)), &umem).unwrap();
    }
    drop((source, umem));
    rig.assert_idle();
}

/// Memory that no domain could map anywhere is what is reported, not the place that was tried.
#[test]
fn memory_that_fits_nowhere() {
    let (rig, umem) = setup();
    let mut space = space(&rig, &["4K|2M", "16K"]);
    let phys = umem.whole().unwrap().phys(0x1000).unwrap();
    let refused = space.map_range(Placement::Anywhere, umem.clone(), 0x1000..2 * HUGE, RW);
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!(
            "memory at {phys}, byte 0x0 of the window, is not a multiple of 16K, \
             the smallest page size"
        )
    );
    drop((space, umem));
    rig.assert_idle();
}

/// What was copied before a failure is unmapped. Where that is not done, it is known.
#[test]
fn a_copy_that_cannot_be_undone_is_a_breach() {
    let (rig, umem) = setup();
    let mut source = space(&rig, &[]);
    for part in [0..P, P..2 * P] {
        let at = Placement::At(iova(AT + part.start));
        source.map_range(at, umem.clone(), part, RW).unwrap();
    }
    let iommu = rig.iommu("4K");
    let mut other = Space::new();
    other.attach(iommu.clone()).unwrap();
    let mut copy = || other.copy_from(&source, iovas(AT, 2 * P), Placement::At(iova(AT)), RW);
    rig.plan.fail_step_at(Step::Map, 1, 0);
    let injected = MapError::Domain { error: MapFault::Injected, mapped: 0 };
    assert_eq!(copy(), Err(IoasError::Map(injected)));
    assert_eq!(iommu.mapped_pages(), 0);
    rig.plan.fail_step_at(Step::Map, 1, 0);
    // SAFETY: the memory is that of the mock.
    unsafe { iommu.lie(Lie::UnmapsNothing) };
    let error = copy().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the domain broke its contract: it reported 0x0 bytes for 0x10000000..=0x10000fff; the \
         memory stays pinned for ever"
    );
    assert_eq!((other.len(), umem.attachments()), (1, 3));
}

/// What counts against a limit is how many mappings there are afterwards, and memory is needed only
/// where one becomes two.
#[test]
fn a_space_at_its_limit_can_shrink() {
    let (rig, umem) = setup();
    let (mut slots, mut domains) = ([const { SlabSlot::new() }; 2], [const { SlabSlot::new() }; 1]);
    let mut nodes = [const { SlabSlot::new() }; 1];
    let mut space: PoolIoas<'_, Arc<Pinned>, Arc<Iommu>> =
        PoolIoas::new(&mut slots, &mut nodes, &mut domains);
    let iommu = rig.iommu("4K");
    space.attach(iommu.clone()).unwrap();
    let place = space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    space.set_mapping_limit(1);
    // Its tail, its head; but not a hole.
    assert_eq!(space.unmap_cutting(iovas(AT + 2 * HUGE - P, P)), Ok(P));
    assert_eq!(space.unmap_cutting(iovas(AT, 2 * P)), Ok(2 * P));
    let hole = iovas(AT + 5 * P, P);
    let error = space.unmap_cutting(hole).unwrap_err();
    assert_eq!(error.to_string(), "there are 1 mappings, the limit");
    space.set_mapping_limit(0);
    assert_eq!(space.unmap_cutting(iovas(AT, 3 * P)), Ok(P));
    space.set_mapping_limit(2);
    assert_eq!(space.unmap_cutting(hole), Ok(P));
    // Two mappings, and a range with a part of each. There is no room for more.
    space.set_mapping_limit(9);
    assert_eq!(space.unmap_cutting(iovas(AT + 7 * P, P)), Err(IoasError::OutOfMemory));
    assert_eq!(space.unmap_cutting(iovas(AT + 4 * P, 3 * P)), Ok(2 * P));
    let left: Vec<_> = space.mappings(place).map(|it| (it.range(), it.offset())).collect();
    let tail = iovas(AT + 7 * P, 2 * HUGE - 8 * P);
    assert_eq!(left, [(iovas(AT + 3 * P, P), 3 * P), (tail, 7 * P)]);
    assert_eq!((space.len(), umem.attachments()), (2, 2));
    let window = umem.whole().unwrap();
    for (range, offset) in left {
        let page = range.len().unwrap() - 1;
        assert_eq!(space.translate(range.last()), window.phys(offset + page));
    }
    assert_eq!(iommu.mapped_bytes(), u128::from(2 * HUGE - 7 * P));
    assert_eq!(space.unmap_all(), 2 * HUGE - 7 * P);
    drop((space, umem));
    rig.assert_idle();
}

/// A breach while a part is unmapped takes the mapping with it; what lies behind the part goes on.
#[test]
fn a_breach_of_a_part_poisons_the_mapping() {
    for hole in [false, true] {
        let (rig, umem) = setup();
        let iommu = rig.iommu("4K");
        let mut space = Space::new();
        space.attach(iommu.clone()).unwrap();
        map(&mut space, Placement::At(iova(AT)), &umem).unwrap();
        let part = if hole { iovas(AT + P, P) } else { iovas(AT + P, 2 * HUGE - P) };
        // SAFETY: the memory is that of the mock.
        unsafe { iommu.lie(Lie::UnmapsNothing) };
        let error = space.unmap_cutting(part).unwrap_err();
        assert!(matches!(error, IoasError::Breach(breach) if breach.range == part));
        assert_eq!(space.len(), 1 + usize::from(hole));
        assert_eq!(space.translate(iova(AT)), None);
        let behind = space.translate(iova(AT + 2 * P));
        assert_eq!(behind, umem.whole().unwrap().phys(2 * P).filter(|_| hole));
        let poisoned = IovaRange::inclusive(iova(AT), part.last()).unwrap();
        assert_eq!(space.unmap(part), Err(IoasError::Poisoned { range: poisoned }));
        space.unmap_all();
        assert_eq!((umem.attachments(), iommu.mapped_bytes() > 0), (1, true));
    }
}

/// A mapping, a reserved range, and one that a domain has spoilt: three answers.
#[test]
fn what_is_in_the_way_is_said() {
    let (rig, umem) = setup();
    let iommu = rig.iommu("4K");
    let mut space = Space::new();
    space.attach(iommu.clone()).unwrap();
    let page = |at: u64| iovas(AT + at * P, P);
    let map = |space: &mut Space, at: u64| {
        let place = Placement::At(page(at).first());
        space.map_range(place, umem.clone(), 0..P, RW).map_err(|error| error.to_string())
    };
    for at in [0, 2] {
        map(&mut space, at).unwrap();
    }
    space.reserve(page(1)).unwrap();
    // SAFETY: the memory is that of the mock.
    unsafe { iommu.lie(Lie::UnmapsNothing) };
    assert!(matches!(space.unmap(page(2)), Err(IoasError::Breach(_))));
    let answers = [
        "0x10000000..=0x10000fff is mapped already",
        "0x10001000..=0x10001fff is reserved",
        "0x10002000..=0x10002fff cannot be used any more: a domain broke its contract there",
    ];
    for (at, answer) in (0..).zip(answers) {
        assert_eq!(map(&mut space, at).unwrap_err(), answer);
    }
    for (at, answer) in [(0, answers[0]), (2, answers[2])] {
        assert_eq!(space.reserve(page(at)).map(drop).unwrap_err().to_string(), answer);
    }
    assert_eq!(space.poisoned().collect::<Vec<_>>(), [page(2)]);
    assert_eq!(space.reserved().collect::<Vec<_>>(), [page(1)]);
    assert_eq!(space.mappings(IovaRange::ALL).map(|it| it.range()).collect::<Vec<_>>(), [page(0)]);
    assert_eq!(space.len(), 2);
}

/// Domains with which nothing could be mapped are refused when they come, not when something is mapped.
#[test]
fn domains_that_are_of_no_use() {
    let (rig, umem) = setup();
    let low = Arc::new(rig.config("4K").aperture(iovas(0, 1 << 32)).build());
    let high = Arc::new(rig.config("4K").aperture(iovas(1 << 32, 1 << 32)).build());
    let mut space = Space::new();
    let id = space.attach(low.clone()).unwrap();
    map(&mut space, Placement::At(iova(AT)), &umem).unwrap();
    for (domain, kind, text) in [
        (
            high,
            IoasError::NoCommonAperture {
                aperture: iovas(1 << 32, 1 << 32),
                others: iovas(0, 1 << 32),
            },
            "the domain translates 0x100000000..=0x1ffffffff, and all others only 0x0..=0xffffffff",
        ),
        (rig.iommu("none"), IoasError::NoPageSizes, "the domain has no page sizes"),
        (low, IoasError::Attached { id }, "the domain is attached already"),
    ] {
        let calls = domain.stats();
        let error = space.attach(domain.clone()).unwrap_err();
        assert_eq!(*error.error(), kind);
        assert_eq!(error.to_string(), text);
        assert!(Arc::ptr_eq(&error.into_value(), &domain));
        assert_eq!((domain.stats(), space.domains().count(), umem.attachments()), (calls, 1, 1));
    }
    drop((space, umem));
    rig.assert_idle();
}

/// The first byte that cannot be copied is the one that is reported, whatever comes behind it.
#[test]
fn the_first_address_that_cannot_be_accessed() {
    let (rig, umem) = setup();
    let mut space = space(&rig, &["4K"]);
    let top = 0u64.wrapping_sub(P);
    for (at, prot) in [(AT, RW), (AT + P, RO), (top, RW)] {
        space.map_range(Placement::At(iova(at)), umem.clone(), 0..P, prot).unwrap();
    }
    for (at, len, text) in [
        // Writable, read-only, nothing.
        (AT + P - 1, 2, "the memory at 0x10001000 may not be accessed so"),
        (AT + P - 1, 2 * P, "the memory at 0x10001000 may not be accessed so"),
        (AT + 2 * P, P, "nothing is mapped at 0x10002000"),
        // Beyond the last address there is; but nothing is mapped before it.
        (u64::MAX - 3, 5, "there are no addresses behind 0xffffffffffffffff"),
        (u64::MAX, 2, "there are no addresses behind 0xffffffffffffffff"),
        (top - 1, 2 * P, "nothing is mapped at 0xffffffffffffefff"),
    ] {
        let error = space.write(iova(at), &vec![7; len as usize]).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    space.write(iova(u64::MAX - 3), &[1; 4]).unwrap();
    assert_eq!(rig.read(bytes(0, 2 * P)).iter().filter(|byte| **byte != 0).count(), 4);
    drop((space, umem));
    rig.assert_idle();
}

/// As long as there is no domain, what is mapped and cut is what a domain of the granule could take.
#[test]
fn without_a_domain_the_granule_decides() {
    let (rig, umem) = setup();
    let mut space = Space::new();
    let mut map = |at: u64, range: std::ops::Range<u64>| {
        let place = Placement::At(iova(at));
        space.map_range(place, umem.clone(), range, RW).map_err(|error| error.to_string())
    };
    let phys = umem.whole().unwrap().phys(0x800).unwrap();
    for (at, range, text) in [
        (AT + 1, 0..P, "IOVA 0x10000001 is not a multiple of 4K, the smallest page size".into()),
        (
            AT,
            0x800..P,
            format!(
                "memory at {phys}, byte 0x0 of the window, is not a multiple of 4K, \
                 the smallest page size"
            ),
        ),
        (
            AT,
            0..0x1001,
            "contiguous memory ends at byte 0x1001 of the window, not at a multiple of 4K, \
             the smallest page size"
                .into(),
        ),
    ] {
        assert_eq!(map(at, range), Err(text));
    }
    let mapping = map(AT, 0..4 * P).unwrap();
    let entry = iovas(AT + P, P);
    for edge in [AT + P + 1, AT + 2 * P - 1] {
        let refused = IoasError::CutsEntry { edge: iova(edge), entry };
        assert_eq!(space.split(iova(edge)), Err(refused));
        assert_eq!(space.unmap_cutting(iovas(AT, edge - AT)), Err(refused));
    }
    space.split(iova(AT + 2 * P)).unwrap();
    // All of it can be mapped in a domain of such pages.
    let id = space.attach(rig.iommu("4K")).unwrap();
    space.detach(id).unwrap();
    space.unmap(mapping).unwrap();
    // Larger, and as small as can be.
    space.set_granule(PageSize::SIZE_16K);
    let place = space.map_range(Placement::Anywhere, umem.clone(), 0..0x8000, RW).unwrap();
    assert_eq!(place, iovas(0x8000, 0x8000));
    assert!(matches!(space.split(iova(0x9000)), Err(IoasError::CutsEntry { .. })));
    space.split(iova(0xc000)).unwrap();
    space.set_granule(PageSize::new(1).unwrap());
    space.split(iova(0x9001)).unwrap();
    let place = Placement::Within(&[iovas(7, 5)]);
    assert_eq!(space.map_range(place, umem.clone(), 3..6, RW).unwrap(), iovas(7, 3));
    assert_eq!(space.len(), 4);
    drop((space, umem));
    rig.assert_idle();
}

/// What a reservation has cut is joined again: reserving and taking back takes no places in the long run,
/// and neither does failing to.
#[test]
fn reservations_leave_no_pieces() {
    for (places, fits) in [(4, false), (5, true)] {
        let mut slots: Vec<_> = (0..places).map(|_| SlabSlot::new()).collect();
        let mut nodes = [const { SlabSlot::new() }; 1];
        let mut domains = [const { SlabSlot::new() }; 1];
        let mut space: PoolIoas<'_, Arc<Pinned>, Arc<Iommu>> =
            PoolIoas::new(&mut slots, &mut nodes, &mut domains);
        let all = space.reserve(IovaRange::ALL).unwrap();
        for at in 1..100 {
            match space.reserve(iovas(at * P, P)) {
                Ok(inner) => assert!(fits && space.unreserve(inner).is_ok()),
                Err(error) => assert!(!fits && error == IoasError::OutOfMemory),
            }
            assert_eq!(space.reserved().collect::<Vec<_>>(), [IovaRange::ALL]);
        }
        assert!(space.unreserve(all).is_ok());
        assert_eq!(space.reserved().count(), 0);
        // All places are free again.
        for at in 0..2 {
            assert!(space.reserve(iovas(2 * at * P, P)).is_ok());
        }
    }
}

/// A range without bytes is none, wherever it lies: also inside a page that cannot be cut.
#[test]
fn nothing_is_no_part_of_a_mapping() {
    let (rig, umem) = setup();
    for (start, end) in [(P, P), (2 * P, P), (0, 0), (5 * HUGE, HUGE)] {
        let mapping = Mapping::map(umem.clone(), rig.iommu("4K|2M"), iova(HUGE), RW).unwrap();
        let error = mapping.unmap_range(start..end).unwrap_err();
        assert_eq!(error.to_string(), "not a place inside a mapping of 0x400000 bytes");
    }
    drop(umem);
    rig.assert_idle();
}
