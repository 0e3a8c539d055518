// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models that are checked in every interleaving of their threads, by loom:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --test loom --target-dir target/loom
//! ```
//!
//! `tests/run loom` runs them, and the models of the mock's frames beside them (pinning against moving,
//! unmapping and forking); all of them within two minutes. Small models are checked in full; those on the mock
//! machine, whose every lock is a place to switch, with at most [`PREEMPTIONS`] preemptions.
//!
//! `blind.rs` holds models with a mistake in them: loom must find it, or it would find nothing here.
#![cfg(loom)]
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may panic: that is how it fails"
)]

mod blind;
mod charges;
mod domain;
mod holders;
mod wire;

/// How often a thread is stopped where it could go on, in the larger models.
const PREEMPTIONS: usize = 3;

/// Checks a model with a bound on preemptions.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}
