// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning a region: whole or not at all, charged before and given back after, batch by batch or by
//! many threads.

mod rig;

use pinned_sgl::umem::{
    Account, Accountant, AccountingMode, Accounts, AttachError, Attachment, ChargeError, PinError,
    PinErrorKind, PinFlags, PinRequest, Region, RunSlot, Umem, Unaccounted,
};
use pinned_sgl::{Failed, Heap, PageRun, PageSize, UserAddr};
use pinned_sgl_mock::{
    Bus, FailingAccountant, Fragmentation, Memory, PinFault, Process, Vma, Zone,
};
use rig::{bytes, pattern, Call, Rig, Watched, BASE, ORDERS, P, WRITE_LONG};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

fn pin_with<'a>(
    rig: &'a Rig,
    slots: &mut [RunSlot],
    pages: u64,
) -> Result<Borrowed<'a>, (PinErrorKind<PinFault>, UserAddr, u64)> {
    let request = PinRequest::new(bytes(0, pages * P), WRITE_LONG);
    let pinned = Umem::pin_in(&*rig.process, &*rig.account, Heap::new(), slots, request);
    pinned.map_err(|error| {
        let PinError { kind, at, pinned, .. } = error.into_error();
        (kind, at, pinned)
    })
}

fn runs<U: Region>(umem: &U) -> Vec<PageRun> {
    umem.sgl().runs().collect()
}

/// A page that is missing anywhere: nothing stays pinned, and the error says how far it got.
#[test]
fn whole_or_not_at_all() {
    for fragmentation in ORDERS {
        for hole in (0..8).step_by(if cfg!(miri) { 3 } else { 1 }) {
            let rig = Rig::new(fragmentation);
            rig.buffer(0, hole.max(1), Vma::read_write());
            rig.buffer(hole + 1, 8, Vma::read_write());
            if hole == 0 {
                rig.process.unmap(bytes(0, P)).unwrap();
            }
            for slots in [1, 2, 3, 128] {
                for limit in [1, 2, u64::MAX] {
                    rig.process.set_pin_limit(limit);
                    let mut slots = vec![None; slots];
                    let (kind, at, pinned) = pin_with(&rig, &mut slots, 8).unwrap_err();
                    let missing = UserAddr::new(BASE + hole * P);
                    assert!(
                        matches!(kind, PinErrorKind::Pinner(PinFault::NotMapped(at)) if at == missing)
                    );
                    assert_eq!((at, pinned), (missing, hole * P));
                    rig.assert_idle();
                }
            }
        }
    }
}

/// The list does not depend on the size of the batches.
#[test]
fn batches_of_any_size_give_one_list() {
    for fragmentation in ORDERS {
        let rig = Rig::new(fragmentation);
        rig.buffer(0, 300, Vma::read_write());
        rig.buffer(300, 1200, Vma::read_write().huge(9));
        let all = runs(&pin_with(&rig, &mut [None; 128], 1500).unwrap());
        assert_eq!(all.iter().map(PageRun::count).sum::<u64>(), 1500);
        for slots in [1, 2, 3, 7] {
            for limit in [1, 5, u64::MAX] {
                rig.process.set_pin_limit(limit);
                let umem = pin_with(&rig, &mut vec![None; slots], 1500).unwrap();
                assert_eq!(runs(&umem), all);
                assert_eq!((umem.charge().pages(), rig.account.charged()), (1500, 1500));
                assert_eq!(rig.memory.pinned_pages(), 1500);
            }
        }
        rig.assert_idle();
    }
}

