// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outsiders: whoever writes safe code only, two of everything, parts that are stale or foreign, calls
//! in odd order. The witness decides, and one rule more: no page that an IOMMU leads to is unpinned.
//!
//! Where an `unsafe impl` stands here, it keeps its contract, unless it says that it breaks it: then the
//! answer is a typed error.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::integer_division,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic: that is how it fails"
)]

mod rig;

use pinned_sgl::iommu::{
    CutErrorKind, Cuts, DirtyBitmap, Domain, DomainSlot, Entry, HeapIoas, IoasError, IovaRange,
    MapErrorKind, Mapping, MappingSlot, Placement, PoolIoas, Prot, RangeGather, ReadDomain,
    Readback, Stream, StreamErrorKind, UnmapRangeError,
};
use pinned_sgl::rdma::{Access, BlockLayout, MemoryRegion, RegisterErrorKind};
use pinned_sgl::umem::{
    Account, Accountant, AttachError, Attachment, Charge, ChargeError, PinBatch, PinErrorKind,
    PinFlags, PinRequest, PinnedBatch, Pinner, Region, RegionExt as _, Rejected, RunSlot, Umem,
    Unaccounted, UserRange,
};
use pinned_sgl::{
    AllocError, BuildError, Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr,
    Pool, SegmentLimits, Sgl, SglBuilder, Storage, Tile, UserAddr, WindowError,
};
use pinned_sgl_mock::{Area, Fragmentation, Iommu, MapFault, Memory, Nic, PinFault};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RO, RW, WRITE_LONG};
use std::mem;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

const AT: u64 = 0x10_0000;

type Mapped = Mapping<Arc<Pinned>, Arc<Iommu>>;
type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// A machine with a buffer, each page of which lies on its own.
fn scattered(pages: u64) -> Rig {
    let rig = Rig::new(Fragmentation::Seeded { seed: 3, run_order: 0 });
    rig.buffer(0, pages, Area::read_write());
    rig
}

/// Every page that an IOMMU leads to is pinned.
#[track_caller]
fn assert_held(memory: &Memory, iommus: &[&Iommu]) {
    let page = memory.page_size();
    for entry in iommus.iter().flat_map(|iommu| iommu.mapped(IovaRange::ALL)) {
        let last = entry.phys.checked_add(entry.range.len().unwrap() - 1).unwrap();
        for pfn in entry.phys.pfn(page).get()..=last.pfn(page).get() {
            assert_ne!(memory.pins(Pfn::new(pfn)), 0, "{entry:?} leads to an unpinned page");
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Parts that are lent.

/// A storage that is not empty: pieces of these sizes, as far as there is room, full of ones.
fn stale<S: Storage>(mut storage: S, sizes: &[usize]) -> S {
    for size in sizes {
        let _ = storage.grow(*size);
    }
    for index in 0..storage.pieces() {
        storage.piece_mut(index).fill(0xff);
    }
    storage
}

/// Runs that never merge, in pages of 4 KiB.
fn runs(count: u64) -> impl Iterator<Item = PageRun> + Clone {
    (0..count).map(move |at| PageRun::ram(Pfn::new((count - at) * 7 + 1), 1 + at % 3).unwrap())
}

fn built<S: Storage>(storage: S, count: u64) -> Sgl<S> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, storage).unwrap();
    builder.push_runs(runs(count)).unwrap();
    builder.finish().unwrap()
}

/// One stale piece of every size that there is, and more than one.
#[test]
fn a_list_does_not_see_what_its_storage_held() {
    let plain = built(Heap::new(), 700);
    let same = |sizes: &[usize]| {
        assert!(built(stale(Heap::new(), sizes), 700) == plain, "{sizes:?}");
        let mut memory = [[0; 512]; 32];
        assert!(built(stale(Pool::new(&mut memory), sizes), 700) == plain, "{sizes:?}");
        let mut memory = [[0; 4096]; 32];
        assert!(built(stale(Pool::new(&mut memory), sizes), 700) == plain, "{sizes:?}");
    };
    for size in (0..=4104).step_by(8) {
        same(&[size]);
    }
    same(&[8; 40]);
    same(&[512, 1024, 2048, 4096, 8]);
    same(&[4096, usize::MAX, 513, 512]);
    // What a list did not need is not kept either.
    assert_eq!(built(stale(Heap::new(), &[4096; 40]), 2).runs().count(), 2);
}

/// The same for pinned memory, and a device that writes it.
#[test]
fn a_region_does_not_see_what_its_storage_held() {
    fn check<S: Storage>(rig: &Rig, storage: S, plain: &Pinned, pages: u64) {
        let request = PinRequest::new(bytes(0, pages * P), WRITE_LONG);
        // Slots that hold something, too.
        let mut slots = vec![Some(PageRun::ram(Pfn::new(7), 1 << 40).unwrap()); 128];
        let umem =
            Umem::pin_in(&*rig.process, &*rig.account, storage, &mut slots, request).unwrap();
        assert!(umem.sgl() == plain.sgl());
        let (iommu, half) = (rig.iommu("4K"), pages / 2 * P);
        let mapping =
            Mapping::map_range(&umem, half..pages * P, iommu.clone(), iova(0), RW).unwrap();
        let device = rig.device(&iommu);
        for at in (half..pages * P).step_by(97 * P as usize) {
            device.write(iova(at - half), &at.to_le_bytes()).unwrap();
            assert_eq!(rig.read(bytes(at, 8)), at.to_le_bytes());
        }
        assert_held(&rig.memory, &[&iommu]);
        drop(mapping);
    }
    let pages = 4000;
    let rig = scattered(pages);
    let plain = rig.pin(bytes(0, pages * P));
    for sizes in [
        &[][..],
        &[512],
        &[8],
        &[4096],
        &[512, 1024, 2048, 4096, 8],
        &[512, 1024, 2048, 4096, 64],
        &[8; 30],
    ] {
        check(&rig, stale(Heap::new(), sizes), &plain, pages);
        let mut memory = vec![[0; 512]; 40];
        check(&rig, stale(Pool::new(&mut memory), sizes), &plain, pages);
        let mut memory = vec![[0; 4096]; 12];
        check(&rig, stale(Pool::new(&mut memory), sizes), &plain, pages);
        assert_eq!(rig.pins(pages), vec![1; pages as usize], "{sizes:?}");
    }
    drop(plain);
    rig.assert_idle();
}

/// How a storage breaks its promise to take pieces back.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Keeps,
    Grows,
    Endless,
}

struct Refusing(Heap, Refusal);

// SAFETY: none: it does not take its pieces back.
unsafe impl Storage for Refusing {
    const PIECE_BYTES: usize = 4096;
    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.0.grow(bytes)
    }
    fn shrink(&mut self) {
        if let Refusal::Grows = self.1 {
            self.0.grow(8).unwrap();
        }
    }
    fn pieces(&self) -> usize {
        match self.1 {
            Refusal::Endless => usize::MAX,
            Refusal::Keeps | Refusal::Grows => self.0.pieces(),
        }
    }
    fn piece(&self, index: usize) -> &[u8] {
        self.0.piece(index)
    }
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.0.piece_mut(index)
    }
    fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

#[test]
fn a_storage_that_takes_nothing_back_is_refused() {
    let rig = scattered(8);
    for (refusal, pieces) in
        [(Refusal::Keeps, 2), (Refusal::Grows, 3), (Refusal::Endless, usize::MAX)]
    {
        let storage = || Refusing(stale(Heap::new(), &[64, 8]), refusal);
        let in_use = BuildError::StorageInUse { pieces };
        assert_eq!(SglBuilder::new_in(PageSize::SIZE_4K, storage()).err(), Some(in_use));
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let umem = Umem::pin_in(&*rig.process, &*rig.account, storage(), &mut [None; 4], request);
        let error = umem.err().unwrap();
        assert!(matches!(error.kind(), PinErrorKind::List(kind) if *kind == in_use));
        rig.assert_idle();
    }
}

