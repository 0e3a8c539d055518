// SPDX-License-Identifier: MIT OR Apache-2.0
//! The directory of a finished list: from the position of a byte to its address, or to the groups that can
//! hold its page.
//!
//! The bytes of a list are divided into *cells* of `2^shift`; the first is shorter where that lays
//! their borders where huge pages have theirs. Each cell has an entry, and one more names the end. The
//! entry of a cell that lies in one run is the address of its first byte, and nothing is left to search.
//! That of a cell with one group only, which has a bitmap, is the place of this: its rest may be the first group of
//! the next leaf, if the group says so. Any other names the group of its first page: the group of a page lies between the one that its
//! cell names and the one that the next cell names. Behind them are *marks*, one for `2^MARK` cells, which
//! name the group in any case. All lie in pieces behind the leaves:
//!
//! ```text
//!  entry  32 bits:  00 │ leaf 21 │ group in the leaf 9
//!                   01 │ leaf 21 │ word of the leaf 9: there lies the only group of the cell
//!                   1 │ address, in units of 2^unit bytes, 31
//! ```
#![forbid(unsafe_code)]

use super::packed::{load, mask};
use crate::exact::{u64 as exact, Exact as _};
use core::ops::Range;

const WORD: usize = 8;
/// Bytes of an entry.
pub(super) const ENTRY: usize = 4;
/// Bits of an entry that name the group in its leaf, or a word of it.
const GROUP_BITS: u32 = 9;
/// Bits of an entry that name a group; the one above says that there is no other in the cell, and that a
/// word is named.
const PLACE_BITS: u32 = 30;
const ONLY: u64 = 1 << PLACE_BITS;
/// Bits of an address; the one above says that it is one.
const ADDRESS_BITS: u32 = 31;
const ADDRESS: u64 = 1 << ADDRESS_BITS;
/// As many leaves as entries can name, beside the end.
const MAX_LEAVES: usize = (1 << (PLACE_BITS - GROUP_BITS)) - 1;
/// The cells of a mark, as a power of two.
const MARK: u32 = 4;

/// A group of a list, by the number of its leaf and its own in that; the last one, where a number is
/// too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) leaf: usize,
    pub(super) group: usize,
}

impl Place {
    pub(super) const FIRST: Self = Self::of(0);
    pub(super) const END: Self = Self::of(ONLY - 1);

    /// From the lower half of `pair`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is not meant")]
    const fn of(pair: u64) -> Self {
        let entry = pair as usize & ((1 << PLACE_BITS) - 1);
        Self { leaf: entry >> GROUP_BITS, group: entry & ((1 << GROUP_BITS) - 1) }
    }

    /// Its entry.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "`MAX_LEAVES`, and a leaf's groups")]
    pub(super) const fn entry(self) -> u32 {
        exact::shifted_up(self.leaf as u64, GROUP_BITS) as u32 | self.group as u32
    }

    /// The entry of a cell that has no other group, which lies at byte `at` of its leaf.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a word of a page")]
    pub(super) const fn only_entry(self, at: usize) -> u32 {
        Self { group: at >> WORD.trailing_zeros(), ..self }.entry() | ONLY as u32
    }

    /// The end of a range of groups that begins here, and may end in another leaf.
    #[inline]
    const fn or_any_behind(self) -> Self {
        Self { leaf: self.leaf, group: usize::MAX }
    }

    #[inline]
    pub(super) const fn is_open(self) -> bool {
        self.group == usize::MAX
    }
}

/// The entry of a cell, and in the upper half that of the next; all bits are set where it is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries(u64);

impl Entries {
    /// What a list without a directory is searched by.
    const ALL: Self = Self(exact::shifted_up(Place::END.entry() as u64, 32));

    /// The first and the last group that they name.
    #[inline]
    fn places(self) -> (Place, Place) {
        let (from, next) = (Place::of(self.0), self.0.shifted_down(32));
        (from, if next & (ADDRESS | ONLY) == 0 { Place::of(next) } else { from.or_any_behind() })
    }

    /// The leaf, and the byte in it, of the only group of the cell, if there is no other.
    #[inline]
    pub(super) fn only(self) -> Option<(usize, usize)> {
        let Place { leaf, group } = Place::of(self.0);
        (self.0 & (ADDRESS | ONLY) == ONLY).then(|| (leaf, group.times(WORD)))
    }
}

/// A power of two, which is below 64 or so, in a byte.
#[expect(clippy::cast_possible_truncation, reason = "below 64, or so")]
const fn small(log2: u32) -> u8 {
    log2 as u8
}

/// How a list is divided into cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    /// How many cells there are: none while the list is built, nor if it is short.
    cells: u32,
    /// Bytes of a page, of a cell, and of a unit of addresses, as powers of two.
    page: u8,
    shift: u8,
    unit: u8,
    /// The bytes that the first cell lacks.
    phase: u64,
}

