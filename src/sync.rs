// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that names atomics and locks: the real ones, or those of the model checker.
//!
//! Under `--cfg loom` every interleaving that the memory model allows is tried: see `tests/loom/`.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
