// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every mistake is found.

use super::{at, byte, phys, pin, range, unpin, with, Pins, LONG, P, WRITE};
use pinned_sgl::umem::{PinFlags, Pinner};
use pinned_sgl::{PageRun, PageSize, Pfn, PhysAddr, UserAddr};
use pinned_sgl_mock::{Bus, BusError, Call, Memory, Process, Violation, ViolationKind, Vma, Zone};

#[test]
fn a_device_that_uses_a_page_without_a_pin_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 2, Vma::read_write());
    let runs = pin(&process, range(0, 2), WRITE | LONG).unwrap();
    let place = phys(&process, 0);
    Bus::write(&memory, PhysAddr::new(place.get() + P - 1), b"ab").unwrap();
    assert_eq!(byte(&process, 1), b'b');
    unpin(&process, &runs, true);
    let pfn = place.pfn(PageSize::SIZE_4K);
    let error = Bus::write(&memory, place, b"x").unwrap_err();
    assert_eq!(error, BusError::NotPinned(place));
    assert!(Bus::read(&memory, place, &mut [0]).is_err());
    let dma = |call| Violation::new(ViolationKind::DmaToUnpinned, call).page(pfn).user(at(0));
    assert_eq!(memory.witness().take(), [dma(Call::Write), dma(Call::Read)]);
    let mut bytes = [1];
    memory.peek(place, &mut bytes).unwrap();
    assert_eq!(bytes, [0], "nothing was written");
    for nowhere in [0, u64::MAX] {
        let error = Bus::read(&memory, PhysAddr::new(nowhere), &mut [0; 2]).unwrap_err();
        assert_eq!(error, BusError::NoMemory(PhysAddr::new(nowhere)));
    }
    memory.witness().assert_clean();
}

#[test]
fn dirt_that_is_lost_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 1, Vma::read_write());
    let pfn = |process: &Process| process.frame_at(at(0)).unwrap();
    for reported in [false, true] {
        let first = pin(&process, range(0, 1), WRITE).unwrap();
        let second = pin(&process, range(0, 1), WRITE).unwrap();
        Bus::write(&memory, phys(&process, 0), b"device").unwrap();
        assert!(memory.is_written(pfn(&process)));
        unpin(&process, &first, reported);
        unpin(&process, &second, false);
        let lost = Violation::new(ViolationKind::DirtyLost, Call::Unpin);
        let lost = lost.page(pfn(&process)).user(at(0));
        assert_eq!(memory.witness().take(), if reported { vec![] } else { vec![lost] });
        assert_eq!(memory.is_dirty(pfn(&process)), reported);
    }
    memory.witness().assert_clean();
}

#[test]
fn unpinning_twice_is_found() {
    let memory = Memory::with_frames(8);
    let process = with(&memory, 4, Vma::read_write().huge(2));
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
    let process = with(&memory, 4, Vma::read_write());
    let pins = pin(&process, range(0, 3), WRITE).unwrap();
    unpin(&process, &Pins { at: at(1), runs: pins.runs }, false);
    let elsewhere = |page| {
        let kind = ViolationKind::UnpinnedElsewhere { at: at(page + 1) };
        let seen = Violation::new(kind, Call::Unpin).page(Pfn::new(0x1000 + page));
        seen.user(at(page))
    };
    assert_eq!(memory.witness().take(), [0, 1, 2].map(elsewhere));
    // A frame that was pinned under two addresses may be unpinned under them in any order.
    let zeros = with(&memory, 2, Vma::copy_on_write());
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
    let process = with(&memory, 2, Vma::read_write());
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
