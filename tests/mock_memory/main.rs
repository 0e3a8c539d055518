// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory and the processes of the mock kit: what pins do, and that every mistake is found.

mod forks;
mod machine;
mod mistakes;
mod moving;
mod pins;
mod threads;

use pinned_sgl::umem::{PinFlags, PinnedBatch, Pinner, RunSlot, UserRange};
use pinned_sgl::{PageRun, PhysAddr, UserAddr};
use pinned_sgl_mock::{Memory, PinFault, Process, Vma};

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
fn with(memory: &Memory, pages: u64, area: Vma) -> Process {
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