/// Every bit that is no flag, alone and with those that are, wherever flags are taken.
#[test]
fn unknown_flags_are_refused_everywhere() {
    let rig = scattered(4);
    let (iommu, nic) = (rig.iommu("4K"), rig.memory.nic());
    let range = bytes(0, 4 * P);
    let read_only = rig.pin_as(range, PinFlags::LONGTERM);
    let mut space = Space::new();
    space.attach(iommu.clone()).unwrap();
    space.map(Placement::At(iova(AT)), read_only.clone(), RO).unwrap();
    let before = iommu.stats();
    for bit in (0..32).map(|bit| 1u32 << bit) {
        if PinFlags::all().bits() & bit == 0 {
            for known in [PinFlags::empty(), WRITE_LONG, PinFlags::all()] {
                let flags = PinFlags::from_bits_retain(known.bits() | bit);
                let is = |kind| matches!(kind, PinErrorKind::UnknownFlags { bits } if bits == flags.bits());
                let request = PinRequest::new(range, flags);
                let (process, account) = (&*rig.process, &*rig.account);
                assert!(is(Umem::pin(process, account, request).err().unwrap().into_kind()));
                let (heap, mut slots) = (Heap::new(), [None; 4]);
                let umem = Umem::pin_in(process, account, heap, &mut slots, request);
                assert!(is(umem.err().unwrap().into_kind()));
                let two = NonZeroUsize::new(2).unwrap();
                let umem = Umem::pin_parallel(process, account, request, two);
                assert!(is(umem.err().unwrap().into_kind()));
                let stream = Stream::map(process, account, &*iommu, slots, request, iova(0), RO);
                let StreamErrorKind::Pin(kind) = stream.err().unwrap().into_kind() else {
                    panic!("{flags:?}")
                };
                assert!(is(kind));
                // A batch has no way to refuse: it leaves them out.
                let batch = PinnedBatch::new(&*rig.process, range, flags, &mut slots);
                assert_eq!(batch.flags(), known);
            }
        }
        if Prot::all().bits() & bit == 0 {
            let prot = Prot::from_bits_retain(RO.bits() | bit);
            let unknown = MapErrorKind::UnknownProt { bits: prot.bits() };
            let refused = Mapping::map(&*read_only, &*iommu, iova(0), prot).unwrap_err();
            assert_eq!(refused.into_kind(), unknown);
            let refused = space.map(Placement::Anywhere, read_only.clone(), prot).unwrap_err();
            assert_eq!(refused.into_kind(), IoasError::Map(unknown));
            let mut other = Space::new();
            let copied = other.copy_from(&space, iovas(AT, P), Placement::Anywhere, prot);
            assert_eq!(copied, Err(IoasError::Map(unknown)));
            let request = PinRequest::new(range, WRITE_LONG);
            let stream = Stream::map(
                &*rig.process,
                &*rig.account,
                &*iommu,
                [None; 4],
                request,
                iova(0),
                prot,
            );
            let kind = stream.err().unwrap().into_kind();
            assert!(matches!(kind, StreamErrorKind::Map(kind) if kind == unknown));
        }
        if Access::all().bits() & bit == 0 {
            let access = Access::from_bits_retain(Access::REMOTE_READ.bits() | bit);
            let refused = MemoryRegion::register(&*read_only, &nic, iova(0), access);
            let bits = access.bits();
            let kind = refused.err().unwrap().into_kind();
            assert!(matches!(kind, RegisterErrorKind::UnknownAccess { bits: b } if b == bits));
        } else if Access::from_bits_retain(bit).is_writable() {
            let refused =
                MemoryRegion::register(&*read_only, &nic, iova(0), Access::from_bits_retain(bit));
            let kind = refused.err().unwrap().into_kind();
            assert!(matches!(kind, RegisterErrorKind::Attach(AttachError::ReadOnly)), "{bit:#x}");
        }
    }
    // Nobody was asked, and nothing has changed.
    assert_eq!((iommu.stats(), nic.regions(), read_only.attachments()), (before, 0, 1));
    assert_eq!(rig.pins(4), [1; 4]);
    assert!(!read_only.is_dirty());
    drop((space, read_only));
    rig.assert_idle();
}

/// Slabs in memory that a forgotten address space has left its mappings and domains in.
#[test]
fn a_slab_in_memory_of_a_forgotten_address_space() {
    let rig = scattered(8);
    let (one, two) = (rig.iommu("4K"), rig.iommu("4K"));
    let mut areas: Vec<_> = (0..4).map(|_| MappingSlot::<Arc<Pinned>>::new()).collect();
    let mut links: Vec<_> = (0..2).map(|_| DomainSlot::<Arc<Iommu>>::new()).collect();
    let umem = rig.pin(bytes(0, 4 * P));
    let mut lost = PoolIoas::new(&mut areas, &mut links);
    let stale_id = lost.attach(one.clone()).unwrap();
    lost.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    mem::forget(lost);
    areas.swap(0, 3);
    links.swap(0, 1);

    let mut space = PoolIoas::new(&mut areas, &mut links);
    assert!(space.is_empty() && space.domains().next().is_none());
    assert_eq!(space.unmap_all(), 0);
    assert!(space.detach(stale_id).is_err());
    space.attach(two.clone()).unwrap();
    space.map(Placement::At(iova(AT)), rig.pin(bytes(4 * P, 4 * P)), RW).unwrap();
    // What was mapped then is mapped still, and its domain refuses the addresses.
    assert!(space.attach(one.clone()).is_err());
    assert_held(&rig.memory, &[&one, &two]);
    drop(space);
    drop((areas, links));
    rig.process.exit();
    // The region of the forgotten one is attached for ever.
    assert_eq!((umem.attachments(), two.mapped_pages()), (1, 0));
    drop(umem);
    rig.device(&one).write(iova(AT), b"still there").unwrap();
    assert_eq!((rig.memory.pinned_pages(), rig.memory.leaked_pages()), (4, 4));
    assert_held(&rig.memory, &[&one]);
    rig.witness.assert_clean();
}

/// Keys and numbers that another card and another address space have given.
#[test]
fn names_of_others_lead_nowhere() {
    let (a, b) = (scattered(4), scattered(4));
    let nic = |rig: &Rig| rig.memory.nic();
    let (nic_a, nic_b) = (nic(&a), nic(&b));
    let access = Access::REMOTE_WRITE | Access::LOCAL_WRITE;
    let umem = a.pin(bytes(0, 4 * P));
    let region = MemoryRegion::register(umem, &nic_a, iova(AT), access).unwrap();
    assert!(nic_b.write(region.key(), iova(AT), b"x").is_err());
    nic_a.write(region.key(), iova(AT), b"x").unwrap();
    let key = region.key();
    drop(region);
    assert!(nic_a.write(key, iova(AT), b"x").is_err());

    let (mut first, mut second) = (Space::new(), Space::new());
    let id = first.attach(a.iommu("4K")).unwrap();
    assert!(matches!(second.detach(id), Err(IoasError::NoSuchDomain)));
    first.detach(id).unwrap();
    assert!(matches!(first.detach(id), Err(IoasError::NoSuchDomain)));
    // Nor does a stale one lead to the next domain, which is kept at the same place.
    let next = first.attach(a.iommu("4K")).unwrap();
    assert_ne!(next, id);
    assert!(matches!(first.detach(id), Err(IoasError::NoSuchDomain)));
    first.detach(next).unwrap();
    a.assert_idle();
    b.assert_idle();
}

// ---------------------------------------------------------------------------------------------------
// Values that are forgotten, swapped and replaced: of two machines, all of one type.

