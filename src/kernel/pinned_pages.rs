// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinnedPages`]: pages that `pin_user_pages()` has pinned, on their way to a batch.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::{ffi, kernel, page_structs::first_run};
use crate::exact::Exact as _;
use crate::sgl::PageRun;
use crate::umem::PinBatch;
use core::{fmt, mem};
use kernel::bindings;

/// Pages that `pin_user_pages()` or one of its sisters has pinned, for a [`Pinner`](crate::umem::Pinner) to give to a
/// batch. Dropping it unpins those that no batch has taken.
///
/// # Invariants
///
/// Each of `pages` points to the structure of a page with a pin that is ours.
pub struct PinnedPages<'a> {
    pages: &'a mut [*mut bindings::page],
}

impl<'a> PinnedPages<'a> {
    /// Takes them over.
    ///
    /// # Safety
    ///
    /// Each of `pages` points to the structure of a page that was pinned once, and is taken over
    /// with its pin.
    #[must_use]
    pub const unsafe fn new(pages: &'a mut [*mut bindings::page]) -> Self {
        // INVARIANT: as the caller promises.
        Self { pages }
    }

    /// How many are left.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether a batch has taken all of them.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Gives them to a batch, as long as it takes them; returns in how many runs. O(pages).
    ///
    /// # Safety
    ///
    /// They are what the contract of [`Pinner`](crate::umem::Pinner) says: those of the user pages from
    /// [`next`](PinBatch::next) on, in order.
    pub unsafe fn give(&mut self, batch: &mut PinBatch<'_>) -> usize {
        let mut runs = 0usize;
        while let Some(run) = self.first_run() {
            // SAFETY: "the frames of these user pages, of the kind that they are, each with a pin that
            // belongs to the batch from now on": by the invariant each has a pin, and is forgotten
            // below; its kind was read of its structure; whose pages they are, and that they come in
            // order, the caller promises.
            if unsafe { batch.push(run) }.is_err() {
                break;
            }
            self.forget(run);
            runs = runs.plus(1);
        }
        runs
    }

    /// Takes the first pages that continue each other: their pins are the caller's then.
    #[must_use = "the pins of the run are the caller's"]
    pub fn take_run(&mut self) -> Option<PageRun> {
        self.first_run().inspect(|run| self.forget(*run))
    }

    fn first_run(&self) -> Option<PageRun> {
        if self.pages.is_empty() {
            return None;
        }
        // SAFETY: "there is at least one pointer": it is not empty; "each points to a page structure":
        // by the invariant.
        Some(unsafe { first_run(self.pages) })
    }

    /// The first run has another owner from now on.
    fn forget(&mut self, run: PageRun) {
        let count = usize::try_from(run.count()).unwrap_or(usize::MAX);
        // INVARIANT: those that are left are some of those that there were.
        self.pages = mem::take(&mut self.pages).get_mut(count..).unwrap_or_default();
    }

    /// Unpins the pages of a run, for [`Pinner::unpin`](crate::umem::Pinner::unpin): `unpin_user_page_range_dirty_lock()`. May
    /// sleep.
    ///
    /// # Safety
    ///
    /// Each of them has a pin of the caller's that nothing relies on any more.
    pub unsafe fn unpin(run: PageRun, dirty: bool) {
        // SAFETY: "each of them has a pin of the caller's that nothing relies on any more": so that they
        // are pages with structures, which it takes.
        unsafe { ffi::pinned_sgl_unpin_run(run.start().get(), run.count(), dirty) };
    }
}

impl Drop for PinnedPages<'_> {
    fn drop(&mut self) {
        if !self.pages.is_empty() {
            // SAFETY: by the invariant these are page structures with pins that are ours; nothing was shown
            // the pages, and `self` is dropped once.
            unsafe { ffi::pinned_sgl_unpin_pages(self.pages.as_mut_ptr(), self.pages.len()) };
        }
    }
}

impl fmt::Debug for PinnedPages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPages").field("len", &self.pages.len()).finish_non_exhaustive()
    }
}
