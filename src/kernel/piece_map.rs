// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PieceMap`]: the block map of the heap, over vectors of the kernel.
//!
//! ```text
//! PieceMap: near  ──► [ 0 .. 3 ]
//!           one   ──► [ 4 .. 67 ]           64 pieces
//!           two   ──► [ │ │ .. ]            16 tables of 128 pieces
//!                       │ └──► [ 196 .. ]
//!                       └────► [ 68 .. ]
//!           three ──► tables of tables      128 x 128 x 128 pieces
//! ```
//!
//! A vector has 24 bytes, so that no table needs more than a page, and none is ever copied to grow.
#![forbid(unsafe_code)]

use core::mem::size_of;
use kernel::alloc::{AllocError, Flags, KVec};
use static_assertions::const_assert;

const NEAR: usize = 4;
const ONE: usize = 64;
const TWO: usize = 16;
const FULL: usize = 128;

const_assert!(size_of::<[KVec<u8>; FULL]>() <= 4096);

/// Pieces of memory that are numbered in the order in which they were added, and come and go at the
/// end.
pub(super) struct PieceMap<T> {
    near: KVec<KVec<T>>,
    one: KVec<KVec<T>>,
    two: KVec<KVec<KVec<T>>>,
    three: KVec<KVec<KVec<KVec<T>>>>,
    len: usize,
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
            return Self::Two(index >> 7, index & 0x7f);
        }
        let index = index.wrapping_sub(TWO * FULL);
        Self::Three(index >> 14, index >> 7 & 0x7f, index & 0x7f)
    }
}

/// Adds `item` to a table of `slots` slots, whose memory comes with its first item.
fn add<T>(table: &mut KVec<T>, slots: usize, item: T, flags: Flags) -> Result<(), AllocError> {
    if table.capacity() == 0 {
        table.reserve(slots, flags)?;
    }
    table.push_within_capacity(item).map_err(|_| AllocError)
}

/// The table at `slot`, made if it is the next one. (An earlier failure may have left it empty.)
fn table<T>(
    tables: &mut KVec<KVec<T>>,
    slots: usize,
    slot: usize,
    flags: Flags,
) -> Result<&mut KVec<T>, AllocError> {
    if slot == tables.len() {
        add(tables, slots, KVec::new(), flags)?;
    }
    tables.get_mut(slot).ok_or(AllocError)
}

impl<T> PieceMap<T> {
    pub(super) const fn new() -> Self {
        Self { near: KVec::new(), one: KVec::new(), two: KVec::new(), three: KVec::new(), len: 0 }
    }

    /// Adds a piece; tables that it needs are allocated with `flags`. If it fails, nothing has
    /// changed but that an empty table may be there for the next time.
    pub(super) fn push(&mut self, item: KVec<T>, flags: Flags) -> Result<(), AllocError> {
        match Path::to(self.len) {
            Path::Near(_) => add(&mut self.near, NEAR, item, flags)?,
            Path::One(_) => add(&mut self.one, ONE, item, flags)?,
            Path::Two(a, _) => add(table(&mut self.two, TWO, a, flags)?, FULL, item, flags)?,
            Path::Three(a, b, _) => {
                let middle = table(&mut self.three, FULL, a, flags)?;
                add(table(middle, FULL, b, flags)?, FULL, item, flags)?;
            }
        }
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Takes the last piece out; the tables stay for those that follow.
    pub(super) fn pop(&mut self) -> Option<KVec<T>> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        match Path::to(last) {
            Path::Near(_) => self.near.pop(),
            Path::One(_) => self.one.pop(),
            Path::Two(a, _) => self.two.get_mut(a)?.pop(),
            Path::Three(a, b, _) => self.three.get_mut(a)?.get_mut(b)?.pop(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&KVec<T>> {
        match Path::to(index) {
            Path::Near(a) => self.near.get(a),
            Path::One(a) => self.one.get(a),
            Path::Two(a, b) => self.two.get(a)?.get(b),
            Path::Three(a, b, c) => self.three.get(a)?.get(b)?.get(c),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut KVec<T>> {
        match Path::to(index) {
            Path::Near(a) => self.near.get_mut(a),
            Path::One(a) => self.one.get_mut(a),
            Path::Two(a, b) => self.two.get_mut(a)?.get_mut(b),
            Path::Three(a, b, c) => self.three.get_mut(a)?.get_mut(b)?.get_mut(c),
        }
    }

    /// The bytes of all tables, in O(tables).
    pub(super) fn footprint(&self) -> usize {
        fn bytes<T>(table: &KVec<T>) -> usize {
            table.capacity().saturating_mul(size_of::<T>())
        }
        let flat = bytes(&self.near).saturating_add(bytes(&self.one));
        let two = self.two.iter().map(bytes).fold(bytes(&self.two), usize::saturating_add);
        let middles = self.three.iter().map(bytes).fold(bytes(&self.three), usize::saturating_add);
        let leaves = self
            .three
            .iter()
            .flat_map(|tables| tables.iter())
            .map(bytes)
            .fold(0, usize::saturating_add);
        [two, middles, leaves].into_iter().fold(flat, usize::saturating_add)
    }
}
