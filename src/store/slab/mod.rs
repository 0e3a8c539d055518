// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Slab`]: where an address space keeps its mappings.
//!
//! What `Storage` is for the bytes of a list, a slab is for values that own something: memory in
//! pieces of at most a page, fallibly, and nothing moves once it has been put there.

#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
mod pieces;
mod pool;
mod slot;

#[cfg(feature = "alloc")]
pub use pieces::HeapSlab;
#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
pub use pieces::PieceSlab;
pub use pool::PoolSlab;
pub use slot::SlabSlot;

pub(crate) use slot::NONE;

/// A storage that has a slab for values of `T` beside it: where its owner keeps them.
pub trait Slabs<T> {
    /// The slab.
    type Slab: Slab<T>;
}

/// Values under small numbers. The crate brings `HeapSlab`, which allocates, and
/// [`PoolSlab`], which uses memory lent by the caller.
///
/// # Implementation safety
///
/// What an address space keeps decides when memory is unpinned, so the answers must be true:
///
/// - a value stays under the key that [`insert`](Self::insert) gave until it is removed; no two
///   values have one key at a time;
/// - [`get`](Self::get), [`get_mut`](Self::get_mut) and [`remove`](Self::remove) find the value
///   that is under the key, and nothing if there is none;
/// - [`remove`](Self::remove) does not allocate;
/// - no method unwinds, and none drops a value but the slab's own end.
///
/// # Safety
///
/// All methods are safe to call with any argument. The trait is unsafe to implement, not to use.
pub unsafe trait Slab<T> {
    /// Puts a value in a free place and returns its key, which is never [`u32::MAX`].
    ///
    /// # Errors
    ///
    /// The value, if there is no memory; nothing has changed then.
    fn insert(&mut self, value: T) -> Result<u32, T>;

    /// The value under `key`.
    fn get(&self, key: u32) -> Option<&T>;

    /// The value under `key`, to change.
    fn get_mut(&mut self, key: u32) -> Option<&mut T>;

    /// Takes the value under `key` out; the key is free then.
    fn remove(&mut self, key: u32) -> Option<T>;
}
