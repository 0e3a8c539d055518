// SPDX-License-Identifier: MIT OR Apache-2.0
//! Made-up memory, fragmented as a machine that has been up for a while.
//!
//! Free memory lies in slots of 2 MiB, in stretches of a few and in no order. A huge page takes a
//! slot; smaller pieces, powers of two as from a buddy allocator, are carved out of slots that
//! another process has pages in.
//!
//! The frames are made as they are listed: a page list of a terabyte would take 2 GiB.

use crate::args::{Args, Kind};
use crate::memory::{Fault, Memory};
use crate::units::bytes;
use fastrand::Rng;
use pinned_sgl::{Failed, Heap, MemoryKind, PageSize, Pfn, Sgl, SglBuilder};
use std::collections::TryReserveError;
use std::ops::Range;
use std::thread::{self, Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};
use std::{panic, slice};

/// Pages of a slot.
const SLOT: u64 = 512;
/// Pages of a 1 GiB page.
const GIGANTIC: u64 = 512 * SLOT;
/// The host has that many times the memory of the buffer.
const HOST: u64 = 4;
/// Devices and the firmware have the first 4 GiB.
const FIRST: u64 = (4 << 30) / 4096;
/// Frames that a thread lists at a time.
const BATCH: u64 = 4096;

/// Makes memory up and lists it, each part of it in a thread.
pub(crate) fn make(args: &Args) -> Result<Memory, Fault> {
    let seed = args.seed.unwrap_or(1);
    let pages = args.size / 4096;
    let mut rng = Rng::with_seed(seed);
    let no_memory = |error| format!("no memory to make up {}: {error}", bytes(args.size));
    let host = Host::new(pages, &mut rng).map_err(no_memory)?;

    let part = pages.div_ceil(args.threads.get() as u64);
    let mut frames = Frames::new(&host, args.pages, pages, rng);
    let parts = thread::scope(|scope| {
        let mut threads = Vec::new();
        while frames.left() > 0 {
            let own = frames.clone();
            let thread = Builder::new().spawn_scoped(scope, move || list(own, part));
            threads.push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
            frames.skip(part);
        }
        let join = |thread: ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>, Fault>>()
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

/// The list of the next `pages` frames, as far as there are any, and how long it took to build.
fn list(mut frames: Frames<'_>, pages: u64) -> Result<(Sgl<Heap>, Duration), Fault> {
    let mut left = pages.min(frames.left());
    let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    let mut batch = Vec::new();
    let mut took = Duration::ZERO;
    while left > 0 {
        batch.clear();
        while (batch.len() as u64) < left.min(BATCH) {
            batch.extend(frames.next(left.min(BATCH) - batch.len() as u64).map(Pfn::new));
        }
        left -= batch.len() as u64;
        let started = Instant::now();
        builder.push_pages(&batch, MemoryKind::Ram)?;
        took += started.elapsed();
    }
    let started = Instant::now();
    let sgl = builder.finish().map_err(Failed::into_error)?;
    Ok((sgl, took + started.elapsed()))
}

/// The free memory of a machine; what is taken first is last.
struct Host {
    /// Stretches of slots.
    stretches: Vec<Range<u64>>,
    gigantic: Vec<u64>,
}

impl Host {
    fn new(pages: u64, rng: &mut Rng) -> Result<Self, TryReserveError> {
        let last = FIRST / SLOT + (pages.div_ceil(SLOT) * HOST).max(64);
        let mut stretches = Vec::new();
        let mut next = FIRST / SLOT;
        while next < last {
            let mut end = next + 1;
            while end < last && rng.u32(..4) == 0 {
                end += 1;
            }
            stretches.try_reserve(1)?;
            stretches.push(next..end);
            next = end;
        }
        rng.shuffle(&mut stretches);
        let mut gigantic: Vec<u64> = (0..pages.div_ceil(GIGANTIC) * HOST).collect();
        rng.shuffle(&mut gigantic);
        Ok(Self { stretches, gigantic })
    }
}

/// The frames of a buffer, in order. Where they go on, a copy goes on in the same way.
#[derive(Clone)]
struct Frames<'a> {
    kind: Kind,
    pages: u64,
    rng: Rng,
    stretches: slice::Iter<'a, Range<u64>>,
    gigantic: slice::Iter<'a, u64>,
    /// What is left of the last stretch.
    slots: Range<u64>,
    /// The slot that pieces are carved out of, and how far.
    carved: u64,
    cursor: u64,
    /// How many frames were given out, and what is left of the last piece.
    given: u64,
    piece: Range<u64>,
}

impl<'a> Frames<'a> {
    fn new(host: &'a Host, kind: Kind, pages: u64, rng: Rng) -> Self {
        Self {
            kind,
            pages,
            rng,
            stretches: host.stretches.iter(),
            gigantic: host.gigantic.iter(),
            slots: 0..0,
            carved: FIRST / SLOT,
            cursor: SLOT,
            given: 0,
            piece: 0..0,
        }
    }

    fn left(&self) -> u64 {
        self.pages - self.given
    }

    /// Some of the next frames, but no more than `most`: they lie side by side.
    fn next(&mut self, most: u64) -> Range<u64> {
        if self.piece.is_empty() {
            let (start, count) = self.place();
            self.piece = start..start + count.min(self.left());
        }
        let start = self.piece.start;
        self.piece.start = self.piece.end.min(start.saturating_add(most));
        self.given += self.piece.start - start;
        start..self.piece.start
    }

    fn skip(&mut self, count: u64) {
        let end = self.pages.min(self.given.saturating_add(count));
        while self.given < end {
            self.next(end - self.given);
        }
    }

    /// Where the next piece lies, and how many frames it has.
    fn place(&mut self) -> (u64, u64) {
        match self.kind {
            Kind::Huge1G => {
                let page = self.gigantic.next_back().copied().unwrap_or_default();
                (FIRST + page * GIGANTIC, GIGANTIC)
            }
            Kind::Huge2M => (self.slot(), SLOT),
            Kind::Thp => {
                // A huge page begins where one fits in the address space, or not at all.
                let at = self.given % SLOT;
                if at == 0 && self.rng.u32(..100) < 95 {
                    (self.slot(), SLOT)
                } else {
                    self.carve(4, SLOT - at)
                }
            }
            Kind::Base => {
                let most = if self.rng.u32(..8) == 0 { 9 } else { 3 };
                self.carve(most, self.left())
            }
        }
    }

    /// Slots are taken ascending within a stretch.
    fn slot(&mut self) -> u64 {
        if self.slots.is_empty() {
            self.slots = self.stretches.next_back().cloned().unwrap_or_default();
        }
        self.slots.next().unwrap_or_default() * SLOT
    }

    /// A piece of 2^0 to 2^most pages, but no more than `left`.
    fn carve(&mut self, most: u32, left: u64) -> (u64, u64) {
        let count = 1 << self.rng.u32(..=most).min(left.ilog2());
        // Another process may have the pages in between.
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
