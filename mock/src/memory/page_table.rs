// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageTable`]: where the pages of a VMA are. It is read without a lock and changed under the
//! lock of the memory.
//!
//! ```text
//!   63                              8        3         2        1      0
//!  ┌─────────────────────────────────┬────────┬─────────┬───────┬────────┐
//!  │ frame number, or place in swap  │SWAPPED │EXCLUSIVE│ ZERO  │PRESENT │
//!  └─────────────────────────────────┴────────┴─────────┴───────┴────────┘
//! ```
#![forbid(unsafe_code)]

use super::sparse::Sparse;
use crate::sync::{AtomicU64, Ordering};
use std::fmt;

const PRESENT: u64 = 1;
const ZERO: u64 = 2;
const EXCLUSIVE: u64 = 4;
const SWAPPED: u64 = 8;
const NUMBER_SHIFT: u32 = 8;

/// Frame numbers end here: an entry has no room for more.
pub(super) const MAX_PFN: u64 = 1 << 56;

/// What the page table knows of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// Never touched.
    pub(super) const EMPTY: Self = Self(0);
    /// About to be moved: a reader that meets it waits for the lock.
    pub(super) const MOVING: Self = Self(1 << 7);

    /// A page in a frame. An exclusive one holds this page only, so nothing else sees a
    /// write to it.
    pub(super) const fn present(pfn: u64, exclusive: bool) -> Self {
        let exclusive = if exclusive { EXCLUSIVE } else { 0 };
        Self((pfn << NUMBER_SHIFT) | PRESENT | exclusive)
    }

    /// A page that was never written: the one frame of zeros.
    pub(super) const fn zero(pfn: u64) -> Self {
        Self((pfn << NUMBER_SHIFT) | PRESENT | ZERO)
    }

    /// A page whose contents are kept elsewhere.
    pub(super) const fn swapped(slot: u64) -> Self {
        Self((slot << NUMBER_SHIFT) | SWAPPED)
    }

    pub(super) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    pub(super) const fn is_zero(self) -> bool {
        self.0 & ZERO != 0
    }

    pub(super) const fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }

    /// The place in swap.
    pub(super) const fn slot(self) -> Option<u64> {
        if self.0 & SWAPPED != 0 {
            Some(self.number())
        } else {
            None
        }
    }

    /// The frame, if the page has one.
    pub(super) const fn pfn(self) -> Option<u64> {
        if self.is_present() {
            Some(self.number())
        } else {
            None
        }
    }

    /// The frame, if the page has one that is counted: all but the one of zeros.
    pub(super) const fn own_pfn(self) -> Option<u64> {
        if self.is_zero() {
            None
        } else {
            self.pfn()
        }
    }

    const fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT
    }

    /// The same, in another frame.
    pub(super) const fn moved_to(self, pfn: u64) -> Self {
        let low = (1 << NUMBER_SHIFT) - 1;
        Self((pfn << NUMBER_SHIFT) | self.0 & low)
    }

    /// The same frame, exclusive or not.
    pub(super) const fn with_exclusive(self, exclusive: bool) -> Self {
        if exclusive {
            Self(self.0 | EXCLUSIVE)
        } else {
            Self(self.0 & !EXCLUSIVE)
        }
    }

    /// What the entry of the page `pages` further up is, if the frames are neighbours.
    const fn further(self, pages: u64) -> Self {
        Self(self.0 + (pages << NUMBER_SHIFT))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:#x})", self.0)
    }
}

#[derive(Debug, Default)]
struct Cell(AtomicU64);

/// The entries of a vma, by the number of the page in it.
#[derive(Debug)]
pub(super) struct PageTable {
    entries: Sparse<Cell>,
    pages: u64,
}

impl PageTable {
    pub(super) fn new(pages: u64) -> Self {
        Self { entries: Sparse::new(0, pages), pages }
    }

    /// How many pages it has entries for.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn load(&self, index: u64) -> Entry {
        self.entries.peek(index).map_or(Entry::EMPTY, |cell| Entry(cell.0.load(Ordering::Acquire)))
    }

    /// Changes an entry; the old one. Under the lock of the memory only.
    pub(super) fn set(&self, index: u64, entry: Entry) -> Entry {
        let cell = self.entries.get(index);
        cell.map_or(Entry::EMPTY, |cell| Entry(cell.0.swap(entry.0, Ordering::AcqRel)))
    }

    /// How many entries from `index` on, at most `max`, are that of the first page, continued.
    pub(super) fn matching(&self, index: u64, entry: Entry, max: u64) -> u64 {
        (0..max)
            .find(|pages| self.load(index.saturating_add(*pages)) != entry.further(*pages))
            .unwrap_or(max)
    }

    /// The entries of `from..to` that are not empty.
    pub(super) fn entries(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Entry)> + '_ {
        self.entries
            .made_in(from, to)
            .map(|(index, cell)| (index, Entry(cell.0.load(Ordering::Acquire))))
            .filter(|(_, entry)| *entry != Entry::EMPTY)
    }
}
