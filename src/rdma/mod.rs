// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions of network cards: pinned memory as blocks of one size, behind a key.

mod error;
mod region;
mod table;

pub use error::{DeregisterError, RegisterError, RegisterErrorKind};
pub use region::MemoryRegion;
pub use table::{Access, BlockLayout, BlockTable};
