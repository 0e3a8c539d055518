// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real threads on one machine: they pin, map, unmap and let go beside each other, while devices read
//! and write. `tests/loom/` has the same in small, in every order; here is what a model checker has no
//! time for.

mod rig;

use pinned_sgl::iommu::{MapError, Mapping};
use pinned_sgl::rdma::{Access, MemoryRegion};
use pinned_sgl::umem::{PinErrorKind, PinRequest, Umem};
use pinned_sgl::{Iova, PageSize};
use pinned_sgl_mock::{DmaFault, Fragmentation, MapFault, PinFault, Vma};
use rig::{bytes, iova, Rig, P, RW, WRITE_LONG};
use std::num::NonZeroUsize;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;

/// How often each thread does what it does.
const ROUNDS: u64 = if cfg!(miri) { 1 } else { 200 };

const AT: u64 = 0x10_0000;

/// Lets the others stop, also where it panics: they do not wait for it then.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Regions that overlap, each pinned by several threads at a time: one that is fine, one with a hole,
/// one that is cancelled; the account has not enough for all.
#[test]
fn pins_that_fail_beside_one_that_does_not() {
    // Pages so large that each can be a part of its own.
    let page = PageSize::SIZE_2M.bytes();
    let rig = Rig::of(PageSize::SIZE_2M, Fragmentation::Alternate, 0x10..0x40);
    rig.buffer(0, 9, Vma::read_write());
    rig.buffer(10, 2, Vma::read_write());
    rig.account.set_limit(20);
    let pin = |first: u64, pages: u64, progress: fn(u64) -> ControlFlow<()>| {
        let request = PinRequest::new(bytes(first * page, pages * page), WRITE_LONG);
        let request = request.with_shared_progress(progress);
        let (process, account) = (rig.process.clone(), rig.account.clone());
        Umem::pin_parallel(process, account, request, NonZeroUsize::new(4).unwrap())
    };
    let refused = |kind: &PinErrorKind<PinFault>| matches!(kind, PinErrorKind::Charge(_));
    let rounds = |round: &(dyn Fn() + Sync)| (0..ROUNDS).for_each(|_| round());
    thread::scope(|scope| {
        scope.spawn(|| {
            rounds(&|| match pin(0, 8, |_| Continue(())) {
                Ok(umem) => assert_eq!(umem.charge().pages(), 8),
                Err(error) => assert!(refused(&error.error().kind), "{error:?}"),
            });
        });
        scope.spawn(|| {
            rounds(&|| {
                let error = pin(4, 8, |_| Continue(())).unwrap_err();
                let hole = bytes(9 * page, 1).start();
                match &error.error().kind {
                    PinErrorKind::Pinner(PinFault::NotMapped(at)) => assert_eq!(*at, hole),
                    kind => assert!(refused(kind), "{error:?}"),
                }
            });
        });
        scope.spawn(|| {
            rounds(&|| {
                let stop = |pinned| if pinned < 3 << 21 { Continue(()) } else { Break(()) };
                let error = pin(1, 8, stop).unwrap_err();
                let kind = &error.error().kind;
                assert!(matches!(kind, PinErrorKind::Cancelled) || refused(kind), "{error:?}");
            });
        });
    });
    rig.assert_idle();
}

/// Two threads map, each its own region, at addresses of one domain; devices read and write all the
/// time, and pages that are not pinned are moved. `place` says where each maps.
fn map_beside_each_other(place: fn(usize) -> Iova) {
    let shared = place(0) == place(1);
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 4, Vma::read_write());
    let iommu = rig.iommu("4K");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mappers = [0, 1].map(|mapper| {
            let (rig, iommu) = (&rig, &iommu);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let range = bytes(mapper as u64 * 2 * P, 2 * P);
                    rig.process.write(range.start(), &[mapper as u8 + 1]).unwrap();
                    let region = rig.pin(range);
                    match Mapping::map(region.clone(), iommu.clone(), place(mapper), RW) {
                        Ok(mapping) => {
                            let mut byte = [0];
                            rig.device(iommu).read(place(mapper), &mut byte).unwrap();
                            // Until the other one has flushed, its pages, still pinned, are seen.
                            let other = shared && byte == [2 - mapper as u8];
                            assert!(other || byte == [mapper as u8 + 1], "{byte:?}");
                            mapping.unmap().unwrap();
                        }
                        Err(error) => {
                            let taken = MapFault::Exists { iova: place(mapper) };
                            let expected = MapError::Domain { error: taken, mapped: 0 };
                            assert_eq!(*error.error(), expected);
                        }
                    }
                    assert_eq!(region.attachments(), 0);
                }
            })
        });
        for mapper in [0, 1] {
            let (rig, iommu, done) = (&rig, &iommu, &done);
            scope.spawn(move || {
                let device = rig.device(iommu);
                while !done.load(Relaxed) {
                    let mut byte = [0];
                    let second = place(mapper).checked_add(P).unwrap();
                    for at in [place(mapper), second] {
                        let results = [device.read(at, &mut byte), device.write(second, b"x")];
                        for fault in results.into_iter().filter_map(Result::err) {
                            assert!(matches!(fault, DmaFault::NotMapped { .. }), "{fault}");
                        }
                    }
                    rig.memory.compact();
                    thread::yield_now();
                }
            });
        }
        let _stop = StopAtEnd(&done);
        mappers.into_iter().for_each(|mapper| mapper.join().unwrap());
    });
    assert_eq!(iommu.mapped_bytes(), 0);
    rig.assert_idle();
}

#[test]
fn disjoint_addresses_of_one_domain() {
    map_beside_each_other(|mapper| iova(AT + mapper as u64 * 2 * P));
}

/// One of the two gets the addresses; the other one is refused, and undoes nothing of the first.
#[test]
fn identical_addresses_of_one_domain() {
    map_beside_each_other(|_| iova(AT));
}

/// The halves of a mapping, a memory region, the region itself and its process, each let go by another
/// thread: the pages go with the last of them.
#[test]
fn the_last_holder_unpins() {
    let rig = Rig::new(Fragmentation::Reverse);
    let iommu = rig.iommu("4K");
    let nic = Arc::new(rig.memory.nic());
    for _ in 0..ROUNDS {
        let range = rig.buffer(0, 4, Vma::read_write());
        let umem = rig.pin(range);
        let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
        let (head, tail) = mapping.split_at(P).unwrap();
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
        let region = MemoryRegion::register(umem.clone(), nic.clone(), iova(0), access).unwrap();
        let key = region.key();
        thread::scope(|scope| {
            scope.spawn(|| drop(head));
            scope.spawn(|| drop(tail));
            scope.spawn(|| drop(region));
            scope.spawn(|| {
                rig.process.unmap(range).unwrap();
                drop(umem);
            });
            // What is gone is gone; what is there is pinned: the witness sees to that.
            let device = rig.device(&iommu);
            let _ = (device.write(iova(AT), b"a"), device.write(iova(AT + P), b"b"));
            let _ = nic.write(key, iova(2 * P), b"c");
        });
        assert_eq!((rig.memory.pinned_pages(), iommu.mapped_bytes(), nic.regions()), (0, 0, 0));
        rig.assert_idle();
    }
}
