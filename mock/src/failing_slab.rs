// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FailingSlab`]: a slab that runs out of memory by plan.

use super::{FailingStorage, Plan, Step};
use pinned_sgl::store::{Slab, Slabs};

/// A slab whose [`insert`](Slab::insert) asks a [`Plan`] first, as [`Step::Alloc`]; otherwise the
/// slab that it wraps.
#[derive(Debug)]
pub struct FailingSlab<L> {
    slab: L,
    plan: Plan,
}

impl<L> FailingSlab<L> {
    /// Lets `slab` fail by `plan`.
    #[must_use]
    pub fn new(slab: L, plan: &Plan) -> Self {
        Self { slab, plan: plan.clone() }
    }

    /// The slab that was wrapped.
    #[must_use]
    pub fn into_inner(self) -> L {
        self.slab
    }
}

// SAFETY: all answers are those of a slab that keeps the contract; a value that was not put there
// is given back, and nothing has changed.
unsafe impl<T, L: Slab<T>> Slab<T> for FailingSlab<L> {
    fn insert(&mut self, value: T) -> Result<u32, T> {
        match self.plan.step(Step::Alloc) {
            Ok(()) => self.slab.insert(value),
            Err(_) => Err(value),
        }
    }

    fn get(&self, key: u32) -> Option<&T> {
        self.slab.get(key)
    }

    fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.slab.get_mut(key)
    }

    fn remove(&mut self, key: u32) -> Option<T> {
        self.slab.remove(key)
    }
}

impl<T, S: Slabs<T>> Slabs<T> for FailingStorage<S> {
    type Slab = FailingSlab<S::Slab>;
}
