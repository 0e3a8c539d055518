// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list: build it, keep it packed, look at a window of it.
//!
//! ```text
//!  SglBuilder ──finish()──► Sgl ──window()──► Window ──► granule::*
//!      │                     │                  │
//!      └── Leaves ───────────┴──── Runs ────────┘     runs, in order, from anywhere
//!            ├── directory   byte -> address, or leaf and group
//!            ├── packed      leaf -> group -> run: bits, group, batch
//!            └── Storage     pieces of memory: see `store`
//! ```

mod builder;
mod collect;
mod directory;
mod error;
mod leaves;
mod list;
mod packed;
mod run;
mod runs;
mod search;
mod shift;
mod window;

pub use builder::SglBuilder;
pub use error::BuildError;
pub use list::Sgl;
pub(crate) use list::{check_run, check_storage};
pub use run::{MemoryKind, PageRun, ParseKindError, ProviderId};
pub use runs::Runs;
pub use window::{Iter, Segment, Window, WindowError};
