// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads map and unmap at different addresses of one domain, while a device reads at both: it
//! sees what is mapped or nothing, never a page that was unpinned.

use crate::check;
use crate::frames::Frames;
use crate::hardware::{iova, Hardware, RW};
use crate::threads::sync::{Arc as Shared, Mutex};
use crate::threads::{thread, REPEATED};
use pinned_sgl::iommu::{HeapIoas, IovaRange, Mapping, Placement};

/// One thread maps and unmaps, another one unmaps.
#[test]
fn mappings_beside_each_other() {
    check(|| {
        let (frames, hardware) = (Frames::new(2), Hardware::new());
        let (first, second) = (frames.pin(0, 1), frames.pin(1, 1));
        let second = Mapping::map(second, hardware.clone(), iova(1), RW).unwrap();
        let mapper = thread::spawn({
            let hardware = hardware.clone();
            move || drop(Mapping::map(first, hardware, iova(0), RW).unwrap())
        });
        let unmapper = thread::spawn(move || drop(second));
        hardware.read(&frames, 0);
        hardware.read(&frames, 1);
        mapper.join().unwrap();
        unmapper.join().unwrap();
        assert_eq!([0, 1].map(|page| frames.unpinned(page)), [(1, true); 2]);
        hardware.assert_idle();
    });
}

/// The halves of one mapping, in two threads: the region goes with the last of them.
fn halves(hardware: fn() -> Shared<Hardware>) {
    check(move || {
        let (frames, hardware) = (Frames::new(2), hardware());
        let whole = Mapping::map(frames.pin(0, 2), hardware.clone(), iova(0), RW).unwrap();
        let (head, tail) = whole.split_at(4096).unwrap();
        let halves = [thread::spawn(move || drop(head)), thread::spawn(move || drop(tail))];
        for _ in 0..REPEATED {
            hardware.read(&frames, 0);
            hardware.read(&frames, 1);
            hardware.read(&frames, 0);
        }
        halves.into_iter().for_each(|half| half.join().unwrap());
        assert_eq!([0, 1].map(|page| frames.unpinned(page)), [(1, true); 2]);
        hardware.assert_idle();
    });
}

#[test]
fn halves_of_a_mapping() {
    halves(Hardware::new);
}

#[test]
#[cfg(any(loom, races))]
#[should_panic(expected = "Causality violation")]
fn halves_of_a_mapping_without_a_flush_are_found() {
    halves(Hardware::that_never_flushes);
}

/// An address space behind a lock: one thread unmaps, another one maps, and the pages that are let go
/// have no pin left.
#[test]
fn an_address_space_behind_a_lock() {
    check(|| {
        let (frames, hardware) = (Frames::new(2), Hardware::new());
        let (first, second) = (frames.pin(0, 1), frames.pin(1, 1));
        let mut ioas = HeapIoas::new();
        ioas.attach(hardware.clone()).unwrap();
        ioas.map(Placement::At(iova(0)), first, RW).unwrap();
        let ioas = Shared::new(Mutex::new(ioas));
        let unmapper = thread::spawn({
            let ioas = ioas.clone();
            move || {
                let range = IovaRange::new(iova(0), 4096).unwrap();
                assert_eq!(ioas.lock().unwrap().unmap(range), Ok(4096));
            }
        });
        let mapper = thread::spawn({
            let ioas = ioas.clone();
            move || {
                ioas.lock().unwrap().map(Placement::At(iova(1)), second, RW).unwrap();
            }
        });
        hardware.read(&frames, 0);
        hardware.read(&frames, 1);
        unmapper.join().unwrap();
        mapper.join().unwrap();
        assert!(!hardware.read(&frames, 0) && hardware.read(&frames, 1));
        assert_eq!(frames.unpinned(0), (1, true));
        drop(ioas);
        assert_eq!(frames.unpinned(1), (1, true));
        hardware.assert_idle();
    });
}