#[test]
fn swapped_values_go_home() {
    let rigs = [scattered(64), scattered(64)];
    let iommus: Vec<Vec<_>> =
        rigs.iter().map(|rig| vec![rig.iommu("4K"), rig.iommu("2K|8K")]).collect();
    let umem = |of: usize, first: u64| rigs[of].pin(bytes(first * P, 4 * P));
    let held = || {
        for (rig, iommus) in rigs.iter().zip(&iommus) {
            assert_held(&rig.memory, &[&iommus[0], &iommus[1]]);
        }
    };
    let map = |of: usize, first: u64, domain: usize| {
        Mapped::map(umem(of, first), iommus[of][domain].clone(), iova(first * P), RW).unwrap()
    };
    // Mappings, and the parts of two that are cut.
    let (mut a, mut b) = (map(0, 0, 0), map(1, 8, 0));
    mem::swap(&mut a, &mut b);
    let (mut a1, a2) = a.split_at(2 * P).unwrap();
    let (b1, mut b2) = b.split_at(P).unwrap();
    mem::swap(&mut a1, &mut b2);
    drop(mem::replace(&mut b2, map(0, 16, 1)));
    held();
    drop(a2);
    held();
    drop((a1, b2, b1));
    held();

    // Address spaces: the domains and regions go with them.
    let space = |of: usize, first: u64| {
        let mut space = Space::new();
        space.attach(iommus[of][0].clone()).unwrap();
        space.attach(iommus[of][1].clone()).unwrap();
        space.map(Placement::At(iova(first * P)), umem(of, first), RW).unwrap();
        space
    };
    let (mut a, mut b) = (space(0, 0), space(1, 8));
    mem::swap(&mut a, &mut b);
    assert!(a.unmap(iovas(0, 4 * P)).is_err());
    assert_eq!(a.unmap(iovas(8 * P, 4 * P)), Ok(4 * P));
    drop(mem::replace(&mut b, space(1, 24)));
    held();
    drop((a, b));

    // Streams, regions, charges, attachments, batches and builders.
    let stream = |of: usize, first: u64| {
        let request = PinRequest::new(bytes(first * P, 8 * P), WRITE_LONG);
        let (process, account) = (rigs[of].process.clone(), rigs[of].account.clone());
        let domain = iommus[of][0].clone();
        Stream::map(process, account, domain, [None; 3], request, iova(first * P), RW).unwrap()
    };
    let (mut a, mut b) = (stream(0, 0), stream(1, 8));
    mem::swap(&mut a, &mut b);
    held();
    let mut c = mem::replace(&mut a, stream(0, 16));
    mem::swap(&mut b, &mut c);
    assert!(a.unmap().is_ok());
    drop((b, c));

    let (mut a, mut b) = (umem(0, 0), umem(1, 0));
    let (mut held_a, mut held_b) =
        (Attachment::new(a.clone(), true).unwrap(), Attachment::new(b.clone(), true).unwrap());
    mem::swap(&mut a, &mut b);
    mem::swap(&mut held_a, &mut held_b);
    mem::swap(&mut a, &mut b);
    assert!(Arc::ptr_eq(held_a.region(), &b) && Arc::ptr_eq(held_b.region(), &a));
    // Regions as values: each takes its pinner and its charge along.
    drop((held_a.leak(), held_b.leak(), a, b));
    for rig in &rigs {
        assert_eq!((rig.memory.pinned_pages(), rig.memory.leaked_pages()), (4, 4));
        rig.witness.assert_clean();
    }
    let request = PinRequest::new(bytes(8 * P, 8 * P), WRITE_LONG);
    let pin = |rig: &Rig| Umem::pin(rig.process.clone(), rig.account.clone(), request).unwrap();
    let (mut a, mut b) = (pin(&rigs[0]), pin(&rigs[1]));
    mem::swap(&mut a, &mut b);
    assert!(Arc::ptr_eq(&a.unpin().unwrap(), &rigs[1].process));
    drop(mem::replace(&mut b, pin(&rigs[1])));
    drop(b);

    let (mut slots_a, mut slots_b) = ([None; 4], [None; 4]);
    let batch = |of: usize, slots| {
        let mut batch = PinnedBatch::new(&*rigs[of].process, bytes(0, 8 * P), WRITE_LONG, slots);
        batch.fill().unwrap();
        batch
    };
    let (mut a, mut b) = (batch(0, &mut slots_a), batch(1, &mut slots_b));
    mem::swap(&mut a, &mut b);
    let (pages, runs) = (a.page_count(), a.runs().count());
    assert!(a.accept(|batch| Err::<(), _>(batch.page_count())).is_err_and(|n| n == pages));
    assert_eq!(runs, 4);
    drop(b);

    let charge = |of: usize, pages| Charge::new(rigs[of].account.clone(), pages).unwrap();
    let (mut a, mut b) = (charge(0, 3), charge(1, 5));
    mem::swap(&mut a, &mut b);
    drop(a);
    assert_eq!((rigs[0].account.charged(), rigs[1].account.charged()), (7, 4));
    drop(b);
    for rig in &rigs {
        assert_eq!((rig.memory.pinned_pages(), rig.account.charged()), (4, 4));
        rig.witness.assert_clean();
    }
}

/// Whatever is forgotten stays pinned, and devices may go on.
#[test]
fn forgotten_values_stay_pinned() {
    type Forget = fn(&Rig, Arc<Pinned>, Arc<Iommu>);
    let space = |iommu: &Arc<Iommu>, umem: Arc<Pinned>| {
        let mut space = Space::new();
        space.attach(iommu.clone()).unwrap();
        space.map(Placement::At(iova(AT)), umem, RW).unwrap();
        space
    };
    let ways: [Forget; 5] = [
        |_, umem, iommu| mem::forget(Mapping::map(umem, iommu, iova(AT), RW).unwrap()),
        |_, umem, iommu| {
            let mapping = Mapping::map(umem, iommu, iova(AT), RW).unwrap();
            let (head, tail) = mapping.split_at(3 * P).unwrap();
            mem::forget(head);
            drop(tail);
        },
        |rig, _, iommu| {
            let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
            let process = rig.process.clone();
            let slots = vec![None; 4];
            let stream =
                Stream::map(process, rig.account.clone(), iommu, slots, request, iova(AT), RW);
            mem::forget(stream.unwrap());
        },
        |_, umem, iommu| mem::forget((umem.clone(), Mapping::map(umem, iommu, iova(AT), RW))),
        |rig, umem, iommu| {
            // The error of a failed map, with all that it gives back.
            rig.plan.fail_at(1);
            let error = Mapping::map(umem.clone(), iommu.clone(), iova(0), RW).unwrap_err();
            let (again, domain) = error.into_parts();
            mem::forget(umem);
            mem::forget(Mapping::map(again, domain, iova(AT), RW).unwrap());
        },
    ];
    for (index, forget) in ways.into_iter().enumerate() {
        let rig = scattered(8);
        let iommu = rig.iommu("4K");
        forget(&rig, rig.pin(bytes(0, 8 * P)), iommu.clone());
        rig.process.exit();
        assert_held(&rig.memory, &[&iommu]);
        rig.device(&iommu).write(iova(AT), b"still there").unwrap();
        let least = rig.memory.pinned_pages();
        assert!(least >= 8, "{index}");
        rig.witness.assert_clean();
    }
    let rig = scattered(8);
    let iommu = rig.iommu("4K");
    mem::forget(space(&iommu, rig.pin(bytes(0, 8 * P))));
    rig.process.exit();
    assert_held(&rig.memory, &[&iommu]);
    assert_eq!(rig.memory.pinned_pages(), 8);
    rig.witness.assert_clean();
}

