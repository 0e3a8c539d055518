// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory and the processes of the mock kit: what pins do, and that every mistake is found.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::integer_division,
    clippy::panic,
    clippy::single_range_in_vec_init,
    clippy::unwrap_used,
    reason = "a test may panic: that is how it fails"
)]

use pinned_sgl::umem::{Account, Accountant, PinFlags, PinnedBatch, Pinner, RunSlot, UserRange};
use pinned_sgl::{
    Heap, MemoryKind, PageRun, PageSize, Pfn, PhysAddr, ProviderId, Storage, UserAddr,
};
use pinned_sgl_mock::{
    Area, Bus, BusErrorReason, Call, FailingAccountant, FailingStorage, Fragmentation, MapError,
    Memory, MemoryError, PinFault, Plan, Process, Step, Violation, ViolationKind, Witness, Zone,
};

const P: u64 = 4096;
const BASE: u64 = 0x7f00_0000_0000;
const WRITE: PinFlags = PinFlags::WRITE;
const LONG: PinFlags = PinFlags::LONGTERM;

fn at(page: u64) -> UserAddr {
    UserAddr::new(BASE + page * P)
}

fn range(first: u64, pages: u64) -> UserRange {
    UserRange::new(at(first), pages * P).unwrap()
}

/// A process with pages `0..pages` of an area.
fn with(memory: &Memory, pages: u64, area: Area) -> Process {
    let process = Process::new(memory);
    process.map(range(0, pages), area).unwrap();
    process
}

/// Runs of pages that follow each other from a user address on.
#[derive(Debug, PartialEq, Eq)]
struct Pins {
    at: UserAddr,
    runs: Vec<PageRun>,
}

impl std::ops::Deref for Pins {
    type Target = [PageRun];

    fn deref(&self) -> &[PageRun] {
        &self.runs
    }
}

/// Pins a whole range; the runs, whose pins are the caller's.
fn pin(process: &Process, range: UserRange, flags: PinFlags) -> Result<Pins, PinFault> {
    let mut slots: Vec<RunSlot> = vec![None; 2048];
    let mut batch = PinnedBatch::new(process, range, flags, &mut slots);
    while batch.left() != 0 {
        batch.fill()?;
    }
    batch.accept(|batch| Ok(Pins { at: range.start(), runs: batch.runs().collect() }))
}

fn unpin(process: &Process, pins: &Pins, dirty: bool) {
    let mut at = pins.at.get();
    for run in pins.iter() {
        // SAFETY: a mock finds out what is wrong, and some of these tests are.
        unsafe { process.unpin(UserAddr::new(at), *run, dirty) };
        at += run.count() * process.page_size().bytes();
    }
}

fn phys(process: &Process, page: u64) -> PhysAddr {
    process.frame_at(at(page)).unwrap().phys(process.page_size()).unwrap()
}

fn byte(process: &Process, page: u64) -> u8 {
    let mut bytes = [0];
    process.read(at(page), &mut bytes).unwrap();
    bytes[0]
}

#[test]
fn pages_are_pinned_and_unpinned() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 8, Area::read_write());
    assert_eq!(process.frame_at(at(0)), None);
    let runs = pin(&process, range(1, 3), WRITE).unwrap();
    assert_eq!(*runs, [PageRun::ram(Pfn::new(0x1000), 3).unwrap()]);
    let again = pin(&process, range(2, 1), PinFlags::empty()).unwrap();
    assert_eq!((0..5).map(|page| process.pins_at(at(page))).collect::<Vec<_>>(), [0, 1, 2, 1, 0]);
    assert_eq!((memory.pinned_pages(), memory.pins(Pfn::new(0x1001))), (4, 2));
    unpin(&process, &runs, true);
    assert_eq!(memory.pinned_pages(), 1);
    assert!(memory.is_dirty(Pfn::new(0x1000)) && memory.clean(Pfn::new(0x1000)));
    assert!(!memory.is_dirty(Pfn::new(0x1000)) && !memory.is_dirty(Pfn::new(0x1003)));
    unpin(&process, &again, false);
    memory.assert_no_leak();
    memory.witness().assert_clean();
    drop(process);
    assert_eq!(memory.free_frames(Zone::Normal), 64);
}

