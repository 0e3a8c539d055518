// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists on the heap in one call, of all that an iterator yields.
#![forbid(unsafe_code)]

use super::builder::SglBuilder;
use super::error::BuildError;
use super::list::Sgl;
use super::run::{MemoryKind, PageRun};
use crate::addr::Pfn;
use crate::page_size::PageSize;
use crate::store::Heap;

impl Sgl<Heap> {
    /// A list of runs on the heap. O(runs).
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
    /// [`BuildError`], with the index of the run that could not be taken.
    pub fn from_runs<I>(page: PageSize, runs: I) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = PageRun>,
    {
        collect(page, runs, SglBuilder::push_run)
    }

    /// A list of single pages of RAM on the heap. O(pages).
    ///
    /// Pages that are in a slice already are taken faster by [`SglBuilder::push_pages`].
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
    /// [`BuildError`], with the index of the page that could not be taken.
    pub fn from_pages<I>(page: PageSize, pages: I) -> Result<Self, BuildError>
    where
        I: IntoIterator<Item = Pfn>,
    {
        collect(page, pages, |builder, pfn| builder.push_page(pfn, MemoryKind::Ram))
    }
}

fn collect<T>(
    page: PageSize,
    items: impl IntoIterator<Item = T>,
    push: impl Fn(&mut SglBuilder<Heap>, T) -> Result<(), BuildError>,
) -> Result<Sgl<Heap>, BuildError> {
    let mut builder = SglBuilder::new(page)?;
    let mut last = 0;
    for (index, item) in items.into_iter().enumerate() {
        push(&mut builder, item).map_err(|error| error.behind(index))?;
        last = index;
    }
    builder.finish().map_err(|_| BuildError::OutOfMemory { index: last })
}