/// A batch in every order of its calls.
#[test]
fn a_batch_in_odd_order() {
    let rig = scattered(16);
    rig.process.unmap(bytes(12 * P, 4 * P)).unwrap();
    for room in 0..6 {
        for takes in 0..4 {
            let mut slots = vec![Some(PageRun::ram(Pfn::new(1), 1).unwrap()); room];
            let mut batch =
                PinnedBatch::new(&*rig.process, bytes(100, 16 * P - 100), WRITE_LONG, &mut slots);
            let mut kept = vec![];
            for _ in 0..4 {
                let _ = batch.fill();
                for _ in 0..takes {
                    kept.extend(batch.take_first());
                }
            }
            let sum: u64 = batch.runs().map(|run| run.count()).sum();
            assert_eq!(batch.page_count(), sum);
            assert_eq!(rig.memory.pinned_pages(), sum + kept.len() as u64);
            let broken = catch_unwind(AssertUnwindSafe(|| {
                batch.accept(|batch| -> Result<(), ()> { panic!("{}", batch.page_count()) })
            }));
            assert!(broken.is_err());
            for (at, run) in kept {
                // SAFETY: it was taken out of the batch, so it is ours, and no device knows of it.
                unsafe { rig.process.unpin(at, run, false) };
            }
            rig.assert_idle();
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Code of others that runs in between.

type Deed = Box<dyn FnMut(bool) + Send>;

/// An accountant that does whatever it likes whenever it is called.
struct Meddler(Mutex<Option<Deed>>);

impl Meddler {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    fn will(&self, deed: impl FnMut(bool) + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(deed));
    }

    fn act(&self, charging: bool) {
        // Not while it is at it already.
        let Some(mut deed) = self.0.lock().unwrap().take() else { return };
        deed(charging);
        *self.0.lock().unwrap() = Some(deed);
    }
}

impl Accountant for Meddler {
    fn charge(&self, _: u64) -> Result<(), ChargeError> {
        self.act(true);
        Ok(())
    }

    fn uncharge(&self, _: u64) {
        self.act(false);
    }
}

/// As soon as memory is let go, its accountant maps other memory at the same addresses.
#[test]
fn an_accountant_maps_where_others_unmap() {
    let rig = Arc::new(scattered(32));
    let iommu = rig.iommu("4K");
    let meddler = Meddler::new();
    let pin = |first: u64| {
        let request = PinRequest::new(bytes(first * P, 4 * P), WRITE_LONG);
        Arc::new(Umem::pin(rig.process.clone(), meddler.clone(), request).unwrap())
    };
    let mut space = HeapIoas::new();
    space.attach(iommu.clone()).unwrap();
    for index in 0..3 {
        space.map(Placement::At(iova(AT + index * 4 * P)), pin(index * 4), RW).unwrap();
    }
    let maps = Arc::new(Mutex::new(Vec::new()));
    let (inner, domain, taken) = (rig.clone(), iommu.clone(), maps.clone());
    let mut next = 0;
    meddler.will(move |charging| {
        if charging || next > 2 {
            return;
        }
        let umem = inner.pin(bytes((16 + next * 4) * P, 4 * P));
        let at = iova(AT + next * 4 * P);
        taken.lock().unwrap().push(Mapping::map(umem, domain.clone(), at, RW).unwrap());
        assert_held(&inner.memory, &[&domain]);
        next += 1;
    });
    assert_eq!(space.unmap(IovaRange::ALL), Ok(12 * P));
    assert_held(&rig.memory, &[&iommu]);
    // What is mapped there now is not the address space's: it lets it alone.
    assert!(matches!(space.unmap(IovaRange::ALL), Err(IoasError::NotMapped { .. })));
    assert_eq!((maps.lock().unwrap().len(), iommu.mapped_pages()), (3, 12));
    let refused = space.map(Placement::At(iova(AT)), pin(0), RW).unwrap_err();
    assert!(matches!(
        refused.kind(),
        IoasError::Map(MapErrorKind::Domain(MapFault::Exists { .. }))
    ));
    drop((space, refused));
    for mapping in mem::take(&mut *maps.lock().unwrap()) {
        rig.device(&iommu).write(mapping.iova(), b"mine").unwrap();
    }
    meddler.will(|_| {});
    rig.assert_idle();
}

/// The progress of a pin takes away, forks, pins and cancels; the accountant ends the process.
#[test]
fn callbacks_that_pull_the_rug() {
    for deed in 0..6u64 {
        for stream in [false, true] {
            let rig = Arc::new(scattered(16));
            rig.process.set_pin_limit(3);
            let iommu = rig.iommu("4K");
            let (inner, domain) = (rig.clone(), iommu.clone());
            let mut others = Vec::new();
            let act = move |pinned: u64| {
                match deed {
                    0 => drop(inner.process.unmap(bytes(0, 16 * P))),
                    1 => inner.process.exit(),
                    2 => {
                        let child = inner.process.fork();
                        let _ = child.map(|child| child.touch(bytes(0, 16 * P), true));
                    }
                    3 => others.push(Mapped::map(
                        inner.pin(bytes(0, 16 * P)),
                        domain.clone(),
                        iova(AT + pinned),
                        RW,
                    )),
                    4 => drop(inner.process.protect(bytes(0, 16 * P), false)),
                    _ => {
                        let _ = inner.process.swap_out(bytes(0, 16 * P));
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            };
            let request = PinRequest::new(bytes(0, 16 * P), WRITE_LONG).with_progress(act);
            if stream {
                let (process, account) = (rig.process.clone(), rig.account.clone());
                let done =
                    Stream::map(process, account, iommu.clone(), [None; 2], request, iova(AT), RW);
                assert_held(&rig.memory, &[&iommu]);
                drop(done);
            } else {
                let umem = Umem::pin(rig.process.clone(), rig.account.clone(), request);
                if let Ok(umem) = umem {
                    let umem = Arc::new(umem);
                    let mapping = Mapping::map(umem, iommu.clone(), iova(0x80_0000), RW).unwrap();
                    rig.process.exit();
                    rig.device(&iommu).write(iova(0x80_0000), b"still there").unwrap();
                    assert_held(&rig.memory, &[&iommu]);
                    drop(mapping);
                }
            }
            assert_held(&rig.memory, &[&iommu]);
            assert_eq!(iommu.mapped_pages(), 0, "{deed} {stream}");
            rig.assert_idle();
        }
    }
}

/// Memory that is lent for a stream's batches, and is another one each time.
struct Fickle {
    slots: [Vec<RunSlot>; 2],
    calls: AtomicUsize,
}

impl AsMut<[RunSlot]> for Fickle {
    fn as_mut(&mut self) -> &mut [RunSlot] {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        &mut self.slots[call.min(1)]
    }
}

#[test]
fn a_stream_whose_slots_change() {
    for (first, then) in [(1, 5), (5, 1), (3, 0), (128, 0), (0, 4)] {
        for fails in [false, true] {
            let rig = scattered(16);
            let iommu = rig.iommu("4K");
            let run = Some(PageRun::ram(Pfn::new(3), 1 << 50).unwrap());
            let slots =
                Fickle { slots: [vec![run; first], vec![run; then]], calls: AtomicUsize::new(0) };
            let request = PinRequest::new(bytes(0, 16 * P), WRITE_LONG);
            if fails {
                rig.plan.fail_at(9);
            }
            let (process, account) = (rig.process.clone(), rig.account.clone());
            let done = Stream::map(process, account, iommu.clone(), slots, request, iova(AT), RW);
            rig.plan.succeed();
            assert_held(&rig.memory, &[&iommu]);
            match done {
                Ok(stream) => assert!(stream.unmap().is_ok()),
                Err(error) => assert!(fails || first == 0, "{first} {then}: {error:?}"),
            }
            assert_eq!(iommu.mapped_pages(), 0, "{first} {then}");
            rig.assert_idle();
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Trait objects, and traits implemented by outsiders.

/// Regions, pinners and accountants of which only the trait is known.
#[test]
fn trait_objects() {
    type AnyRegion = dyn Region<Storage = Heap>;
    let rig = scattered(8);
    let pinner: Arc<dyn Pinner<Error = PinFault> + Send + Sync> = rig.process.clone();
    let account: Arc<dyn Accountant + Send + Sync> = rig.account.clone();
    let request = PinRequest::new(bytes(5, 8 * P - 5), WRITE_LONG);
    let umem = Arc::new(Umem::pin(pinner.clone(), account.clone(), request).unwrap());
    let region: Arc<AnyRegion> = umem.clone();
    let (one, two) = (rig.iommu("1|4K"), rig.iommu("1"));
    let mapping = Mapping::map(region.clone(), one.clone(), iova(AT + 5), RW).unwrap();
    let (head, tail) = mapping.split_at(P - 5).unwrap();
    let mut space = HeapIoas::<Arc<AnyRegion>, _>::new();
    space.attach(two.clone()).unwrap();
    space.map(Placement::At(iova(AT)), region.clone(), RW).unwrap();
    let nic = rig.memory.nic();
    let access = Access::REMOTE_WRITE | Access::LOCAL_WRITE;
    let registered = MemoryRegion::register(region.clone(), &nic, iova(5), access).unwrap();
    let boxed: Box<AnyRegion> = Box::new(Umem::pin(pinner, account, request).unwrap());
    let Ok(held) = Attachment::new(boxed, false) else { panic!() };
    assert_eq!(umem.attachments(), 4);
    nic.write(registered.key(), iova(5), b"from afar").unwrap();
    drop((head, registered));
    assert_held(&rig.memory, &[&one, &two]);
    space.unmap_all();
    drop((tail, region));
    assert_eq!(umem.attachments(), 0);
    drop(umem);
    assert_eq!(rig.pins(8), [1; 8]);
    // SAFETY: no device was shown the memory.
    drop(unsafe { held.release() });
    drop(space);
    rig.assert_idle();
}

/// A region over the frames of another one, which takes so many attachments.
struct Limited {
    umem: Arc<Pinned>,
    left: AtomicUsize,
}

// SAFETY: all answers are those of a region that keeps its promises; it is attached as often as this one
// is.
unsafe impl Region for Limited {
    type Storage = Heap;
    fn sgl(&self) -> &Sgl<Heap> {
        self.umem.sgl()
    }
    fn page_offset(&self) -> u64 {
        self.umem.page_offset()
    }
    fn len(&self) -> u64 {
        self.umem.len()
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn user_addr(&self) -> Option<UserAddr> {
        None
    }
    fn mark_dirty(&self) {
        self.umem.mark_dirty();
    }
    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        let less = |left: usize| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map_err(|_| AttachError::TooMany)?;
        self.umem.attach(writable)
    }
    unsafe fn detach(&self) {
        // SAFETY: "made for one successful `attach`": each that succeeds here is one there.
        unsafe { self.umem.detach() };
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

/// Cuts that fail at the second edge leave one mapping, and it can still go.
#[test]
fn too_many_attachments() {
    for left in 0..4 {
        let rig = scattered(8);
        let umem = rig.pin(bytes(0, 8 * P));
        let region = Arc::new(Limited { umem: umem.clone(), left: AtomicUsize::new(left) });
        let iommu = rig.iommu("4K");
        match Mapping::map(region.clone(), iommu.clone(), iova(AT), RW) {
            Err(error) => {
                assert_eq!(*error.kind(), MapErrorKind::Attach(AttachError::TooMany));
                assert_eq!(left, 0);
            }
            Ok(mapping) => match mapping.unmap_range(2 * P..5 * P) {
                Ok((Some(head), Some(tail))) => {
                    assert_eq!((left, head.len(), tail.len()), (3, 2 * P, 3 * P));
                    assert_held(&rig.memory, &[&iommu]);
                }
                Err(UnmapRangeError::Cut(error)) => {
                    assert_eq!(error.kind(), CutErrorKind::Attach(AttachError::TooMany));
                    let mapping = error.into_mapping();
                    assert_eq!((mapping.len(), umem.attachments()), (8 * P, 1));
                    assert_eq!(iommu.mapped_pages(), 8);
                }
                other => panic!("{left}: {other:?}"),
            },
        }
        assert_eq!(umem.attachments(), 0);
        let mut space = HeapIoas::new();
        space.attach(iommu.clone()).unwrap();
        if space.map(Placement::At(iova(AT)), region, RW).is_ok() {
            let cut = space.unmap_cutting(iovas(AT + 2 * P, 3 * P));
            let refused = IoasError::Map(MapErrorKind::Attach(AttachError::TooMany));
            assert!(cut == Ok(3 * P) || cut == Err(refused), "{cut:?}");
            assert_held(&rig.memory, &[&iommu]);
        }
        drop(space);
        assert_eq!((iommu.mapped_pages(), umem.attachments()), (0, 0));
        drop(umem);
        rig.assert_idle();
    }
}

/// A region that breaks its contract: it says that it has other bytes than its list.
struct Crooked {
    umem: Arc<Pinned>,
    page_offset: u64,
    len: u64,
}

// SAFETY: none: its window lies outside of its list.
unsafe impl Region for Crooked {
    type Storage = Heap;
    fn sgl(&self) -> &Sgl<Heap> {
        self.umem.sgl()
    }
    fn page_offset(&self) -> u64 {
        self.page_offset
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn user_addr(&self) -> Option<UserAddr> {
        Some(UserAddr::new(u64::MAX))
    }
    fn mark_dirty(&self) {
        self.umem.mark_dirty();
    }
    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        self.umem.attach(writable)
    }
    unsafe fn detach(&self) {
        // SAFETY: "made for one successful `attach`": each of this one is one there.
        unsafe { self.umem.detach() };
    }
}

#[test]
fn a_region_whose_window_lies_outside() {
    let rig = scattered(4);
    let umem = rig.pin(bytes(0, 4 * P));
    let (iommu, nic) = (rig.iommu("1|4K"), Nic::new(rig.memory.clone()));
    for (page_offset, len, error) in [
        (0, 0, WindowError::Empty),
        (0, 4 * P + 1, WindowError::Beyond { offset: 0, len: 4 * P + 1, available: 4 * P }),
        (1, 4 * P, WindowError::Beyond { offset: 1, len: 4 * P, available: 4 * P }),
        (1, u64::MAX, WindowError::Beyond { offset: 1, len: u64::MAX, available: 4 * P }),
        (P, 1, WindowError::OffsetBeyondFirstPage { offset: P, page: PageSize::SIZE_4K }),
        (
            u64::MAX,
            1,
            WindowError::OffsetBeyondFirstPage { offset: u64::MAX, page: PageSize::SIZE_4K },
        ),
    ] {
        let region = Crooked { umem: umem.clone(), page_offset, len };
        assert_eq!(region.whole().err(), Some(error));
        let reversed = Range { start: 1, end: 0 };
        for part in [reversed, 0..len, 0..1, len..u64::MAX, u64::MAX..u64::MAX, 0..u64::MAX] {
            assert!(region.window(part.clone()).is_err());
            let mapped = Mapping::map_range(&region, part.clone(), &*iommu, iova(AT), RW);
            assert!(matches!(mapped.unwrap_err().kind(), MapErrorKind::Window(_)));
            let mut space = HeapIoas::new();
            space.attach(&*iommu).unwrap();
            for place in [Placement::Anywhere, Placement::At(iova(AT))] {
                let refused = space.map_range(place, &region, part.clone(), RW).unwrap_err();
                assert!(matches!(refused.kind(), IoasError::Map(MapErrorKind::Window(_))));
            }
            let access = Access::REMOTE_READ;
            let refused = MemoryRegion::register_range(&region, part, &nic, iova(AT), access);
            assert!(matches!(refused.unwrap_err().kind(), RegisterErrorKind::Window(_)));
        }
        assert!(Mapping::map(&region, &*iommu, iova(AT), RW).is_err());
        assert!(MemoryRegion::register(&region, &nic, iova(AT), Access::empty()).is_err());
    }
    assert_eq!((umem.attachments(), iommu.stats().map_calls), (0, 0));
    drop(umem);
    rig.assert_idle();
}

// ---------------------------------------------------------------------------------------------------
// Pinners, storages and domains at the limits of numbers.

/// A pinner of memory that nobody has, and so nobody takes: a page lies so many frames behind where it
/// lies for the user.
struct Numbers {
    page: PageSize,
    behind: u64,
    /// The most pages of a run.
    most: u64,
}

// SAFETY: there is no such memory, so nobody else uses it, and no device reaches it.
unsafe impl Pinner for Numbers {
    type Error = Option<Rejected>;
    fn page_size(&self) -> PageSize {
        self.page
    }
    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Option<Rejected>> {
        let first = Pfn::new(batch.next().get() >> self.page.shift());
        let first = first.checked_add(self.behind).ok_or(None)?;
        let run = PageRun::ram(first, self.most.min(batch.left())).map_err(|_| None)?;
        // SAFETY: as above: the pages are nobody's.
        unsafe { batch.push(run) }.map_err(Some)?;
        let _ = (batch.next(), format!("{batch:?}"));
        Ok(())
    }
    unsafe fn unpin(&self, _: UserAddr, _: PageRun, _: bool) {}
}

/// A run whose bytes have no address is refused by the batch, wherever it would go.
#[test]
fn runs_whose_bytes_have_no_address() {
    let iommu = Iommu::new(PageSizes::all());
    let range = UserRange::new(UserAddr::new(0), 64 * P).unwrap();
    let request = PinRequest::new(range, WRITE_LONG);
    for (page, behind, most) in [
        (P, 1 << 52, 1),
        (P, (1 << 52) - 1, 2),
        (P, u64::MAX - 9, 9),
        (P, (1 << 52) - 64, 65),
        (1 << 30, 1 << 34, 1),
        (1 << 63, 2, 1),
    ] {
        let page = PageSize::new(page).unwrap();
        let pinner = Numbers { page, behind, most };
        let mut slots = [None; 4];
        let mut batch = PinnedBatch::new(&pinner, range, WRITE_LONG, &mut slots);
        let refused = batch.fill();
        let too_large = Err(Some(Rejected::AddressTooLarge));
        assert!(refused == too_large || refused.is_ok() && most == 65, "{behind:#x} {refused:?}");
        if refused.is_ok() {
            continue;
        }
        assert!(batch.is_empty() && batch.next() == range.first_page(page));
        drop(batch);
        let error = Umem::pin(&pinner, &Unaccounted, request).err().unwrap().into_kind();
        let known = matches!(error, PinErrorKind::Pinner(Some(Rejected::AddressTooLarge)));
        assert!(known || matches!(error, PinErrorKind::List(BuildError::PageSize { .. })));
        let stream = Stream::map(&pinner, &Unaccounted, &iommu, [None; 4], request, iova(0), RW);
        let error = stream.err().unwrap().into_kind();
        let StreamErrorKind::Pin(PinErrorKind::Pinner(error)) = error else { panic!("{error:?}") };
        assert_eq!(error, Some(Rejected::AddressTooLarge));
    }
    iommu.witness().assert_clean();
}

/// All bytes of an address space, and the last ones.
#[test]
fn the_whole_address_space() {
    for shift in [0, 10, 12, 30, 62, 63] {
        let page = PageSize::from_shift(shift).unwrap();
        for (start, len) in [
            (0, u64::MAX),
            (1, u64::MAX),
            (u64::MAX, 1),
            (1 << 63, 1 << 63),
            (u64::MAX - 99, 100),
            (0, 1),
        ] {
            let range = UserRange::new(UserAddr::new(start), len).unwrap();
            let request = PinRequest::new(range, WRITE_LONG);
            let pinner = Numbers { page, behind: 0, most: u64::MAX };
            let umem = Umem::pin(&pinner, &Unaccounted, request);
            let fits = range.page_count(page) <= u64::MAX >> shift;
            match umem {
                Ok(umem) => {
                    assert!(fits);
                    assert_eq!(umem.whole().unwrap().len(), len);
                    let window = umem.whole().unwrap();
                    let _ = (window.page_count(), window.run_count(), window.phys(len - 1));
                }
                Err(error) => {
                    let _ = format!("{error:?}");
                    let kind = error.into_kind();
                    let known = matches!(
                        kind,
                        PinErrorKind::List(
                            BuildError::PageSize { .. } | BuildError::TooManyPages { .. }
                        ) | PinErrorKind::Pinner(_)
                    );
                    let last = range.last().get() >> shift;
                    let odd = !fits || !(10..=30).contains(&shift) || last == u64::MAX;
                    assert!(known && odd, "{shift} {kind:?}");
                }
            }
            // A domain of every page size takes all of it, in as few tiles as can be.
            let iommu = Iommu::new(PageSizes::all());
            let iova = Iova::new(start);
            let stream = Stream::map(&pinner, &Unaccounted, &iommu, [None; 4], request, iova, RW);
            assert!(fits || stream.is_err());
            if let Ok(stream) = stream {
                assert_eq!(iommu.mapped_bytes(), u128::from(len));
                assert_eq!(stream.translate(iova), Some(PhysAddr::new(start)));
                let _ = stream.segments().count();
                stream.unmap().unwrap();
            }
            assert_eq!(iommu.mapped_pages(), 0);
            iommu.witness().assert_clean();
            for threads in [1, 3, usize::MAX].map(|n| NonZeroUsize::new(n).unwrap()) {
                let request = PinRequest::new(range, WRITE_LONG);
                let pinner = Numbers { page, behind: u64::MAX, most: 1 };
                let umem = Umem::pin_parallel(&pinner, &Unaccounted, request, threads);
                assert!(umem.is_err());
            }
        }
    }
}

/// Threads share a range between pages, also where pages are larger than the places at which it is cut
/// as a rule: a page that two of them pin would be in the list twice.
#[test]
fn threads_do_not_cut_pages() {
    // It does not say where to cut.
    let page = PageSize::new(16 << 20).unwrap();
    let pinner = Numbers { page, behind: 7, most: 2 };
    for (start, len) in [(0, 12 << 24), (5, (12 << 24) - 9), (3 << 20, 5 << 24), (9, 1)] {
        for threads in [1, 2, 3, 64].map(|n| NonZeroUsize::new(n).unwrap()) {
            let range = UserRange::new(UserAddr::new(start), len).unwrap();
            let request = PinRequest::new(range, WRITE_LONG);
            let plain = Umem::pin(&pinner, &Unaccounted, request).unwrap();
            let shared = Umem::pin_parallel(&pinner, &Unaccounted, request, threads).unwrap();
            assert!(plain.sgl() == shared.sgl(), "{start} {len} {threads}");
            assert_eq!(plain.sgl().page_count(), range.page_count(page));
        }
    }
}

/// Of more threads than make sense, as many as make sense are started.
#[test]
fn endless_threads() {
    let rig = Rig::new(Fragmentation::None);
    let nowhere = UserRange::new(UserAddr::new(0), 1 << 63).unwrap();
    let request = PinRequest::new(nowhere, WRITE_LONG);
    let umem = Umem::pin_parallel(&*rig.process, &*rig.account, request, NonZeroUsize::MAX);
    assert!(matches!(umem.err().unwrap().kind(), PinErrorKind::Pinner(PinFault::NotMapped(_))));
    rig.assert_idle();
}

// ---------------------------------------------------------------------------------------------------
// Domains.

/// A domain that keeps its contract to the letter, and does no more: a cell for each page, which is
/// taken or left page by page, while others may come in between.
struct Letter([AtomicU64; 8]);

#[derive(Debug)]
struct Taken;

impl Letter {
    fn cell(&self, tile: &Tile, page: u64) -> &AtomicU64 {
        &self.0[((tile.iova.get() >> 12) + page) as usize]
    }
}

// SAFETY: nobody translates through it. A cell that is taken is refused, by one atomic operation; what is
// reported was taken by this call.
unsafe impl Domain for Letter {
    type Error = Taken;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }
    fn aperture(&self) -> IovaRange {
        iovas(0, 8 * P)
    }
    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), Taken>) {
        for page in 0..tile.count {
            let phys = tile.phys.get() + page * P;
            let cell = self.cell(&tile, page);
            std::thread::yield_now();
            if cell.compare_exchange(0, phys, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return (page * P, Err(Taken));
            }
        }
        (tile.len(), Ok(()))
    }
    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut RangeGather>) -> u64 {
        let taken = (0..tile.count).take_while(|page| {
            std::thread::yield_now();
            self.cell(&tile, *page).swap(0, Ordering::SeqCst) == tile.phys.get() + page * P
        });
        taken.count() as u64 * P
    }
    fn flush(&self, _: Pin<&mut RangeGather>) {}
}

/// Two threads want the same addresses of one domain: one gets them, all of them, and the other one's
/// failure takes nothing of it away.
fn race<D: Domain<Error: std::fmt::Debug> + Sync>(domain: &D, check: impl Fn(&Pinned)) {
    let rig = scattered(16);
    let regions = [rig.pin(bytes(0, 8 * P)), rig.pin(bytes(8 * P, 8 * P))];
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let barrier = Barrier::new(2);
        let map = |umem| {
            barrier.wait();
            Mapping::map(umem, domain, iova(0), RW).ok()
        };
        let (one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(|| map(&*regions[1]));
            (map(&*regions[0]), other.join().unwrap())
        });
        let won = match (&one, &two) {
            (Some(_), None) => &regions[0],
            (None, Some(_)) => &regions[1],
            _ => panic!("{one:?} {two:?}"),
        };
        check(won);
        assert_eq!(won.attachments(), 1);
        let won = one.or(two).unwrap();
        // It can be cut, and goes whole.
        let (head, tail) = won.split_at(3 * P).unwrap();
        assert!(tail.unmap().is_ok() && head.unmap().is_ok());
    }
    assert_eq!(regions.map(|umem| umem.attachments()), [0, 0]);
    rig.assert_idle();
}

#[test]
fn of_two_threads_one_wins_in_a_mock() {
    let iommu = Iommu::config(PageSizes::SIZE_4K).strict_overlap(false).build();
    race(&iommu, |won| {
        let frames: Vec<_> = won.whole().unwrap().pages().collect();
        let there = iommu.mapped(IovaRange::ALL);
        let there: Vec<_> = there.iter().map(|entry| entry.phys.pfn(PageSize::SIZE_4K)).collect();
        assert_eq!(there, frames);
    });
    assert_eq!(iommu.mapped_pages(), 0);
    iommu.witness().assert_clean();
}

#[test]
fn of_two_threads_one_wins_by_the_letter() {
    let letter = Letter([const { AtomicU64::new(0) }; 8]);
    race(&letter, |won| {
        let frames = won.whole().unwrap().pages().map(|pfn| pfn.get() << 12);
        assert!(frames.eq(letter.0.iter().map(|cell| cell.load(Ordering::SeqCst))));
    });
    assert!(letter.0.iter().all(|cell| cell.load(Ordering::SeqCst) == 0));
}

/// A domain that never cuts is never asked to: by mappings, address spaces, streams, copies, or on the
/// way back from a failure.
#[test]
fn a_domain_that_never_cuts() {
    let rig = Rig::new(Fragmentation::Alternate);
    // Huge pages in the middle, so that a window is several calls.
    rig.buffer(0, 3, Area::read_write());
    rig.buffer(3, 13, Area::read_write());
    rig.buffer(16, 32, Area::read_write().huge(4));
    let iommu = Arc::new(rig.config("4K|64K").cuts(Cuts::Never).build());
    let umem = rig.pin(bytes(0, 48 * P));
    let map = || Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();

    let mut mapping = map();
    let len = mapping.len();
    for offset in [1, P, 16 * P, len - P, len - 1] {
        let edges = mapping.edges(offset);
        assert_eq!((edges.below, edges.above), (0, len));
        let error = mapping.split_at(offset).unwrap_err();
        assert_eq!(error.kind(), CutErrorKind::Indivisible);
        mapping = error.into_mapping();
        for range in [0..offset, offset..len, offset..offset + 1] {
            let Err(UnmapRangeError::Cut(error)) = mapping.unmap_range(range) else { panic!() };
            let kind = error.kind();
            assert!(matches!(kind, CutErrorKind::Indivisible | CutErrorKind::Outside { .. }));
            mapping = error.into_mapping();
        }
    }
    for offset in [0, len, u64::MAX] {
        assert!(mapping.edges(offset).is_exact());
        let error = mapping.split_at(offset).unwrap_err();
        assert_eq!(error.kind(), CutErrorKind::Outside { len });
        mapping = error.into_mapping();
    }
    let (None, None) = mapping.unmap_range(0..len).unwrap() else { panic!() };
    assert_eq!(iommu.mapped_pages(), 0);

    let (mut space, mut source) = (Space::new(), Space::new());
    source.map(Placement::At(iova(0)), umem.clone(), RW).unwrap();
    // Cut in a space that has no domain, and so far nothing was mapped by one call.
    source.split(iova(5 * P)).unwrap();
    source.attach(iommu.clone()).unwrap();
    assert!(matches!(source.split(iova(7 * P)), Err(IoasError::CutsMapping { .. })));
    assert_eq!(source.unmap_cutting(iovas(0, 5 * P)), Ok(5 * P));
    let other = Arc::new(rig.config("4K|64K").cuts(Cuts::Never).build());
    space.attach(other.clone()).unwrap();
    // A part of a mapping is a mapping of its own elsewhere.
    let place = Placement::At(iova(AT + 9 * P));
    space.copy_from(&source, iovas(9 * P, 30 * P), place, RW).unwrap();
    for (first, pages) in [(9, 29), (10, 29), (20, 1), (0, 10), (38, 5)] {
        let part = iovas(AT + first * P, pages * P);
        assert!(matches!(space.unmap_cutting(part), Err(IoasError::CutsMapping { .. })));
        assert!(matches!(space.unmap(part), Err(IoasError::CutsMapping { .. })));
    }
    let mut dirty = [0; 1];
    let mut bitmap =
        DirtyBitmap::new(&mut dirty, iovas(AT + 10 * P + 1, 20 * P), PageSize::SIZE_4K).unwrap();
    space.set_dirty_tracking(true).unwrap();
    rig.device(&other).write(iova(AT + 17 * P), b"dirt").unwrap();
    space.read_dirty(&mut bitmap, true).unwrap();
    assert!(bitmap.is_set(iova(AT + 17 * P)));
    assert_eq!(space.unmap(iovas(AT, 48 * P)), Ok(30 * P));
    drop((space, source));

    // Every call fails once, on every way.
    for n in 0..60 {
        for way in 0..3 {
            rig.plan.fail_at(n);
            match way {
                0 => drop(Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW)),
                1 => {
                    let mut space = Space::new();
                    let _ = space.attach(iommu.clone());
                    let _ = space.attach(other.clone());
                    let _ = space.map(Placement::Anywhere, umem.clone(), RW);
                }
                _ => {
                    let request = PinRequest::new(bytes(0, 48 * P), WRITE_LONG);
                    let (process, account) = (rig.process.clone(), rig.account.clone());
                    let slots = vec![None; 1 + n as usize % 3];
                    drop(Stream::map(
                        process,
                        account,
                        iommu.clone(),
                        slots,
                        request,
                        iova(AT),
                        RW,
                    ));
                }
            }
            rig.plan.succeed();
            assert_eq!((iommu.mapped_pages(), other.mapped_pages()), (0, 0), "{n} {way}");
            assert_eq!(umem.attachments(), 0, "{n} {way}");
            rig.witness.assert_clean();
        }
    }
    drop(umem);
    rig.assert_idle();
}

/// What a domain that breaks its contract reports, or reads.
#[derive(Clone, Copy, Debug)]
enum Untrue {
    Maps(u64, bool),
    Unmaps(u64),
    Reads(Option<(u64, u64)>),
}

struct Liar(Arc<Iommu>, Mutex<Option<Untrue>>);

// SAFETY: none: it lies. The memory exists in this test only.
unsafe impl Domain for Liar {
    type Error = MapFault;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: the caller keeps the memory for the mock, too.
        let done = unsafe { self.0.map(tile, prot) };
        match *self.1.lock().unwrap() {
            Some(Untrue::Maps(bytes, true)) => (bytes, Ok(())),
            Some(Untrue::Maps(bytes, false)) => (bytes, Err(MapFault::Injected)),
            _ => done,
        }
    }
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: the caller promises it of the same tile.
        let done = unsafe { self.0.unmap(tile, gather) };
        match *self.1.lock().unwrap() {
            Some(Untrue::Unmaps(bytes)) => bytes,
            _ => done,
        }
    }
    fn flush(&self, gather: Pin<&mut RangeGather>) {
        self.0.flush(gather);
    }
}

