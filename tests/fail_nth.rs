// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each call that can fail does so once: allocations, charges, pins and maps, in every public
//! operation, with batches of two runs. Each failure leaves what was there before, and then it works.

mod rig;

use pinned_sgl::iommu::{DirtyBitmap, HeapIoas, Ioas, IovaRange, Mapping, Placement, Stream};
use pinned_sgl::store::HeapSlab;
use pinned_sgl::umem::{Account, PinRequest, Umem};
use pinned_sgl::{Heap, PageSize};
use pinned_sgl_mock::{
    FailingAccountant, FailingSlab, FailingStorage, Fragmentation, Iommu, Mapped, Plan, Process,
    Vma,
};
use rig::{bytes, iova, iovas, Rig, P, RO, RW, WRITE_LONG};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::rc::Rc;

const AT: u64 = 0x1000_0000;
const PAGES: u64 = 80;

type Accounts = FailingAccountant<Account>;
type Pinned<'a> = Umem<&'a Process, &'a Accounts, FailingStorage<Heap>>;
type Shared<'a> = Rc<Pinned<'a>>;
type Space<'a> = Ioas<Shared<'a>, &'a Iommu, FailingStorage<Heap>>;

/// Pages on their own, and two folios of 64 KiB.
fn setup() -> (Rig, Accounts) {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 40, Vma::read_write());
    rig.buffer(48, 32, Vma::read_write().huge(4));
    rig.buffer(40, 8, Vma::read_write());
    let account = FailingAccountant::new(Account::unlimited(), rig.plan.clone());
    (rig, account)
}

fn assert_idle(rig: &Rig, account: &Accounts) {
    rig.assert_idle();
    assert_eq!(account.inner().charged(), 0);
}

fn pin<'a>(rig: &'a Rig, account: &'a Accounts) -> Result<Pinned<'a>, ()> {
    let storage = FailingStorage::new(Heap::new(), rig.plan.clone());
    let request = PinRequest::new(bytes(0, PAGES * P), WRITE_LONG);
    Umem::pin_in(&*rig.process, account, storage, &mut [None; 2], request).map_err(drop)
}

fn space<'a>(rig: &Rig) -> Space<'a> {
    let plan = &rig.plan;
    Space::new_in(
        FailingSlab::new(HeapSlab::new(), plan),
        FailingSlab::new(HeapSlab::new(), plan),
        FailingSlab::new(HeapSlab::new(), plan),
    )
}

/// Lets each call fail in turn, until all of them have; how many there are. A call that fails is
/// reported: nothing succeeds by chance.
fn each_call(rig: &Rig, mut work: impl FnMut(&dyn Fn()) -> bool) -> u64 {
    for n in 0.. {
        let armed = std::cell::Cell::new(false);
        let arm = || {
            armed.set(true);
            rig.plan.fail_at(n);
        };
        let done = work(&arm);
        assert!(armed.get());
        let untouched = rig.plan.is_pending();
        rig.plan.succeed();
        assert_eq!(done, untouched, "call {n}");
        if done {
            return n;
        }
    }
    0
}

#[test]
fn pin_and_unpin() {
    let (rig, account) = setup();
    let calls = each_call(&rig, |arm| {
        arm();
        let pinned = pin(&rig, &account);
        let done = pinned.is_ok_and(|umem| umem.unpin().is_ok());
        assert_idle(&rig, &account);
        done
    });
    // A charge, 25 batches, and at least one piece of storage.
    assert!(calls > 26, "{calls}");
}

#[test]
fn pin_in_parallel() {
    let (rig, account) = setup();
    rig.buffer(512, 1200, Vma::read_write());
    rig.process.set_pin_limit(100);
    let calls = each_call(&rig, |arm| {
        arm();
        let request = PinRequest::new(bytes(512 * P, 1200 * P), WRITE_LONG)
            .with_shared_progress(|_| ControlFlow::Continue(()));
        let threads = NonZeroUsize::new(3).unwrap();
        let done = Umem::pin_parallel(&*rig.process, &account, request, threads).is_ok();
        assert_idle(&rig, &account);
        done
    });
    assert_eq!(calls, 1 + 6 + 6 + 2);
}