/// Charged when the first page is pinned, and until the last one is unpinned.
#[test]
fn charged_before_pinned_and_until_unpinned() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 9, Vma::read_write());
    rig.process.set_pin_limit(3);
    let watched = Watched::new(&rig);
    let request = PinRequest::new(bytes(0, 9 * P), WRITE_LONG);
    let umem = Umem::pin(&watched, &*rig.account, request).unwrap();
    assert_eq!(watched.calls(), [(Call::Pin, 9); 3]);
    drop(umem);
    assert_eq!(watched.calls(), [(Call::Unpin, 9); 9]);
    rig.assert_idle();

    // One page more than the limit: nothing is pinned, not even for a moment.
    rig.account.set_limit(8);
    let error = Umem::pin(&watched, &*rig.account, request).unwrap_err();
    let limit = ChargeError::Limit { pages: 9, charged: 0, limit: 8 };
    assert!(matches!(&error.error().kind, PinErrorKind::Charge(why) if *why == limit));
    assert_eq!((error.error().at, error.error().pinned), (UserAddr::new(BASE), 0));
    assert_eq!(watched.calls(), []);
    // What fails half way was charged all the time, and is not any more.
    rig.account.set_limit(9);
    rig.process.unmap(bytes(7 * P, P)).unwrap();
    Umem::pin(&watched, &*rig.account, request).unwrap_err();
    let calls = watched.calls();
    assert_eq!(calls.iter().filter(|call| **call == (Call::Unpin, 9)).count(), 7);
    assert!(calls.iter().all(|(_, charged)| *charged == 9));
    rig.assert_idle();
}

/// Counts how often pages were given back.
struct Receipts(AtomicU64, AtomicU64);

impl Accountant for Receipts {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        self.0.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    fn uncharge(&self, pages: u64) {
        assert_eq!(pages, self.0.load(Ordering::Relaxed), "a charge is given back as it was made");
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_charge_is_given_back_once() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 4, Vma::read_write());
    let request = PinRequest::new(bytes(0x800, 3 * P), WRITE_LONG);
    for fails in [false, true] {
        let receipts = Receipts(AtomicU64::new(0), AtomicU64::new(0));
        rig.plan.succeed();
        if fails {
            rig.plan.fail_at(0);
        }
        let pinned = Umem::pin(&*rig.process, &receipts, request);
        assert_eq!(pinned.is_err(), fails);
        if let Ok(umem) = pinned {
            assert_eq!(receipts.1.load(Ordering::Relaxed), 0);
            assert!(umem.unpin().is_ok());
        }
        assert_eq!(
            (receipts.0.load(Ordering::Relaxed), receipts.1.load(Ordering::Relaxed)),
            (4, 1)
        );
    }
    // A charge that fails is not given back.
    rig.plan.fail_at(0);
    let accountant = FailingAccountant::new(Account::new(0), rig.plan.clone());
    let error = Umem::pin(&*rig.process, &accountant, request).unwrap_err();
    assert!(matches!(&error.error().kind, PinErrorKind::Charge(_)));
    assert_eq!(accountant.inner().charged(), 0);
    rig.assert_idle();
}

/// D12: pages are counted where the mode says, and only there.
#[test]
fn accounts_by_mode() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 8, Vma::read_write());
    let (process, user) = (Account::unlimited(), Account::unlimited());
    let modes = [
        (AccountingMode::None, (0, 0)),
        (AccountingMode::PerProcess, (8, 0)),
        (AccountingMode::PerUser, (0, 8)),
    ];
    for (mode, charged) in modes {
        let accounts = Accounts::new(&process, &user, mode);
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let umem = Umem::pin(&*rig.process, &accounts, request).unwrap();
        assert_eq!((process.charged(), user.charged()), charged, "{mode:?}");
        drop(umem);
        assert_eq!((process.charged(), user.charged()), (0, 0), "{mode:?}");
    }
    rig.assert_idle();
}

