// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BlockMap`]: boxes under numbers, found as a Unix file system finds the blocks of a file.
//!
//! No table is larger than a page, and none is ever copied to grow:
//!
//! ```text
//! BlockMap: near  [ 0 | 1 | 2 | 3 ]
//!           one   ──► [ 4 .. 67 ]             64 boxes
//!           two   ──► [ │ │ .. │ ]            16 tables of 256 boxes
//!                       │ └────► [ 324 .. ]
//!                       └──────► [ 68 .. ]
//!           three ──► tables of tables        128 x 128 x 256 boxes
//! ```
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::mem::size_of;
use static_assertions::const_assert;

/// Its capacity is set once, when it is made.
type Table<T> = Vec<T>;

const NEAR: usize = 4;
const ONE: usize = 64;
const TWO: usize = 16;
/// Slots of a table of boxes: a page of handles on a 64-bit machine.
const FULL: usize = 256;
/// Slots of a table of tables, whose handles are larger; a page at most, too.
const TABLES: usize = 128;

const_assert!(size_of::<[Table<u8>; TABLES]>() <= 4096);

/// Boxes `B` that are numbered in the order in which they were added. They come and go at the end.
///
/// `B` is a handle of at most 16 bytes; its default value owns nothing.
#[derive(Debug, Default)]
pub(crate) struct BlockMap<B> {
    near: [B; NEAR],
    one: Table<B>,
    two: Table<Table<B>>,
    three: Table<Table<Table<B>>>,
    len: usize,
}

/// There is no memory for another table, or all tables are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTable;

/// Where a box is found: the slots on the way through the tables.
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
fn add<T>(table: &mut Table<T>, slots: usize, item: T) -> Result<(), NoTable> {
    if table.capacity() == 0 {
        table.try_reserve_exact(slots).map_err(|_| NoTable)?;
    }
    if table.len() >= slots {
        return Err(NoTable);
    }
    table.push(item);
    Ok(())
}

/// The table at `slot`, made if it is the next one. (An earlier failure may have left it empty.)
fn table<T>(
    tables: &mut Table<Table<T>>,
    slots: usize,
    slot: usize,
) -> Result<&mut Table<T>, NoTable> {
    if slot == tables.len() {
        add(tables, slots, Table::new())?;
    }
    tables.get_mut(slot).ok_or(NoTable)
}

impl<B: Default> BlockMap<B> {
    const A_TABLE_IS_A_PAGE: () = assert!(size_of::<[B; FULL]>() <= 4096);

    /// Adds a box at the end, in O(1). All that is allocated are tables.
    ///
    /// # Errors
    ///
    /// [`NoTable`] if there is no memory, or no number left; the box is dropped, and all others are
    /// where they were.
    pub(crate) fn push(&mut self, item: B) -> Result<(), NoTable> {
        let () = Self::A_TABLE_IS_A_PAGE;
        match Path::to(self.len) {
            Path::Near(a) => *self.near.get_mut(a).ok_or(NoTable)? = item,
            Path::One(_) => add(&mut self.one, ONE, item)?,
            Path::Two(a, _) => add(table(&mut self.two, TWO, a)?, FULL, item)?,
            Path::Three(a, b, _) => {
                add(table(table(&mut self.three, TABLES, a)?, TABLES, b)?, FULL, item)?;
            }
        }
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Takes the last box out, in O(1); the tables stay for those that follow.
    pub(crate) fn pop(&mut self) -> Option<B> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        match Path::to(last) {
            Path::Near(a) => self.near.get_mut(a).map(core::mem::take),
            Path::One(_) => self.one.pop(),
            Path::Two(a, _) => self.two.get_mut(a).and_then(Vec::pop),
            Path::Three(a, b, _) => {
                self.three.get_mut(a).and_then(|tables| tables.get_mut(b)).and_then(Vec::pop)
            }
        }
    }
}

impl<B> BlockMap<B> {
    /// How many boxes there are.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Box `index`, in O(1); the default value or nothing if there is none.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&B> {
        match Path::to(index) {
            Path::Near(a) => self.near.get(a),
            Path::One(a) => self.one.get(a),
            Path::Two(a, b) => self.two.get(a)?.get(b),
            Path::Three(a, b, c) => self.three.get(a)?.get(b)?.get(c),
        }
    }

    /// Box `index`, to change, in O(1); the default value or nothing if there is none.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut B> {
        match Path::to(index) {
            Path::Near(a) => self.near.get_mut(a),
            Path::One(a) => self.one.get_mut(a),
            Path::Two(a, b) => self.two.get_mut(a)?.get_mut(b),
            Path::Three(a, b, c) => self.three.get_mut(a)?.get_mut(b)?.get_mut(c),
        }
    }

    /// The bytes of all tables, in O(tables).
    pub(crate) fn footprint(&self) -> usize {
        fn bytes<T>(table: &Table<T>) -> usize {
            table.capacity().saturating_mul(size_of::<T>())
        }
        let two = self.two.iter().map(bytes).fold(bytes(&self.two), usize::saturating_add);
        let middles = self.three.iter().map(bytes).fold(bytes(&self.three), usize::saturating_add);
        let leaves = self.three.iter().flatten().map(bytes).fold(0, usize::saturating_add);
        [two, middles, leaves].into_iter().fold(bytes(&self.one), usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    /// Far enough to use every level.
    #[test]
    fn boxes_stay_where_they_are() {
        let count = NEAR + ONE + TWO * FULL + (TABLES + 3) * FULL + 5;
        let mut map = BlockMap::default();
        assert_eq!((map.len(), map.footprint(), map.pop()), (0, 0, None));
        for index in 0..count {
            map.push(vec![index].into_boxed_slice()).unwrap();
        }
        for index in 0..count {
            assert_eq!(map.get(index), Some(&vec![index].into_boxed_slice()));
            map.get_mut(index).unwrap()[0] = !index;
        }
        assert_eq!((map.len(), map.get(count)), (count, None));
        assert!(map.get_mut(usize::MAX).is_none());
        let tables = map.footprint();
        assert!(tables >= count * size_of::<Box<[usize]>>());
        for index in (0..count).rev() {
            assert_eq!(map.pop().unwrap()[..], [!index]);
        }
        assert_eq!((map.len(), map.pop(), map.footprint()), (0, None, tables));
    }
}
