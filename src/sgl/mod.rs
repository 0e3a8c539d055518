// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list: build it, keep it packed, look at a window of it.
//!
//! ```text
//!  SglBuilder ──finish()──► Sgl ──window()──► Window ──► granule::*
//!      │                     │                  │
//!      └── Leaves ───────────┴──── Runs ────────┘     runs of pages, in order, from anywhere
//!            │    directory: page -> leaf
//!            ├── packed      leaf -> group -> run
//!            └── Storage     pieces of memory: Heap, Pool
//! ```

mod builder;
#[cfg(feature = "alloc")]
mod collect;
#[cfg(feature = "alloc")]
mod heap;
mod leaves;
mod list;
mod packed;
mod pool;
mod run;
mod runs;
mod search;
mod storage;
mod window;

pub use builder::{BuildError, FinishError, SglBuilder};
#[cfg(feature = "alloc")]
pub use heap::Heap;
pub use list::Sgl;
pub use pool::Pool;
pub use run::{MemoryKind, PageRun, ParseKindError, ProviderId, RunError};
pub use runs::Runs;
pub use storage::{is_piece_size, AllocError, Storage};
pub use window::{Iter, Segment, Window, WindowError};