// SAFETY: none: it lies.
unsafe impl ReadDomain for Liar {
    fn read(&self, iova: Iova) -> Option<Entry> {
        match *self.1.lock().unwrap() {
            Some(Untrue::Reads(entry)) => {
                entry.map(|(phys, len)| Entry::new(PhysAddr::new(phys), len))
            }
            _ => self.0.read(iova),
        }
    }
}

/// Numbers that cannot be are a breach, wherever they come from; and what a device may reach is leaked.
#[test]
fn numbers_that_a_domain_cannot_mean() {
    let maps = [0, 1, P - 1, P + 1, 2 * P, 1 << 63, u64::MAX];
    let maps = maps.into_iter().flat_map(|bytes| [(bytes, true), (bytes, false)]);
    // Failing with no byte, or with all of a tile, is no lie.
    let maps = maps.filter(|lie| *lie != (0, false)).map(|(bytes, ok)| Untrue::Maps(bytes, ok));
    let unmaps = [0, 1, P - 1, P + 1, 1 << 63, u64::MAX].map(Untrue::Unmaps);
    let reads = [
        None,
        Some((0, 0)),
        Some((u64::MAX, u64::MAX)),
        Some((u64::MAX, 2)),
        Some((u64::MAX - 4094, P)),
        Some((1 << 63, 0)),
    ];
    for lie in maps.chain(unmaps).chain(reads.map(Untrue::Reads)) {
        let rig = scattered(8);
        let liar = Arc::new(Liar(rig.iommu("4K"), Mutex::new(None)));
        let tell = |lie| *liar.1.lock().unwrap() = lie;
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let stream = || {
            let (process, account) = (rig.process.clone(), rig.account.clone());
            Stream::map(process, account, liar.clone(), [None; 3], request, iova(AT), RW)
        };
        if let Untrue::Maps(..) = lie {
            tell(Some(lie));
            let error = stream().err().unwrap();
            let breach = matches!(error.kind(), StreamErrorKind::Map(MapErrorKind::Breach(_)));
            assert!(breach, "{lie:?}: {error:?}");
        } else {
            let stream = stream().unwrap();
            tell(Some(lie));
            let _ = (stream.translate(iova(AT)), stream.segments().take(9).count());
            assert!(stream.unmap().is_err(), "{lie:?}");
        }
        let read = Readback::new(&*liar, IovaRange::ALL).take(3);
        read.for_each(|segment| drop((segment.last(), format!("{segment:?}"))));
        assert_held(&rig.memory, &[&liar.0]);
        assert!(rig.memory.pinned_pages() > 0 && rig.account.charged() > 0, "{lie:?}");
        rig.process.exit();
        tell(None);
        rig.witness.assert_clean();
    }
}

