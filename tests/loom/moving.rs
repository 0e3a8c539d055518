// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread pins a page of a process while another one moves it, unmaps it, or shares it with a
//! child: what is pinned stays where it is and holds what belongs there.

use crate::check;
use crate::threads::{sync::Arc as Shared, thread};
use pinned_sgl::umem::{PinFlags, PinnedBatch, Pinner, UserRange};
use pinned_sgl::{PageRun, UserAddr};
use pinned_sgl_mock::{Bus, Memory, Process, Vma, Zone};

const FRAMES: u64 = 2;

fn page() -> UserRange {
    UserRange::new(UserAddr::new(0x1000), 0x1000).unwrap()
}

/// A process with one page that holds a 7.
fn process() -> Shared<Process> {
    let memory = Memory::builder().zone(Zone::Normal, 1..1 + FRAMES).build().unwrap();
    let process = Process::new(&memory);
    process.map(page(), Vma::read_write()).unwrap();
    process.write(page().start(), &[7]).unwrap();
    Shared::new(process)
}

fn pin(process: &Process) -> Option<PageRun> {
    let mut slots = [None; 1];
    let mut batch = PinnedBatch::new(process, page(), PinFlags::WRITE, &mut slots);
    batch.fill().ok()?;
    batch.accept(|batch| Ok::<_, ()>(batch.runs().collect::<Vec<_>>())).unwrap().pop()
}

/// What is pinned stays where it is and holds what belongs there, until it is unpinned.
fn pinned_page_is_whole(process: &Process) {
    let Some(run) = pin(process) else { return };
    let memory = process.memory();
    let mut byte = [0];
    Bus::read(memory, run.start().phys(memory.page_size()).unwrap(), &mut byte).unwrap();
    assert_eq!(byte, [7]);
    assert!(process.frame_at(page().start()).is_none_or(|pfn| pfn == run.start()));
    // SAFETY: it was pinned here, and no device has seen it.
    unsafe { process.unpin(page().start(), run, false) };
}

/// One thread pins the page while another one acts; so many frames are in use then.
fn beside(act: fn(&Process), frames_in_use: u64) {
    check(move || {
        let process = process();
        let pinner = thread::spawn({
            let process = process.clone();
            move || pinned_page_is_whole(&process)
        });
        act(&process);
        pinner.join().unwrap();
        let memory = process.memory();
        assert_eq!(memory.pinned_pages(), 0);
        memory.witness().assert_clean();
        assert_eq!(memory.free_frames(Zone::Normal), FRAMES - frames_in_use);
    });
}

#[test]
fn pinning_and_moving() {
    beside(|process| assert!(process.memory().compact() <= 1), 1);
}

#[test]
fn pinning_and_unmapping_while_frames_are_used_again() {
    beside(
        |process| {
            process.unmap(page()).unwrap();
            let other = UserRange::new(UserAddr::new(0x10_0000), 0x2000).unwrap();
            process.map(other, Vma::read_write()).unwrap();
            // The second page gets the frame, unless it is pinned still.
            let _ = process.write(UserAddr::new(0x10_0fff), &[8, 8]);
            process.unmap(other).unwrap();
        },
        0,
    );
}

#[test]
fn pinning_and_forking() {
    beside(
        |process| {
            let Ok(child) = process.fork() else { return };
            // Copies the page, unless it is pinned and was copied for the child.
            process.write(page().start(), &[7]).unwrap();
            drop(child);
        },
        1,
    );
}
