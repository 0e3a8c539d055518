// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that names atomics: the real ones, those of the Linux kernel, or those of the model checker.
//!
//! In a kernel, `kernel::sync::atomic` follows the memory model of Linux, which Rust's own atomics do not.
//! Under `--cfg loom` every interleaving that the memory model allows is tried: see `tests/loom/`.
#![forbid(unsafe_code)]

#[cfg(pinned_sgl_kbuild)]
mod atomics {
    pub(crate) use ::kernel::sync::atomic::{Acquire, Relaxed, Release};
    use ::kernel::sync::atomic::{Atomic, Full};

    pub(crate) type AtomicBool = Atomic<bool>;
    pub(crate) type AtomicUsize = Atomic<usize>;

    /// Replaces a value by what `new` makes of it, and returns the old one; `Err` with the value for which
    /// `new` is `None`, where nothing has changed. An update comes after all that stands before it, and
    /// before all that follows.
    pub(crate) fn update(
        atomic: &AtomicUsize,
        mut new: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        let mut old = atomic.load(Relaxed);
        loop {
            match atomic.cmpxchg(old, new(old).ok_or(old)?, Full) {
                Err(other) => old = other,
                done => return done,
            }
        }
    }
}

#[cfg(not(pinned_sgl_kbuild))]
mod atomics {
    #[cfg(not(loom))]
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use Ordering::{Acquire, Relaxed, Release};

    /// As above.
    pub(crate) fn update(
        atomic: &AtomicUsize,
        new: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        atomic.fetch_update(Ordering::AcqRel, Relaxed, new)
    }
}

pub(crate) use atomics::{update, Acquire, AtomicBool, AtomicUsize, Relaxed, Release};
