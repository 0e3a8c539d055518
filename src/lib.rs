// SPDX-License-Identifier: MIT OR Apache-2.0
//! pinned-sgl
#![cfg_attr(not(test), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        reason = "a test may panic: that is how it fails"
    )
)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(all(feature = "linux", not(target_os = "linux")))]
compile_error!(
    "the feature `linux` pins memory through io_uring, which only Linux has: leave it out"
);

mod addr;
pub mod granule;
#[cfg(all(feature = "linux", target_os = "linux"))]
pub mod linux;
mod page_size;
pub mod sgl;

pub use addr::{Iova, Pfn, PhysAddr, UserAddr};
pub use granule::{BlockSize, SegmentLimits, Tile};
pub use page_size::{PageSize, PageSizes, ParsePageSizeError};
#[cfg(feature = "alloc")]
pub use sgl::Heap;
pub use sgl::{
    AllocError, BuildError, FinishError, Iter, MemoryKind, PageRun, Pool, ProviderId, RunError,
    Runs, Segment, Sgl, SglBuilder, Storage, Window, WindowError,
};