// ---------------------------------------------------------------------------------------------------
// Values whose fields or arguments are any numbers: nothing panics.

const EDGES: [u64; 14] = [
    0,
    1,
    2,
    511,
    4095,
    4096,
    4097,
    1 << 32,
    (1 << 52) - 1,
    1 << 52,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 1,
    u64::MAX,
];

fn pairs() -> impl Iterator<Item = (u64, u64)> {
    EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b)))
}

fn every_size() -> impl Iterator<Item = PageSize> {
    (0..64).filter_map(PageSize::from_shift)
}

/// Fields that anybody can change.
#[test]
fn fields_of_any_number() {
    let sgl = built(Heap::new(), 3);
    let tile = sgl.whole().unwrap().tiles(PageSizes::SIZE_4K, iova(0)).unwrap().next().unwrap();
    let segment = sgl.whole().unwrap().iter().next().unwrap();
    for (a, b) in pairs() {
        for page in every_size() {
            let mut tile = tile;
            (tile.iova, tile.phys, tile.page_size, tile.count) =
                (Iova::new(a), PhysAddr::new(b), page, b);
            let exact = u128::from(b) << page.shift();
            assert_eq!(tile.len(), u64::try_from(exact).unwrap_or(u64::MAX));
            let _ = format!("{tile:?}");
        }
        let mut segment = segment;
        (segment.phys, segment.len) = (PhysAddr::new(a), b);
        assert_eq!(segment.last().get(), a.saturating_add(b.saturating_sub(1)));
        let _ = format!("{segment:?}");
        for sizes in [PageSizes::empty(), PageSizes::SIZE_4K, PageSizes::all()] {
            for at in EDGES {
                if let Ok(tiles) = segment.tiles(sizes, Iova::new(at)) {
                    let _ = (tiles.size_hint(), format!("{tiles:?}"));
                    let mapped = tiles.fold(0u64, |sum, tile| sum.wrapping_add(tile.len()));
                    assert_eq!(mapped, b);
                }
            }
        }
    }
}