impl Directory {
    pub(super) const NONE: Self = Self { cells: 0, page: 0, shift: 0, unit: 0, phase: 0 };

    /// At most `most` cells for a list of `pages` pages of `2^page` bytes in `leaves` leaves, as small as they
    /// can be.
    pub(super) fn new(pages: u64, page: u32, leaves: usize, most: usize) -> Self {
        if pages == 0 || leaves > MAX_LEAVES || most < 2 {
            return Self::NONE;
        }
        let (last, mut log2) = (pages.minus(1), 0u32);
        while last.shifted_down(log2) >= most as u64 {
            log2 = log2.plus(1);
        }
        let (page, shift) = (small(page), small(page.plus(log2)));
        Self { page, shift, ..Self::NONE }.aligned(pages, 0, 0)
    }

    /// Cells as small as runs of `2^log2` pages, if these are at most `most`.
    pub(super) fn of_cells(self, pages: u64, log2: u32, most: usize) -> Self {
        let shift = self.page().plus(log2);
        if shift < self.shift() && pages.shifted_down(log2) < most as u64 {
            return Self { shift: small(shift), ..self };
        }
        self
    }

    /// Cells that begin where addresses are multiples of their size, in runs whose frames have numbers higher
    /// by `distance`, modulo the pages of a cell, than their pages; no frame is above `highest`.
    pub(super) fn aligned(self, pages: u64, distance: u64, highest: u64) -> Self {
        let last = self.offset(pages.minus(1));
        // A list can have nearly as many bytes as there are numbers.
        let phase = self.offset(distance & self.cell_pages().minus(1));
        let (phase, end) = last.checked_add(phase).map_or((0, last), |end| (phase, end));
        #[expect(clippy::cast_possible_truncation, reason = "at most one more than were asked for")]
        let cells = (end.shifted_down(self.shift()) as u32).plus(1);
        let bits = 64u32.minus(highest.leading_zeros()).plus(self.page());
        Self { cells, phase, unit: small(bits.saturating_sub(ADDRESS_BITS)), ..self }
    }

    /// The pages of a cell.
    #[inline]
    pub(super) fn cell_pages(self) -> u64 {
        1u64.shifted_up(self.shift().minus(self.page()))
    }

    /// The bytes of a cell.
    #[inline]
    fn cell_bytes(self) -> u64 {
        1u64.shifted_up(self.shift())
    }

    /// The first byte of a page.
    #[inline]
    pub(super) fn offset(self, page: u64) -> u64 {
        page.shifted_up(self.page())
    }

    /// Whether runs, so many on so many pages, are worth to be looked at one by one: where they are much smaller
    /// than cells, hardly a cell lies in one of them.
    #[inline]
    pub(super) fn is_worth(self, runs: usize, pages: u64) -> bool {
        pages.saturating_mul(16) >= self.cell_pages().saturating_mul(runs as u64)
    }

    #[inline]
    const fn cells(self) -> usize {
        self.cells as usize
    }

    #[inline]
    const fn page(self) -> u32 {
        self.page as u32
    }

    #[inline]
    const fn shift(self) -> u32 {
        self.shift as u32
    }

    #[inline]
    const fn unit(self) -> u32 {
        self.unit as u32
    }

    /// Whether there is none.
    #[inline]
    pub(super) const fn is_none(self) -> bool {
        self.cells() == 0
    }

    /// The bytes of its pieces in turn, `2^piece` at most.
    pub(super) fn pieces(self, piece: u32) -> impl Iterator<Item = usize> {
        let entries = if self.is_none() { 0 } else { self.mark_behind().plus(1) };
        // Whole words.
        let bytes = entries.plus(entries & 1).times(ENTRY);
        let full = 1usize.shifted_up(piece);
        (0..bytes).step_by(full).map(move |before| bytes.minus(before).min(full))
    }

    /// The piece, of `2^piece` bytes, and the byte in it, where entry `index` lies.
    #[inline]
    pub(super) fn slot(index: usize, piece: u32) -> (usize, usize) {
        let slots = piece.minus(ENTRY.trailing_zeros());
        let slot = index & 1usize.shifted_up(slots).minus(1);
        (index.shifted_down(slots), slot.times(ENTRY))
    }

