// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Reach`]: which frames devices can reach, and through what: looked at when a page is mapped, and
//! when its last pin is taken back.
//!
//! ```text
//!   map, register ──► block of memory ◄── IOVA of a Reacher: an IOMMU, or a region of a card
//!                         │  mapped, unflushed, or both
//!   unpin of a run ───────┘ which blocks have a byte of it?
//! ```
//!
//! What hardware translates with one entry is a block: its size is a power of two, and it lies at a
//! multiple of it. So the blocks that have a byte of a run are found by address, for each size by
//! itself, and no page table is searched.
#![forbid(unsafe_code)]

use super::frame::Frame;
use super::machine::{Inner, Memory};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::witness::{Call, Violation, ViolationKind};
use pinned_sgl::iommu::IovaRange;
use pinned_sgl::{Iova, PageRun, PageSize, Pfn, PhysAddr};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What devices can reach.
#[derive(Debug, Default)]
pub(super) struct Reach {
    blocks: BTreeMap<PageSize, BTreeMap<Place, Way>>,
    /// How many reachers there were.
    reachers: u64,
}

/// The first byte of a block of memory, what can reach it, and at which IOVA: in this order, so that
/// the blocks of one size that have a byte of some memory stand beside each other.
type Place = (PhysAddr, u64, Iova);

/// How a block can be reached.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// By what a table says.
    mapped: bool,
    /// By what the hardware may remember.
    unflushed: bool,
    /// The first and the last byte that can be reached: a card may not reach all of a block.
    first: PhysAddr,
    last: PhysAddr,
}

/// What one entry of a table translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) size: PageSize,
    pub(crate) iova: Iova,
    pub(crate) phys: PhysAddr,
}

impl Block {
    const fn place(self, reacher: u64) -> Place {
        (self.phys, reacher, self.iova)
    }

    /// The block of `size` that has this one in it, or is in it at its beginning.
    const fn of_size(self, size: PageSize) -> Self {
        Self { size, iova: self.iova.align_down(size), phys: self.phys.align_down(size) }
    }

    /// The other half of a block of twice the size.
    const fn sibling(self) -> Self {
        let (iova, phys) =
            (self.iova.get() ^ self.size.bytes(), self.phys.get() ^ self.size.bytes());
        Self { iova: Iova::new(iova), phys: PhysAddr::new(phys), ..self }
    }

    /// Where an address of the block leads.
    pub(crate) fn at(self, iova: Iova) -> Option<PhysAddr> {
        let here = iova.align_down(self.size) == self.iova;
        here.then(|| PhysAddr::new(self.phys.get() | iova.offset_in(self.size)))
    }

    /// All of it, as it is mapped.
    const fn way(self) -> Way {
        let last = PhysAddr::new(self.phys.get() | self.size.mask());
        Way { mapped: true, unflushed: false, first: self.phys, last }
    }
}

impl Reach {
    /// Records that a block can be reached, in this way too.
    fn add(&mut self, reacher: u64, block: Block, way: Way) {
        let ways = self.blocks.entry(block.size).or_default();
        let known = ways.entry(block.place(reacher)).or_insert(way);
        known.mapped |= way.mapped;
        known.unflushed |= way.unflushed;
    }

    /// Records that a block cannot be reached any more: by what is mapped, or by what is unflushed.
    fn remove(&mut self, reacher: u64, block: Block, mapped: bool, unflushed: bool) {
        let Some(ways) = self.blocks.get_mut(&block.size) else { return };
        let Some(way) = ways.get_mut(&block.place(reacher)) else { return };
        way.mapped &= !mapped;
        way.unflushed &= !unflushed;
        if !way.mapped && !way.unflushed {
            ways.remove(&block.place(reacher));
        }
        // A size costs a search as long as it is used.
        if ways.is_empty() {
            self.blocks.remove(&block.size);
        }
    }

    /// Records that a block is not mapped any more, and not flushed yet. It may be a part of one that
    /// was mapped: the rest stays, as the largest blocks that there are.
    fn unmap(&mut self, reacher: u64, block: Block) {
        let mut larger = self.blocks.range(block.size..);
        let whole = larger.find_map(|(size, ways)| {
            let whole = block.of_size(*size);
            ways.get(&whole.place(reacher)).is_some_and(|way| way.mapped).then_some(whole)
        });
        let Some(whole) = whole else { return };
        self.remove(reacher, whole, true, false);
        for shift in block.size.shift()..whole.size.shift() {
            if let Some(size) = PageSize::from_shift(shift) {
                let rest = block.of_size(size).sibling();
                self.add(reacher, rest, rest.way());
            }
        }
        self.add(reacher, block, Way { mapped: false, unflushed: true, ..block.way() });
    }

    /// What leads to a byte of `first..=last`: which of them, and the IOVA of the first of these.
    fn leading_to(
        &self,
        first: PhysAddr,
        last: PhysAddr,
    ) -> impl Iterator<Item = (Iova, RangeInclusive<PhysAddr>, Way)> + '_ {
        self.blocks.iter().flat_map(move |(size, ways)| {
            let least = (first.align_down(*size), 0, Iova::new(0));
            let ways = ways.range(least..=(last, u64::MAX, Iova::new(u64::MAX)));
            ways.filter_map(move |((phys, _, iova), way)| {
                let reached = way.first.max(first)..=way.last.min(last);
                let inside = reached.start().checked_offset_from(*phys)?;
                let at = iova.checked_add(inside).filter(|_| !reached.is_empty())?;
                Some((at, reached, *way))
            })
        })
    }
}

