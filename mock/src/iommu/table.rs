// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Table`]: a page table of several levels, for any set of page sizes.
//!
//! Each page size is a level of its own, whose entries lead to its pages. Where two sizes lie far apart,
//! levels without pages stand between them, so that no table has more than 512 entries:
//!
//! ```text
//!  {4K, 2M, 1G}, 48 bits        {64K, 512M}, 36 bits
//!
//!  bits 39..48  tables          bits 29..36  tables or 512M pages
//!  bits 30..39  tables or 1G    bits 25..29  tables
//!  bits 21..30  tables or 2M    bits 16..25  64K pages
//!  bits 12..21  4K pages
//! ```
//!
//! A table is made when the first page below it is mapped, and freed with the last. So every table but the
//! root leads to a page, and an address whose way down ends early has none.
#![forbid(unsafe_code)]

use crate::memory::Block;
use pinned_sgl::iommu::{IovaRange, Prot};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};
use std::ops::ControlFlow;

/// What a slot takes in the memory of hardware.
const ENTRY_BYTES: u64 = 8;
/// A table has at most `2^MAX_BITS` slots.
const MAX_BITS: u32 = if cfg!(miri) { 3 } else { 9 };

pub(super) struct Table {
    /// From the smallest pages up.
    levels: Vec<Level>,
    root: Node,
    counts: Counts,
}

/// The slots of a level are `2^shift` bytes apart; a table of it has `2^bits` of them.
#[derive(Clone, Copy)]
struct Level {
    shift: u32,
    bits: u32,
    has_pages: bool,
}

#[derive(Default)]
struct Node {
    slots: Box<[Slot]>,
    /// How many of the slots are not empty.
    used: u32,
}

enum Slot {
    Empty,
    Pte(Pte),
    Table(Box<Node>),
}

/// A page table entry that leads to memory.
#[derive(Clone, Copy)]
pub(super) struct Pte {
    pub(super) phys: PhysAddr,
    pub(super) prot: Prot,
    /// Whether a device has written to it.
    pub(super) dirty: bool,
}

/// An entry, and the addresses that it translates.
pub(super) struct Found<'a> {
    pub(super) first: Iova,
    pub(super) size: PageSize,
    pub(super) pte: &'a mut Pte,
}

impl Found<'_> {
    /// What the entry translates.
    pub(super) const fn block(&self) -> Block {
        Block { size: self.size, iova: self.first, phys: self.pte.phys }
    }

    /// The addresses that the entry translates.
    pub(super) fn range(&self) -> IovaRange {
        // A page lies on a multiple of its size, so its last address does not wrap.
        let last = Iova::new(self.first.get() | self.size.mask());
        IovaRange::inclusive(self.first, last).unwrap_or(IovaRange::ALL)
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Slots of all tables; entries in them.
    slots: u64,
    entries: u64,
    /// The bytes that the entries translate, which may be all 2^64.
    bytes: u128,
}

/// What has been unmapped, and what was in the way of the rest.
#[derive(Default)]
pub(super) struct Unmapped {
    /// From the beginning of the range on: more than the range has if its end cut an entry.
    pub(super) bytes: u64,
    pub(super) entries: u64,
    pub(super) stop: Option<Stop>,
}

#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// Nothing is mapped here.
    Hole(Iova),
    /// This edge of the range lies inside an entry.
    Cut(Iova),
}

/// The lowest `bits` bits; all of them for 64 and more.
const fn mask(bits: u32) -> u64 {
    if bits == 0 {
        0
    } else {
        u64::MAX >> (u64::BITS - bits)
    }
}

/// A slot of a table, and what a range has of it.
struct Piece {
    slot: u64,
    slot_last: u64,
    first: u64,
    last: u64,
}

impl Level {
    const fn index(self, address: u64) -> u64 {
        (address >> self.shift) & mask(self.bits)
    }