#[test]
fn a_huge_page_is_one_run() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x400..0x2000)
        .fragmentation(Fragmentation::Reverse)
        .build()
        .unwrap();
    let process = with(&memory, 2048, Area::read_write().huge(9));
    let runs = pin(&process, range(0, 2048), WRITE | LONG).unwrap();
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|run| run.count() == 512 && run.start().get() % 512 == 0));
    assert_eq!(memory.folio(runs[0].start()), Some((Pfn::new(0x1e00), 9)));
    // Parts of huge pages, cut otherwise than they were pinned.
    let part = pin(&process, range(500, 600), WRITE).unwrap();
    assert_eq!(part.iter().map(PageRun::count).collect::<Vec<_>>(), [12, 512, 76]);
    unpin(&process, &part, false);
    for (run, at) in runs.iter().zip((0..).step_by(512).map(at)) {
        let first = PageRun::ram(run.start(), 100).unwrap();
        let rest = PageRun::ram(Pfn::new(run.start().get() + 100), 412).unwrap();
        unpin(&process, &Pins { at: UserAddr::new(at.get() + 100 * P), runs: vec![rest] }, false);
        unpin(&process, &Pins { at, runs: vec![first] }, false);
    }
    memory.assert_no_leak();
    // What is not aligned, or not free, is single pages.
    process.map(range(2048 + 1, 1024), Area::read_write().huge(9)).unwrap();
    process.touch(range(2048 + 1, 1024), true).unwrap();
    let orders: Vec<_> = [2049, 2560, 3071, 3072]
        .map(|page| memory.folio(process.frame_at(at(page)).unwrap()).unwrap().1)
        .into();
    assert_eq!(orders, [0, 9, 9, 0]);
    memory.witness().assert_clean();
}

#[test]
fn fragmentation_shapes_the_runs() {
    let shape = |fragmentation| {
        let builder = Memory::builder().zone(Zone::Normal, 0x100..0x180);
        let memory = builder.fragmentation(fragmentation).build().unwrap();
        let process = with(&memory, 64, Area::read_write());
        let runs = pin(&process, range(0, 64), WRITE).unwrap();
        unpin(&process, &runs, false);
        runs.len()
    };
    assert_eq!(shape(Fragmentation::None), 1);
    assert_eq!(shape(Fragmentation::Reverse), 64);
    assert_eq!(shape(Fragmentation::Alternate), 64);
    assert!(shape(Fragmentation::Seeded { seed: 3, run_order: 0 }) > 56);
    assert!(shape(Fragmentation::Seeded { seed: 3, run_order: 3 }) <= 8);
}

