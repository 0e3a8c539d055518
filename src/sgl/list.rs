// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sgl`]: the finished list.
#![forbid(unsafe_code)]

use super::leaves::{Found, Leaves};
use super::packed;
use super::runs::Runs;
use crate::addr::PhysAddr;
use crate::exact::{self, Exact as _};
use crate::page_size::PageSize;
use crate::store::Storage;
use core::{fmt, mem::size_of, ops::Range};

/// How many bytes are looked up together.
pub(super) const SOME: usize = 8;

/// A scatterlist: the maximal physically contiguous runs of a sequence of pages, packed.
///
/// It is immutable and holds whole pages. What a device sees of it starts with a
/// [`Window`](super::Window), a byte range of the list; device limits are arguments of iteration
/// and are never baked in.
///
/// Made by an [`SglBuilder`](super::SglBuilder).
pub struct Sgl<S> {
    pub(super) leaves: Leaves<S>,
    pub(super) page: PageSize,
    pub(super) runs: u64,
    pub(super) pages: u64,
}

impl<S: Storage> Sgl<S> {
    /// The size of the pages of the list.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page
    }

    /// How many pages the list has.
    #[inline]
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.pages
    }

    /// How many maximal runs the list has.
    #[inline]
    #[must_use]
    pub const fn run_count(&self) -> u64 {
        self.runs
    }

    /// The bytes of all pages together.
    #[inline]
    #[must_use]
    pub const fn byte_len(&self) -> u64 {
        exact::u64::shifted_up(self.pages, self.page.shift())
    }

    /// Whether the list has no pages.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// The bytes of memory that the list takes: its own value and all that its storage holds.
    ///
    /// O(pieces / 256).
    ///
    /// ```
    /// use pinned_sgl::{Heap, PageSize, Pfn, Sgl};
    /// let few = Sgl::from_pages(PageSize::SIZE_4K, [7, 3].map(Pfn::new))?;
    /// assert_eq!(few.footprint(), size_of::<Sgl<Heap>>());
    /// let many = Sgl::from_pages(PageSize::SIZE_4K, (0..10_000).map(|page| Pfn::new(page * 3)))?;
    /// assert!(many.footprint() < 10_000 * 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn footprint(&self) -> usize {
        size_of::<Self>().saturating_add(self.leaves.storage().footprint())
    }

    /// The maximal runs, in order.
    ///
    /// ```
    /// # use pinned_sgl::{PageRun, PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert!(sgl.runs().eq([PageRun::ram(Pfn::new(7), 2)?, PageRun::ram(Pfn::new(3), 1)?]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn runs(&self) -> Runs<'_, S> {
        Runs::new(&self.leaves, self.pages, 0, self.pages)
    }

    /// The runs of the pages `pages`, the first and the last of them clipped.
    pub(crate) fn runs_between(&self, pages: Range<u64>) -> Runs<'_, S> {
        Runs::new(&self.leaves, self.pages, pages.start, pages.end)
    }

    /// The physical address of byte `offset` of the list. O(log runs).
    #[inline]
    pub(super) fn phys(&self, offset: u64) -> PhysAddr {
        let page = offset.shifted_down(self.page.shift());
        if self.runs == 1 {
            return self.address(packed::only_start(self.leaves.leaf(0)).plus(page), offset);
        }
        let found = self.leaves.find(page);
        let frame = packed::lookup(found.leaf, found.group, page.minus(found.leaf_first));
        self.address(frame.get(), offset)
    }

    #[inline]
    fn address(&self, pfn: u64, offset: u64) -> PhysAddr {
        PhysAddr::new(pfn.shifted_up(self.page.shift()) | (offset & self.page.mask()))
    }

    /// The physical addresses of some bytes of the list, step by step for all of them: none waits for the
    /// memory that another one needs.
    pub(super) fn phys_of_some(&self, offsets: [u64; SOME]) -> [PhysAddr; SOME] {
        let pages = offsets.map(|offset| offset.shifted_down(self.page.shift()));
        let between = pages.map(|page| (page, self.leaves.around(page)));
        let found = between.map(|(page, between)| (page, self.leaves.find_between(page, between)));
        let frames = found.map(|(page, Found { leaf, leaf_first, group, .. })| {
            packed::lookup(leaf, group, page.minus(leaf_first))
        });
        let mut offsets = offsets.into_iter();
        frames.map(|frame| self.address(frame.get(), offsets.next().unwrap_or(0)))
    }
}

impl<'a, S: Storage> IntoIterator for &'a Sgl<S> {
    type Item = super::PageRun;
    type IntoIter = Runs<'a, S>;

    fn into_iter(self) -> Runs<'a, S> {
        self.runs()
    }
}

/// Lists are equal if they have the same pages in the same order, wherever they are stored.
impl<S: Storage, T: Storage> PartialEq<Sgl<T>> for Sgl<S> {
    fn eq(&self, other: &Sgl<T>) -> bool {
        self.page == other.page && self.runs == other.runs && self.runs().eq(other.runs())
    }
}

impl<S: Storage> Eq for Sgl<S> {}

impl<S: Storage> fmt::Debug for Sgl<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sgl")
            .field("page", &self.page)
            .field("pages", &self.pages)
            .field("run_count", &self.runs)
            .field("runs", &self.runs())
            .finish()
    }
}
