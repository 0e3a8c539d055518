// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where lists and address spaces keep what they know: memory of at most a page at once, fallibly, and
//! nothing moves once it has been put there. That is what a kernel can give under any load.
//!
//! | memory | bytes of a list: [`Storage`] | values that own something: [`Slab`] |
//! |---|---|---|
//! | lent by the caller | [`Pool`] | [`PoolSlab`], of [`SlabSlot`]s |
//! | of the global allocator | `Heap` | `HeapSlab` |
//! | of the Linux kernel's | `kernel::Kmalloc` | `kernel::KmallocSlab` |
//!
//! Those that allocate are `Pieces` and `PieceSlab` of an allocator; both find their pieces through a map,
//! whose tables are no larger than a page either.

#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
mod allocator;
#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
mod piece_map;
#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
mod pieces;
mod pool;
mod slab;
mod storage;

#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
pub use pieces::Pieces;
pub use pool::Pool;
#[cfg(feature = "alloc")]
pub use slab::HeapSlab;
#[cfg(any(feature = "alloc", pinned_sgl_kbuild))]
pub use slab::PieceSlab;
pub use slab::{PoolSlab, Slab, SlabSlot, Slabs};
pub use storage::{is_piece_size, AllocError, Storage};
#[cfg(feature = "alloc")]
pub use {allocator::OnHeap, pieces::Heap};

#[cfg(all(feature = "kernel", any(pinned_sgl_kbuild, doc)))]
pub(crate) use allocator::{Allocator, NoMemory};
pub(crate) use slab::NONE;