/// A page counts whole, however little of it belongs to the range.
#[test]
fn partial_pages_are_pinned_whole() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 4, Vma::read_write());
    for (start, len, pins) in [
        (0, 1, [1, 0, 0, 0]),
        (P - 1, 2, [1, 1, 0, 0]),
        (P, P, [0, 1, 0, 0]),
        (P / 2, 2 * P, [1, 1, 1, 0]),
        (2 * P + 1, 2 * P - 1, [0, 0, 1, 1]),
    ] {
        let umem = rig.pin(bytes(start, len));
        let pages: u64 = pins.iter().sum();
        assert_eq!(rig.pins(4), pins);
        assert_eq!((umem.charge().pages(), umem.sgl().page_count()), (pages, pages));
        assert_eq!((umem.page_offset(), umem.len()), (start % P, len));
        assert_eq!(umem.user_addr(), Some(UserAddr::new(BASE + start)));
        let first = rig.process.frame_at(UserAddr::new(BASE + start)).unwrap();
        let phys = umem.whole().unwrap().phys(0).unwrap().get();
        assert_eq!(phys, first.get() * P + start % P);
        drop(umem);
        rig.assert_idle();
    }
}

/// `progress` is called for every batch, and can stop it after each.
#[test]
fn progress_and_cancel() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 10, Vma::read_write());
    let pin = |stop_at: u64, reported: &mut Vec<u64>| {
        let request = PinRequest::new(bytes(1, 10 * P - 1), WRITE_LONG);
        let request = request.with_progress(|pinned| {
            reported.push(pinned);
            if pinned >= stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let slots = &mut [None; 3];
        Umem::pin_in(&*rig.process, &*rig.account, Heap::new(), slots, request)
    };
    let mut reported = vec![];
    assert!(pin(u64::MAX, &mut reported).is_ok());
    assert_eq!(reported, [3 * P, 6 * P, 9 * P, 10 * P]);
    for stop_at in reported {
        let mut reported = vec![];
        let error = pin(stop_at, &mut reported).unwrap_err();
        assert!(matches!(&error.error().kind, PinErrorKind::Cancelled));
        assert_eq!((error.error().pinned, reported.last()), (stop_at, Some(&stop_at)));
        assert_eq!(error.error().at, UserAddr::new(BASE + stop_at));
        rig.assert_idle();
    }
    // A signal, after any number of pages.
    for pages in 0..10 {
        rig.process.interrupt_after(pages);
        let error = pin(u64::MAX, &mut vec![]).unwrap_err();
        let pages = pages.min(3) * P;
        let at = UserAddr::new(BASE + pages);
        assert!(
            matches!(&error.error().kind, PinErrorKind::Pinner(PinFault::Interrupted(why)) if *why == at)
        );
        assert_eq!((error.error().at, error.error().pinned), (at, pages));
        rig.assert_idle();
    }
}

#[test]
fn a_batch_without_slots_makes_no_progress() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 2, Vma::read_write());
    let (kind, at, pinned) = pin_with(&rig, &mut [], 2).unwrap_err();
    assert!(matches!(kind, PinErrorKind::NoProgress));
    assert_eq!((at, pinned), (UserAddr::new(BASE), 0));
    rig.assert_idle();
}

/// `unpin` gives the pinner back, unless a device is attached.
#[test]
fn unpin_waits_for_attachments() {
    let rig = Rig::new(Fragmentation::None);
    let range = rig.buffer(0, 3, Vma::read_write());
    let umem = Umem::pin(&*rig.process, &*rig.account, PinRequest::new(range, PinFlags::LONGTERM));
    let umem = Arc::new(umem.unwrap());
    let refused = Attachment::new(umem.clone(), true);
    assert!(matches!(refused, Err(ref refused) if *refused.error() == AttachError::ReadOnly));
    let attachment = Attachment::new(umem.clone(), false).unwrap();
    assert!(!umem.is_dirty());
    drop(refused);
    // SAFETY: there is no device at all.
    drop(unsafe { attachment.release() });
    let umem = Arc::into_inner(umem).unwrap();
    let leaked = Attachment::new(&umem, false).unwrap();
    assert_eq!(umem.attachments(), 1);
    leaked.leak();
    let umem = umem.unpin().unwrap_err();
    assert_eq!((rig.pins(3), rig.account.charged()), (vec![1; 3], 3));
    // SAFETY: there is no device at all, and the attachment was given up without a release.
    unsafe { umem.detach() };
    assert!(umem.unpin().is_ok());
    rig.assert_idle();
}