#[test]
fn ranges_and_sizes_of_any_number() {
    for (a, b) in pairs() {
        let runs = PageRun::ram(Pfn::new(a), b);
        let user = UserRange::new(UserAddr::new(a), b);
        let range = IovaRange::new(Iova::new(a), b);
        let inclusive = IovaRange::inclusive(Iova::new(a), Iova::new(b));
        if let Ok(run) = runs {
            let _ = (run.last(), run.end(), run.continues_with(&run), format!("{run:?}"));
        }
        let mut gather = RangeGather::default();
        for range in [range, inclusive, Ok(IovaRange::ALL)].into_iter().flatten() {
            gather.add(range);
            assert!(range.len().is_none_or(|len| len > 0));
            for page in every_size() {
                let words = DirtyBitmap::words_for(range, page);
                assert!(words > 0);
                let layout = BlockLayout::new(range, page, Access::empty());
                let count = (layout.block_count(), layout.first_offset());
                assert!(count.0 > 0);
                for at in EDGES.map(Iova::new) {
                    assert_eq!(layout.locate(at).is_some(), range.contains(at));
                }
                let mut memory = [0; 4];
                if let Ok(mut bitmap) = DirtyBitmap::new(&mut memory, range, page) {
                    for (first, last) in pairs() {
                        if let Ok(set) = IovaRange::inclusive(Iova::new(first), Iova::new(last)) {
                            bitmap.set(set);
                            let here = range.intersection(&set).map(|both| both.first());
                            assert!(here.is_none_or(|iova| bitmap.is_set(iova)));
                        }
                    }
                    assert!(bitmap.count() <= 256);
                }
            }
        }
        assert!(gather.take().is_some() && gather.take().is_none());
        if let Ok(user) = user {
            let _ = (user.last(), format!("{user} {user:?}"));
            for page in every_size() {
                assert!(user.page_count(page) > 0);
                let _ = (user.first_page(page), user.page_offset(page));
            }
        }
        for page in every_size() {
            let addr = Iova::new(a);
            let _ = (addr.checked_align_up(page), addr.align_down(page), addr.offset_in(page));
            let _ = (Pfn::new(a).phys(page), PhysAddr::new(a).pfn(page));
            let sizes = PageSizes::from_bits_retain(b);
            let _ = (sizes.up_to(page), sizes.at_least(page), sizes.has(page));
        }
    }
}