/// An area costs what is touched of it, however large it is.
#[test]
fn an_area_may_have_all_addresses() {
    let memory = Memory::with_frames(16);
    let process = Process::new(&memory);
    let all = UserRange::new(UserAddr::new(0), 1 << 63).unwrap();
    let rest = UserRange::new(UserAddr::new(1 << 63), (1 << 63) - P).unwrap();
    process.map(all, Area::read_write()).unwrap();
    process.map(rest, Area::shared()).unwrap();
    let last = UserAddr::new((1 << 63) - 3);
    process.write(last, b"across").unwrap();
    let child = process.fork().unwrap();
    let mut bytes = [0; 6];
    child.read(last, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    drop(child);
    assert_eq!(process.swap_out(all), Ok(1));
    assert_eq!(process.migrate(rest, Zone::Normal), Ok(0));
    let end = UserRange::new(UserAddr::new(u64::MAX - P), 2).unwrap();
    assert_eq!(process.swap_out(end), Err(PinFault::NotMapped(UserAddr::new(u64::MAX - P + 1))));
    process.protect(all, false).unwrap();
    process.unmap(all).unwrap();
    assert_eq!(memory.free_frames(Zone::Normal), 15);
    drop(process);
    assert_eq!(memory.free_frames(Zone::Normal), 16);
    // Nor does a memory.
    assert_eq!(Memory::with_frames(u64::MAX).pinned_pages(), 0);
}

#[test]
fn large_machines_and_large_pages() {
    // 300 GiB, of which 1 GiB is used.
    let memory = Memory::builder()
        .zone(Zone::Normal, 0..300 << 18)
        .fragmentation(Fragmentation::Seeded { seed: 1, run_order: 0 })
        .build()
        .unwrap();
    let process = with(&memory, 300 << 18, Area::read_write().huge(9));
    let runs = pin(&process, range(0, 1 << 18), WRITE | LONG).unwrap();
    assert!((500..=512).contains(&runs.len()), "{}", runs.len());
    unpin(&process, &runs, true);
    memory.assert_no_leak();

    for page in [PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let memory = Memory::builder().page_size(page).zone(Zone::Normal, 1..9).build().unwrap();
        let process = Process::new(&memory);
        let start = UserAddr::new(BASE + page.bytes() - 1);
        let mapped = UserRange::new(UserAddr::new(BASE), 4 * page.bytes()).unwrap();
        process.map(mapped, Area::read_write()).unwrap();
        process.write(start, b"ab").unwrap();
        let runs = pin(&process, UserRange::new(start, 2).unwrap(), WRITE).unwrap();
        assert_eq!(*runs, [PageRun::ram(Pfn::new(1), 2).unwrap()]);
        let mut bytes = [0; 2];
        Bus::read(&memory, PhysAddr::new(2 * page.bytes() - 1), &mut bytes).unwrap();
        assert_eq!(&bytes, b"ab");
        unpin(&process, &runs, false);
    }
}

#[test]
fn writing_breaks_copy_on_write() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 4, Area::copy_on_write());
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
    let parent = with(&memory, 4, Area::read_write());
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
    // Whoever writes, or pins, gets a page of his own; the other keeps the old one, uncopied.
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
    let parent = with(&memory, 16, Area::read_write().huge(2));
    parent.map(range(16, 4), Area::shared()).unwrap();
    parent.touch(range(0, 8), true).unwrap();
    let runs = pin(&parent, range(5, 1), WRITE).unwrap();
    let child = parent.fork().unwrap();
    assert_eq!(parent.frame_at(at(0)), child.frame_at(at(0)));
    assert_ne!(parent.frame_at(at(4)), child.frame_at(at(4)));
    parent.write(at(1), b"1").unwrap();
    assert_eq!(parent.frame_at(at(0)), child.frame_at(at(0)));
    assert_ne!(parent.frame_at(at(1)), child.frame_at(at(1)));
    // Shared memory is shared, also where nobody had touched it.
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
    let parent = with(&memory, 4, Area::read_write());
    let runs = pin(&parent, range(0, 4), WRITE).unwrap();
    assert_eq!(parent.fork().unwrap_err(), PinFault::NoMemory(at(2)));
    assert_eq!(memory.free_frames(Zone::Normal), 2);
    unpin(&parent, &runs, false);
    assert!(parent.fork().is_ok());
}