#[test]
fn map_in_two_domains() {
    let (rig, account) = setup();
    let umem = pin(&rig, &account).unwrap();
    let iommus = [rig.iommu("4K|64K"), rig.iommu("1K|16K")];
    let calls = each_call(&rig, |arm| {
        arm();
        let first = Mapping::map(&umem, &*iommus[0], iova(AT), RW);
        let second = match first {
            Ok(_) => {
                Mapping::map_range(&umem, P..70 * P, &*iommus[1], iova(AT + 0x400), RO).is_ok()
            }
            Err(_) => false,
        };
        drop(first);
        assert_eq!(umem.attachments(), 0);
        assert!(iommus.iter().all(|iommu| iommu.mapped_bytes() == 0));
        rig.witness.assert_clean();
        second
    });
    assert!(calls > 100, "{calls}");
    drop(umem);
    assert_idle(&rig, &account);
}

#[test]
fn stream_through_two_slots() {
    let (rig, account) = setup();
    let iommu = rig.iommu("4K|16K|64K");
    let calls = each_call(&rig, |arm| {
        arm();
        let request = PinRequest::new(bytes(P, 78 * P), WRITE_LONG);
        let process = &*rig.process;
        let streamed =
            Stream::map(process, &account, &*iommu, [None; 2], request, iova(AT + P), RW);
        let done = streamed.is_ok_and(|streamed| streamed.unmap().is_ok());
        assert_eq!(iommu.mapped_bytes(), 0);
        assert_idle(&rig, &account);
        done
    });
    assert!(calls > 70, "{calls}");
}

/// All that can be seen of an address space and its domains.
#[derive(Debug, PartialEq)]
struct Seen {
    mappings: Vec<(IovaRange, u64)>,
    reserved: Vec<IovaRange>,
    entries: Vec<Vec<Mapped>>,
    domains: usize,
}

fn seen(space: &Space<'_>, iommus: &[&Iommu]) -> Seen {
    let all = IovaRange::ALL;
    Seen {
        mappings: space.mappings(all).map(|mapping| (mapping.range(), mapping.offset())).collect(),
        reserved: space.reserved().collect(),
        entries: iommus.iter().map(|iommu| iommu.mapped(all)).collect(),
        domains: space.domains().count(),
    }
}

/// Two domains, two mappings, and a reserved range; one call of `act` fails.
fn each_call_of<'a>(
    rig: &'a Rig,
    account: &'a Accounts,
    iommus: &'a [Iommu; 3],
    mut act: impl FnMut(&mut Space<'a>, &Shared<'a>) -> bool,
) -> u64 {
    let calls = each_call(rig, |arm| {
        let umem = Rc::new(pin(rig, account).unwrap());
        let mut space = space(rig);
        space.attach(&iommus[0]).unwrap();
        space.attach(&iommus[1]).unwrap();
        space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
        let second = Placement::At(iova(2 * AT));
        space.map_range(second, umem.clone(), P..9 * P, RO).unwrap();
        space.reserve(iovas(3 * AT, P)).unwrap();
        let all: Vec<&Iommu> = iommus.iter().collect();
        let (before, attached) = (seen(&space, &all), umem.attachments());
        arm();
        let done = act(&mut space, &umem);
        if !done {
            assert_eq!(seen(&space, &all), before);
            assert_eq!(umem.attachments(), attached);
        }
        drop(space);
        assert_eq!(umem.attachments(), 0);
        drop(umem);
        assert!(iommus.iter().all(|iommu| iommu.mapped_bytes() == 0));
        assert_idle(rig, account);
        done
    });
    assert!(calls > 0);
    calls
}

fn iommus(rig: &Rig) -> [Iommu; 3] {
    ["4K|64K", "2K|16K", "1K|4K"].map(|sizes| rig.config(sizes).build())
}

#[test]
fn map_in_an_address_space() {
    let (rig, account) = setup();
    let iommus = iommus(&rig);
    let calls = each_call_of(&rig, &account, &iommus, |space, umem| {
        space.map(Placement::At(iova(4 * AT)), umem.clone(), RW).is_ok()
    });
    assert!(calls > 90, "{calls}");
    each_call_of(&rig, &account, &iommus, |space, umem| {
        space.map_range(Placement::Anywhere, umem.clone(), 47 * P..66 * P, RO).is_ok()
    });
}

