// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags that are none, names that others have given, and values that are swapped or forgotten: of two
//! machines, all of one type.

use super::rig::{bytes, iova, iovas, Pinned, Rig, P, RO, RW, WRITE_LONG};
use super::{assert_held, scattered, Mapped, Space, AT};
use pinned_sgl::iommu::{IoasError, MapError, Mapping, Placement, Prot, Stream, StreamError};
use pinned_sgl::rdma::{Access, MemoryRegion, RegisterError};
use pinned_sgl::umem::{
    AttachError, Attachment, Charge, PinError, PinErrorKind, PinFlags, PinRequest, PinnedBatch,
    Pinner, Umem,
};
use pinned_sgl::{Heap, PageRun, Pfn};
use pinned_sgl_mock::Iommu;
use std::mem;
use std::num::NonZeroUsize;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

/// Every bit that is not a flag, alone and with those that are, wherever flags are taken.
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
                let is = |error: PinError<_>| matches!(error.kind, PinErrorKind::UnknownFlags { bits } if bits == flags.bits());
                let request = PinRequest::new(range, flags);
                let (process, account) = (&*rig.process, &*rig.account);
                assert!(is(Umem::pin(process, account, request).err().unwrap().into_error()));
                let (heap, mut slots) = (Heap::new(), [None; 4]);
                let umem = Umem::pin_in(process, account, heap, &mut slots, request);
                assert!(is(umem.err().unwrap().into_error()));
                let two = NonZeroUsize::new(2).unwrap();
                let umem = Umem::pin_parallel(process, account, request, two);
                assert!(is(umem.err().unwrap().into_error()));
                let stream = Stream::map(process, account, &*iommu, slots, request, iova(0), RO);
                let StreamError::Pin(error) = stream.err().unwrap().into_error() else {
                    panic!("{flags:?}")
                };
                assert!(is(error));
                // A batch has no way to refuse: it leaves them out.
                let batch = PinnedBatch::new(&*rig.process, range, flags, &mut slots);
                assert_eq!(batch.flags(), known);
            }
        }
        if Prot::all().bits() & bit == 0 {
            let prot = Prot::from_bits_retain(RO.bits() | bit);
            let unknown = MapError::UnknownProt { bits: prot.bits() };
            let refused = Mapping::map(&*read_only, &*iommu, iova(0), prot).unwrap_err();
            assert_eq!(refused.into_error(), unknown);
            let refused = space.map(Placement::Anywhere, read_only.clone(), prot).unwrap_err();
            assert_eq!(refused.into_error(), IoasError::Map(unknown));
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
            let kind = stream.err().unwrap().into_error();
            assert!(matches!(kind, StreamError::Map(kind) if kind == unknown));
        }
        if Access::all().bits() & bit == 0 {
            let access = Access::from_bits_retain(Access::REMOTE_READ.bits() | bit);
            let refused = MemoryRegion::register(&*read_only, &nic, iova(0), access);
            let bits = access.bits();
            let kind = refused.err().unwrap().into_error();
            assert!(matches!(kind, RegisterError::UnknownAccess { bits: b } if b == bits));
        } else if Access::from_bits_retain(bit).is_writable() {
            let refused =
                MemoryRegion::register(&*read_only, &nic, iova(0), Access::from_bits_retain(bit));
            let kind = refused.err().unwrap().into_error();
            assert!(matches!(kind, RegisterError::Attach(AttachError::ReadOnly)), "{bit:#x}");
        }
    }
    // Nothing was called, and nothing has changed.
    assert_eq!((iommu.stats(), nic.regions(), read_only.attachments()), (before, 0, 1));
    assert_eq!(rig.pins(4), [1; 4]);
    assert!(!read_only.is_dirty());
    drop((space, read_only));
    rig.assert_idle();
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
            let (again, domain) = error.into_value();
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