/// Lists of as many pages as can be, of every size of a page.
#[test]
fn lists_of_all_pages_that_there_are() {
    for shift in 0..64 {
        let page = PageSize::from_shift(shift).unwrap();
        let Ok(mut builder) = SglBuilder::new(page) else { continue };
        let top = u64::MAX >> shift;
        for (start, count) in pairs() {
            if let Ok(run) = PageRun::ram(Pfn::new(start), count) {
                let _ = (builder.push_run(run), builder.push_runs([run, run]));
            }
            let _ = builder.push_pages(&[Pfn::new(start), Pfn::new(count)], MemoryKind::Mmio);
            let _ = builder.push_page(Pfn::new(count), MemoryKind::Ram);
        }
        let left = top - builder.page_count();
        if left > 0 {
            builder.push_run(PageRun::ram(Pfn::new(0), left).unwrap()).unwrap();
        }
        assert!(builder.push_page(Pfn::new(0), MemoryKind::Ram).is_err());
        let sgl = builder.finish().unwrap();
        assert_eq!((sgl.page_count(), sgl.byte_len()), (top, top << shift));
        for (offset, len) in pairs().chain([(0, sgl.byte_len())]) {
            let Ok(window) = sgl.window(offset, len) else { continue };
            let _ = (window.page_count(), window.run_count(), format!("{window:?}"));
            let _ = (window.pages().take(3).count(), window.pages().size_hint());
            for (at, more) in pairs() {
                let _ = (window.phys(at), window.segment_at(at), window.iter_at(at).next());
                let _ = window.window(at, more).map(|window| window.page_offset());
                for sizes in
                    [PageSizes::all(), PageSizes::SIZE_4K, PageSizes::from_bits_retain(more)]
                {
                    if let Ok(Some(blocks)) = window.best_page_size(sizes, Iova::new(at)) {
                        let _ = (blocks.block_count(), blocks.blocks().take(2).count());
                        let _ = blocks.shrink(page).map(|less| less.block_count());
                        let _ = format!("{blocks:?}");
                    }
                    if let Ok(tiles) = window.tiles(sizes, Iova::new(at)) {
                        let _ = (tiles.size_hint(), tiles.take(5).count());
                    }
                }
                let limits = SegmentLimits::NONE;
                let limits = limits.max_len(at).unwrap_or(limits);
                let limits = limits.boundary(more).unwrap_or(limits);
                let limits = limits.addr_mask(more).unwrap_or(limits).max_segments(at);
                let _ = window.segment_count(&limits);
                let _ = window
                    .segments(&limits)
                    .map(|segments| (segments.size_hint(), segments.take(4).count()));
            }
        }
    }
}

/// Calls with any numbers on a mapping, an address space, a stream, a registration and a region.
#[test]
fn values_that_are_asked_for_any_number() {
    let rig = scattered(8);
    let (iommu, nic) = (rig.iommu("4K|64K"), Nic::new(rig.memory.clone()));
    let umem = rig.pin(bytes(0, 8 * P));
    let mut mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
    let mut space = Space::new();
    space.attach(rig.iommu("4K")).unwrap();
    space.set_entry_limit(3);
    let region = MemoryRegion::register(umem.clone(), &nic, iova(AT), Access::REMOTE_READ).unwrap();
    let edges = EDGES.into_iter().chain([AT, AT + P, AT + 8 * P - 1, 8 * P, P]);
    let edges: Vec<u64> = edges.collect();
    for &a in &edges {
        let _ = (mapping.edges(a), mapping.translate(Iova::new(a)), space.translate(Iova::new(a)));
        let _ = (region.layout().locate(Iova::new(a)), space.split(Iova::new(a)));
        let _ = (umem.read(a, &mut [0; 9]), umem.write(a, &[0; 9]), umem.read(a, &mut []));
        let _ = (space.read(Iova::new(a), &mut [0; 9]), space.write(Iova::new(a), &[1; 9]));
        mapping = match mapping.split_at(a) {
            Ok((head, tail)) => {
                drop((head, tail));
                Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap()
            }
            Err(error) => error.into_mapping(),
        };
        for &b in &edges {
            let _ = (
                umem.window(a..b),
                space.map_range(Placement::At(Iova::new(a)), umem.clone(), a..b, RO),
            );
            let Ok(range) = IovaRange::new(Iova::new(a), b) else { continue };
            let mut other = Space::new();
            let within = [range, IovaRange::ALL];
            let _ = space.map_range(Placement::Within(&within[..1]), umem.clone(), 0..P, RW);
            let _ = space.mappings(range).count();
            if let Ok(reservation) = space.reserve(range) {
                assert!(other.unreserve(reservation).is_err(), "it is of another space");
            }
            let _ = (space.unmap_cutting(range), space.unmap(range));
            let _ = other.copy_from(&space, range, Placement::At(Iova::new(b)), RO);
            let _ = Mapping::map_range(&*umem, a..b, &*iommu, Iova::new(b), RO);
            let access = Access::REMOTE_READ;
            let _ = MemoryRegion::register_range(&*umem, a..b, &nic, Iova::new(b), access);
            mapping = match mapping.unmap_range(a..b) {
                Err(UnmapRangeError::Cut(error)) => error.into_mapping(),
                gone => {
                    drop(gone);
                    Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap()
                }
            };
        }
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let second = rig.iommu("4K");
        let stream = Stream::map(
            &*rig.process,
            &Unaccounted,
            &*second,
            [None; 2],
            request,
            Iova::new(a),
            RW,
        );
        if let Ok(stream) = stream {
            for &b in &edges {
                let _ = stream.translate(Iova::new(b));
            }
        }
    }
    drop((mapping, space, region, umem));
    rig.assert_idle();
}

/// Accounts of any numbers, given back more often than charged.
#[test]
fn accounts_of_any_number() {
    for (a, b) in pairs() {
        let account = Account::new(a);
        let charge = Charge::new(&account, b);
        assert_eq!(charge.is_ok(), b <= account.limit());
        account.uncharge(u64::MAX);
        account.set_limit(b);
        let more = Charge::new(&account, a);
        drop((charge, more));
        assert_eq!(account.charged(), 0);
        account.uncharge(a);
        assert_eq!(account.charged(), 0);
    }
}
