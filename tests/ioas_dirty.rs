// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dirty tracking in an address space: bitmaps of any page size, large ones, clearing and not, and
//! nothing that a device wrote is ever lost.

mod rig;

use pinned_sgl::iommu::{
    BitmapTooSmall, Cuts, DirtyBitmap, HeapIoas, IoasError, IovaRange, Placement,
};
use pinned_sgl::{PageSize, UserAddr};
use pinned_sgl_mock::{Fragmentation, Iommu, MapFault, Step, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, BASE, HALF_AND_HUGE, P, RW};
use std::sync::Arc;

const AT: u64 = 0x1000_0000;
const HUGE: u64 = 1 << 20;

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// A space that tracks, over `len` bytes of which the first half, or more, is huge pages.
fn setup(len: u64, sizes: &str, can_split: bool) -> (Rig, Space, Arc<Iommu>, Arc<Pinned>) {
    let rig = Rig::of(PageSize::SIZE_4K, Fragmentation::Alternate, 0x1000..0x1_4000);
    let huge = (len / 2).next_multiple_of(HUGE).min(len);
    rig.buffer(0, huge / P, Vma::read_write().huge(8));
    if huge < len {
        rig.buffer(huge / P, (len - huge) / P, Vma::read_write());
    }
    let umem = rig.pin(bytes(0, len));
    let iommu = Arc::new(
        rig.config(sizes).cuts([Cuts::Entries, Cuts::Anywhere][usize::from(can_split)]).build(),
    );
    let mut space = Space::new();
    space.attach(iommu.clone()).unwrap();
    space.set_dirty_tracking(true).unwrap();
    space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    (rig, space, iommu, umem)
}

/// The pages of `range` that are reported as written: their numbers.
fn read(
    space: &mut Space,
    range: IovaRange,
    page: u64,
    clear: bool,
) -> Result<Vec<u64>, IoasError<MapFault>> {
    let page = PageSize::new(page).unwrap();
    let mut words = vec![0; DirtyBitmap::words_for(range, page) as usize];
    let mut bitmap = DirtyBitmap::new(&mut words, range, page).unwrap();
    space.read_dirty(&mut bitmap, clear)?;
    let count = bitmap.count();
    let bits = words.iter().zip(0..).flat_map(|(word, index)| {
        (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| index * 64 + bit)
    });
    let bits: Vec<u64> = bits.collect();
    assert_eq!(bits.len() as u64, count);
    Ok(bits)
}

/// 8 KiB to 128 MiB, in pages smaller than, equal to and larger than those of the IOMMU.
#[test]
fn scenario_9_dirty_tracking() {
    for (len, writes) in [(8 << 10, 1), (64 << 10, 5), (4 << 20, 40), (128 << 20, 300)] {
        let (rig, mut space, iommu, umem) = setup(len, HALF_AND_HUGE, false);
        let device = rig.device(&iommu);
        let mut rng = fastrand::Rng::with_seed(len);
        let range = iovas(AT, len);
        for page in [512, 1 << 10, 2 << 10, 4 << 10, HUGE, 2 << 20, 1 << 30] {
            assert_eq!(read(&mut space, range, page, true).unwrap(), [0; 0]);
            let mut expected = vec![];
            for _ in 0..writes {
                let at = AT + rng.u64(0..len - 3);
                device.write(iova(at), b"dirt").unwrap();
                for at in [at, at + 3] {
                    let entry = iommu.lookup(iova(at)).unwrap().range;
                    let (first, last) = (entry.first().get(), entry.last().get());
                    expected.extend(first / page - AT / page..=last / page - AT / page);
                }
            }
            expected.sort_unstable();
            expected.dedup();
            for clear in [false, false, true] {
                let flushes = iommu.stats().flushes;
                assert_eq!(
                    read(&mut space, range, page, clear).unwrap(),
                    expected,
                    "{len:#x} {page:#x}"
                );
                assert_eq!(iommu.stats().flushes - flushes, clear.into());
            }
        }
        // Reading is not a write; a write that the IOTLB remembers as dirty is reported again once cleared.
        device.read(iova(AT), &mut [0; 8]).unwrap();
        assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
        for _ in 0..3 {
            device.write(iova(AT), b"again").unwrap();
            assert_eq!(read(&mut space, range, P, true).unwrap()[0], 0);
        }
        space.set_dirty_tracking(false).unwrap();
        device.write(iova(AT), b"unseen").unwrap();
        assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
        drop((space, umem));
        rig.assert_idle();
    }
}