/// What a leaked attachment holds stays for ever, and the pinner is called with the pages.
#[test]
fn a_leaked_attachment_leaks_pins_and_charge() {
    let rig = Rig::new(Fragmentation::Alternate);
    let range = rig.buffer(0, 5, Vma::read_write());
    let watched = Watched::new(&rig);
    let umem = Umem::pin(&watched, &*rig.account, PinRequest::new(range, WRITE_LONG)).unwrap();
    drop(Attachment::new(&umem, true).unwrap());
    drop(umem);
    assert_eq!(watched.leaked_pages(), 5);
    assert!(!watched.calls().iter().any(|(call, _)| *call == Call::Unpin));
    assert_eq!((rig.memory.leaked_pages(), rig.memory.pinned_pages()), (5, 5));
    assert_eq!(rig.account.charged(), 5);
    rig.witness.assert_clean();
}

type Borrowed<'a> = Umem<&'a Process, &'a Account, Heap>;

fn pin_by_four<F>(
    rig: &Rig,
    request: PinRequest<F>,
) -> Result<Borrowed<'_>, Failed<PinError<PinFault>, &Process>>
where
    F: Fn(u64) -> ControlFlow<()> + Sync,
{
    Umem::pin_parallel(&*rig.process, &*rig.account, request, threads(4))
}

fn threads(threads: usize) -> NonZeroUsize {
    NonZeroUsize::new(threads).unwrap()
}

/// Threads give the very list that one gives, and what they pin is what they are charged for.
#[test]
fn parallel_is_serial() {
    for (fragmentation, order) in [
        (Fragmentation::None, 0),
        (Fragmentation::None, 9),
        (Fragmentation::Seeded { seed: 9, run_order: 3 }, 0),
        (Fragmentation::Reverse, 9),
        (Fragmentation::Reverse, 10),
    ] {
        let rig = Rig::new(fragmentation);
        let pages = 9 << 8;
        rig.buffer(0, pages, Vma::read_write().huge(order));
        for (start, len) in [(0, pages * P), (0x800, (3 << 20) + 1), ((2 << 20) - 1, 2)] {
            let request = PinRequest::new(bytes(start, len), WRITE_LONG);
            let serial = {
                let umem = Umem::pin(&*rig.process, &*rig.account, request).unwrap();
                (runs(&umem), umem.charge().pages(), umem.page_offset())
            };
            for count in [1, 2, 3, 7, 64] {
                let reported = AtomicU64::new(0);
                let request = request.with_shared_progress(|pinned| {
                    reported.fetch_max(pinned, Ordering::Relaxed);
                    ControlFlow::Continue(())
                });
                let (process, account) = (rig.process.clone(), rig.account.clone());
                let umem = Umem::pin_parallel(process, account, request, threads(count)).unwrap();
                assert_eq!((runs(&umem), umem.charge().pages(), umem.page_offset()), serial);
                assert_eq!(reported.into_inner(), serial.1 * P);
                assert_eq!(rig.memory.pinned_pages(), serial.1);
                assert_eq!(rig.account.charged(), serial.1);
            }
            rig.assert_idle();
        }
    }
}

