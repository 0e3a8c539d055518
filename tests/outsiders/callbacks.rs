// SPDX-License-Identifier: MIT OR Apache-2.0
//! Code of others that runs in between.

use super::rig::{bytes, iova, P, RW, WRITE_LONG};
use super::{assert_held, scattered, Mapped, AT};
use pinned_sgl::iommu::{HeapIoas, IoasError, IovaRange, MapError, Mapping, Placement, Stream};
use pinned_sgl::umem::{Accountant, ChargeError, PinRequest, RunSlot, Umem};
use pinned_sgl::{PageRun, Pfn};
use pinned_sgl_mock::MapFault;
use std::mem;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

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
        refused.error(),
        IoasError::Map(MapError::Domain { error: MapFault::Exists { .. }, .. })
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
