// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PieceMap`]: pieces under numbers, found as a Unix file system finds the pieces of a file.
//!
//! No table is larger than a page, and none is ever copied to grow:
//!
//! ```text
//! PieceMap: near  [ 0 | 1 | 2 | 3 ]
//!           one   ──► [ 4 .. 67 ]             64 pieces
//!           two   ──► [ │ │ .. │ ]            16 tables of a page of pieces
//!                       │ └────► [ .. ]
//!                       └──────► [ 68 .. ]
//!           three ──► tables of tables        128 x 128 tables of a page
//! ```
//!
//! A page has 256 pieces where a piece has a pointer and a length, 128 where it has a capacity, too;
//! twice as many where a word has 32 bits.

use super::allocator::{Allocator, NoMemory};
use crate::exact::Exact as _;
use core::{fmt, mem::size_of};

const NEAR: usize = 4;
const ONE: usize = 64;
const TWO: usize = 16;
/// Slots of a table of tables.
const TABLES: usize = 128;

/// A table of pieces.
type Lowest<T, A> = <A as Allocator>::Table<<A as Allocator>::Piece<T>>;
/// A table of tables of pieces.
type Middle<T, A> = <A as Allocator>::Table<Lowest<T, A>>;

/// Pieces of `T` that are numbered in the order in which they were added. They come and go at the
/// end.
pub(crate) struct PieceMap<T, A: Allocator> {
    near: [A::Piece<T>; NEAR],
    one: Lowest<T, A>,
    two: Middle<T, A>,
    three: A::Table<Middle<T, A>>,
    len: usize,
    allocator: A,
}

/// Where a piece is found: the slots on the way through the tables.
enum Path {
    Near(usize),
    One(usize),
    Two(usize, usize),
    Three(usize, usize, usize),
}

/// Adds `item` to a table of `slots` slots; its memory comes with its first item.
fn add<T, A: Allocator>(
    allocator: &A,
    table: &mut A::Table<T>,
    slots: usize,
    item: T,
) -> Result<(), NoMemory> {
    if A::capacity(table) == 0 {
        *table = allocator.table(slots)?;
    }
    if table.len() >= slots {
        return Err(NoMemory);
    }
    A::push(table, item)
}

/// The table at `slot`, made if it is the next one. (An earlier failure may have left it empty.)
fn table<'a, T, A: Allocator>(
    allocator: &A,
    tables: &'a mut A::Table<A::Table<T>>,
    slots: usize,
    slot: usize,
) -> Result<&'a mut A::Table<T>, NoMemory> {
    if slot == tables.len() {
        add(allocator, tables, slots, A::Table::default())?;
    }
    tables.get_mut(slot).ok_or(NoMemory)
}

impl<T, A: Allocator> PieceMap<T, A> {
    /// How many bits the slots of a table of pieces have: as many as fit a page.
    const BITS: u32 = match 4096usize.checked_div(size_of::<A::Piece<T>>()) {
        Some(slots) => match slots.checked_ilog2() {
            Some(bits) => bits,
            None => 0,
        },
        None => 0,
    };
    const FULL: usize = 1 << Self::BITS;
    const TABLES_ARE_PAGES: () =
        assert!(TABLES * size_of::<A::Table<T>>() <= 4096 && ONE <= Self::FULL && Self::BITS <= 12);

    /// An empty map; allocates nothing.
    pub(crate) fn new(allocator: A) -> Self {
        let () = Self::TABLES_ARE_PAGES;
        Self {
            near: Default::default(),
            one: Default::default(),
            two: Default::default(),
            three: Default::default(),
            len: 0,
            allocator,
        }
    }

    /// The tables of large lists come first: there, the way to a piece is a part of each lookup.
    #[inline]
    fn path(index: usize) -> Path {
        let beyond = index.wrapping_sub(NEAR + ONE);
        let (table, slot) = (beyond >> Self::BITS, beyond & Self::FULL.minus(1));
        if table < TWO {
            return Path::Two(table, slot);
        }
        if index < NEAR {
            return Path::Near(index);
        }
        if index < NEAR + ONE {
            return Path::One(index.minus(NEAR));
        }
        let table = table.minus(TWO);
        Path::Three(table >> TABLES.trailing_zeros(), table & TABLES.minus(1), slot)
    }

    /// Where the memory comes from.
    pub(crate) const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// Adds a piece at the end, in O(1). All that is allocated are tables.
    ///
    /// # Errors
    ///
    /// [`NoMemory`]; the piece is dropped, and all others are where they were.
    pub(crate) fn push(&mut self, piece: A::Piece<T>) -> Result<(), NoMemory> {
        let allocator = &self.allocator;
        match Self::path(self.len) {
            Path::Near(a) => *self.near.get_mut(a).ok_or(NoMemory)? = piece,
            Path::One(_) => add(allocator, &mut self.one, ONE, piece)?,
            Path::Two(a, _) => {
                add(allocator, table(allocator, &mut self.two, TWO, a)?, Self::FULL, piece)?;
            }
            Path::Three(a, b, _) => {
                let middle = table(allocator, &mut self.three, TABLES, a)?;
                add(allocator, table(allocator, middle, TABLES, b)?, Self::FULL, piece)?;
            }
        }
        self.len = self.len.plus(1);
        Ok(())
    }

