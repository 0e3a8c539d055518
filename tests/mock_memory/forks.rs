// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies on writing, and forks.

use super::{at, byte, phys, pin, range, unpin, with, LONG, WRITE};
use pinned_sgl::umem::PinFlags;
use pinned_sgl_mock::{Bus, Memory, PinFault, Vma, Zone};

#[test]
fn writing_breaks_copy_on_write() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 4, Vma::copy_on_write());
    assert_eq!((byte(&process, 0), byte(&process, 1)), (0, 0));
    let zero = process.frame_at(at(0));
    assert_eq!(zero, process.frame_at(at(1)));
    // Read for a moment: the page of zeros. For long, or to be written: a page of its own.
    let short = pin(&process, range(0, 2), PinFlags::empty()).unwrap();
    assert_eq!((short.len(), process.frame_at(at(1))), (2, zero));
    unpin(&process, &short, false);
    let long = pin(&process, range(1, 1), LONG).unwrap();
    assert_ne!(process.frame_at(at(1)), zero);
    process.write(at(1), b"x").unwrap();
    let mut seen = [0];
    Bus::read(&memory, phys(&process, 1), &mut seen).unwrap();
    assert_eq!(&seen, b"x", "the device sees what the process writes");
    unpin(&process, &long, false);
    let written = pin(&process, range(2, 1), WRITE).unwrap();
    assert_ne!(process.frame_at(at(2)), zero);
    unpin(&process, &written, false);
    assert_eq!(process.frame_at(at(0)), zero);
    memory.witness().assert_clean();
}

#[test]
fn fork_shares_what_is_not_pinned() {
    let memory = Memory::with_frames(64);
    let parent = with(&memory, 4, Vma::read_write());
    for page in 0..4 {
        parent.write(at(page), &[page as u8 + 1]).unwrap();
    }
    parent.swap_out(range(3, 1)).unwrap();
    let runs = pin(&parent, range(1, 1), WRITE | LONG).unwrap();
    let pinned = parent.frame_at(at(1));
    let child = parent.fork().unwrap();
    assert_eq!(child.frame_at(at(0)), parent.frame_at(at(0)));
    assert_eq!(parent.frame_at(at(1)), pinned);
    assert_ne!(child.frame_at(at(1)), pinned, "a pinned page is copied for the child");
    assert_eq!((0..4).map(|page| byte(&child, page)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // The process that writes, or pins, gets a page of its own; the other keeps the old one, uncopied.
    parent.write(at(0), &[10]).unwrap();
    let read = pin(&child, range(2, 1), PinFlags::empty()).unwrap();
    assert_ne!(child.frame_at(at(2)), parent.frame_at(at(2)));
    let kept = parent.frame_at(at(2));
    parent.write(at(2), &[30]).unwrap();
    assert_eq!(parent.frame_at(at(2)), kept);
    assert_eq!((byte(&child, 0), byte(&child, 2)), (1, 3));
    // The device and the parent see the same page after a write of the parent.
    parent.write(at(1), b"p").unwrap();
    let mut seen = [0];
    Bus::read(&memory, phys(&parent, 1), &mut seen).unwrap();
    assert_eq!(&seen, b"p");
    unpin(&parent, &runs, false);
    unpin(&child, &read, false);
    drop(parent);
    assert_eq!((byte(&child, 1), byte(&child, 3)), (2, 4));
    drop(child);
    assert_eq!(memory.free_frames(Zone::Normal), 64);
    memory.witness().assert_clean();
}

#[test]
fn fork_of_huge_and_of_shared_pages() {
    let memory = Memory::builder().zone(Zone::Normal, 0x100..0x140).build().unwrap();
    let parent = with(&memory, 16, Vma::read_write().huge(2));
    parent.map(range(16, 4), Vma::shared()).unwrap();
    parent.touch(range(0, 8), true).unwrap();
    let runs = pin(&parent, range(5, 1), WRITE).unwrap();
    let child = parent.fork().unwrap();
    assert_eq!(parent.frame_at(at(0)), child.frame_at(at(0)));
    assert_ne!(parent.frame_at(at(4)), child.frame_at(at(4)));
    parent.write(at(1), b"1").unwrap();
    assert_eq!(parent.frame_at(at(0)), child.frame_at(at(0)));
    assert_ne!(parent.frame_at(at(1)), child.frame_at(at(1)));
    // Shared memory is shared, also where it was never touched.
    child.write(at(17), b"s").unwrap();
    assert_eq!(byte(&parent, 17), b's');
    let shared = pin(&child, range(16, 4), WRITE | LONG).unwrap();
    child.unmap(range(16, 4)).unwrap();
    assert_eq!(byte(&parent, 17), b's');
    unpin(&child, &shared, false);
    unpin(&parent, &runs, false);
    drop((parent, child));
    assert_eq!(memory.free_frames(Zone::Normal), 0x40);
}

#[test]
fn a_fork_without_memory_leaves_no_child() {
    let memory = Memory::with_frames(6);
    let parent = with(&memory, 4, Vma::read_write());
    let runs = pin(&parent, range(0, 4), WRITE).unwrap();
    assert_eq!(parent.fork().unwrap_err(), PinFault::NoMemory(at(2)));
    assert_eq!(memory.free_frames(Zone::Normal), 2);
    unpin(&parent, &runs, false);
    assert!(parent.fork().is_ok());
}