#[test]
fn long_pins_leave_movable_memory() {
    for zone in [Zone::Movable, Zone::Cma] {
        for order in [0, 2] {
            let memory = Memory::builder()
                .zone(Zone::Normal, 0x100..0x110)
                .zone(zone, 0x200..0x210)
                .build()
                .unwrap();
            let parent = with(&memory, 8, Area::read_write().huge(order).zone(zone));
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
    let parent = with(&memory, 4, Area::read_write().huge(2).zone(Zone::Movable));
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
    let process = with(&memory, 12, Area::read_write().huge(2).zone(Zone::Movable));
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
    let odd = with(&memory, 1, Area::read_write());
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
    let filler = with(&memory, 6, Area::read_write());
    filler.touch(range(0, 6), true).unwrap();
    let process = with(&memory, 4, Area::read_write().huge(2).zone(Zone::Movable));
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
    let process = with(&memory, 6, Area::read_write().zone(Zone::Movable));
    let long = pin(&process, range(0, 2), LONG).unwrap();
    assert_eq!(*long, [PageRun::ram(Pfn::new(0x100), 2).unwrap()]);
    assert_eq!(pin(&process, range(2, 1), LONG), Err(PinFault::NoMemory(at(2))));
    unpin(&process, &long, false);
    process.unmap(range(0, 2)).unwrap();
    process.map(range(0, 2), Area::read_write().zone(Zone::Movable)).unwrap();
    process.touch(range(0, 6), true).unwrap();
    assert_eq!(memory.free_frames(Zone::Normal), 0, "movable pages go where there is room");
}

#[test]
fn swapped_pages_come_back_elsewhere() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 4, Area::read_write().huge(1));
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

#[test]
fn what_is_not_there_cannot_be_pinned() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 2, Area::read_write());
    process.map(range(3, 1), Area::read_only()).unwrap();
    let mut slots = [None; 8];
    let mut batch = PinnedBatch::new(&process, range(0, 4), WRITE, &mut slots);
    assert_eq!(batch.fill(), Err(PinFault::NotMapped(at(2))));
    assert_eq!(batch.page_count(), 2, "what was pinned before stays in the batch");
    drop(batch);
    memory.assert_no_leak();
    assert_eq!(pin(&process, range(2, 2), WRITE), Err(PinFault::NotMapped(at(2))));
    assert_eq!(pin(&process, range(3, 1), WRITE), Err(PinFault::AccessDenied(at(3))));
    for flags in [PinFlags::empty(), LONG, WRITE | PinFlags::FORCE] {
        let runs = pin(&process, range(3, 1), flags).unwrap();
        unpin(&process, &runs, false);
    }
    assert_eq!(process.write(at(3), b"x"), Err(PinFault::AccessDenied(at(3))));
    process.protect(range(3, 1), true).unwrap();
    process.write(at(3), b"x").unwrap();
    process.protect(range(0, 4), false).unwrap();
    assert_eq!(pin(&process, range(0, 1), WRITE), Err(PinFault::AccessDenied(at(0))));
    let shared = with(&memory, 1, Area::shared());
    shared.protect(range(0, 1), false).unwrap();
    let forced = pin(&shared, range(0, 1), WRITE | PinFlags::FORCE);
    assert_eq!(forced, Err(PinFault::AccessDenied(at(0))), "others would see it");
    assert_eq!(process.map(range(1, 8), Area::read_write()), Err(MapError::Overlap(at(1))));
    let odd = UserRange::new(at(9), 100).unwrap();
    assert_eq!(process.map(odd, Area::read_write()), Err(MapError::Misaligned));
    memory.witness().assert_clean();
}

#[test]
fn device_memory_must_be_asked_for() {
    let device = Zone::Device(ProviderId(4));
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x104)
        .zone(device, 0x104..0x108)
        .build()
        .unwrap();
    let process = with(&memory, 2, Area::read_write());
    process.map(range(2, 2), Area::read_write().zone(device)).unwrap();
    for flags in [PinFlags::empty(), LONG] {
        assert_eq!(pin(&process, range(2, 1), flags), Err(PinFault::DeviceMemory(at(2))));
    }
    let runs = pin(&process, range(0, 4), WRITE | PinFlags::PCI_P2PDMA).unwrap();
    assert_eq!(
        runs.iter().map(|run| (run.count(), run.kind())).collect::<Vec<_>>(),
        [(2, MemoryKind::Ram), (2, MemoryKind::Device(ProviderId(4)))]
    );
    unpin(&process, &runs, false);
    let both = LONG | PinFlags::PCI_P2PDMA;
    assert_eq!(pin(&process, range(0, 1), both), Err(PinFault::Invalid(at(0))));
}

