// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that move: migration, compaction and swapping, and what pins keep in place.

use super::{at, byte, pin, range, unpin, with, LONG, WRITE};
use pinned_sgl::umem::PinFlags;
use pinned_sgl::{PageRun, Pfn};
use pinned_sgl_mock::{Memory, PinFault, Process, Vma, Zone};

#[test]
fn long_pins_leave_movable_memory() {
    for zone in [Zone::Movable, Zone::Cma] {
        for order in [0, 2] {
            let memory = Memory::builder()
                .zone(Zone::Normal, 0x100..0x110)
                .zone(zone, 0x200..0x210)
                .build()
                .unwrap();
            let parent = with(&memory, 8, Vma::read_write().huge(order).zone(zone));
            parent.write(at(5), b"moved").unwrap();
            let child = parent.fork().unwrap();
            let zone_of = |p: &Process, page| memory.zone(p.frame_at(at(page)).unwrap()).unwrap();
            assert_eq!(zone_of(&parent, 5), zone);
            let short = pin(&child, range(5, 1), PinFlags::empty()).unwrap();
            assert_eq!(zone_of(&child, 5), zone, "for a moment it may stay");
            unpin(&child, &short, false);
            drop(child);
            let long = pin(&parent, range(4, 3), WRITE | LONG).unwrap();
            assert_eq!(zone_of(&parent, 5), Zone::Normal);
            assert_eq!(byte(&parent, 5), b'm');
            assert_eq!(memory.free_frames(zone), 16);
            unpin(&parent, &long, false);
            memory.witness().assert_clean();
        }
    }
}

#[test]
fn moving_keeps_shared_pages_shared() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x108)
        .zone(Zone::Movable, 0x200..0x208)
        .build()
        .unwrap();
    let parent = with(&memory, 4, Vma::read_write().huge(2).zone(Zone::Movable));
    parent.write(at(0), b"parent").unwrap();
    let child = parent.fork().unwrap();
    assert_eq!(child.migrate(range(0, 4), Zone::Normal).unwrap(), 4);
    assert_eq!(parent.frame_at(at(3)), child.frame_at(at(3)));
    assert_eq!(memory.zone(parent.frame_at(at(3)).unwrap()), Some(Zone::Normal));
    assert_eq!((byte(&parent, 0), byte(&child, 0)), (b'p', b'p'));
    assert_eq!(memory.compact(), 4);
    assert_eq!(parent.frame_at(at(1)), child.frame_at(at(1)));
    drop((parent, child));
    assert_eq!((memory.free_frames(Zone::Normal), memory.free_frames(Zone::Movable)), (8, 8));
}

#[test]
fn what_cannot_move_is_busy_and_what_has_no_room_is_out_of_memory() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x101..0x107)
        .zone(Zone::Movable, 0x200..0x210)
        .build()
        .unwrap();
    let process = with(&memory, 12, Vma::read_write().huge(2).zone(Zone::Movable));
    process.touch(range(0, 12), true).unwrap();
    let short = pin(&process, range(2, 1), WRITE).unwrap();
    assert_eq!(pin(&process, range(0, 4), LONG), Err(PinFault::Busy(at(0))));
    assert_eq!(process.migrate(range(1, 2), Zone::Normal), Err(PinFault::Busy(at(1))));
    assert_eq!(process.swap_out(range(3, 1)), Err(PinFault::Busy(at(3))));
    unpin(&process, &short, false);
    // A folio of four finds no aligned place but the only one; the next is split, and then there
    // is no room.
    let long = pin(&process, range(0, 4), LONG).unwrap();
    assert_eq!((long.len(), memory.free_frames(Zone::Normal)), (1, 2));
    assert_eq!(pin(&process, range(4, 4), LONG), Err(PinFault::NoMemory(at(4))));
    assert_eq!(memory.free_frames(Zone::Normal), 2);
    unpin(&process, &long, false);
    process.unmap(range(0, 4)).unwrap();
    let odd = with(&memory, 1, Vma::read_write());
    odd.touch(range(0, 1), true).unwrap();
    process.migrate(range(4, 4), Zone::Normal).unwrap();
    assert_eq!(memory.zone(process.frame_at(at(7)).unwrap()), Some(Zone::Normal));
    memory.assert_no_leak();
}

#[test]
fn a_folio_that_finds_no_place_is_split() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x101..0x107)
        .zone(Zone::Movable, 0x200..0x204)
        .build()
        .unwrap();
    let filler = with(&memory, 6, Vma::read_write());
    filler.touch(range(0, 6), true).unwrap();
    let process = with(&memory, 4, Vma::read_write().huge(2).zone(Zone::Movable));
    process.write(at(2), b"2").unwrap();
    // Frames 101, 102, 105, 106 become free.
    filler.unmap(range(0, 2)).unwrap();
    filler.unmap(range(4, 2)).unwrap();
    let long = pin(&process, range(0, 4), LONG | WRITE).unwrap();
    assert_eq!(long.iter().map(PageRun::count).sum::<u64>(), 4);
    assert_eq!((long.len(), byte(&process, 2)), (2, b'2'));
    assert_eq!(memory.folio(long[0].start()).unwrap().1, 0);
    unpin(&process, &long, false);
    memory.witness().assert_clean();
}

#[test]
fn absent_pages_for_a_long_pin_are_not_movable() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x102)
        .zone(Zone::Movable, 0x200..0x204)
        .build()
        .unwrap();
    let process = with(&memory, 6, Vma::read_write().zone(Zone::Movable));
    let long = pin(&process, range(0, 2), LONG).unwrap();
    assert_eq!(*long, [PageRun::ram(Pfn::new(0x100), 2).unwrap()]);
    assert_eq!(pin(&process, range(2, 1), LONG), Err(PinFault::NoMemory(at(2))));
    unpin(&process, &long, false);
    process.unmap(range(0, 2)).unwrap();
    process.map(range(0, 2), Vma::read_write().zone(Zone::Movable)).unwrap();
    process.touch(range(0, 6), true).unwrap();
    assert_eq!(memory.free_frames(Zone::Normal), 0, "movable pages go where there is room");
}

#[test]
fn swapped_pages_come_back_elsewhere() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 4, Vma::read_write().huge(1));
    process.write(at(1), b"kept").unwrap();
    let before = process.frame_at(at(1));
    assert_eq!(process.swap_out(range(0, 4)).unwrap(), 2);
    assert_eq!((process.frame_at(at(1)), memory.free_frames(Zone::Normal)), (None, 8));
    assert_eq!(pin(&process, range(1, 1), PinFlags::NOFAULT), Err(PinFault::NotPresent(at(1))));
    let runs = pin(&process, range(1, 1), WRITE).unwrap();
    assert_ne!(process.frame_at(at(1)), before);
    assert_eq!(byte(&process, 1), b'k');
    unpin(&process, &runs, false);
}
