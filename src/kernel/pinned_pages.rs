// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinnedPages`]: pages that `pin_user_pages()` has pinned, on their way to a batch.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::{
    ffi, kernel,
    page_structs::{first_run, singles},
};
use crate::exact::Exact as _;
use crate::sgl::{MemoryKind, PageRun};
use crate::umem::PinBatch;
use core::{fmt, mem};
use kernel::bindings;

/// Pages behind the first of a run that are looked at by one call of C.
const SINGLES: usize = 32;
/// Single pages that are unpinned by one call of C, at most.
const UNPINNED: usize = 16;

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
        let mut frames = [0; SINGLES];
        while let Some(run) = self.first_run() {
            // SAFETY: "the frames of these user pages, of the kind that they are, each with a pin that
            // belongs to the batch from now on": by the invariant each has a pin, and is forgotten
            // below; its kind was read of its structure; whose pages they are, and that they come in
            // order, the caller promises.
            if unsafe { batch.push(run) }.is_err() {
                break;
            }
            runs = runs.plus(1);
            let mut count = usize::try_from(run.count()).unwrap_or(usize::MAX);
            if run.kind() == MemoryKind::Ram && count == 1 {
                // SAFETY: "there is at least one pointer": there is a first run; "each points to a page
                // structure": by the invariant.
                let found = unsafe { singles(self.pages, &mut frames) };
                // SAFETY: as of the run, for those behind it.
                let more = unsafe { batch.push_singles(frames.get(..found).unwrap_or_default()) };
                runs = runs.plus(more);
                count = count.plus(more);
            }
            self.forget(count);
        }
        runs
    }

    /// Takes the first pages that continue each other: their pins are the caller's then.
    #[must_use = "the pins of the run are the caller's"]
    pub fn take_run(&mut self) -> Option<PageRun> {
        let run = self.first_run()?;
        self.forget(usize::try_from(run.count()).unwrap_or(usize::MAX));
        Some(run)
    }

    fn first_run(&self) -> Option<PageRun> {
        if self.pages.is_empty() {
            return None;
        }
        // SAFETY: "there is at least one pointer": it is not empty; "each points to a page structure":
        // by the invariant.
        Some(unsafe { first_run(self.pages) })
    }

    /// The first `count` pages have another owner from now on.
    fn forget(&mut self, count: usize) {
        // INVARIANT: those that are left are some of those that there were.
        self.pages = mem::take(&mut self.pages).get_mut(count..).unwrap_or_default();
    }

    /// Unpins the pages of runs, for [`Pinner::unpin_runs`](crate::umem::Pinner::unpin_runs). May sleep.
    ///
    /// # Safety
    ///
    /// Each of them has a pin of the caller's that nothing relies on any more.
    pub unsafe fn unpin_runs(runs: &[PageRun], dirty: bool) {
        let (mut frames, mut found) = ([0; UNPINNED], 0usize);
        for run in runs {
            if run.count() != 1 {
                // SAFETY: as the caller promises.
                unsafe { Self::unpin(*run, dirty) };
                continue;
            }
            if found == UNPINNED {
                // SAFETY: as the caller promises: these are single runs of the caller's.
                unsafe { ffi::pinned_sgl_unpin_singles(frames.as_ptr(), found, dirty) };
                found = 0;
            }
            if let Some(frame) = frames.get_mut(found) {
                *frame = run.start().get();
                found = found.plus(1);
            }
        }
        // SAFETY: as the caller promises: these are single runs of the caller's.
        unsafe { ffi::pinned_sgl_unpin_singles(frames.as_ptr(), found, dirty) };
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
