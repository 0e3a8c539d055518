// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads let go of a region, one of them with a mapping, while a device reads: the last of them
//! unpins it, once, and the device never sees a page that was unpinned.

use crate::check;
use crate::frames::Frames;
use crate::hardware::{iova, Hardware, RW};
use crate::threads::{sync::Arc as Shared, thread, REPEATED};
use pinned_sgl::iommu::Mapping;

fn the_last_holder_unpins(hardware: fn() -> Shared<Hardware>) {
    check(move || {
        let (frames, hardware) = (Frames::new(1), hardware());
        let umem = frames.pin(0, 1);
        let mapping = Mapping::map(umem.clone(), hardware.clone(), iova(0), RW).unwrap();
        let unmapper = thread::spawn(move || drop(mapping));
        let holder = thread::spawn(move || drop(umem));
        for _ in 0..REPEATED {
            hardware.read(&frames, 0);
            hardware.read(&frames, 0);
        }
        unmapper.join().unwrap();
        holder.join().unwrap();
        assert_eq!(frames.unpinned(0), (1, true));
        hardware.assert_idle();
    });
}

#[test]
fn the_last_holder_unpins_once() {
    the_last_holder_unpins(Hardware::new);
}

/// The region that a mapping gives back may be the last holder, too.
#[test]
fn an_unmapped_region_is_unpinned_by_the_last_owner() {
    check(|| {
        let (frames, hardware) = (Frames::new(1), Hardware::new());
        let umem = frames.pin(0, 1);
        let first = Mapping::map(umem.clone(), hardware.clone(), iova(0), RW).unwrap();
        let second = Mapping::map(umem, hardware.clone(), iova(1), RW).unwrap();
        let unmapper = thread::spawn(move || {
            let (umem, _) = first.unmap().unwrap();
            assert!(umem.attachments() <= 1);
        });
        drop(second);
        unmapper.join().unwrap();
        assert_eq!(frames.unpinned(0), (1, true));
        hardware.assert_idle();
    });
}

/// A missing flush is found.
#[test]
#[cfg(any(loom, races))]
#[should_panic(expected = "Causality violation")]
fn a_device_that_sees_an_unpinned_page_is_found() {
    the_last_holder_unpins(Hardware::that_never_flushes);
}
