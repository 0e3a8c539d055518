// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FailingStorage`] and [`FailingAccountant`]: memory and limits that run out by [`Plan`].

use super::plan::{Plan, Step};
use pinned_sgl::store::{AllocError, Storage};
use pinned_sgl::umem::{Accountant, ChargeError};

/// A storage whose [`grow`](Storage::grow) is a call that may fail: [`Step::Alloc`].
///
/// ```
/// use pinned_sgl_mock::{FailingStorage, Plan};
/// use pinned_sgl::{Heap, Storage};
/// let plan = Plan::new();
/// let mut storage = FailingStorage::new(Heap::default(), plan.clone());
/// plan.fail_at(1);
/// assert!(storage.grow(512).is_ok() && storage.grow(512).is_err());
/// assert_eq!(storage.pieces(), 1);
/// ```
#[derive(Debug, Default)]
pub struct FailingStorage<S> {
    inner: S,
    plan: Plan,
}

impl<S: Storage> FailingStorage<S> {
    /// The storage `inner`, which fails by `plan`, too.
    pub const fn new(inner: S, plan: Plan) -> Self {
        Self { inner, plan }
    }

    /// The storage inside.
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

// SAFETY: all but `grow` is handed on to a storage; `grow` fails before it changes anything, or is
// handed on.
unsafe impl<S: Storage> Storage for FailingStorage<S> {
    const PIECE_BYTES: usize = S::PIECE_BYTES;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.plan.step(Step::Alloc).map_err(|_| AllocError)?;
        self.inner.grow(bytes)
    }

    fn shrink(&mut self) {
        self.inner.shrink();
    }

    fn pieces(&self) -> usize {
        self.inner.pieces()
    }

    fn piece(&self, index: usize) -> &[u8] {
        self.inner.piece(index)
    }

    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.inner.piece_mut(index)
    }

    fn footprint(&self) -> usize {
        self.inner.footprint()
    }
}

/// An accountant whose [`charge`](Accountant::charge) is a call that may fail: [`Step::Charge`].
///
/// The error of a call that fails by plan names a limit of zero pages.
#[derive(Debug, Default)]
pub struct FailingAccountant<A> {
    inner: A,
    plan: Plan,
}

impl<A: Accountant> FailingAccountant<A> {
    /// The accountant `inner`, which fails by `plan`, too.
    pub const fn new(inner: A, plan: Plan) -> Self {
        Self { inner, plan }
    }

    /// The accountant inside.
    pub const fn inner(&self) -> &A {
        &self.inner
    }
}

impl<A: Accountant> Accountant for FailingAccountant<A> {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let refused = ChargeError::Limit { pages, charged: 0, limit: 0 };
        self.plan.step(Step::Charge).map_err(|_| refused)?;
        self.inner.charge(pages)
    }

    fn uncharge(&self, pages: u64) {
        self.inner.uncharge(pages);
    }
}
