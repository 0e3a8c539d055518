// SPDX-License-Identifier: MIT OR Apache-2.0
//! IOMMU address spaces: domains, mappings, and address spaces of many mappings.

mod domain;
mod edges;
mod entries;
mod error;
mod mapping;
mod prot;
mod range;
mod readback;
mod slab;
mod stream;

pub use domain::{DirtyDomain, Domain, Entry, RangeGather, ReadDomain};
pub use edges::Edges;
pub use entries::{Breach, MapErrorKind};
pub use error::{CutError, CutErrorKind, MapError, UnmapError, UnmapRangeError};
pub use mapping::Mapping;
pub use prot::Prot;
pub use range::IovaRange;
pub use readback::Readback;
pub use slab::Slab;
pub use stream::{Stream, StreamError, StreamErrorKind, StreamUnmapError};