    /// Entry `index`, and the next unless that lies in another piece.
    #[inline]
    fn pair<'a>(index: usize, piece: u32, piece_of: impl Fn(usize) -> &'a [u8]) -> Entries {
        let (index, at) = Self::slot(index, piece);
        let bytes = piece_of(index);
        match bytes.get(at..at.plus(WORD)).and_then(<[u8]>::first_chunk) {
            Some(pair) => Entries(u64::from_le_bytes(*pair)),
            None => {
                Entries(load(bytes, at.saturating_sub(ENTRY)).shifted_down(32) | u64::MAX << 32)
            }
        }
    }

    /// What it has for byte `offset` of the list; `piece_of` finds a piece of the directory, of `2^piece`
    /// bytes.
    #[inline]
    pub(super) fn entries<'a>(
        self,
        offset: u64,
        piece: u32,
        piece_of: impl Fn(usize) -> &'a [u8],
    ) -> Entries {
        if self.is_none() {
            return Entries::ALL;
        }
        Self::pair(self.cell(offset), piece, piece_of)
    }

    /// The address of byte `offset`, if it is in its [entries](Self::entries).
    #[inline]
    pub(super) fn address(self, Entries(pair): Entries, offset: u64) -> Option<u64> {
        let cell = (pair & (ADDRESS - 1)).shifted_up(self.unit());
        let beyond = offset.plus(self.phase) & mask(self.shift());
        (pair & ADDRESS != 0).then(|| cell.plus(beyond))
    }

    /// The first and the last group that can hold byte `offset`, which has these [entries](Self::entries).
    #[inline]
    pub(super) fn around<'a>(
        self,
        entries: Entries,
        offset: u64,
        piece: u32,
        piece_of: impl Fn(usize) -> &'a [u8],
    ) -> (Place, Place) {
        if entries.0 & (ADDRESS | ONLY) == 0 {
            return entries.places();
        }
        Self::pair(self.mark(self.cell(offset)), piece, piece_of).places()
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most `cells`")]
    fn cell(self, offset: u64) -> usize {
        offset.plus(self.phase).shifted_down(self.shift()) as usize
    }

    /// The entry of the mark before cell `cell`.
    #[inline]
    fn mark(self, cell: usize) -> usize {
        self.cells().plus(1).plus(cell.shifted_down(MARK))
    }

    /// The entry behind the last mark, which names the end.
    pub(super) fn mark_behind(self) -> usize {
        self.mark(self.cells().saturating_sub(1)).plus(1)
    }

    /// The entries of the marks at some cells.
    #[inline]
    pub(super) fn marks_in(self, cells: Range<usize>) -> Range<usize> {
        let before = |cell: usize| self.mark(cell.plus((1 << MARK) - 1));
        before(cells.start)..before(cells.end)
    }

    /// How many cells begin at page `page`, or before.
    #[inline]
    pub(super) fn begun_by(self, page: u64) -> usize {
        self.cells().min(self.cell(self.offset(page)).plus(1))
    }

    /// Whether cell `cell`, or the list of `pages` pages, ends at page `end`, or before.
    #[inline]
    pub(super) fn ends_by(self, cell: usize, end: u64, pages: u64) -> bool {
        end == pages || cell < self.cell(self.offset(end))
    }

    /// Puts the addresses of cells from number `cell` on, which begin in a run: of those that end there, too, and
    /// can have one. The run has the pages `run` of a list of `pages` pages, and starts at frame `start`.
    #[inline]
    pub(super) fn put_addresses(
        self,
        entries: &mut [u32],
        cell: usize,
        run: &Range<u64>,
        start: u64,
        pages: u64,
    ) {
        let (start, begin) = (self.offset(start), self.offset(run.start).plus(self.phase));
        let (mut at, mut entries) = ((cell as u64).shifted_up(self.shift()), entries);
        // Only the last of them can end elsewhere.
        let last = cell.plus(entries.len()).saturating_sub(1);
        if !self.ends_by(last, run.end, pages) {
            entries = entries.split_last_mut().map_or(&mut [], |(_, before)| before);
        }
        for entry in entries {
            // The first cell begins before the list, in thought, and perhaps before all memory.
            let is_there = at >= begin || begin.minus(at) <= start;
            let address = at.wrapping_sub(begin).wrapping_add(start);
            let units = address.shifted_down(self.unit());
            if is_there && units < ADDRESS && units.shifted_up(self.unit()) == address {
                #[expect(clippy::cast_possible_truncation, reason = "below `ADDRESS`, and its bit")]
                let this = (units | ADDRESS) as u32;
                *entry = this;
            }
            at = at.wrapping_add(self.cell_bytes());
        }
    }
}

/// Writes entries, as many as there is room for; returns how many.
pub(super) fn put(room: &mut [u8], entries: &[u32]) -> usize {
    let count = room.len().shifted_down(ENTRY.trailing_zeros()).min(entries.len());
    for (to, entry) in room.chunks_exact_mut(ENTRY).zip(entries) {
        if let Some(to) = to.first_chunk_mut() {
            *to = entry.to_le_bytes();
        }
    }
    count
}
