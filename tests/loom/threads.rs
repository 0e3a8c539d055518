// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the models run on: the checker's threads, or real ones.

#[cfg(loom)]
pub(crate) use loom::{cell, sync, thread};
#[cfg(not(loom))]
pub(crate) use std::{sync, thread};

/// How often a device repeats what it does, so that it does it at the right moment: the checker finds
/// that moment itself.
pub(crate) const REPEATED: u32 = if cfg!(loom) {
    1
} else if cfg!(miri) {
    3
} else {
    100
};

/// Runs a model in all orders.
#[cfg(loom)]
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = checker.preemption_bound.or(Some(4));
    checker.max_branches = checker.max_branches.max(10_000);
    checker.check(model);
}

/// Runs a model in the orders that turn up: as many as Miri is given seeds.
#[cfg(not(loom))]
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let times = if cfg!(miri) { 1 } else { 500 };
    (0..times).for_each(|_| model());
}

#[cfg(not(loom))]
pub(crate) mod cell {
    /// The model checker's cell, of which the real one has the memory only: a sanitizer sees each use.
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
            look(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
            change(self.0.get())
        }
    }
}
