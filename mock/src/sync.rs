// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that names atomics and locks: the real ones, or those of the model checker.
//!
//! Under `--cfg loom` every interleaving that the memory model allows is tried: see
//! `memory/models.rs`, and `tests/loom/` of `pinned-sgl`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{AtomicU64, Ordering},
    Mutex, MutexGuard,
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    atomic::{AtomicU64, Ordering},
    Mutex, MutexGuard,
};

/// What is made once and never changed, and a number that is only shown to people: nothing that the
/// model checker would have to know.
pub(crate) use std::sync::{atomic::AtomicU64 as Note, OnceLock};

/// Locks, also where another thread has panicked while it held the lock: what is guarded here is
/// changed in steps that each leave it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether a model has failed. The model checker's locks do not survive a panic, so that destructors
/// leave them alone; elsewhere they do: see [`lock`].
pub(crate) fn has_failed() -> bool {
    cfg!(loom) && std::thread::panicking()
}