    /// The slots that a range of one table lies in, of those of the table.
    fn pieces(
        self,
        slots: &mut [Slot],
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (Piece, &mut Slot)> {
        let base = first & !mask(self.shift + self.bits);
        let (from, to) = (self.index(first), self.index(last));
        let slots = slots.iter_mut().skip(usize::try_from(from).unwrap_or(usize::MAX));
        (from..=to).zip(slots).map(move |(index, there)| {
            let slot = base | (index << self.shift);
            let slot_last = slot | mask(self.shift);
            let (first, last) = (first.max(slot), last.min(slot_last));
            (Piece { slot, slot_last, first, last }, there)
        })
    }
}

impl Node {
    /// A table of the highest of `levels`, without entries.
    fn new(levels: &[Level], counts: &mut Counts) -> Self {
        let slots: Box<[Slot]> = levels.last().map_or_else(Box::default, |level| {
            (0..1u32 << level.bits).map(|_| Slot::Empty).collect()
        });
        counts.slots += len(&slots);
        Self { slots, used: 0 }
    }

    /// A table of the highest of `levels` that maps what `whole` did.
    fn split(levels: &[Level], whole: Pte, counts: &mut Counts) -> Self {
        let Some((level, below)) = levels.split_last() else {
            return Self::default();
        };
        let entries = 1u32 << level.bits;
        let mut slots = Vec::new();
        for index in 0..entries {
            let offset = u64::from(index) << level.shift;
            let part = Pte { phys: PhysAddr::new(whole.phys.get() + offset), ..whole };
            slots.push(if level.has_pages {
                counts.entries += 1;
                Slot::Pte(part)
            } else {
                Slot::Table(Box::new(Self::split(below, part, counts)))
            });
        }
        counts.slots += len(&slots);
        Self { slots: slots.into(), used: entries }
    }
}

fn len(slots: &[Slot]) -> u64 {
    u64::try_from(slots.len()).unwrap_or(u64::MAX)
}

impl Table {
    /// An empty table for addresses up to `last`.
    pub(super) fn new(sizes: PageSizes, last: Iova) -> Self {
        let levels = levels(sizes, last);
        let mut counts = Counts::default();
        let root = Node::new(&levels, &mut counts);
        Self { levels, root, counts }
    }

    /// What the tables take in the memory of hardware.
    pub(super) const fn bytes(&self) -> u64 {
        self.counts.slots * ENTRY_BYTES
    }

    pub(super) const fn entries(&self) -> u64 {
        self.counts.entries
    }

    pub(super) const fn mapped_bytes(&self) -> u128 {
        self.counts.bytes
    }

    /// Maps `count` pages, which fit: reports how many are mapped now, and the address of the entry
    /// that is in the way of the next.
    pub(super) fn map(
        &mut self,
        iova: Iova,
        size: PageSize,
        count: u64,
        first: Pte,
    ) -> (u64, Option<Iova>) {
        let Some(more) = (count << size.shift()).checked_sub(1) else {
            return (0, None);
        };
        let mut job = Map {
            shift: size.shift(),
            distance: first.phys.get().wrapping_sub(iova.get()),
            like: first,
            pages: 0,
            counts: &mut self.counts,
        };
        let last = iova.get() + more;
        let blocked = job.node(&mut self.root, &self.levels, iova.get(), last).err();
        (job.pages, blocked.map(Iova::new))
    }

    /// Unmaps a range of whole smallest pages. An entry that the range cuts is split where `split`
    /// says so; otherwise it stays if the range begins in it, and goes if the range ends in it. Calls
    /// `gone` for each entry that goes.
    pub(super) fn unmap(
        &mut self,
        range: IovaRange,
        split: bool,
        gone: impl FnMut(Block),
    ) -> Unmapped {
        let mut job = Unmap { split, done: Unmapped::default(), counts: &mut self.counts, gone };
        let (first, last) = (range.first().get(), range.last().get());
        job.done.stop = job.node(&mut self.root, &self.levels, first, last).err();
        job.done
    }

    /// The entry that translates `iova`.
    pub(super) fn find(&mut self, iova: Iova) -> Option<Found<'_>> {
        let mut levels = self.levels.as_slice();
        if iova.get() & !reach(levels) != 0 {
            return None;
        }
        let mut node = &mut self.root;
        loop {
            let (level, below) = levels.split_last()?;
            let index = usize::try_from(level.index(iova.get())).ok()?;
            match node.slots.get_mut(index)? {
                Slot::Empty => return None,
                Slot::Pte(pte) => {
                    let size = PageSize::from_shift(level.shift)?;
                    return Some(Found { first: iova.align_down(size), size, pte });
                }
                Slot::Table(table) => (node, levels) = (table, below),
            }
        }
    }

