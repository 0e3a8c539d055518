// SPDX-License-Identifier: MIT OR Apache-2.0
//! IOMMU address spaces: domains, mappings, and address spaces of many mappings.

mod bitmap;
mod domain;
mod edges;
mod entries;
mod error;
#[cfg(feature = "alloc")]
mod heap_slab;
mod ioas;
mod mapping;
mod prot;
mod range;
mod readback;
mod slab;
mod slab_pool;
mod slab_slot;
mod stream;
mod tree;

pub use bitmap::{BitmapTooSmall, DirtyBitmap};
pub use domain::{DirtyDomain, Domain, Entry, RangeGather, ReadDomain};
pub use edges::Edges;
pub use entries::{Breach, MapErrorKind};
pub use error::{CutError, CutErrorKind, MapError, UnmapError, UnmapRangeError};
#[cfg(feature = "alloc")]
pub use heap_slab::HeapSlab;
#[cfg(feature = "alloc")]
pub use ioas::HeapIoas;
pub use ioas::{
    Area, DomainId, DomainLink, Ioas, IoasAccessError, IoasAccessErrorKind, IoasAttachError,
    IoasError, IoasMapError, MappingRef, Placement,
};
pub use mapping::Mapping;
pub use prot::Prot;
pub use range::IovaRange;
pub use readback::Readback;
pub use slab::Slab;
pub use slab_pool::SlabPool;
pub use slab_slot::SlabSlot;
pub use stream::{Stream, StreamError, StreamErrorKind, StreamUnmapError};
pub use tree::Node;
