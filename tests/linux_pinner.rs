// SPDX-License-Identifier: MIT OR Apache-2.0
//! A buffer as the pinner of its own pages: driven by hand, batch by batch.
//!
//! These tests need root: frame numbers are hidden from all others.
#![cfg(target_os = "linux")]

mod real;

use pinned_sgl::linux::{Buffer, BufferError, PageError, PageMap, Pages};
use pinned_sgl::umem::{PinFlags, PinnedBatch, Pinner, RunSlot, UserRange};
use pinned_sgl::{PageRun, Pfn, UserAddr};
use real::{alone, page, vm_pin, MIB};
use std::ops::Range;
use std::sync::Barrier;
use std::{mem, ptr, thread};

const FLAGS: PinFlags = PinFlags::WRITE.union(PinFlags::LONGTERM);

/// The bytes `range` of the buffer.
fn part(buffer: &Buffer, range: Range<u64>) -> UserRange {
    let start = buffer.user_addr().checked_add(range.start).unwrap();
    UserRange::new(start, range.end - range.start).unwrap()
}

/// Pins that a test holds; given back by hand.
#[must_use]
struct Pins<'a> {
    buffer: &'a Buffer,
    at: UserAddr,
    runs: Vec<PageRun>,
}

impl<'a> Pins<'a> {
    /// Pins the bytes `range`, with batches of `slots` runs.
    fn take(buffer: &'a Buffer, range: Range<u64>, slots: usize) -> Result<Self, PageError> {
        let page = buffer.page_size();
        let start = part(buffer, range.clone()).first_page(page);
        let mut pins = Self { buffer, at: start, runs: Vec::new() };
        let mut memory: Vec<RunSlot> = vec![None; slots];
        let mut offset = range.start;
        while offset < range.end {
            let rest = part(buffer, offset..range.end);
            let mut batch = PinnedBatch::new(buffer, rest, FLAGS, &mut memory);
            let done = batch.fill();
            assert!(done.is_err() || batch.page_count() > 0, "no error, so there are pages");
            let pages = batch
                .accept(|batch| {
                    pins.runs.extend(batch.runs());
                    Ok::<_, PageError>(batch.page_count())
                })
                .unwrap();
            offset += pages * page.bytes();
            if let Err(fault) = done {
                pins.give_back();
                return Err(fault);
            }
        }
        Ok(pins)
    }

    fn give_back(self) {
        let mut at = self.at;
        for run in self.runs {
            // SAFETY: `pin` has pushed the run for this address, and nothing else has it.
            unsafe { self.buffer.unpin(at, run, true) };
            at = at.checked_add(run.count() * self.buffer.page_size().bytes()).unwrap();
        }
    }

    /// One run for each page.
    fn frames(&self) -> Vec<Pfn> {
        let frames = |run: &PageRun| {
            let start = run.start();
            (0..run.count()).map(move |index| start.checked_add(index).unwrap())
        };
        self.runs.iter().flat_map(frames).collect()
    }

    /// The frames are those of the page map.
    fn check(&self) {
        let mut frames = self.frames();
        let reported = frames.clone();
        PageMap::open().unwrap().read(self.at, &mut frames).unwrap();
        assert!(reported == frames);
    }
}

/// The pages of so many MiB.
fn pages_of(mib: u64) -> usize {
    usize::try_from(mib * MIB / page()).unwrap()
}

#[test]
fn every_page_is_pinned_once_whatever_the_batches() {
    let _alone = alone();
    let before = vm_pin();
    for pages in [Pages::Base, Pages::Transparent] {
        for slots in [1, 2, 3, 128] {
            let len = 150 * MIB + 3 * page();
            let buffer = Buffer::new(len, pages).unwrap();
            let pins = Pins::take(&buffer, 0..len, slots).unwrap();
            let pinned = vm_pin() - before;
            // A huge page at the end counts whole.
            let huge = buffer.huge_page_size().bytes();
            assert!((len..len + huge).contains(&pinned), "{pages:?}, {slots} slots: {pinned}");
            pins.check();
            pins.give_back();
            assert_eq!(vm_pin(), before, "{pages:?}, {slots} slots");
        }
    }
}

#[test]
fn two_pins_of_one_page_are_two() {
    let _alone = alone();
    let before = vm_pin();
    for pages in [Pages::Base, Pages::Transparent] {
        let buffer = Buffer::new(130 * MIB, pages).unwrap();
        let (a, b, c) = (0..100 * MIB, 50 * MIB..130 * MIB, 60 * MIB..60 * MIB + page());
        let first = Pins::take(&buffer, a.clone(), 128).unwrap();
        let second = Pins::take(&buffer, b, 2).unwrap();
        let third = Pins::take(&buffer, c, 1).unwrap();
        assert_eq!(vm_pin() - before, 130 * MIB, "the kernel pins a page once");
        assert_eq!(first.frames()[pages_of(60)], third.frames()[0]);
        assert_eq!(first.frames()[pages_of(50)..], second.frames()[..pages_of(50)]);
        first.give_back();
        // What the others hold is still pinned: where it was.
        assert!(vm_pin() - before >= 80 * MIB);
        second.check();
        let again = Pins::take(&buffer, a, 128).unwrap();
        assert_eq!(vm_pin() - before, 130 * MIB);
        assert_eq!(again.frames()[pages_of(50)..], second.frames()[..pages_of(50)]);
        second.give_back();
        again.check();
        again.give_back();
        let left = vm_pin() - before;
        let slot = (64 * MIB).max(buffer.huge_page_size().bytes());
        assert!(left > 0 && left <= slot, "{left}");
        third.check();
        third.give_back();
        assert_eq!(vm_pin(), before);
    }
}