    /// Shows the entries that translate any address of `range`, in ascending order.
    pub(super) fn visit(
        &mut self,
        range: IovaRange,
        mut f: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) {
        let last = range.last().get().min(reach(&self.levels));
        if range.first().get() <= last {
            let _ = visit(&mut self.root, &self.levels, range.first().get(), last, &mut f);
        }
    }
}

/// The last address that a table of these levels can translate.
fn reach(levels: &[Level]) -> u64 {
    levels.last().map_or(0, |top| mask(top.shift + top.bits))
}

fn levels(sizes: PageSizes, last: Iova) -> Vec<Level> {
    let mut levels = Vec::new();
    let Some(smallest) = sizes.smallest() else {
        return levels;
    };
    let needed = u64::BITS - last.get().leading_zeros();
    // A page may be as large as all addresses together: it needs an entry, too.
    let as_large = PageSize::from_shift(needed).is_some_and(|size| sizes.has(size));
    let reach = needed + u32::from(as_large);
    let mut shift = smallest.shift();
    while shift < reach {
        let larger = PageSize::from_shift(shift + 1);
        let next = larger
            .and_then(|larger| sizes.at_least(larger).smallest())
            .map_or(reach, PageSize::shift)
            .min(reach);
        let bits = (next - shift).min(MAX_BITS);
        let has_pages = PageSize::from_shift(shift).is_some_and(|size| sizes.has(size));
        levels.push(Level { shift, bits, has_pages });
        shift += bits;
    }
    levels
}

struct Map<'a> {
    /// The level of the pages.
    shift: u32,
    /// From an IOVA to the memory that it shall lead to, modulo 2^64.
    distance: u64,
    like: Pte,
    pages: u64,
    counts: &'a mut Counts,
}

impl Map<'_> {
    /// Maps a range of one table; fails with the address of what is in the way.
    fn node(
        &mut self,
        node: &mut Node,
        levels: &[Level],
        first: u64,
        last: u64,
    ) -> Result<(), u64> {
        let Some((level, below)) = levels.split_last() else {
            return Ok(());
        };
        for (piece, slot) in level.pieces(&mut node.slots, first, last) {
            let is_here = level.shift == self.shift;
            match slot {
                Slot::Pte(_) => return Err(piece.first),
                Slot::Table(table) if is_here => {
                    let mut in_the_way = piece.first;
                    let _ = visit(table, below, piece.first, piece.last, &mut |found| {
                        in_the_way = found.first.get();
                        ControlFlow::Break(())
                    });
                    return Err(in_the_way);
                }
                Slot::Table(table) => self.node(table, below, piece.first, piece.last)?,
                Slot::Empty => {
                    node.used += 1;
                    *slot = if is_here {
                        self.pages += 1;
                        self.counts.entries += 1;
                        self.counts.bytes = self.counts.bytes.saturating_add(1 << level.shift);
                        let phys = PhysAddr::new(piece.first.wrapping_add(self.distance));
                        Slot::Pte(Pte { phys, ..self.like })
                    } else {
                        // Nothing can be in the way in a new table: it never stays empty.
                        let mut table = Box::new(Node::new(below, self.counts));
                        self.node(&mut table, below, piece.first, piece.last)?;
                        Slot::Table(table)
                    };
                }
            }
        }
        Ok(())
    }
}

struct Unmap<'a, F> {
    split: bool,
    done: Unmapped,
    counts: &'a mut Counts,
    gone: F,
}

