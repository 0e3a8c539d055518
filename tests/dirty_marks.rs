// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are marked dirty when they are unpinned: those that a device could write, and no
//! others.

mod rig;

use pinned_sgl::iommu::{HeapIoas, MapError, Mapping, Placement, Prot};
use pinned_sgl::umem::Attachment;
use pinned_sgl::{Pfn, UserAddr};
use pinned_sgl_mock::{Call, Fragmentation, Iommu, Step, Violation, ViolationKind, Vma};
use rig::{bytes, iova, Pinned, Rig, BASE, P, RO, RW};
use std::sync::Arc;

const AT: u64 = 0x4000_0000;

fn setup() -> (Rig, Vec<Pfn>) {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 4, Vma::read_write());
    rig.fill(bytes(0, 4 * P), 1);
    let frame = |page: u64| rig.process.frame_at(UserAddr::new(BASE + page * P)).unwrap();
    let frames = (0..4).map(frame).collect();
    (rig, frames)
}

/// Unpins a region after `work`; returns whether its pages were marked dirty: all or none.
fn marked(work: impl FnOnce(&Rig, &Arc<Pinned>)) -> bool {
    let (rig, frames) = setup();
    let umem = rig.pin(bytes(0, 4 * P));
    work(&rig, &umem);
    let reported = umem.is_dirty();
    drop(umem);
    let dirty: Vec<bool> = frames.iter().map(|pfn| rig.memory.is_dirty(*pfn)).collect();
    assert_eq!(dirty, [reported; 4]);
    rig.assert_idle();
    reported
}

fn map(rig: &Rig, umem: &Arc<Pinned>, prot: Prot) -> Mapping<Arc<Pinned>, Arc<Iommu>> {
    Mapping::map(umem.clone(), rig.iommu("4K"), iova(AT), prot).unwrap()
}

#[test]
fn clean_unless_a_device_could_write() {
    assert!(!marked(|_, _| ()), "never mapped");
    assert!(!marked(|rig, umem| drop(map(rig, umem, RO))), "mapped to be read");
    assert!(marked(|rig, umem| drop(map(rig, umem, Prot::WRITE))));
    assert!(marked(|rig, umem| {
        let mapping = map(rig, umem, RW);
        rig.device(mapping.domain()).write(iova(AT + P), b"device").unwrap();
    }));
    assert!(marked(|_, umem| umem.mark_dirty()));
    // What the process writes by its own addresses is its own business.
    assert!(!marked(|rig, _| rig.process.write(UserAddr::new(BASE), b"cpu").unwrap()));
}

#[test]
fn attachments() {
    for writable in [false, true] {
        let dirty = marked(|_, umem| {
            let attachment = Attachment::new(umem.clone(), writable).unwrap();
            // SAFETY: there is no device.
            drop(unsafe { attachment.release() });
        });
        assert_eq!(dirty, writable);
    }
}

/// A writable map that fails: dirty if a device could write a single byte of it.
#[test]
fn failed_maps() {
    let fails = |n: u64, prot: Prot, sync: bool| {
        marked(|rig, umem| {
            let step = if sync { Step::SyncMap } else { Step::Map };
            rig.plan.fail_step_at(step, n, 0);
            let error = Mapping::map(umem.clone(), rig.iommu("4K"), iova(AT), prot).unwrap_err();
            let expected = if sync { 4 * P } else { n * P };
            assert!(
                matches!(error.error(), MapError::Domain { mapped, .. } if *mapped == expected)
            );
        })
    };
    assert!(!fails(0, RW, false), "nothing of it was mapped");
    assert!(fails(1, RW, false) && fails(3, RW, false) && fails(0, RW, true));
    assert!(!fails(3, RO, false) && !fails(0, RO, true));
    // Refused before the domain was asked.
    assert!(!marked(|rig, umem| {
        assert!(Mapping::map(&**umem, &*rig.iommu("4K"), iova(AT + 1), RW).is_err());
        assert!(Mapping::map(&**umem, &*rig.iommu("4K"), iova(AT), Prot::NOEXEC).is_err());
    }));
}

#[test]
fn address_spaces() {
    let space = |prot: Prot, attach_first: bool| {
        marked(|rig, umem| {
            let mut space: HeapIoas<Arc<Pinned>, Arc<Iommu>> = HeapIoas::new();
            if attach_first {
                space.attach(rig.iommu("4K")).unwrap();
            }
            space.map(Placement::At(iova(AT)), umem.clone(), prot).unwrap();
            assert_eq!(umem.is_dirty(), attach_first && prot.contains(Prot::WRITE));
            if !attach_first {
                space.attach(rig.iommu("4K")).unwrap();
            }
        })
    };
    assert!(space(RW, true) && space(RW, false));
    assert!(!space(RO, true) && !space(RO, false));
    // Without a domain only the CPU can write, by IOVA.
    let written = |write: bool| {
        marked(|_rig, umem| {
            let mut space: HeapIoas<Arc<Pinned>, Arc<Iommu>> = HeapIoas::new();
            space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
            if write {
                space.write(iova(AT + P), b"cpu").unwrap();
            } else {
                space.read(iova(AT + P), &mut [0; 8]).unwrap();
            }
        })
    };
    assert!(written(true) && !written(false));
}

/// The witness would know: a page that was written and is unpinned as clean is lost.
#[test]
fn what_is_lost_is_found_out() {
    let (rig, frames) = setup();
    let umem = rig.pin(bytes(0, 4 * P));
    let phys = umem.whole().unwrap().phys(0).unwrap();
    pinned_sgl_mock::Bus::write(&rig.memory, phys, b"behind its back").unwrap();
    drop(umem);
    let lost = Violation::new(ViolationKind::DirtyLost, Call::Unpin);
    assert_eq!(rig.witness.take(), [lost.page(frames[0]).user(bytes(0, P).start())]);
}
