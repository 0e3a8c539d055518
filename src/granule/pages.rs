// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pages`]: the frames of a window, one by one.
#![forbid(unsafe_code)]

use crate::abridged::Abridged;
use crate::addr::Pfn;
use crate::exact::Exact as _;
use crate::sgl::{Runs, Window};
use crate::store::Storage;
use core::{fmt, iter::FusedIterator};

impl<'a, S: Storage> Window<'a, S> {
    /// The frames that hold a byte of the window, in order.
    ///
    /// ```
    /// # use pinned_sgl::{MemoryKind::Ram, PageSize, Pfn, SglBuilder};
    /// # let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    /// builder.push_pages(&[7, 8, 3].map(Pfn::new), Ram)?;
    /// let sgl = builder.finish()?;
    /// assert!(sgl.whole()?.pages().eq([7, 8, 3].map(Pfn::new)));
    /// assert!(sgl.window(4000, 200)?.pages().eq([7, 8].map(Pfn::new)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn pages(&self) -> Pages<'a, S> {
        Pages { runs: self.runs(), next: 0, end: 0 }
    }
}

/// The frames that hold a byte of a window; made by [`Window::pages`]. A step is O(1).
#[must_use = "iterators do nothing unless they are walked"]
pub struct Pages<'a, S> {
    runs: Runs<'a, S>,
    /// The frames of the current run that are still to come.
    next: u64,
    end: u64,
}

impl<S: Storage> Iterator for Pages<'_, S> {
    type Item = Pfn;

    #[inline]
    fn next(&mut self) -> Option<Pfn> {
        if self.next == self.end {
            let run = self.runs.next()?;
            (self.next, self.end) = (run.start().get(), run.end().get());
        }
        let pfn = Pfn::new(self.next);
        self.next = self.next.plus(1);
        Some(pfn)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let here = self.end.minus(self.next);
        match usize::try_from(here.plus(self.runs.pages_left())) {
            Ok(left) => (left, Some(left)),
            Err(_) => (usize::MAX, None),
        }
    }

    #[inline]
    fn fold<B, F>(self, init: B, mut f: F) -> B
    where
        F: FnMut(B, Pfn) -> B,
    {
        let acc = (self.next..self.end).fold(init, |acc, pfn| f(acc, Pfn::new(pfn)));
        self.runs.fold(acc, |acc, run| {
            (run.start().get()..run.end().get()).fold(acc, |acc, pfn| f(acc, Pfn::new(pfn)))
        })
    }

    fn count(self) -> usize {
        self.size_hint().0
    }
}

impl<S: Storage> FusedIterator for Pages<'_, S> {}

impl<S> Clone for Pages<'_, S> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), ..*self }
    }
}

impl<S: Storage> fmt::Debug for Pages<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}