#[test]
fn pins_stop_short_where_they_are_told_to() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 16, Area::read_write().huge(2));
    process.set_pin_limit(3);
    let mut slots = [None; 8];
    let mut batch = PinnedBatch::new(&process, range(0, 16), WRITE, &mut slots);
    batch.fill().unwrap();
    assert_eq!(batch.page_count(), 3);
    process.interrupt_after(2);
    assert_eq!(batch.fill(), Err(PinFault::Interrupted(at(5))));
    process.interrupt();
    assert_eq!(batch.fill(), Err(PinFault::Interrupted(at(5))));
    memory.plan().fail_step_at(Step::Pin, 1, 1);
    batch.fill().unwrap();
    assert_eq!(batch.fill(), Err(PinFault::Injected(at(9))));
    process.set_pin_limit(u64::MAX);
    batch.fill().unwrap();
    assert_eq!((batch.left(), memory.pinned_pages(), memory.plan().calls()), (0, 16, 6));
    drop(batch);
    memory.assert_no_leak();
}

#[test]
fn a_full_batch_ends_a_call() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x140)
        .fragmentation(Fragmentation::Alternate)
        .build()
        .unwrap();
    let process = with(&memory, 16, Area::read_write());
    let mut slots = [None; 2];
    let mut batch = PinnedBatch::new(&process, range(0, 16), WRITE, &mut slots);
    batch.fill().unwrap();
    assert_eq!((batch.page_count(), batch.room(), memory.pinned_pages()), (2, 0, 2));
}

#[test]
fn pinned_memory_outlives_its_process() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 2, Area::read_write().huge(1));
    process.write(at(1), b"still").unwrap();
    let runs = pin(&process, range(1, 1), WRITE | LONG).unwrap();
    let place = phys(&process, 1);
    process.unmap(range(0, 1)).unwrap();
    process.exit();
    assert_eq!(memory.free_frames(Zone::Normal), 6);
    let mut bytes = [0; 5];
    Bus::read(&memory, place, &mut bytes).unwrap();
    assert_eq!(&bytes, b"still");
    unpin(&process, &runs, false);
    assert_eq!(memory.free_frames(Zone::Normal), 8);
    memory.witness().assert_clean();
}

#[test]
fn a_device_that_uses_a_page_without_a_pin_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 2, Area::read_write());
    let runs = pin(&process, range(0, 2), WRITE | LONG).unwrap();
    let place = phys(&process, 0);
    Bus::write(&memory, PhysAddr::new(place.get() + P - 1), b"ab").unwrap();
    assert_eq!(byte(&process, 1), b'b');
    unpin(&process, &runs, true);
    let pfn = place.pfn(PageSize::SIZE_4K);
    let error = Bus::write(&memory, place, b"x").unwrap_err();
    assert_eq!((error.phys, error.reason), (place, BusErrorReason::NotPinned));
    assert!(Bus::read(&memory, place, &mut [0]).is_err());
    let dma = |call| Violation::new(ViolationKind::DmaToUnpinned, call).page(pfn).user(at(0));
    assert_eq!(memory.witness().take(), [dma(Call::Write), dma(Call::Read)]);
    let mut bytes = [1];
    memory.peek(place, &mut bytes).unwrap();
    assert_eq!(bytes, [0], "nothing was written");
    for nowhere in [0, u64::MAX] {
        let error = Bus::read(&memory, PhysAddr::new(nowhere), &mut [0; 2]).unwrap_err();
        assert_eq!(error.reason, BusErrorReason::NoMemory);
    }
    memory.witness().assert_clean();
}

#[test]
fn dirt_that_is_lost_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 1, Area::read_write());
    let pfn = |process: &Process| process.frame_at(at(0)).unwrap();
    for told in [false, true] {
        let first = pin(&process, range(0, 1), WRITE).unwrap();
        let second = pin(&process, range(0, 1), WRITE).unwrap();
        Bus::write(&memory, phys(&process, 0), b"device").unwrap();
        assert!(memory.is_written(pfn(&process)));
        unpin(&process, &first, told);
        unpin(&process, &second, false);
        let lost = Violation::new(ViolationKind::DirtyLost, Call::Unpin);
        let lost = lost.page(pfn(&process)).user(at(0));
        assert_eq!(memory.witness().take(), if told { vec![] } else { vec![lost] });
        assert_eq!(memory.is_dirty(pfn(&process)), told);
    }
    memory.witness().assert_clean();
}

