// SPDX-License-Identifier: MIT OR Apache-2.0
//! IOMMU address spaces: domains, mappings, and address spaces of many mappings.

mod domain;
mod prot;
mod range;
mod slab;

pub use domain::{DirtyDomain, Domain, Entry, RangeGather, ReadDomain};
pub use prot::Prot;
pub use range::IovaRange;
pub use slab::Slab;
