// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ioas`]: an I/O address space: many mappings, in every one of its domains.
//!
//! ```text
//!  Ioas   0x0 ──────┬─────────┬──────────┬──────────┬─────────┬────────────────► IOVA
//!                   │ mapping │          │ reserved │ mapping │      a B+-tree: O(log n)
//!                   └────┬────┘          └──────────┘────┬────┘
//!                    region, offset, prot            region, offset, prot
//!         │
//!         └── domains: each has every mapping, in pages of its own sizes
//! ```
//!
//! | file | does |
//! |---|---|
//! | `area` | what lies at a range of addresses |
//! | `tree` | areas by address, and the gaps between them |
//! | `domains` | the domains, and what they can do together |
//! | `store` | where areas and domains are kept |
//! | `tracking`, `written` | how domains note what devices write; what was written that none notes |
//! | `space` | the address space of all these, and how to look into it |
//! | `attach` | domains come with a replay, and go |
//! | `placement` | where a mapping goes |
//! | `map` | mapping, at an address or anywhere |
//! | `install` | into the page tables of the domains, and out of them |
//! | `unmap` | unmapping whole mappings, parts of them, and all in the end |
//! | `cut` | cutting a mapping in two, and where that can be done |
//! | `reserve` | keeping mappings out of ranges |
//! | `copy` | the same memory in another address space |
//! | `cpu` | reading and writing memory by IOVA |
//! | `dirty` | which pages were written: sessions, and what their bitmaps show |

mod area;
mod attach;
mod copy;
mod cpu;
mod cut;
mod dirty;
mod domains;
mod error;
mod install;
mod map;
mod placement;
mod reserve;
mod space;
mod store;
mod tracking;
mod tree;
mod unmap;
mod written;

pub use area::MappingRef;
pub use domains::DomainId;
pub use error::IoasError;
pub use placement::Placement;
pub use reserve::Reservation;
#[cfg(feature = "alloc")]
pub use space::HeapIoas;
pub use space::{Ioas, PoolIoas};
pub use store::{DomainSlot, IoasStore, MappingSlot, NodeSlot};