#[test]
fn unpinning_twice_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 4, Area::read_write().huge(2));
    let runs = pin(&process, range(0, 2), WRITE).unwrap();
    let three = PageRun::ram(runs[0].start(), 3).unwrap();
    unpin(&process, &Pins { at: at(0), runs: vec![three] }, false);
    let not_pinned = |call, pfn| Violation::new(ViolationKind::NotPinned, call).page(Pfn::new(pfn));
    let third = three.end().get() - 1;
    assert_eq!(memory.witness().take(), [not_pinned(Call::Unpin, third)]);
    let nowhere = PageRun::ram(Pfn::new(7), 1).unwrap();
    unpin(&process, &Pins { at: at(0), runs: vec![nowhere] }, false);
    assert_eq!(memory.witness().take(), [not_pinned(Call::Unpin, 7)]);
    // The count of the folio has not suffered: it can be moved, and pinned.
    assert_eq!(memory.compact(), 4);
}

/// Pages that are unpinned under the address of others.
#[test]
fn unpinning_elsewhere_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 4, Area::read_write());
    let pins = pin(&process, range(0, 3), WRITE).unwrap();
    unpin(&process, &Pins { at: at(1), runs: pins.runs }, false);
    let elsewhere = |page| {
        let kind = ViolationKind::UnpinnedElsewhere { at: at(page + 1) };
        let seen = Violation::new(kind, Call::Unpin).page(Pfn::new(0x1000 + page));
        seen.user(at(page))
    };
    assert_eq!(memory.witness().take(), [0, 1, 2].map(elsewhere));
    // A frame that was pinned under two addresses may be unpinned under them in any order.
    let zeros = with(&memory, 2, Area::copy_on_write());
    let one = pin(&zeros, range(0, 1), PinFlags::empty()).unwrap();
    let two = pin(&zeros, range(1, 1), PinFlags::empty()).unwrap();
    assert_eq!(*one, *two);
    unpin(&zeros, &two, false);
    unpin(&zeros, &one, false);
    // The address of any byte of the page is its address.
    let pins = pin(&process, range(2, 2), WRITE).unwrap();
    unpin(&process, &Pins { at: UserAddr::new(at(2).get() + 5), ..pins }, false);
    memory.witness().assert_clean();
}

#[test]
fn leaks_are_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 2, Area::read_write());
    let runs = pin(&process, range(0, 2), WRITE).unwrap();
    process.leaked(at(0), runs[0]);
    drop(process);
    assert_eq!((memory.leaked_pages(), memory.check_leaks()), (2, 2));
    let leak = Violation::new(ViolationKind::Leak { pins: 1 }, Call::Check);
    let leak = |page: u64| leak.page(Pfn::new(0x1000 + page)).user(at(page));
    assert_eq!(memory.witness().take(), [leak(0), leak(1)]);
    let caught = std::panic::catch_unwind(|| memory.assert_no_leak());
    assert!(caught.is_err());
    assert_eq!(memory.free_frames(Zone::Normal), 6, "what is pinned is never free");
}

