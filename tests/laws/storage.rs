// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Store`], where the lists of the laws are kept; [`Failing`], which runs out of memory when it is
//! asked to.

use super::alloc::rc::Rc;
use core::cell::Cell;
use pinned_sgl::{AllocError, Storage};

/// Where lists are kept: each machine that checks the laws has one.
#[cfg(not(pinned_sgl_kbuild))]
pub type Store = pinned_sgl::Heap;
#[cfg(pinned_sgl_kbuild)]
pub type Store = pinned_sgl::kernel::Kmalloc;

#[cfg(not(pinned_sgl_kbuild))]
pub fn store() -> Store {
    Store::new()
}
#[cfg(pinned_sgl_kbuild)]
pub fn store() -> Store {
    Store::new(kernel::alloc::flags::GFP_KERNEL)
}

/// Gives `budget` pieces, then fails until the budget is raised.
#[derive(Debug)]
pub struct Failing<S> {
    inner: S,
    budget: Rc<Cell<usize>>,
}

impl<S: Storage> Failing<S> {
    /// The storage, and the handle that sets its budget.
    pub fn new(inner: S, budget: usize) -> (Self, Rc<Cell<usize>>) {
        let budget = Rc::new(Cell::new(budget));
        (Self { inner, budget: budget.clone() }, budget)
    }
}

// SAFETY: all but `grow` is handed on to a storage; `grow` fails before it changes anything, or is
// handed on.
unsafe impl<S: Storage> Storage for Failing<S> {
    const PIECE_BYTES: usize = S::PIECE_BYTES;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        let left = self.budget.get().checked_sub(1).ok_or(AllocError)?;
        self.inner.grow(bytes)?;
        self.budget.set(left);
        Ok(())
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