#[test]
fn pins_are_given_back_in_any_pieces() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(70 * MIB, Pages::Base).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.extend(Pins::take(&buffer, 0..70 * MIB, 5).unwrap().frames().iter().zip(0u64..).map(
            |(frame, index)| (buffer.user_addr().checked_add(index * page()).unwrap(), *frame),
        ));
    }
    random.shuffle(&mut held);
    let last = held.pop().unwrap();
    let unpin = |(at, frame)| {
        // SAFETY: each pin was pushed once for this address, and is given back once.
        unsafe { buffer.unpin(at, PageRun::ram(frame, 1).unwrap(), false) };
    };
    held.into_iter().for_each(unpin);
    let mut frame = [Pfn::default()];
    PageMap::open().unwrap().read(last.0, &mut frame).unwrap();
    assert_eq!(frame[0], last.1);
    assert!(vm_pin() > before);
    unpin(last);
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_batch_that_is_dropped_half_way_leaves_nothing_pinned() {
    let _alone = alone();
    let before = vm_pin();
    for pages in [Pages::Base, Pages::Transparent] {
        let buffer = Buffer::new(100 * MIB, pages).unwrap();
        let mut memory = [None; 1];
        for _ in 0..3 {
            let whole = part(&buffer, 0..100 * MIB);
            let mut batch = PinnedBatch::new(&buffer, whole, FLAGS, &mut memory);
            batch.fill().unwrap();
            assert!(batch.page_count() > 0 && batch.left() > 0);
            assert!(vm_pin() - before >= 64 * MIB);
            drop(batch);
            assert_eq!(vm_pin(), before);
        }
    }
}

#[test]
fn a_slot_ends_where_it_is_wanted_no_more() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(16 * MIB, Pages::Base).unwrap();
    let pins = Pins::take(&buffer, page() + 1..3 * page() + 1, 128).unwrap();
    assert_eq!(vm_pin() - before, 3 * page());
    assert_eq!(pins.frames().len(), 3);
    // Around it, and over it: only what is not yet pinned is.
    let more = Pins::take(&buffer, 0..8 * page(), 128).unwrap();
    assert_eq!(vm_pin() - before, 8 * page());
    pins.give_back();
    more.check();
    more.give_back();
    assert_eq!(vm_pin(), before);
}

#[test]
fn threads_pin_and_unpin_at_the_same_time() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(96 * MIB, Pages::Base).unwrap();
    let (buffer, start) = (&buffer, &Barrier::new(4));
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                start.wait();
                for _ in 0..30 {
                    // All begin at one of few places, so that they meet.
                    let from = random.u64(0..12) * 8 * MIB;
                    let pages = random.u64(1..=(96 * MIB - from) / page());
                    let pins = Pins::take(buffer, from..from + pages * page(), 128).unwrap();
                    assert_eq!(pins.frames().len() as u64, pages);
                    assert!(vm_pin() - before >= pages * page());
                    pins.check();
                    thread::yield_now();
                    pins.check();
                    pins.give_back();
                }
            });
        }
    });
    assert_eq!(vm_pin(), before);
}

#[test]
fn what_is_not_in_the_buffer_is_not_pinned() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(MIB, Pages::Base).unwrap();
    let end = buffer.user_addr().checked_add(MIB).unwrap();
    let mut memory = [None; 4];
    let mut fault_of = |start: UserAddr, len, flags, slots| {
        let range = UserRange::new(start, len).unwrap();
        let mut batch = PinnedBatch::new(&buffer, range, flags, &mut memory[..slots]);
        let fault = batch.fill().unwrap_err();
        assert!(batch.is_empty());
        fault
    };
    for (start, len, first) in [
        (end, 1, end),
        (buffer.user_addr(), MIB + 1, end),
        (end.checked_sub(1).unwrap(), 2, end),
        (UserAddr::new(0), 1, UserAddr::new(0)),
        (UserAddr::new(0), u64::MAX, UserAddr::new(0)),
        (end, u64::MAX - end.get(), end),
        (buffer.user_addr(), u64::MAX - end.get(), end),
    ] {
        let fault = fault_of(start, len, FLAGS, 4);
        assert!(matches!(fault, PageError::NotInBuffer { at } if at == first), "{fault}");
    }
    let start = buffer.user_addr();
    assert!(matches!(fault_of(start, MIB, FLAGS, 0), PageError::NoRoom));
    let odd = PinFlags::NOFAULT | PinFlags::PCI_P2PDMA;
    let fault = fault_of(start, MIB, FLAGS | odd, 4);
    assert!(matches!(fault, PageError::Unsupported { flags } if flags == odd), "{fault}");
    assert_eq!(vm_pin(), before);
    for flags in [PinFlags::empty(), PinFlags::FORCE, PinFlags::LONGTERM] {
        let mut memory = vec![None; 256];
        let mut batch = PinnedBatch::new(&buffer, part(&buffer, 0..MIB), flags, &mut memory);
        batch.fill().unwrap();
        assert_eq!((batch.left(), vm_pin() - before), (0, MIB));
        assert!(matches!(batch.fill(), Err(PageError::NoRoom)));
    }
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_buffer_is_cut_where_huge_pages_end() {
    let buffer = Buffer::new(4 * MIB, Pages::Base).unwrap();
    assert_eq!(Pinner::cut_size(&buffer).bytes(), 2 * MIB);
    let buffer = Buffer::new(4 * MIB, Pages::Transparent).unwrap();
    assert!(Pinner::cut_size(&buffer) >= buffer.huge_page_size());
    assert_eq!(Pinner::page_size(&buffer), buffer.page_size());
}