/// Where one thread fails, by a hole, by plan, by progress or by a panic, nothing is left.
#[test]
fn parallel_is_all_or_nothing() {
    let rig = Rig::new(Fragmentation::Alternate);
    let pages = 4 << 9;
    rig.buffer(0, pages, Vma::read_write());
    let request = PinRequest::new(bytes(0, pages * P), WRITE_LONG);
    let go_on: fn(u64) -> ControlFlow<()> = |_| ControlFlow::Continue(());
    // Four threads, each with four batches of 128 runs.
    for n in 0..16 {
        rig.plan.fail_at(n);
        let error = pin_by_four(&rig, request.with_shared_progress(go_on)).unwrap_err();
        assert!(matches!(&error.error().kind, PinErrorKind::Pinner(PinFault::Injected(_))));
        assert!(error.error().pinned < pages * P);
        rig.assert_idle();
    }
    rig.plan.succeed();
    rig.account.set_limit(pages - 1);
    let error =
        pin_by_four(&rig, request.with_shared_progress(|_| panic!("nothing is to be pinned")));
    assert!(matches!(&error.unwrap_err().error().kind, PinErrorKind::Charge(_)));
    rig.account.set_limit(u64::MAX);
    for stop_at in [1, 3 * P, 400 * P] {
        let stop = move |pinned| match pinned >= stop_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let error = pin_by_four(&rig, request.with_shared_progress(stop)).unwrap_err();
        assert!(matches!(&error.error().kind, PinErrorKind::Cancelled));
        assert!(error.error().pinned >= stop_at);
        rig.assert_idle();
    }
    for at in [1, 3 * P, 400 * P] {
        let progress = |pinned| {
            assert!(pinned < at, "as planned");
            ControlFlow::Continue(())
        };
        let shared = request.with_shared_progress(progress);
        let work = || pin_by_four(&rig, shared).is_ok();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        assert!(outcome.is_err());
        rig.assert_idle();
    }
    // Two holes: the error is about one of them.
    let holes = [700, 1800].map(|page| UserAddr::new(BASE + page * P));
    for hole in holes {
        rig.process.unmap(pinned_sgl::umem::UserRange::new(hole, P).unwrap()).unwrap();
    }
    let error = pin_by_four(&rig, request.with_shared_progress(go_on)).unwrap_err();
    let PinErrorKind::Pinner(PinFault::NotMapped(at)) = &error.error().kind else {
        panic!("{error:?}");
    };
    assert!(holes.contains(at) && error.error().at == *at);
    rig.assert_idle();
}

/// A panic in the progress of a serial pin leaks nothing, either.
#[test]
fn a_panic_leaks_nothing() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 300, Vma::read_write());
    let request = PinRequest::new(bytes(0, 300 * P), WRITE_LONG);
    let request = request.with_progress(|pinned| {
        assert!(pinned < 200 * P, "as planned");
        ControlFlow::Continue(())
    });
    let work = || Umem::pin(&*rig.process, &*rig.account, request).is_ok();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    rig.assert_idle();
}

