// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PoolSlab`]: values in memory lent by the caller, with no allocator at all.
#![allow(clippy::cast_possible_truncation, reason = "no more places are used than 32 bits count")]

use super::slot::{SlabSlot, NONE};
use super::{Slab, Slabs};
use crate::exact::Exact as _;
use crate::store::Pool;
use core::fmt;

/// Values in places that the caller lends.
///
/// Where all places are full, [`insert`](Slab::insert) gives the value back and nothing is lost.
/// Everything takes O(1). Dropping the pool drops the values that are left in it.
///
/// ```
/// use pinned_sgl::store::{PoolSlab, Slab, SlabSlot};
/// let mut memory = [const { SlabSlot::new() }; 1];
/// let mut slab = PoolSlab::new(&mut memory);
/// let key = slab.insert("one").map_err(|_| "full")?;
/// assert_eq!(slab.insert("two"), Err("two"));
/// assert_eq!(slab.remove(key), Some("one"));
/// assert!(slab.insert("two").is_ok());
/// # Ok::<(), &str>(())
/// ```
pub struct PoolSlab<'a, T> {
    memory: &'a mut [SlabSlot<T>],
    /// The places that were ever used; what lies behind them is not looked at.
    used: usize,
    full: usize,
    /// The first free place among those. Invariant: the list that begins here holds each of them
    /// once, and nothing else.
    free: u32,
}

impl<'a, T> PoolSlab<'a, T> {
    /// A pool of `memory.len()` places, in O(1). What a pool that was forgotten has left in `memory` stays
    /// forgotten where its place is used again.
    #[must_use]
    pub const fn new(memory: &'a mut [SlabSlot<T>]) -> Self {
        Self { memory, used: 0, full: 0, free: NONE }
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.full
    }

    /// Whether there is no value.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.full == 0
    }

    /// The bytes of the memory that was lent.
    #[must_use]
    pub const fn footprint(&self) -> usize {
        size_of_val(&*self.memory)
    }
}

// SAFETY:
// - "a value stays under the key that `insert` gave until it is removed": a key is the index of one
//   place, which nothing else can reach while the memory is borrowed;
// - "no two values have one key at a time": `insert` takes a key from the list of free places, which
//   holds those once that are free, or the next place that was never used. No key is `u32::MAX`: `used`
//   is not counted further;
// - "`get`, `get_mut` and `remove` find the value that is under the key": they look into that place, if
//   it is one of those used;
// - "`remove` does not allocate; no method unwinds": they move a value and change the list of places.
unsafe impl<T> Slab<T> for PoolSlab<'_, T> {
    fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.free == NONE {
            if self.used >= NONE as usize {
                return Err(value);
            }
            let Some(place) = self.memory.get_mut(self.used) else {
                return Err(value);
            };
            // What a forgotten slab has left there stays forgotten: its end is code of others.
            core::mem::forget(core::mem::take(place));
            self.free = self.used as u32;
            self.used = self.used.plus(1);
        }
        let key = self.free;
        let Some(place) = self.memory.get_mut(key as usize) else {
            return Err(value);
        };
        self.free = place.fill(value)?;
        self.full = self.full.plus(1);
        Ok(key)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        self.memory.get(..self.used)?.get(key as usize)?.value()
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.memory.get_mut(..self.used)?.get_mut(key as usize)?.value_mut()
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        let place = self.memory.get_mut(..self.used)?.get_mut(key as usize)?;
        let value = place.empty(self.free)?;
        self.free = key;
        self.full = self.full.minus(1);
        Some(value)
    }
}

impl<'a, T: 'a, const N: usize> Slabs<T> for Pool<'a, N> {
    type Slab = PoolSlab<'a, T>;
}

impl<T> Drop for PoolSlab<'_, T> {
    fn drop(&mut self) {
        for place in self.memory.iter_mut().take(self.used) {
            *place = SlabSlot::new();
        }
    }
}

impl<T> fmt::Debug for PoolSlab<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolSlab")
            .field("len", &self.full)
            .field("places", &self.memory.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_full_pool_gives_the_value_back() {
        let mut memory = [const { SlabSlot::new() }; 3];
        let mut pool = PoolSlab::new(&mut memory);
        assert!(pool.get(0).is_none() && pool.get_mut(0).is_none() && pool.remove(0).is_none());
        let keys = ['a', 'b', 'c'].map(|value| pool.insert(value).unwrap());
        assert_eq!((pool.insert('d'), pool.len()), (Err('d'), 3));
        assert_eq!(pool.footprint(), 3 * size_of::<SlabSlot<char>>());
        assert_eq!((pool.remove(keys[1]), pool.remove(keys[1])), (Some('b'), None));
        assert_eq!((pool.remove(keys[0]), pool.remove(NONE)), (Some('a'), None));
        assert_eq!(pool.get_mut(keys[2]), Some(&mut 'c'));
        assert_eq!((pool.insert('d'), pool.insert('e')), (Ok(keys[0]), Ok(keys[1])));
        assert_eq!((pool.get(keys[0]), pool.get(keys[1])), (Some(&'d'), Some(&'e')));
        assert!(!pool.is_empty() && pool.insert('f').is_err());
        assert_eq!(format!("{pool:?}"), "PoolSlab { len: 3, places: 3, .. }");
    }

    /// A pool that was leaked leaves its values behind; a new one does not see them.
    #[test]
    fn values_are_dropped_once() {
        let value = Rc::new(());
        let mut memory = [const { SlabSlot::new() }; 4];
        let mut pool = PoolSlab::new(&mut memory);
        for _ in 0..4 {
            pool.insert(value.clone()).unwrap();
        }
        std::mem::forget(pool);
        let mut pool = PoolSlab::new(&mut memory);
        assert_eq!((Rc::strong_count(&value), pool.get(0)), (5, None));
        assert!(pool.insert(value.clone()).is_ok());
        assert!(pool.remove(1).is_none());
        assert_eq!(Rc::strong_count(&value), 6);
        drop(pool);
        assert_eq!(Rc::strong_count(&value), 5);
        drop(memory);
        // The one whose place was used again.
        assert_eq!(Rc::strong_count(&value), 2);
    }
}
