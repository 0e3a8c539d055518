// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Heap`]: a list in pieces from the global allocator.
//!
//! The pieces are found by a block map, as a Unix file system finds the blocks of a file. No
//! table is larger than a page, and none is ever copied to grow:
//!
//! ```text
//! Heap: near  [ 0 | 1 | 2 | 3 ]
//!       one   ──► [ 4 .. 67 ]             64 pieces
//!       two   ──► [ │ │ .. │ ]            16 tables of 256 pieces
//!                   │ └────► [ 324 .. ]
//!                   └──────► [ 68 .. ]
//!       three ──► tables of tables        128 x 128 x 256 pieces
//! ```

use super::storage::{AllocError, Storage};
use alloc::{boxed::Box, vec::Vec};
use core::mem::size_of;
use static_assertions::const_assert;

type Piece = Box<[u8]>;
/// Its capacity is set once, when it is made.
type Table<T> = Vec<T>;

const NEAR: usize = 4;
const ONE: usize = 64;
const TWO: usize = 16;
/// Slots of a table of pieces: a page of handles on a 64-bit machine.
const FULL: usize = 256;
/// Slots of a table of tables, whose handles are larger; a page at most, too.
const TABLES: usize = 128;

const_assert!(size_of::<[Piece; FULL]>() <= 4096);
const_assert!(size_of::<[Table<Piece>; TABLES]>() <= 4096);

/// Pieces from the global allocator, each allocated on its own and fallibly.
///
/// A list of a few runs allocates nothing; the first piece has 512 bytes.
#[derive(Debug, Default)]
pub struct Heap {
    near: [Piece; NEAR],
    one: Table<Piece>,
    two: Table<Table<Piece>>,
    three: Table<Table<Table<Piece>>>,
    pieces: usize,
    piece_bytes: usize,
}

/// Where a piece is found: the slots on the way through the tables.
enum Path {
    Near(usize),
    One(usize),
    Two(usize, usize),
    Three(usize, usize, usize),
}

impl Path {
    #[inline]
    const fn to(index: usize) -> Self {
        if index < NEAR {
            return Self::Near(index);
        }
        let index = index.wrapping_sub(NEAR);
        if index < ONE {
            return Self::One(index);
        }
        let index = index.wrapping_sub(ONE);
        if index < TWO * FULL {
            return Self::Two(index >> 8, index & 0xff);
        }
        let index = index.wrapping_sub(TWO * FULL);
        Self::Three(index >> 15, index >> 8 & 0x7f, index & 0xff)
    }
}

/// Adds `item` to a table of `slots` slots; its memory comes with its first item.
fn add<T>(table: &mut Table<T>, slots: usize, item: T) -> Result<(), AllocError> {
    if table.capacity() == 0 {
        table.try_reserve_exact(slots).map_err(|_| AllocError)?;
    }
    if table.len() >= slots {
        return Err(AllocError);
    }
    table.push(item);
    Ok(())
}

/// The table at `slot`, made if it is the next one. (An earlier failure may have left it empty.)
fn table<T>(
    tables: &mut Table<Table<T>>,
    slots: usize,
    slot: usize,
) -> Result<&mut Table<T>, AllocError> {
    if slot == tables.len() {
        add(tables, slots, Table::new())?;
    }
    tables.get_mut(slot).ok_or(AllocError)
}

impl Heap {
    /// An empty storage; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&Piece> {
        match Path::to(index) {
            Path::Near(a) => self.near.get(a),
            Path::One(a) => self.one.get(a),
            Path::Two(a, b) => self.two.get(a)?.get(b),
            Path::Three(a, b, c) => self.three.get(a)?.get(b)?.get(c),
        }
    }

    #[inline]
    fn get_mut(&mut self, index: usize) -> Option<&mut Piece> {
        match Path::to(index) {
            Path::Near(a) => self.near.get_mut(a),
            Path::One(a) => self.one.get_mut(a),
            Path::Two(a, b) => self.two.get_mut(a)?.get_mut(b),
            Path::Three(a, b, c) => self.three.get_mut(a)?.get_mut(b)?.get_mut(c),
        }
    }
}