/// More bits than 65,536, over ranges with gaps, and bitmaps that begin inside a page.
#[test]
fn large_bitmaps_and_gaps() {
    let (rig, mut space, iommu, umem) = setup(2 * HUGE, HALF_AND_HUGE, false);
    for index in 1..40 {
        let at = Placement::At(iova(AT + index * 5 * HUGE));
        space.map_range(at, umem.clone(), HUGE..HUGE + 6 * P, RW).unwrap();
    }
    let device = rig.device(&iommu);
    for index in 1..40 {
        device.write(iova(AT + index * 5 * HUGE + 5 * P), b"x").unwrap();
    }
    let range =
        IovaRange::inclusive(iova(AT + HUGE + 0x400), iova(AT + 200 * HUGE + 0x3ff)).unwrap();
    for page in [1 << 10, 2 << 10] {
        let expected: Vec<u64> = (1..40)
            .flat_map(|index| {
                let first = (index * 5 * HUGE + 5 * P) / page - (HUGE + 0x400) / page;
                first..first + (2 << 10) / page
            })
            .collect();
        let words = DirtyBitmap::words_for(range, PageSize::new(page).unwrap());
        assert!(words > 1024 && read(&mut space, range, page, false).unwrap() == expected);
    }
    let page = PageSize::SIZE_4K;
    let needed = DirtyBitmap::words_for(range, page);
    let mut words = vec![0; needed as usize - 1];
    let small = DirtyBitmap::new(&mut words, range, page).unwrap_err();
    let BitmapTooSmall { needed: reported, given, .. } = small;
    assert_eq!((reported, given), (needed, needed - 1));
    // Bits that were set stay set: several readings may be collected in one bitmap.
    let mut words = vec![u64::MAX; needed as usize];
    let mut bitmap = DirtyBitmap::new(&mut words, range, page).unwrap();
    space.read_dirty(&mut bitmap, false).unwrap();
    assert!(bitmap.is_set(range.first()) && !bitmap.is_set(iova(AT)));
    drop((space, umem));
    rig.assert_idle();
}

/// An entry that lies across an end of the range is reported, and stays dirty: the rest of it would be
/// forgotten. Those between are cleared.
#[test]
fn an_entry_at_the_end_is_reported_and_not_forgotten() {
    let (rig, mut space, iommu, umem) = setup(4 * HUGE, HALF_AND_HUGE, false);
    let (device, whole) = (rig.device(&iommu), iovas(AT, 4 * HUGE));
    for (first, len) in [(P, HUGE - P), (0, HUGE - P), (P, 2 * HUGE - 2 * P), (P, P)] {
        let range = iovas(AT + first, len);
        device.write(iova(AT + 10 * P), b"x").unwrap();
        device.write(iova(AT + HUGE), b"x").unwrap();
        for clear in [false, true, true] {
            let bits = read(&mut space, range, P, clear).unwrap();
            assert_eq!(bits.len() as u64, len / P, "{first:#x} {len:#x}");
        }
        assert_eq!(read(&mut space, whole, HUGE, true).unwrap(), [0, 1]);
        assert_eq!(read(&mut space, whole, HUGE, true).unwrap(), [0; 0]);
    }
    // Across two ends, with whole entries between.
    let range = iovas(AT + P, 3 * HUGE);
    for page in [0, HUGE, 2 * HUGE, 2 * HUGE + P, 3 * HUGE] {
        device.write(iova(AT + page), b"x").unwrap();
    }
    assert_eq!(read(&mut space, range, HUGE, true).unwrap(), [0, 1, 2, 3]);
    let left = read(&mut space, whole, P, true).unwrap();
    assert!(left.iter().all(|page| *page < HUGE / P), "only the first entry is left: {left:?}");
    assert_eq!(left.len() as u64, HUGE / P);
    drop((space, umem));
    rig.assert_idle();
}

/// A domain that can split an entry still notes what is written for all of it, so no mapping is cut
/// inside one; unmapping a part makes the domain split it.
#[test]
fn clearing_in_a_domain_that_splits() {
    let (rig, mut space, iommu, umem) = setup(4 * HUGE, HALF_AND_HUGE, true);
    let device = rig.device(&iommu);
    let (half, whole) = (HUGE / 2, iovas(AT, HUGE));
    device.write(iova(AT), b"first half").unwrap();
    let second = iovas(AT + half, half);
    for _ in 0..2 {
        assert_eq!(
            read(&mut space, second, HUGE, true).unwrap(),
            [0],
            "reported, and not forgotten"
        );
        assert_eq!(read(&mut space, whole, HUGE, false).unwrap(), [0]);
    }
    let refused = space.split(iova(AT + half)).unwrap_err();
    assert_eq!(refused, IoasError::CutsEntry { edge: iova(AT + half), entry: whole });
    assert_eq!(space.unmap_cutting(second), Ok(half));
    device.write(iova(AT), b"first half").unwrap();
    assert_eq!(read(&mut space, iovas(AT, half), HUGE, true).unwrap(), [0]);
    assert_eq!(read(&mut space, iovas(AT, half), 2 << 10, true).unwrap(), [0; 0]);
    device.write(iova(AT + half - 1), b"x").unwrap();
    let last = half / (2 << 10) - 1;
    assert_eq!(read(&mut space, iovas(AT, half), 2 << 10, true).unwrap(), [last]);
    drop((space, umem));
    rig.assert_idle();
}

