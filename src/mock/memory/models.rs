// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of two threads that pin, move, share and unmap one page: run with
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib --features mock models`.

use super::frame::Frame;
use super::{Area, Memory, Process, Zone};
use crate::addr::UserAddr;
use crate::sgl::PageRun;
use crate::umem::{PinBatch, PinFlags, Pinner, UserRange};
use loom::{sync::Arc, thread};
use std::vec::Vec;

fn page() -> UserRange {
    UserRange::new(UserAddr::new(0x1000), 0x1000).unwrap()
}

const FRAMES: u64 = 2;

/// A process with one page that holds a 7.
fn process() -> Arc<Process> {
    let memory = Memory::builder().zone(Zone::Normal, 1..1 + FRAMES).build().unwrap();
    let process = Process::new(&memory);
    process.map(page(), Area::read_write()).unwrap();
    process.write(page().start(), &[7]).unwrap();
    Arc::new(process)
}

fn pin(process: &Process) -> Option<PageRun> {
    let mut slots = [None; 1];
    let mut batch = PinBatch::new(process, page(), PinFlags::WRITE, &mut slots);
    process.pin(&mut batch).ok()?;
    batch.accept(|batch| Ok::<_, ()>(batch.runs().collect::<Vec<_>>())).unwrap().pop()
}

/// What is pinned stays where it is and holds what belongs there, until it is unpinned.
fn pinned_page_is_whole(process: &Process) {
    let Some(run) = pin(process) else { return };
    let memory = process.memory();
    let mut byte = [0];
    super::Bus::read(memory, run.start().phys(memory.page_size()).unwrap(), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    assert!(process.frame_at(page().start()).is_none_or(|pfn| pfn == run.start()));
    // SAFETY: it was pinned here, and no device has seen it.
    unsafe { process.unpin(page().start(), run, false) };
}

fn check(act: fn(&Process), frames_in_use: u64) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let process = process();
        let pinner = thread::spawn({
            let process = process.clone();
            move || pinned_page_is_whole(&process)
        });
        act(&process);
        pinner.join().unwrap();
        let memory = process.memory();
        assert_eq!(memory.pinned_pages(), 0);
        assert!(memory.witness().is_clean());
        assert_eq!(memory.free_frames(Zone::Normal), FRAMES - frames_in_use);
    });
}

#[test]
fn a_folio_is_frozen_or_pinned() {
    loom::model(|| {
        let frame = Arc::new(Frame::default());
        frame.thaw();
        let freezer = thread::spawn({
            let frame = frame.clone();
            move || frame.freeze()
        });
        let pinned = frame.try_pin(1);
        let frozen = freezer.join().unwrap();
        assert_ne!(pinned, frozen);
    });
}

#[test]
fn exactly_one_frees_an_orphan() {
    loom::model(|| {
        let frame = Arc::new(Frame::default());
        frame.thaw();
        assert!(frame.try_pin(1));
        let unmapper = thread::spawn({
            let frame = frame.clone();
            move || frame.orphan()
        });
        let last = frame.unpin(1);
        assert_ne!(unmapper.join().unwrap(), last);
        assert!(!frame.try_pin(1));
    });
}

#[test]
fn pinning_and_moving() {
    check(|process| assert!(process.memory().compact() <= 1), 1);
}

#[test]
fn pinning_and_unmapping_while_frames_are_used_again() {
    check(
        |process| {
            process.unmap(page()).unwrap();
            let other = UserRange::new(UserAddr::new(0x10_0000), 0x2000).unwrap();
            process.map(other, Area::read_write()).unwrap();
            // The second page gets the frame, unless it is pinned still.
            let _ = process.write(UserAddr::new(0x10_0fff), &[8, 8]);
            process.unmap(other).unwrap();
        },
        0,
    );
}

#[test]
fn pinning_and_forking() {
    check(
        |process| {
            let Ok(child) = process.fork() else { return };
            // Copies the page, unless it is pinned and was copied for the child.
            process.write(page().start(), &[7]).unwrap();
            drop(child);
        },
        1,
    );
}