/// The process and a device see the same memory, whatever happens around the pinned pages.
#[test]
fn pinned_pages_stay_what_they_are() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x1000..0x1800)
        .zone(Zone::Movable, 0x8000..0x8800)
        .build()
        .unwrap();
    let rig = Rig::on(memory);
    let movable = rig.buffer(0, 4, Vma::read_write().zone(Zone::Movable));
    let zeros = rig.buffer(4, 4, Vma::copy_on_write());
    let before = rig.fill(movable, 1);
    assert_eq!(rig.read(zeros), [0; 4 * P as usize]);
    let frame = |page: u64| rig.process.frame_at(UserAddr::new(BASE + page * P)).unwrap();
    assert_eq!(rig.memory.zone(frame(0)), Some(Zone::Movable));
    assert_eq!(frame(4), frame(5), "pages that were never written are one frame of zeros");

    let umem = rig.pin(bytes(0, 8 * P));
    assert!((0..8).all(|page| rig.memory.zone(frame(page)) == Some(Zone::Normal)));
    assert_eq!(rig.read(movable), before, "a page that moves keeps its contents");
    assert_ne!(frame(4), frame(5), "each page has a frame of its own now");
    let frames: Vec<_> = (0..8).map(frame).collect();
    let listed: Vec<_> = umem.whole().unwrap().pages().collect();
    assert_eq!(listed, frames);

    // Fork, compaction and swap leave the frames alone.
    let child = rig.process.fork().unwrap();
    rig.memory.compact();
    assert!(matches!(rig.process.swap_out(bytes(0, P)), Err(PinFault::Busy(_))));
    let written = pattern(8 * P, 2);
    rig.process.write(UserAddr::new(BASE), &written).unwrap();
    assert_eq!((0..8).map(frame).collect::<Vec<_>>(), frames);
    let device_sees = |offset: u64, len: usize| {
        let mut seen = vec![0; len];
        let phys = umem.whole().unwrap().phys(offset).unwrap();
        Bus::read(&rig.memory, phys, &mut seen).unwrap();
        seen
    };
    for page in 0..8 {
        let expected = &written[(page * P) as usize..][..P as usize];
        assert_eq!(device_sees(page * P, P as usize), expected);
    }
    let mut seen = vec![0; before.len()];
    child.read(UserAddr::new(BASE), &mut seen).unwrap();
    assert_eq!(seen, before, "the child has what there was when it was made");
    // What the device writes, only the process reads.
    umem.mark_dirty();
    Bus::write(&rig.memory, umem.whole().unwrap().phys(0).unwrap(), b"device").unwrap();
    assert_eq!(&rig.read(bytes(0, 6)), b"device");
    child.read(UserAddr::new(BASE), &mut seen).unwrap();
    assert_eq!(seen, before);
    // The process ends; the device goes on.
    rig.process.exit();
    assert_eq!(device_sees(0, 6), b"device");
    drop((umem, child));
    rig.assert_idle();
    assert_eq!(rig.memory.free_frames(Zone::Movable), 0x800);
}

#[test]
fn read_and_write_through_the_region() {
    for fragmentation in ORDERS {
        let rig = Rig::new(fragmentation);
        rig.buffer(0, 6, Vma::read_write());
        let before = rig.fill(bytes(0, 6 * P), 3);
        let watched = Watched::new(&rig);
        let pin = |flags| {
            let request = PinRequest::new(bytes(0x700, 4 * P), flags);
            Umem::pin(&watched, &Unaccounted, request).unwrap()
        };
        let umem = pin(WRITE_LONG);
        let mut read = vec![0; 2 * P as usize];
        for offset in [0, 1, 0x900, P, 2 * P] {
            umem.read(offset, &mut read).unwrap();
            let from = 0x700 + offset as usize;
            assert_eq!(read, before[from..from + read.len()]);
        }
        assert!(!umem.is_dirty());
        // Beyond the end: nothing at all.
        assert_eq!(umem.read(2 * P + 1, &mut read).unwrap_err().at(), 2 * P + 1);
        assert!(umem.write(4 * P, b"x").is_err() && umem.write(4 * P, b"").is_ok());
        let written = pattern(2 * P, 4);
        umem.write(0x901, &written).unwrap();
        assert!(umem.is_dirty());
        let mut expected = before.clone();
        expected[0x700 + 0x901..][..written.len()].copy_from_slice(&written);
        assert_eq!(rig.read(bytes(0, 6 * P)), expected);
        drop(umem);
        let umem = pin(PinFlags::LONGTERM);
        assert!(umem.write(0, b"x").is_err() && umem.read(0, &mut read).is_ok());
        assert!(!umem.is_dirty());
        drop(umem);
        rig.assert_idle();
    }
}

/// Other page sizes of the machine.
#[test]
fn pages_of_16_and_64_kib() {
    for page in [PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let rig = Rig::of(page, Fragmentation::Alternate, 0x100..0x140);
        rig.buffer(0, 4, Vma::read_write());
        let umem = rig.pin(bytes(page.bytes() - 1, 2 * page.bytes()));
        assert_eq!((umem.charge().pages(), rig.pins(4)), (3, vec![1, 1, 1, 0]));
        assert_eq!(umem.sgl().run_count(), 3);
        drop(umem);
        rig.assert_idle();
    }
}