/// What several domains have noted is reported together, in entries of each.
#[test]
fn domains_together() {
    let (rig, mut space, iommu, umem) = setup(4 * HUGE, HALF_AND_HUGE, false);
    let other = rig.iommu("1K|4K");
    space.attach(other.clone()).unwrap();
    rig.device(&iommu).write(iova(AT + 3 * HUGE + 5 * P), b"x").unwrap();
    rig.device(&other).write(iova(AT + 7 * P), b"x").unwrap();
    let range = iovas(AT, 4 * HUGE);
    assert_eq!(read(&mut space, range, P, false).unwrap(), [7, 3 * 256 + 5]);
    assert_eq!(read(&mut space, range, HUGE, false).unwrap(), [0, 3]);
    // One fails: what was reported before is in the bitmap, and what was not is reported later.
    for after in [0, 1] {
        rig.plan.fail_step_at(Step::Dirty, 1, after);
        let mut words = [0; 16];
        let mut bitmap = DirtyBitmap::new(&mut words, range, PageSize::SIZE_4K).unwrap();
        let error = space.read_dirty(&mut bitmap, true).unwrap_err();
        assert_eq!(error, IoasError::Domain(MapFault::Injected));
        let reported = bitmap.count();
        let rest = read(&mut space, range, P, true).unwrap().len() as u64;
        assert_eq!(reported + rest, 2, "after {after}");
        rig.device(&iommu).write(iova(AT + 3 * HUGE + 5 * P), b"x").unwrap();
        rig.device(&other).write(iova(AT + 7 * P), b"x").unwrap();
    }
    // Starting fails in the second domain: the first does not go on alone.
    space.set_dirty_tracking(false).unwrap();
    read(&mut space, range, P, true).unwrap();
    rig.plan.fail_step_at(Step::Dirty, 1, 0);
    assert_eq!(space.set_dirty_tracking(true), Err(IoasError::Domain(MapFault::Injected)));
    rig.device(&iommu).write(iova(AT), b"x").unwrap();
    rig.device(&other).write(iova(AT), b"x").unwrap();
    assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
    assert_eq!(rig.read(bytes(0, 1)), b"x");
    assert_eq!(rig.process.pins_at(UserAddr::new(BASE)), 1);
    drop((space, umem));
    rig.assert_idle();
}

/// A session begins clean; what the last one has noted can be read until then, and until it is cleared.
#[test]
fn a_session_begins_clean() {
    let (rig, mut space, iommu, umem) = setup(2 * HUGE, HALF_AND_HUGE, false);
    let (device, range) = (rig.device(&iommu), iovas(AT, 2 * HUGE));
    let small = AT + HUGE;
    device.write(iova(small), b"x").unwrap();
    space.write(iova(small + 8 * P), b"by the CPU").unwrap();
    space.set_dirty_tracking(false).unwrap();
    device.write(iova(small + P), b"unseen").unwrap();
    space.write(iova(small + 9 * P), b"unseen").unwrap();
    let first = HUGE / P;
    assert_eq!(read(&mut space, range, P, false).unwrap(), [first, first + 8]);
    let flushes = iommu.stats().flushes;
    space.set_dirty_tracking(true).unwrap();
    assert_eq!(
        iommu.stats().flushes - flushes,
        1,
        "what hardware remembers as noted is noted again"
    );
    assert_eq!(read(&mut space, range, P, false).unwrap(), [0; 0]);
    // To start what has started is not a new session.
    device.write(iova(small), b"x").unwrap();
    space.write(iova(small + 8 * P), b"x").unwrap();
    space.set_dirty_tracking(true).unwrap();
    assert_eq!(read(&mut space, range, P, true).unwrap(), [first, first + 8]);
    assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
    // A start that fails is none: what comes next is a session all the same.
    space.set_dirty_tracking(false).unwrap();
    rig.plan.fail_step_at(Step::Dirty, 0, 0);
    assert_eq!(space.set_dirty_tracking(true), Err(IoasError::Domain(MapFault::Injected)));
    space.write(iova(small), b"unseen").unwrap();
    space.set_dirty_tracking(true).unwrap();
    assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
    drop((space, umem));
    rig.assert_idle();
}

