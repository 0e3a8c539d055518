// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Linux has no abstractions for yet: pins, counters of pinned pages, domains of IOMMUs, scatterlists of runs.
//! It knows nothing of this crate. In a kernel's tree each of these files is a part of the crate `kernel`, and the C
//! beside it one of `rust/helpers`: `kbuild/series` makes patches of their own of them.
#![allow(unreachable_pub, reason = "public in the crate `kernel`")]

mod ffi;
pub(super) mod gup;
pub(super) mod iommu_domain;
pub(super) mod memlock;
mod raw;
pub(super) mod run_table;

use super::kernel;
