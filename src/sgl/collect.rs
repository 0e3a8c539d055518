// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists in one call, of all that an iterator yields.
#![forbid(unsafe_code)]

use super::builder::SglBuilder;
use super::error::BuildError;
use super::list::Sgl;
use super::run::{MemoryKind, PageRun};
use crate::addr::Pfn;
use crate::page_size::PageSize;
#[cfg(feature = "alloc")]
use crate::store::Heap;
use crate::store::Storage;

#[cfg(feature = "alloc")]
impl Sgl<Heap> {
    /// A list of runs on the heap, as [`Sgl::from_runs_in`].
    ///
    /// ```
    /// use pinned_sgl::{PageRun, PageSize, Pfn, Sgl};
    /// let runs = [PageRun::ram(Pfn::new(5), 3)?, PageRun::ram(Pfn::new(8), 1)?];
    /// let sgl = Sgl::from_runs(PageSize::SIZE_4K, runs)?;
    /// assert!(sgl.runs().eq([PageRun::ram(Pfn::new(5), 4)?]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Sgl::from_runs_in`].
    pub fn from_runs<I>(page: PageSize, runs: I) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = PageRun>,
    {
        Self::from_runs_in(page, runs, Heap::new())
    }

    /// A list of single pages of RAM on the heap, as [`Sgl::from_pages_in`].
    ///
    /// ```
    /// use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, (7..10).map(Pfn::new))?;
    /// assert_eq!((sgl.page_count(), sgl.run_count()), (3, 1));
    /// # Ok::<(), pinned_sgl::BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Sgl::from_pages_in`].
    pub fn from_pages<I>(page: PageSize, pages: I) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = Pfn>,
    {
        Self::from_pages_in(page, pages, Heap::new())
    }
}

impl<S: Storage> Sgl<S> {
    /// A list of runs, in `storage`. O(runs).
    ///
    /// # Errors
    ///
    /// [`BuildError`], with the index of the run that could not be taken.
    pub fn from_runs_in<I>(page: PageSize, runs: I, storage: S) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = PageRun>,
    {
        collect(page, runs, storage, SglBuilder::push_run)
    }

    /// A list of single pages of RAM, in `storage`. O(pages).
    ///
    /// Pages that are in a slice already are taken faster by [`SglBuilder::push_pages`].
    ///
    /// # Errors
    ///
    /// [`BuildError`], with the index of the page that could not be taken.
    pub fn from_pages_in<I>(page: PageSize, pages: I, storage: S) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = Pfn>,
    {
        collect(page, pages, storage, |builder, pfn| builder.push_page(pfn, MemoryKind::Ram))
    }
}

fn collect<T, S: Storage>(
    page: PageSize,
    items: impl IntoIterator<Item = T>,
    storage: S,
    push: impl Fn(&mut SglBuilder<S>, T) -> Result<(), BuildError>,
) -> Result<Sgl<S>, BuildError> {
    let mut builder = SglBuilder::new_in(page, storage)?;
    let mut last = 0;
    for (index, item) in items.into_iter().enumerate() {
        push(&mut builder, item).map_err(|error| error.behind(index))?;
        last = index;
    }
    builder.finish().map_err(|_| BuildError::OutOfMemory { index: last })
}
