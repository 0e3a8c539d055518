// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many mappings go at once: one pass through each domain, one flush of it, and only then is anything unpinned. The
//! witness sees what is unpinned before its flush; here calls are counted, and what is left.

mod rig;

use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement};
use pinned_sgl_mock::{Fragmentation, Iommu, IommuStats, Lie, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RW};
use std::sync::Arc;

/// So many that the tree of the address space has three levels.
const MANY: u64 = if cfg!(miri) { 60 } else { 2000 };

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// The address of a mapping: there is a gap behind each, and the first page of each ninth gap is reserved.
fn place(page: u64) -> IovaRange {
    iovas((1 + 3 * page) * P, P)
}

/// A page each, which nothing else holds, in two domains.
fn setup(rig: &Rig) -> (Space, [Arc<Iommu>; 2]) {
    let mut space = Space::new();
    rig.buffer(0, MANY, Vma::read_write());
    let iommus = ["4K", "1K|4K"].map(|sizes| rig.iommu(sizes));
    for iommu in &iommus {
        space.attach(iommu.clone()).unwrap();
    }
    for page in 0..MANY {
        let umem = rig.pin(bytes(page * P, P));
        assert_eq!(space.map(Placement::At(place(page).first()), umem, RW).unwrap(), place(page));
        if page % 9 == 0 {
            space.reserve(iovas((2 + 3 * page) * P, P)).unwrap();
        }
    }
    (space, iommus)
}

type Calls = [IommuStats; 2];

fn calls(iommus: &[Arc<Iommu>; 2]) -> Calls {
    [0, 1].map(|at| iommus[at].stats())
}

/// In each domain, so many mappings were unmapped, each by a call, and flushed once.
#[track_caller]
fn assert_once(iommus: &[Arc<Iommu>; 2], before: Calls, mappings: [u64; 2]) {
    for ((now, before), mappings) in calls(iommus).into_iter().zip(before).zip(mappings) {
        assert_eq!(now.flushes - before.flushes, 1);
        assert_eq!(now.unmap_calls - before.unmap_calls, mappings);
    }
}

#[test]
fn a_space_goes_at_once() {
    let ends: [fn(&mut Space) -> u64; 2] =
        [Space::unmap_all, |space| space.unmap(IovaRange::ALL).unwrap()];
    for end in ends {
        let rig = Rig::new(Fragmentation::Alternate);
        let (mut space, iommus) = setup(&rig);
        let before = calls(&iommus);
        assert_eq!(end(&mut space), MANY * P);
        assert_once(&iommus, before, [MANY; 2]);
        rig.assert_idle();
        // What is reserved is there still, and all else is free.
        assert_eq!((space.len(), space.reserved().count() as u64), (0, MANY.div_ceil(9)));
        let umem = rig.pin(bytes(0, P));
        space.map(Placement::At(place(7).first()), umem, RW).unwrap();
        drop(space);
        rig.assert_idle();
    }
}

#[test]
fn a_space_that_is_dropped_goes_at_once() {
    let rig = Rig::new(Fragmentation::Alternate);
    let (space, iommus) = setup(&rig);
    let before = calls(&iommus);
    drop(space);
    assert_once(&iommus, before, [MANY; 2]);
    rig.assert_idle();
}

/// From any mapping to any other: the others stay.
#[test]
fn a_part_goes_at_once() {
    let rig = Rig::new(Fragmentation::Alternate);
    let (mut space, iommus) = setup(&rig);
    let mut left: Vec<u64> = (0..MANY).collect();
    let mut random = fastrand::Rng::with_seed(3);
    while left.len() > 7 {
        let from = random.usize(0..left.len());
        let to = random.usize(from..left.len().min(from + 1 + left.len() / 3));
        let range = IovaRange::inclusive(place(left[from]).first(), place(left[to]).last());
        let (before, gone) = (calls(&iommus), (to - from + 1) as u64);
        assert_eq!(space.unmap(range.unwrap()), Ok(gone * P));
        assert_once(&iommus, before, [gone; 2]);
        left.drain(from..=to);
        let ranges = space.mappings(IovaRange::ALL).map(|mapping| mapping.range());
        assert!(ranges.eq(left.iter().map(|page| place(*page))));
        assert_eq!(rig.memory.pinned_pages(), left.len() as u64);
        rig.witness.assert_clean();
    }
    drop(space);
    rig.assert_idle();
}

/// A domain that does not unmap one of them keeps that one, pinned for ever; the others go.
#[test]
fn what_a_domain_does_not_unmap_stays() {
    for (liar, first) in [(0, 0), (1, 0), (0, MANY / 2), (1, MANY - 2)] {
        let rig = Rig::new(Fragmentation::Alternate);
        let (mut space, iommus) = setup(&rig);
        if let Some(last) = place(first).first().checked_sub(1).filter(|_| first > 0) {
            space.unmap(IovaRange::inclusive(iova(0), last).unwrap()).unwrap();
        }
        // SAFETY: memory that exists in this test only, and is never freed after a breach.
        unsafe { iommus[liar].lie(Lie::UnmapsNothing) };
        let before = calls(&iommus);
        assert!(space.unmap(IovaRange::ALL).is_err());
        // The one that was attached last comes first; what it keeps, the other one is not asked for.
        let kept = u64::from(liar == 1);
        assert_once(&iommus, before, [MANY - first - kept, MANY - first]);
        assert_eq!((space.len(), rig.memory.pinned_pages()), (1, 1));
        assert_eq!(rig.pins(MANY)[first as usize], 1);
        let umem = rig.pin(bytes(0, P));
        assert!(space.map(Placement::At(place(first).first()), umem, RW).is_err());
        drop(space);
        assert_eq!((rig.memory.pinned_pages(), rig.account.charged()), (1, 1));
        rig.witness.assert_clean();
        // Devices reach what is pinned for them still, and nothing else.
        let reached = iommus[liar].mapped(IovaRange::ALL);
        assert!(reached.iter().map(|entry| entry.range).eq([place(first)]));
        assert_eq!(iommus[1 - liar].mapped_bytes(), u128::from(kept * P));
        std::mem::forget(iommus);
    }
}
