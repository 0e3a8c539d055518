// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`HeapSlab`]: values in pieces from the global allocator.

use super::growing::GrowingSlab;
use super::Slab;
use crate::pieces::Global;
use core::fmt;

/// Values from the global allocator: in pieces of at most a page, each allocated on its own and
/// fallibly. A value that needs more than a page has a piece of its own.
///
/// An empty slab allocates nothing. A place that was left is used again before memory is asked
/// for; memory is given back when the slab is dropped. Everything takes O(1), but
/// [`footprint`](Self::footprint).
///
/// ```
/// use pinned_sgl::iommu::{HeapSlab, Slab};
/// let mut slab = HeapSlab::new();
/// let key = slab.insert("mapping").map_err(|_| "out of memory")?;
/// assert_eq!((slab.get(key), slab.len()), (Some(&"mapping"), 1));
/// assert_eq!((slab.remove(key), slab.remove(key)), (Some("mapping"), None));
/// # Ok::<(), &str>(())
/// ```
pub struct HeapSlab<T>(GrowingSlab<T, Global>);

impl<T> HeapSlab<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(GrowingSlab::new(Global))
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no value.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that the slab holds outside of its own value, tables included; in
    /// O(tables).
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

// SAFETY: "a value stays under its key ..; `get`, `get_mut` and `remove` find it; `remove` does not
// allocate; no method unwinds": every answer is that of the slab inside, whose contract is the same.
unsafe impl<T> Slab<T> for HeapSlab<T> {
    #[inline]
    fn insert(&mut self, value: T) -> Result<u32, T> {
        self.0.insert(value)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<&T> {
        self.0.get(key)
    }

    #[inline]
    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.0.get_mut(key)
    }

    #[inline]
    fn remove(&mut self, key: u32) -> Option<T> {
        self.0.remove(key)
    }
}

impl<T> Default for HeapSlab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for HeapSlab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapSlab").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{slot::NONE, SlabSlot};
    use super::*;
    use std::rc::Rc;

    #[test]
    fn values_stay_and_places_are_used_again() {
        const MANY: usize = if cfg!(miri) { 1000 } else { 100_000 };
        let mut slab = HeapSlab::new();
        assert_eq!((slab.footprint(), slab.get(0), slab.get(NONE)), (0, None, None));
        let keys: Vec<u32> = (0..MANY as u64).map(|value| slab.insert(value).unwrap()).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((sorted.len(), slab.len()), (keys.len(), keys.len()));
        let bytes = slab.footprint();
        assert!(bytes >= MANY * size_of::<SlabSlot<u64>>());
        assert!(bytes <= MANY * size_of::<SlabSlot<u64>>() + 8192 + 400 * 24);
        for (value, &key) in (0..).zip(&keys) {
            assert_eq!(slab.get(key), Some(&value));
            assert_eq!(slab.get_mut(key).copied(), Some(value));
        }
        for &key in keys.iter().step_by(3) {
            assert!(slab.remove(key).is_some() && slab.remove(key).is_none());
            assert!(slab.get(key).is_none() && slab.get_mut(key).is_none());
        }
        for _ in keys.iter().step_by(3) {
            assert!(sorted.binary_search(&slab.insert(7).unwrap()).is_ok());
        }
        assert_eq!((slab.len(), slab.footprint()), (keys.len(), bytes));
        for (value, &key) in (0..).zip(&keys) {
            assert_eq!(slab.remove(key), Some(if value % 3 == 0 { 7 } else { value }));
        }
        assert!(slab.is_empty());
        assert_eq!(format!("{slab:?}"), "HeapSlab { len: 0, .. }");
    }

    /// A piece has as many values as fit a page, or one.
    #[test]
    fn pieces_are_pages() {
        fn check<T: Copy>(value: T) {
            const MANY: usize = if cfg!(miri) { 600 } else { 3000 };
            let mut slab = HeapSlab::new();
            let keys: Vec<_> = (0..MANY).map(|_| slab.insert(value).ok().unwrap()).collect();
            assert!(keys.iter().all(|&key| key != NONE && slab.get(key).is_some()));
            let sizes = slab.0.piece_sizes();
            let slot = size_of::<SlabSlot<T>>();
            assert!(sizes.clone().sum::<usize>() >= MANY * slot);
            assert_eq!(sizes.max(), Some(slot.max(4096 - 4096 % slot)));
        }
        check(());
        check(0u64);
        check([0u64; 8]);
        check([0u64; 255]);
        check([0u64; 256]);
        check([0u64; 1000]);
    }

    #[test]
    fn dropping_drops_the_values() {
        let value = Rc::new(());
        let mut slab = HeapSlab::new();
        let keys: Vec<_> = (0..1000).map(|_| slab.insert(value.clone()).unwrap()).collect();
        assert_eq!(Rc::strong_count(&value), 1001);
        drop(slab.remove(keys[500]));
        assert_eq!(Rc::strong_count(&value), 1000);
        drop(slab);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