/// What reaches memory: an IOMMU, or a region of a card. Its own methods are what the hardware does.
pub(crate) struct Reacher {
    memory: Memory,
    number: u64,
}

fn reach_of(memory: &Memory) -> MutexGuard<'_, Reach> {
    lock(memory.inner.reach.get_or_init(Mutex::default))
}

impl Reacher {
    /// A new one, which reaches nothing.
    pub(crate) fn new(memory: &Memory) -> Self {
        let mut reach = reach_of(memory);
        reach.reachers += 1;
        let number = reach.reachers;
        drop(reach);
        Self { memory: memory.clone(), number }
    }

    /// Reaches those bytes of a block that have an address of `within`; what is wrong with the pins
    /// of its pages.
    pub(crate) fn map(
        &self,
        call: Call,
        block: Block,
        within: IovaRange,
        writable: bool,
    ) -> Option<Violation> {
        let mut way = block.way();
        let before = within.first().checked_offset_from(block.iova).unwrap_or(0);
        let behind = Iova::new(block.iova.get() | block.size.mask());
        let behind = behind.checked_offset_from(within.last()).unwrap_or(0);
        way.first = way.first.checked_add(before)?;
        way.last = way.last.checked_sub(behind)?;
        // Under the lock: what takes the last pin of a page back looks before, or sees the block.
        let mut reach = reach_of(&self.memory);
        reach.add(self.number, block, way);
        self.memory.inner.badly_pinned(call, block, way, writable)
    }

    /// Reaches a block that was mapped, or a part of it, only by what hardware remembers.
    pub(crate) fn unmap(&self, block: Block) {
        reach_of(&self.memory).unmap(self.number, block);
    }

    /// Remembers a block no more.
    pub(crate) fn flush(&self, block: Block) {
        reach_of(&self.memory).remove(self.number, block, false, true);
    }

    /// Reaches a block no more, which was never cut.
    pub(crate) fn forget(&self, block: Block) {
        reach_of(&self.memory).remove(self.number, block, true, true);
    }

    /// Reaches nothing any more. O(all blocks).
    pub(crate) fn forget_all(&self) {
        let mut reach = reach_of(&self.memory);
        for ways in reach.blocks.values_mut() {
            ways.retain(|(_, reacher, _), _| *reacher != self.number);
        }
        reach.blocks.retain(|_, ways| !ways.is_empty());
    }

    /// A violation at an address, which leads to memory.
    pub(crate) fn about(
        &self,
        kind: ViolationKind,
        call: Call,
        iova: Iova,
        phys: PhysAddr,
    ) -> Violation {
        let inner = &self.memory.inner;
        inner.about(kind, call, phys.pfn(inner.page)).iova(iova)
    }
}

impl Inner {
    /// A violation about a page, which was pinned once, or not.
    pub(super) fn about(&self, kind: ViolationKind, call: Call, pfn: Pfn) -> Violation {
        let violation = Violation { pfn: Some(pfn), ..Violation::new(kind, call) };
        Violation { user: self.peek(pfn.get()).and_then(Frame::user), ..violation }
    }

    /// The first page of a block that is not pinned, or not to be written.
    fn badly_pinned(
        &self,
        call: Call,
        block: Block,
        way: Way,
        writable: bool,
    ) -> Option<Violation> {
        let pages = way.first.pfn(self.page).get()..=way.last.pfn(self.page).get();
        let (pfn, kind) = self.frames_in(pages).find_map(|pfn| {
            let frame = self.peek(pfn);
            if frame.is_none_or(|frame| frame.pins() == 0) {
                return Some((pfn, ViolationKind::MappedUnpinned));
            }
            let to_read = writable && frame.is_some_and(|frame| !frame.is_writable());
            to_read.then_some((pfn, ViolationKind::WritablePinnedToRead))
        })?;
        let at = Pfn::new(pfn).phys(self.page)?.max(way.first);
        let iova = block.iova.checked_add(at.checked_offset_from(block.phys)?)?;
        Some(self.about(kind, call, Pfn::new(pfn)).iova(iova))
    }

    /// The pages of a run that have no pin left, although something leads to them: the first one for
    /// each block.
    pub(super) fn unpinned_too_early(&self, reach: &Reach, run: PageRun) -> Vec<Violation> {
        let first = run.start().phys(self.page);
        let last = run.end().phys(self.page).and_then(|end| end.checked_sub(1));
        let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
        let leading = reach.leading_to(first, last);
        let found = leading.filter_map(|(iova, reached, way)| {
            let mut pages =
                reached.start().pfn(self.page).get()..=reached.end().pfn(self.page).get();
            let pfn = pages.find(|pfn| self.peek(*pfn).is_none_or(|frame| frame.pins() == 0))?;
            let at = Pfn::new(pfn).phys(self.page)?.max(*reached.start());
            let kind = if way.mapped {
                ViolationKind::UnpinnedWhileMapped
            } else {
                ViolationKind::UnpinnedBeforeFlush
            };
            let iova = iova.checked_add(at.checked_offset_from(*reached.start())?)?;
            Some(self.about(kind, Call::Unpin, Pfn::new(pfn)).iova(iova))
        });
        found.collect()
    }

    /// An IOVA that leads to a byte of memory, if a device can reach it at one.
    pub(super) fn iova_of(&self, phys: PhysAddr) -> Option<Iova> {
        let reach = lock(self.reach.get()?);
        let found = reach.leading_to(phys, phys).next();
        found.map(|(iova, _, _)| iova)
    }
}