#[test]
fn pinning_and_moving_exclude_each_other() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x140)
        .zone(Zone::Movable, 0x200..0x240)
        .build()
        .unwrap();
    let process = with(&memory, 8, Area::read_write().huge(1).zone(Zone::Movable));
    for page in 0..8 {
        process.write(at(page), &[page as u8]).unwrap();
    }
    let rounds = 2000;
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (process, memory) = (&process, &memory);
            scope.spawn(move || {
                for round in 0..rounds {
                    let page = (round + thread) % 7;
                    let flags = if round % 16 == 0 { WRITE | LONG } else { WRITE };
                    let runs = match pin(process, range(page, 2), flags) {
                        Ok(runs) => runs,
                        Err(PinFault::Busy(_)) => continue,
                        Err(other) => panic!("{other}"),
                    };
                    // While it is pinned it stays, and holds what belongs there.
                    let mut pfns = runs.iter().flat_map(|run| run.start().get()..run.end().get());
                    for page in page..page + 2 {
                        let pfn = pfns.next().unwrap();
                        assert_eq!(process.frame_at(at(page)), Some(Pfn::new(pfn)));
                        let mut bytes = [0];
                        Bus::read(memory, PhysAddr::new(pfn * P), &mut bytes).unwrap();
                        assert_eq!(bytes[0], page as u8);
                    }
                    unpin(process, &runs, false);
                }
            });
        }
        scope.spawn(|| {
            for round in 0..rounds {
                match round % 4 {
                    0 => drop(process.migrate(range(0, 8), Zone::Normal)),
                    1 => drop(process.migrate(range(0, 8), Zone::Movable)),
                    2 => drop(process.swap_out(range(round % 8, 1))),
                    _ => drop(process.fork()),
                }
                memory.compact();
            }
        });
    });
    memory.assert_no_leak();
    memory.witness().assert_clean();
    drop(process);
    assert_eq!((memory.free_frames(Zone::Normal), memory.free_frames(Zone::Movable)), (64, 64));
}

#[test]
fn unmapping_while_pinning_frees_every_frame() {
    let memory = Memory::with_frames(64);
    let process = Process::new(&memory);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                process.map(range(0, 4), Area::read_write().huge(1)).unwrap();
                process.touch(range(0, 4), true).unwrap();
                process.unmap(range(0, 4)).unwrap();
            }
        });
        for _ in 0..2000 {
            match pin(&process, range(0, 4), WRITE) {
                Ok(runs) => unpin(&process, &runs, false),
                Err(PinFault::NotMapped(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    memory.assert_no_leak();
    memory.witness().assert_clean();
    assert_eq!(memory.free_frames(Zone::Normal), 64);
}

#[test]
fn a_machine_that_cannot_be_is_refused() {
    let build = |zones: &[std::ops::Range<u64>]| {
        let builder = zones
            .iter()
            .fold(Memory::builder(), |builder, zone| builder.zone(Zone::Normal, zone.clone()));
        builder.build().map(|_| ())
    };
    assert_eq!(build(&[0..4, 4..8]), Ok(()));
    assert_eq!(build(&[4..8, 0..5]), Err(MemoryError::Overlap(Pfn::new(4))));
    assert_eq!(build(&[4..4]), Err(MemoryError::Empty));
    assert_eq!(build(&[0..u64::MAX]), Err(MemoryError::TooLarge));
    assert_eq!(build(&[(1 << 52) - 1..(1 << 52) + 1]), Err(MemoryError::TooLarge));
    let odd = Memory::builder().page_size(PageSize::new(512).unwrap());
    assert_eq!(odd.build().unwrap_err(), MemoryError::PageSize);
    let witness = Witness::new();
    let plan = Plan::new();
    let memory = Memory::builder().witness(witness.clone()).plan(plan.clone()).build().unwrap();
    memory.witness().saw(Violation::new(ViolationKind::NotPinned, Call::Unpin));
    plan.fail_at(0);
    assert!(!witness.is_clean() && memory.plan().is_pending());
}

#[test]
fn storages_and_accounts_fail_by_plan() {
    let plan = Plan::new();
    let mut storage = FailingStorage::new(Heap::default(), plan.clone());
    let account = FailingAccountant::new(Account::new(10), plan.clone());
    plan.fail_at(0);
    assert!(storage.grow(512).is_err() && storage.grow(512).is_ok());
    assert_eq!(storage.inner().pieces(), 1);
    plan.fail_at(0);
    assert!(account.charge(1).is_err() && account.charge(7).is_ok() && account.charge(4).is_err());
    account.uncharge(3);
    assert_eq!((account.inner().charged(), plan.calls()), (4, 5));
}