    /// Takes the last piece out, in O(1); the tables stay for those that follow.
    pub(crate) fn pop(&mut self) -> Option<A::Piece<T>> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        match Self::path(last) {
            Path::Near(a) => self.near.get_mut(a).map(core::mem::take),
            Path::One(_) => A::pop(&mut self.one),
            Path::Two(a, _) => A::pop(self.two.get_mut(a)?),
            Path::Three(a, b, _) => A::pop(self.three.get_mut(a)?.get_mut(b)?),
        }
    }

    /// How many pieces there are.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Piece `index`, in O(1); a piece of nothing if there is none.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &[T] {
        let piece = match Self::path(index) {
            Path::Near(a) => self.near.get(a),
            Path::One(a) => self.one.get(a),
            Path::Two(a, b) => self.two.get(a).and_then(|table| table.get(b)),
            Path::Three(a, b, c) => {
                let table = self.three.get(a).and_then(|middle| middle.get(b));
                table.and_then(|table| table.get(c))
            }
        };
        match piece {
            Some(piece) => piece,
            None => &[],
        }
    }

    /// Piece `index`, to change, in O(1); nothing, or a piece of nothing, if there is none.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut [T]> {
        let piece = match Self::path(index) {
            Path::Near(a) => self.near.get_mut(a),
            Path::One(a) => self.one.get_mut(a),
            Path::Two(a, b) => self.two.get_mut(a)?.get_mut(b),
            Path::Three(a, b, c) => self.three.get_mut(a)?.get_mut(b)?.get_mut(c),
        };
        piece.map(|piece| &mut **piece)
    }

    /// The bytes of all tables, in O(tables).
    pub(crate) fn footprint(&self) -> usize {
        fn bytes<T, A: Allocator>(table: &A::Table<T>) -> usize {
            A::capacity(table).saturating_mul(size_of::<T>())
        }
        let mut sum = bytes::<_, A>(&self.one);
        let mut add = |bytes| sum = sum.saturating_add(bytes);
        add(bytes::<_, A>(&self.two));
        self.two.iter().for_each(|table| add(bytes::<_, A>(table)));
        add(bytes::<_, A>(&self.three));
        for middle in self.three.iter() {
            add(bytes::<_, A>(middle));
            middle.iter().for_each(|table| add(bytes::<_, A>(table)));
        }
        sum
    }
}

impl<T, A: Allocator + Default> Default for PieceMap<T, A> {
    fn default() -> Self {
        Self::new(A::default())
    }
}

impl<T, A: Allocator> fmt::Debug for PieceMap<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceMap").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::allocator::OnHeap;
    use super::*;
    use alloc::{boxed::Box, vec::Vec};

    /// What the kernel's vectors are like: a piece is as large as a table.
    struct Vectors;

    impl Allocator for Vectors {
        type Table<T> = Vec<T>;
        type Piece<T> = Vec<T>;

        type One<T> = Box<[T; 1]>;

        fn one<T>(&self, item: T) -> Result<Box<[T; 1]>, NoMemory> {
            OnHeap.one(item)
        }

        fn table<T>(&self, slots: usize) -> Result<Vec<T>, NoMemory> {
            OnHeap.table(slots)
        }

        fn push<T>(table: &mut Vec<T>, item: T) -> Result<(), NoMemory> {
            OnHeap::push(table, item)
        }

        fn pop<T>(table: &mut Vec<T>) -> Option<T> {
            table.pop()
        }

        fn capacity<T>(table: &Vec<T>) -> usize {
            table.capacity()
        }

        fn piece<T>(table: Vec<T>) -> Vec<T> {
            table
        }

        fn zeros(&self, len: usize) -> Result<Vec<u8>, NoMemory> {
            OnHeap.zeros(len).map(Vec::from)
        }
    }

    const BOXES: usize = 4096 >> size_of::<Box<[usize]>>().trailing_zeros();

    /// Far enough to use every level.
    fn pieces_stay_where_they_are<A: Allocator>(allocator: A, full: usize) {
        let mut map = PieceMap::<usize, A>::new(allocator);
        assert_eq!(PieceMap::<usize, A>::FULL, full);
        let count = NEAR + ONE + TWO * full + (TABLES + 3) * full + 5;
        assert_eq!((map.len(), map.footprint(), map.pop().is_none()), (0, 0, true));
        for index in 0..count {
            let mut table = map.allocator().table(1).unwrap();
            A::push(&mut table, index).unwrap();
            map.push(A::piece(table)).unwrap();
        }
        for index in 0..count {
            assert_eq!(map.get(index), [index]);
            map.get_mut(index).unwrap()[0] = !index;
        }
        assert!(map.len() == count && map.get(count).is_empty());
        assert!(map.get_mut(usize::MAX).is_none());
        let tables = map.footprint();
        assert!(tables >= count * size_of::<A::Piece<usize>>());
        for index in (0..count).rev() {
            assert_eq!(map.pop().unwrap()[..], [!index]);
        }
        assert_eq!((map.len(), map.pop().is_none(), map.footprint()), (0, true, tables));
        assert_eq!(format!("{map:?}"), "PieceMap { len: 0, .. }");
    }

    #[test]
    fn boxes_stay_where_they_are() {
        pieces_stay_where_they_are(OnHeap, BOXES);
    }

    #[test]
    fn vectors_stay_where_they_are() {
        pieces_stay_where_they_are(Vectors, BOXES >> 1);
    }
}