/// What a domain has noted is kept when it goes. If it cannot say what that is, all may be written.
#[test]
fn a_domain_that_goes_leaves_what_it_has_noted() {
    for fails in [false, true] {
        let (rig, mut space, iommu, umem) = setup(2 * HUGE, "4K", false);
        let (range, other) = (iovas(AT, 2 * HUGE), rig.iommu("4K"));
        let id = space.attach(other.clone()).unwrap();
        let far = space.map_range(Placement::At(iova(3 * AT)), umem.clone(), 0..P, RW).unwrap();
        rig.device(&iommu).write(iova(AT), b"x").unwrap();
        for page in [3, 4, 40] {
            rig.device(&other).write(iova(AT + page * P), b"x").unwrap();
        }
        if fails {
            rig.plan.fail_step_at(Step::Dirty, 0, 1);
        }
        assert!(Arc::ptr_eq(&space.detach(id).unwrap(), &other));
        let expected = if fails { (0..2 * HUGE / P).collect() } else { vec![0, 3, 4, 40] };
        assert_eq!(read(&mut space, range, P, false).unwrap(), expected);
        assert_eq!(read(&mut space, far, P, true).unwrap(), [0; 0]);
        // It is cleared page by page, with or without the domains.
        assert_eq!(
            read(&mut space, iovas(AT, 4 * P), P, true).unwrap(),
            expected[..expected.len().min(if fails { 4 } else { 2 })]
        );
        let rest = expected.iter().copied().filter(|page| *page >= 4).collect::<Vec<_>>();
        assert_eq!(read(&mut space, range, P, true).unwrap(), rest);
        assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
        drop((space, umem));
        rig.assert_idle();
    }
}

/// A domain that comes while it is noted what devices write notes it from the first moment.
#[test]
fn a_domain_that_comes_notes_too() {
    let (rig, mut space, _, umem) = setup(2 * HUGE, "4K", false);
    let (range, other) = (iovas(AT, 2 * HUGE), rig.iommu("4K"));
    rig.plan.fail_step_at(Step::Dirty, 0, 0);
    let error = space.attach(other.clone()).unwrap_err();
    assert_eq!(*error.error(), IoasError::Domain(MapFault::Injected));
    assert_eq!(other.stats().map_calls, 0, "before anything is mapped");
    let id = space.attach(other.clone()).unwrap();
    rig.device(&other).write(iova(AT + 7 * P), b"x").unwrap();
    assert_eq!(read(&mut space, range, P, true).unwrap(), [7]);
    space.detach(id).unwrap();
    space.set_dirty_tracking(false).unwrap();
    let other = rig.iommu("4K");
    space.attach(other.clone()).unwrap();
    rig.device(&other).write(iova(AT + 7 * P), b"x").unwrap();
    assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
    drop((space, umem));
    rig.assert_idle();
}

/// What the CPU writes is noted by the byte; of many places, those that lie closest become one.
#[test]
fn writes_by_the_cpu() {
    let (rig, mut space, _, umem) = setup(4 * HUGE, "4K", false);
    let range = iovas(AT, 4 * HUGE);
    // Across two mappings; refused, it has not been written.
    let next = Placement::At(iova(AT + 4 * HUGE));
    let tail = space.map_range(next, umem.clone(), 0..P, RW).unwrap();
    space.write(iova(AT + 4 * HUGE - 1), b"ab").unwrap();
    assert!(space.write(iova(AT + 4 * HUGE + P - 1), b"ab").is_err());
    assert_eq!(read(&mut space, range, P, false).unwrap(), [4 * HUGE / P - 1]);
    assert_eq!(read(&mut space, tail, 1 << 9, false).unwrap(), [0]);
    // Unmapped, it is forgotten.
    space.unmap(tail).unwrap();
    space.map_range(next, umem.clone(), 0..P, RW).unwrap();
    assert_eq!(read(&mut space, tail, P, false).unwrap(), [0; 0]);
    assert_eq!(read(&mut space, range, P, true).unwrap(), [4 * HUGE / P - 1]);
    // As many places as are known, and more: no page is lost.
    let pages: Vec<u64> = (0..31).map(|at| at * 20).collect();
    for page in &pages {
        space.write(iova(AT + page * P), b"x").unwrap();
    }
    assert_eq!(read(&mut space, range, P, false).unwrap(), pages);
    space.write(iova(AT + 606 * P), b"x").unwrap();
    let reported = read(&mut space, range, P, true).unwrap();
    let expected: Vec<u64> = pages.into_iter().chain(601..=606).collect();
    assert_eq!(reported, expected);
    assert_eq!(read(&mut space, range, P, true).unwrap(), [0; 0]);
    drop((space, umem));
    rig.assert_idle();
}
