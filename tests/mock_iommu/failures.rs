// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures by plan, and lies.

use super::{iova, map, map_as, range, sizes, tile, unmap, K4, M2, RW};
use pinned_sgl::iommu::{Domain, Entry, ReadDomain};
use pinned_sgl::store::Slab;
use pinned_sgl::PhysAddr;
use pinned_sgl_mock::{FailingSlab, Iommu, Lie, MapFault, Plan, Step};

fn lie(iommu: &Iommu, lie: Lie) {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.lie(lie) }
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

#[test]
fn lies_are_made_once() {
    let iommu = Iommu::new(sizes("4K|2M"));
    let t = tile(0, 0, K4, 4);
    let failed = Err(MapFault::Injected);
    for (made, expected) in [
        (Lie::MapsMore, (5 * K4, Ok(()))),
        (Lie::MapsLess, (3 * K4, Ok(()))),
        (Lie::MapsPartOfPage, (4 * K4 - 1, failed)),
        (Lie::FailsWithMore, (5 * K4, failed)),
    ] {
        lie(&iommu, made);
        // A lie about one thing is not made about another.
        assert_eq!(iommu.read(iova(0)), None);
        assert_eq!(map_as(&iommu, t, RW), expected, "{made:?}");
        assert_eq!(iommu.mapped_pages(), if made == Lie::FailsWithMore { 0 } else { 4 });
        if made == Lie::FailsWithMore {
            assert_eq!(map_as(&iommu, t, RW), (4 * K4, Ok(())));
        }
        assert_eq!(unmap(&iommu, 0, 4 * K4), 4 * K4);
    }
    for (made, expected) in [
        (Lie::UnmapsMore, 5 * K4),
        (Lie::UnmapsLess, 3 * K4),
        (Lie::UnmapsPartOfPage, 4 * K4 - 1),
        (Lie::UnmapsNothing, 0),
    ] {
        lie(&iommu, made);
        assert_eq!(map_as(&iommu, t, RW), (4 * K4, Ok(())));
        assert_eq!(unmap(&iommu, 0, 4 * K4), expected, "{made:?}");
        assert_eq!(iommu.mapped_pages(), if made == Lie::UnmapsNothing { 4 } else { 0 });
    }
    let at = |phys, len| Some(Entry::new(PhysAddr::new(phys), len));
    for (made, expected) in [
        (Lie::ReadsNothing, None),
        (Lie::ReadsElsewhere, at(0x1010, K4 - 0x10)),
        (Lie::ReadsEmpty, at(0x10, 0)),
        (Lie::ReadsTooLong, at(0x10, u64::MAX)),
    ] {
        lie(&iommu, made);
        assert_eq!(iommu.read(iova(0x10)), expected, "{made:?}");
        assert_eq!(iommu.read(iova(0x10)), at(0x10, K4 - 0x10));
    }
    assert_eq!((iommu.stats().reads, unmap(&iommu, 0, 4 * K4)), (12, 4 * K4));
    iommu.witness().assert_clean();
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