#[test]
fn a_buffer_with_leaked_pins_stays_pinned_and_mapped() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(5 * MIB, Pages::Base).unwrap();
    let pins = Pins::take(&buffer, MIB..2 * MIB, 128).unwrap();
    let (at, frames) = (pins.at, pins.frames());
    mem::forget(pins);
    drop(buffer);
    assert_eq!(vm_pin() - before, MIB);
    let mut now = vec![Pfn::default(); frames.len()];
    PageMap::open().unwrap().read(at, &mut now).unwrap();
    assert_eq!(now, frames);
}

#[test]
fn time_is_counted() {
    let _alone = alone();
    let buffer = Buffer::new(8 * MIB, Pages::Base).unwrap();
    assert!(buffer.steps().pin.is_zero());
    Pins::take(&buffer, 0..8 * MIB, 128).unwrap().give_back();
    let first = buffer.steps();
    assert!(!first.pin.is_zero() && !first.read.is_zero());
    Pins::take(&buffer, 0..8 * MIB, 128).unwrap().give_back();
    assert!(buffer.steps().pin > first.pin);
}

#[test]
fn threads_read_and_write_at_the_same_time() {
    let buffer = Buffer::new(MIB, Pages::Base).unwrap();
    let buffer = &buffer;
    thread::scope(|scope| {
        for value in 1..=2u8 {
            scope.spawn(move || {
                for _ in 0..2000 {
                    buffer.write(5, &[value; 999]).unwrap();
                    let mut bytes = [0; 999];
                    buffer.read(5, &mut bytes).unwrap();
                    assert!(bytes.iter().all(|byte| *byte == bytes[0] && *byte != 0));
                }
            });
        }
    });
}

/// Memory that is there already, at an address that is not a multiple of a huge page; it is
/// pinned where it is, read and written, and still there when the buffer is gone.
#[test]
fn memory_of_the_caller() {
    let _alone = alone();
    let memory = Buffer::new(8 * MIB, Pages::Base).unwrap();
    let (page, before) = (memory.page_size(), vm_pin());
    memory.write(page.bytes() * 3, b"before").unwrap();
    let at = memory.user_addr().get() + page.bytes() * 3;
    let start = ptr::with_exposed_provenance_mut::<u8>(at as usize);
    let start = ptr::NonNull::new(start).unwrap();
    let parts = |skip: usize, len| {
        let start = ptr::NonNull::new(start.as_ptr().wrapping_add(skip)).unwrap();
        // SAFETY: the memory is that of `memory`, which is dropped last and not touched meanwhile.
        unsafe { Buffer::from_raw_parts(start, len, Pages::Base) }
    };
    assert!(matches!(parts(0, 0), Err(BufferError::Empty)));
    assert!(matches!(parts(0, 100), Err(BufferError::NotAMultiple { len: 100, .. })));
    let error = parts(8, MIB).unwrap_err();
    let to = UserAddr::new(at + 8);
    assert!(matches!(error, BufferError::Misaligned { at, page: of } if at == to && of == page));
    assert!(matches!(parts(0, 1 << 63), Err(BufferError::TooLarge { .. })));

    let buffer = parts(0, 4 * MIB).unwrap();
    let mut bytes = [0; 6];
    buffer.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"before");
    let pins = Pins::take(&buffer, 0..4 * MIB, 16).unwrap();
    assert_eq!(vm_pin() - before, 4 * MIB);
    let mut frames = vec![Pfn::default(); (4 * MIB) as usize >> page.shift()];
    PageMap::open().unwrap().read(buffer.user_addr(), &mut frames).unwrap();
    let listed = pins.runs.iter().flat_map(|run| (0..run.count()).map(|n| run.start().get() + n));
    assert!(frames.iter().map(|pfn| pfn.get()).eq(listed));
    buffer.write(0, b"during").unwrap();
    pins.give_back();
    drop(buffer);
    assert_eq!(vm_pin(), before);
    memory.read(page.bytes() * 3, &mut bytes).unwrap();
    assert_eq!(&bytes, b"during");
}
