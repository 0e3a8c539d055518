// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical memory and the processes in it.
//!
//! ```text
//!  Process ──► VMAs ──► page table ──► frame ◄── Memory ◄── devices, by physical address
//!     fault, pin, fork, migrate           │
//!                                   pins, dirty, contents
//! ```

mod contents;
mod dma;
mod fault;
mod folios;
mod fragmentation;
mod frame;
mod machine;
mod page_table;
mod pin;
mod pinned;
mod process;
mod reach;
mod sparse;
mod vma;
mod zone;

#[cfg(all(test, loom))]
mod models;

pub use fault::PinFault;
pub use fragmentation::Fragmentation;
pub use machine::{Memory, MemoryBuilder, MemoryError};
pub use pinned::PinnedMemory;
pub use process::Process;
pub(super) use reach::{Block, Reacher};
pub use vma::{Vma, VmaError};
pub use zone::Zone;