#[test]
fn attach_to_an_address_space() {
    let (rig, account) = setup();
    let iommus = iommus(&rig);
    let calls = each_call_of(&rig, &account, &iommus, |space, _| space.attach(&iommus[2]).is_ok());
    assert!(calls > 50, "{calls}");
}

#[test]
fn split_and_reserve() {
    let (rig, account) = setup();
    let iommus = iommus(&rig);
    let calls =
        each_call_of(&rig, &account, &iommus, |space, _| space.split(iova(AT + 5 * P)).is_ok());
    assert_eq!(calls, 1);
    // Before and behind what is reserved already.
    let calls = each_call_of(&rig, &account, &iommus, |space, _| {
        space.reserve(iovas(3 * AT - P, 3 * P)).is_ok()
    });
    assert_eq!(calls, 3, "two pieces, and what was reserved");
    // A part of it: what was one piece is two.
    let calls = each_call_of(&rig, &account, &iommus, |space, _| {
        space.reserve(iovas(3 * AT, 0x10)).is_ok()
    });
    assert_eq!(calls, 2);
}

/// Unmapping a part: what was mapped stays so, though it may have been cut.
#[test]
fn unmap_cutting() {
    let (rig, account) = setup();
    let iommus = iommus(&rig);
    let calls = each_call(&rig, |arm| {
        let umem = Rc::new(pin(&rig, &account).unwrap());
        let mut space = space(&rig);
        space.attach(&iommus[0]).unwrap();
        let mapping = space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
        let before = iommus[0].mapped(IovaRange::ALL);
        arm();
        let unmapped = space.unmap_cutting(iovas(AT + 3 * P, 4 * P));
        if unmapped.is_err() {
            assert_eq!(iommus[0].mapped(IovaRange::ALL), before);
            assert_eq!(umem.attachments(), space.len());
            let bytes = space.mappings(mapping).map(|part| part.range().len().unwrap());
            assert_eq!(bytes.sum::<u64>(), PAGES * P);
            let window = umem.whole().unwrap();
            for page in 0..PAGES {
                assert_eq!(space.translate(iova(AT + page * P)), window.phys(page * P));
            }
        }
        drop((space, umem));
        assert_idle(&rig, &account);
        unmapped.is_ok()
    });
    assert_eq!(calls, 1, "one mapping becomes two");
}

#[test]
fn copy_from_another_address_space() {
    let (rig, account) = setup();
    let (iommus, source_iommu) = (iommus(&rig), rig.config("4K").plan(&Plan::new()).build());
    let calls = each_call_of(&rig, &account, &iommus, |space, umem| {
        // The source is on the heap, and its domain has no plan: nothing of it fails.
        let mut source: HeapIoas<Shared<'_>, &Iommu> = HeapIoas::new();
        source.attach(&source_iommu).unwrap();
        for part in [0..6 * P, 6 * P..7 * P, 7 * P..20 * P] {
            let at = Placement::At(iova(AT + part.start));
            source.map_range(at, umem.clone(), part, RW).unwrap();
        }
        let range = iovas(AT + 2 * P, 16 * P);
        let copied = space.copy_from(&source, range, Placement::At(iova(5 * AT)), RW);
        if copied.is_ok() {
            assert_eq!(space.mappings(iovas(5 * AT, 16 * P)).count(), 3);
        }
        copied.is_ok()
    });
    assert!(calls > 40, "{calls}");
    assert!(source_iommu.mapped_pages() == 0 && source_iommu.witness().is_clean());
}

#[test]
fn dirty_tracking() {
    let (rig, account) = setup();
    let iommus = iommus(&rig);
    let calls = each_call_of(&rig, &account, &iommus, |space, _| {
        let set = space.set_dirty_tracking(true);
        let (mut words, range) = ([0; 2], iovas(AT, PAGES * P));
        let mut bitmap = DirtyBitmap::new(&mut words, range, PageSize::SIZE_4K).unwrap();
        let read = set.and_then(|()| space.read_dirty(&mut bitmap, true));
        read.is_ok()
    });
    assert_eq!(calls, 8, "each of two domains forgets two mappings, starts, and reports");
}
