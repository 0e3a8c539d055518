// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up memory, fragmented as a machine that has been up for a while.
//!
//! Free memory lies in slots of 2 MiB, in stretches of a few and in no order. A huge page takes a
//! slot; smaller pieces, powers of two as from a buddy allocator, are carved out of slots that
//! somebody else has pages in.

use crate::args::{Args, Kind};
use crate::memory::Memory;
use fastrand::Rng;
use pinned_sgl::{AllocError, BuildError, Heap, MemoryKind, PageSize, Pfn, Sgl, SglBuilder};
use std::panic;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// Pages of a slot.
const SLOT: u64 = 512;
/// Pages of a 1 GiB page.
const GIGANTIC: u64 = 512 * SLOT;
/// The host has that many times the memory of the buffer.
const HOST: u64 = 4;

/// Makes memory up and lists it, each part of it in a thread.
pub(crate) fn make(args: &Args) -> Result<Memory, Box<dyn std::error::Error>> {
    let seed = args.seed.unwrap_or(1);
    let frames = Host::new(args.size / 4096, seed).frames(args.pages);

    let part = frames.len().div_ceil(args.threads.get());
    let parts = thread::scope(|scope| {
        let build = |part| scope.spawn(move || list(part));
        let threads: Vec<_> = frames.chunks(part).map(build).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>, String>>()
    })?;
    let (mut lists, times): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let build = times.into_iter().max().unwrap_or_default();

    let (sgl, join) = match (lists.pop(), lists.is_empty()) {
        (Some(only), true) => (only, Duration::ZERO),
        (last, _) => {
            let started = Instant::now();
            let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
            lists.iter().chain(&last).try_for_each(|list| builder.push_sgl(list))?;
            (builder.finish()?, started.elapsed())
        }
    };
    Ok(Memory::Mock { sgl, seed, build, join })
}

/// The list of some frames, and how long it took.
fn list(frames: &[Pfn]) -> Result<(Sgl<Heap>, Duration), String> {
    let text = |error: BuildError| error.to_string();
    let started = Instant::now();
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).map_err(text)?;
    builder.push_pages(frames, MemoryKind::Ram).map_err(text)?;
    let sgl = builder.finish().map_err(|error| AllocError::from(error).to_string())?;
    Ok((sgl, started.elapsed()))
}

struct Host {
    rng: Rng,
    pages: u64,
    /// Free slots; the next to be taken is the last.
    slots: Vec<u64>,
    /// Free gigantic pages.
    gigantic: Vec<u64>,
    /// The slot that pieces are carved out of, and how far.
    carved: u64,
    cursor: u64,
}

impl Host {
    fn new(pages: u64, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        // Devices and the firmware have the first 4 GiB.
        let first = (4 << 30) / 4096 / SLOT;
        let last = first + (pages.div_ceil(SLOT) * HOST).max(64);
        let mut stretches = Vec::new();
        let mut next = first;
        while next < last {
            let mut end = next + 1;
            while end < last && rng.u32(..4) == 0 {
                end += 1;
            }
            stretches.push(next..end);
            next = end;
        }
        rng.shuffle(&mut stretches);
        // Taken from the end, and ascending within a stretch.
        let slots = stretches.into_iter().flat_map(Iterator::rev).collect();
        let mut gigantic: Vec<u64> = (0..pages.div_ceil(GIGANTIC) * HOST).collect();
        rng.shuffle(&mut gigantic);
        Self { rng, pages, slots, gigantic, carved: first, cursor: SLOT }
    }

    fn frames(mut self, kind: Kind) -> Vec<Pfn> {
        let mut frames = Vec::with_capacity(self.pages as usize);
        while (frames.len() as u64) < self.pages {
            let left = self.pages - frames.len() as u64;
            let (start, count) = match kind {
                Kind::Huge1G => {
                    let page = self.gigantic.pop().unwrap_or_default();
                    ((4 << 30) / 4096 + page * GIGANTIC, GIGANTIC)
                }
                Kind::Huge2M => (self.slot(), SLOT),
                Kind::Thp => {
                    // A huge page begins where one fits in the address space, or not at all.
                    let at = frames.len() as u64 % SLOT;
                    if at == 0 && self.rng.u32(..100) < 95 {
                        (self.slot(), SLOT)
                    } else {
                        self.piece(4, SLOT - at)
                    }
                }
                Kind::Base => {
                    let most = if self.rng.u32(..8) == 0 { 9 } else { 3 };
                    self.piece(most, left)
                }
            };
            frames.extend((start..start + count.min(left)).map(Pfn::new));
        }
        frames
    }

    fn slot(&mut self) -> u64 {
        self.slots.pop().unwrap_or_default() * SLOT
    }

    /// A piece of 2^0 to 2^most pages, but no more than `left`.
    fn piece(&mut self, most: u32, left: u64) -> (u64, u64) {
        let count = 1 << self.rng.u32(..=most).min(left.ilog2());
        // Somebody else may have the pages in between.
        let gap = if self.rng.bool() { self.rng.u64(1..=count) } else { 0 };
        self.cursor = (self.cursor + gap).next_multiple_of(count);
        if self.cursor + count > SLOT {
            self.carved = self.slot();
            self.cursor = 0;
        }
        let start = self.carved + self.cursor;
        self.cursor += count;
        (start, count)
    }
}