impl<F: FnMut(Block)> Unmap<'_, F> {
    fn node(
        &mut self,
        node: &mut Node,
        levels: &[Level],
        first: u64,
        last: u64,
    ) -> Result<(), Stop> {
        let Some((level, below)) = levels.split_last() else {
            return Ok(());
        };
        for (piece, slot) in level.pieces(&mut node.slots, first, last) {
            if let Slot::Pte(pte) = *slot {
                let is_cut = piece.first != piece.slot || piece.last != piece.slot_last;
                if is_cut && self.split && !below.is_empty() {
                    self.counts.entries -= 1;
                    *slot = Slot::Table(Box::new(Node::split(below, pte, self.counts)));
                }
            }
            let stop = match slot {
                Slot::Empty => return Err(Stop::Hole(Iova::new(piece.first))),
                Slot::Pte(_) if piece.first != piece.slot => {
                    return Err(Stop::Cut(Iova::new(piece.first)));
                }
                Slot::Pte(pte) => {
                    if let Some(size) = PageSize::from_shift(level.shift) {
                        (self.gone)(Block { size, iova: Iova::new(piece.slot), phys: pte.phys });
                    }
                    *slot = Slot::Empty;
                    let bytes = piece.slot_last - piece.slot + 1;
                    self.done.bytes = self.done.bytes.saturating_add(bytes);
                    self.done.entries += 1;
                    self.counts.entries -= 1;
                    self.counts.bytes = self.counts.bytes.saturating_sub(u128::from(bytes));
                    // An unmap of the head of an entry has unmapped its tail, too.
                    if piece.last == piece.slot_last {
                        Ok(())
                    } else {
                        Err(Stop::Cut(Iova::new(piece.last + 1)))
                    }
                }
                Slot::Table(table) => {
                    let stop = self.node(table, below, piece.first, piece.last);
                    if table.used == 0 {
                        self.counts.slots -= len(&table.slots);
                        *slot = Slot::Empty;
                    }
                    stop
                }
            };
            if matches!(slot, Slot::Empty) {
                node.used -= 1;
            }
            stop?;
        }
        Ok(())
    }
}

fn visit(
    node: &mut Node,
    levels: &[Level],
    first: u64,
    last: u64,
    f: &mut impl FnMut(Found<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((level, below)) = levels.split_last() else {
        return ControlFlow::Continue(());
    };
    let Some(size) = PageSize::from_shift(level.shift) else {
        return ControlFlow::Continue(());
    };
    for (piece, slot) in level.pieces(&mut node.slots, first, last) {
        match slot {
            Slot::Pte(pte) => f(Found { first: Iova::new(piece.slot), size, pte })?,
            Slot::Table(table) => visit(table, below, piece.first, piece.last, f)?,
            Slot::Empty => {}
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &str, last: u64) -> Vec<(u32, u32, bool)> {
        let levels = levels(sizes.parse().unwrap(), Iova::new(last));
        levels.iter().map(|level| (level.shift, level.bits, level.has_pages)).collect()
    }

    #[test]
    fn levels_resolve_every_bit_once() {
        let x86 = [(12, 9, true), (21, 9, true), (30, 9, true), (39, 9, false)];
        assert_eq!(shape("4K|2M|1G", (1 << 48) - 1), x86);
        let arm = [(16, 9, true), (25, 4, false), (29, 7, true)];
        assert_eq!(shape("64K|512M", (1 << 36) - 1), arm);
        // A page as large as the aperture has an entry; a larger one needs none.
        assert_eq!(shape("4K|1G|1T", (1 << 30) - 1).last(), Some(&(30, 1, true)));
        // Nothing fits.
        assert_eq!(shape("4K", 0xff), []);
        for sizes in ["1", "4K", "2K|1M", "16K|32M", "8E", "0xffffffffffffffff", "1|8E"] {
            let levels = shape(sizes, u64::MAX);
            let mut at = sizes.parse::<PageSizes>().unwrap().smallest().unwrap().shift();
            for (shift, bits, _) in &levels {
                assert!(*shift == at && (1..=MAX_BITS).contains(bits), "{sizes}: {levels:?}");
                at += bits;
            }
            assert_eq!(at, 64, "{sizes}");
            let entries = levels.iter().filter(|(_, _, has_pages)| *has_pages).count();
            assert_eq!(entries, sizes.parse::<PageSizes>().unwrap().sizes().count());
        }
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Slot>(), 16);
    }
}
