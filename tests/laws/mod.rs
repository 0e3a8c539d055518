// SPDX-License-Identifier: MIT OR Apache-2.0
//! The laws of the crate, each in a file, each against an oracle that is slow and obvious.
//!
//! A law is a function that checks one case, and panics where the law is broken. Three drivers
//! bring the cases: exhaustive small ones, property tests, and the fuzz targets, which have the
//! names of the laws. The last two turn bytes into a case with [`input`].
//!
//! Nothing but what `core`, `alloc` and [`storage::Store`] have is used here: the same files are compiled
//! into a module of the Linux kernel, see `tests/kernel/laws/`. (Laws about the mock kit need `std`.)
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each driver uses its own part"
)]

#[allow(unused_extern_crates, reason = "where `mod.rs` is a crate, it has `alloc` already")]
extern crate alloc;

pub mod block_law;
pub mod borders;
pub mod descriptor_law;
pub mod exhaustive;
pub mod input;
#[cfg(not(pinned_sgl_kbuild))]
pub mod ioas_ops;
pub mod iterators;
#[cfg(not(pinned_sgl_kbuild))]
pub mod machine;
pub mod merge_law;
pub mod oracle;
#[cfg(not(pinned_sgl_kbuild))]
pub mod outsider_ops;
pub mod packed_roundtrip;
pub mod segment_law;
pub mod storage;
pub mod tile_law;
#[cfg(not(pinned_sgl_kbuild))]
pub mod umem_ops;
pub mod vectors;
pub mod window_seek;

use arbitrary::{Result, Unstructured};

/// A law, driven by bytes. `Err` means that the bytes were too few to make a case.
pub type Law = fn(&mut Unstructured<'_>) -> Result<()>;

/// All laws, by the names of their fuzz targets.
pub const LAWS: &[(&str, Law)] = &[
    ("merge_law", merge_law::from_bytes),
    ("packed_roundtrip", packed_roundtrip::from_bytes),
    ("window_seek", window_seek::from_bytes),
    ("block_law", block_law::from_bytes),
    ("tile_law", tile_law::from_bytes),
    ("segment_law", segment_law::from_bytes),
    ("descriptor_law", descriptor_law::from_bytes),
    #[cfg(not(pinned_sgl_kbuild))]
    ("ioas_ops", ioas_ops::from_bytes),
    #[cfg(not(pinned_sgl_kbuild))]
    ("umem_ops", umem_ops::from_bytes),
    #[cfg(not(pinned_sgl_kbuild))]
    ("outsider_ops", outsider_ops::from_bytes),
];
