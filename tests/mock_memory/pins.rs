// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning and unpinning: which pages, how many at a time, and what is refused.

use super::{at, phys, pin, range, unpin, with, LONG, WRITE};
use pinned_sgl::umem::{PinFlags, PinnedBatch, UserRange};
use pinned_sgl::{MemoryKind, PageRun, Pfn, ProviderId};
use pinned_sgl_mock::{Bus, Fragmentation, Memory, PinFault, Step, Vma, VmaError, Zone};

#[test]
fn pages_are_pinned_and_unpinned() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 8, Vma::read_write());
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
fn what_is_not_there_cannot_be_pinned() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 2, Vma::read_write());
    process.map(range(3, 1), Vma::read_only()).unwrap();
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
    let shared = with(&memory, 1, Vma::shared());
    shared.protect(range(0, 1), false).unwrap();
    let forced = pin(&shared, range(0, 1), WRITE | PinFlags::FORCE);
    assert_eq!(forced, Err(PinFault::AccessDenied(at(0))), "others would see it");
    assert_eq!(process.map(range(1, 8), Vma::read_write()), Err(VmaError::Overlap(at(1))));
    let odd = UserRange::new(at(9), 100).unwrap();
    assert_eq!(process.map(odd, Vma::read_write()), Err(VmaError::Misaligned));
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
    let process = with(&memory, 2, Vma::read_write());
    process.map(range(2, 2), Vma::read_write().zone(device)).unwrap();
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
fn pins_stop_short_where_asked_to() {
    let memory = Memory::with_frames(64);
    let process = with(&memory, 16, Vma::read_write().huge(2));
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
    let process = with(&memory, 16, Vma::read_write());
    let mut slots = [None; 2];
    let mut batch = PinnedBatch::new(&process, range(0, 16), WRITE, &mut slots);
    batch.fill().unwrap();
    assert_eq!((batch.page_count(), batch.room(), memory.pinned_pages()), (2, 0, 2));
}

#[test]
fn pinned_memory_outlives_its_process() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 2, Vma::read_write().huge(1));
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
