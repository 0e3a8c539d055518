// SPDX-License-Identifier: MIT OR Apache-2.0
//! The directory of a finished list: from the position of a page to the groups that can hold it.
//!
//! The pages of a list are divided into *cells* of `2^shift` pages. Each has an entry, which names the
//! group of its first page; one more names the end. So the group of a page lies between the one that its
//! cell names and the one that the next cell names, and where these are one, nothing is left to search.
//! The entries lie in pieces behind the leaves:
//!
//! ```text
//!  entry  32 bits:  leaf 22 │ group in the leaf 10
//! ```
#![forbid(unsafe_code)]

use super::packed::load;
use crate::exact::Exact as _;

const WORD: usize = 8;
/// Bytes of an entry.
const ENTRY: usize = 4;
/// Bits of an entry that name the group in its leaf; the others name the leaf.
const GROUP_BITS: u32 = 10;
/// As many leaves as entries can name, beside the end.
const MAX_LEAVES: usize = (1 << (32 - GROUP_BITS)) - 1;

/// A group of a list, by the number of its leaf and its own in that; the last one, where a number is
/// too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) leaf: usize,
    pub(super) group: usize,
}

impl Place {
    pub(super) const FIRST: Self = Self::from_entry(0);
    pub(super) const END: Self = Self::from_entry(u32::MAX as u64);

    /// From the lower half of `pair`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is not meant")]
    const fn from_entry(pair: u64) -> Self {
        let entry = pair as u32 as usize;
        Self { leaf: entry >> GROUP_BITS, group: entry & ((1 << GROUP_BITS) - 1) }
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most `MAX_LEAVES`, and a leaf's groups"
    )]
    fn entry(self) -> u32 {
        (self.leaf.shifted_up(GROUP_BITS) | self.group) as u32
    }
}

/// How a list is divided into cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    /// How many cells there are: none while the list is built, nor if it is short.
    cells: usize,
    /// Pages of a cell, as a power of two.
    shift: u32,
}

impl Directory {
    pub(super) const NONE: Self = Self { cells: 0, shift: 0 };

    /// At most `most` cells for a list of `pages` pages in `leaves` leaves, as small as they can be.
    pub(super) fn new(pages: u64, leaves: usize, most: usize) -> Self {
        if pages == 0 || leaves > MAX_LEAVES || most < 2 {
            return Self::NONE;
        }
        let (last, mut shift) = (pages.minus(1), 0u32);
        while last.shifted_down(shift) >= most as u64 {
            shift = shift.plus(1);
        }
        #[expect(clippy::cast_possible_truncation, reason = "below `most`")]
        let last = last.shifted_down(shift) as usize;
        Self { cells: last.plus(1), shift }
    }

    /// The bytes of its pieces in turn, `2^piece` at most.
    pub(super) fn pieces(self, piece: u32) -> impl Iterator<Item = usize> {
        let entries = if self.cells == 0 { 0 } else { self.cells.plus(1) };
        // Whole words.
        let bytes = entries.plus(entries & 1).times(ENTRY);
        let full = 1usize.shifted_up(piece);
        (0..bytes).step_by(full).map(move |before| bytes.minus(before).min(full))
    }

    /// The piece, of `2^piece` bytes, and the byte in it, where the entry of cell `cell` lies.
    #[inline]
    fn slot(cell: usize, piece: u32) -> (usize, usize) {
        let slots = piece.minus(ENTRY.trailing_zeros());
        let slot = cell & 1usize.shifted_up(slots).minus(1);
        (cell.shifted_down(slots), slot.times(ENTRY))
    }

    /// The first and the last group that can hold page `page`; `piece_of` finds a piece of the
    /// directory, of `2^piece` bytes.
    #[inline]
    pub(super) fn around<'a>(
        self,
        page: u64,
        piece: u32,
        piece_of: impl Fn(usize) -> &'a [u8],
    ) -> (Place, Place) {
        let cell = page.shifted_down(self.shift);
        if cell >= self.cells as u64 {
            return (Place::FIRST, Place::END);
        }
        #[expect(clippy::cast_possible_truncation, reason = "below `cells`")]
        let (index, at) = Self::slot(cell as usize, piece);
        let bytes = piece_of(index);
        // Both entries at once, unless the next lies in another piece.
        let pair = if at.plus(WORD) <= 1usize.shifted_up(piece) {
            load(bytes, at)
        } else {
            load(bytes, at.minus(ENTRY)).shifted_down(32) | u64::MAX << 32
        };
        (Place::from_entry(pair), Place::from_entry(pair.shifted_down(32)))
    }

    /// Whether cell `cell` exists and begins before page `page`.
    #[inline]
    pub(super) fn begins_before(self, cell: usize, page: u64) -> bool {
        cell < self.cells && (cell as u64).shifted_up(self.shift) < page
    }

    /// Writes the entry of cell `cell`, or the one behind the last; `piece_of` finds a piece of the
    /// directory, of `2^piece` bytes.
    #[inline]
    pub(super) fn write<'a>(
        cell: usize,
        place: Place,
        piece: u32,
        piece_of: impl FnOnce(usize) -> &'a mut [u8],
    ) {
        let (index, at) = Self::slot(cell, piece);
        if let Some(bytes) = piece_of(index).get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *bytes = place.entry().to_le_bytes();
        }
    }
}