// SAFETY: every number has one path, and every path one box, which nobody else can reach; `get`
// and `get_mut` take the same path. `grow` files one piece at the path of the next number, or
// returns before it counts it.
unsafe impl Storage for Heap {
    const PIECE_BYTES: usize = 4096;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        let mut piece = Vec::new();
        piece.try_reserve_exact(bytes).map_err(|_| AllocError)?;
        piece.resize(bytes, 0);
        let piece = piece.into_boxed_slice();
        match Path::to(self.pieces) {
            Path::Near(a) => *self.near.get_mut(a).ok_or(AllocError)? = piece,
            Path::One(_) => add(&mut self.one, ONE, piece)?,
            Path::Two(a, _) => add(table(&mut self.two, TWO, a)?, FULL, piece)?,
            Path::Three(a, b, _) => {
                add(table(table(&mut self.three, TABLES, a)?, TABLES, b)?, FULL, piece)?;
            }
        }
        self.pieces = self.pieces.wrapping_add(1);
        self.piece_bytes = self.piece_bytes.wrapping_add(bytes);
        Ok(())
    }

    /// Frees the piece; the tables stay for those that follow.
    fn shrink(&mut self) {
        let Some(last) = self.pieces.checked_sub(1) else {
            return;
        };
        let piece = match Path::to(last) {
            Path::Near(a) => self.near.get_mut(a).map(core::mem::take),
            Path::One(_) => self.one.pop(),
            Path::Two(a, _) => self.two.get_mut(a).and_then(Vec::pop),
            Path::Three(a, b, _) => {
                self.three.get_mut(a).and_then(|tables| tables.get_mut(b)).and_then(Vec::pop)
            }
        };
        self.pieces = last;
        self.piece_bytes = self.piece_bytes.saturating_sub(piece.map_or(0, |piece| piece.len()));
    }

    fn pieces(&self) -> usize {
        self.pieces
    }

    #[inline]
    fn piece(&self, index: usize) -> &[u8] {
        self.get(index).map_or(&[], |piece| piece)
    }

    #[inline]
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.get_mut(index).map_or(&mut [], |piece| piece)
    }

    fn footprint(&self) -> usize {
        fn bytes<T>(table: &Table<T>) -> usize {
            table.capacity().saturating_mul(size_of::<T>())
        }
        let two = self.two.iter().map(bytes).fold(bytes(&self.two), usize::saturating_add);
        let middles = self.three.iter().map(bytes).fold(bytes(&self.three), usize::saturating_add);
        let leaves = self.three.iter().flatten().map(bytes).fold(0, usize::saturating_add);
        [bytes(&self.one), two, middles, leaves]
            .into_iter()
            .fold(self.piece_bytes, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far enough to use every level of the block map.
    #[test]
    fn pieces_keep_what_was_written() {
        let count = NEAR + ONE + TWO * FULL + (TABLES + 3) * FULL + 5;
        let mut heap = Heap::new();
        assert_eq!(heap.footprint(), 0);
        for index in 0..count {
            heap.grow(8).unwrap();
            heap.piece_mut(index).copy_from_slice(&(index as u64).to_le_bytes());
        }
        for index in 0..count {
            assert_eq!(heap.piece(index), (index as u64).to_le_bytes());
        }
        assert_eq!(heap.pieces(), count);
        assert!(heap.piece(count).is_empty() && heap.piece_mut(count).is_empty());
        assert!(heap.footprint() > count * 8);
        for _ in 0..count {
            heap.shrink();
        }
        heap.shrink();
        assert_eq!((heap.pieces(), heap.piece_bytes), (0, 0));
        assert!(heap.piece(0).is_empty());
        // The tables are used again.
        let tables = heap.footprint();
        for _ in 0..count {
            heap.grow(8).unwrap();
        }
        assert_eq!(heap.footprint(), tables + count * 8);
    }
}
