// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sgl`]: the finished list.
#![forbid(unsafe_code)]

use super::error::{BuildError, Failure};
use super::leaves::Leaves;
use super::packed;
use super::run::PageRun;
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
    /// A list of nothing in a storage that was [checked](check_storage).
    #[inline]
    pub(super) fn empty(page: PageSize, storage: S) -> Self {
        Self { leaves: Leaves::new(storage), page, runs: 0, pages: 0 }
    }

    /// The list of one run in a storage that was [checked](check_storage): what a builder makes of it. The run
    /// was [checked](check_run), too. O(1).
    #[inline]
    pub(crate) fn of_run(page: PageSize, storage: S, run: PageRun) -> Self {
        let mut list = Self::empty(page, storage);
        packed::put_only(list.leaves.last_mut(), run);
        (list.runs, list.pages) = (1, run.count());
        list
    }

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
        Runs::of(self, 0..self.pages)
    }

    /// The runs of the pages `pages`, the first and the last of them clipped.
    pub(crate) fn runs_between(&self, pages: Range<u64>) -> Runs<'_, S> {
        Runs::of(self, pages)
    }

    /// The run of a list that has no other. O(1).
    #[inline]
    pub(crate) fn only(&self) -> Option<PageRun> {
        let run = |(start, kind)| PageRun::stored(start, self.pages, kind);
        (self.runs == 1).then(|| run(packed::only(self.leaves.leaf(0))))
    }

    /// The physical address of byte `offset` of the list. O(log runs).
    #[inline]
    pub(super) fn phys(&self, offset: u64) -> PhysAddr {
        let page = offset.shifted_down(self.page.shift());
        if let Some(run) = self.only() {
            return self.address(run.start().get().plus(page), offset);
        }
        let entries = self.leaves.entries(offset);
        match self.leaves.address_by(entries, offset) {
            Some(address) => PhysAddr::new(address),
            None => self.address(self.leaves.find_frame(entries, page), offset),
        }
    }

    /// The run that holds page `page`: its first page, and the run. O(log runs).
    #[inline]
    pub(super) fn run_at(&self, page: u64) -> (u64, PageRun) {
        match self.only() {
            Some(run) => (0, run),
            None => self.leaves.run_at(page, self.pages),
        }
    }

    #[inline]
    fn address(&self, pfn: u64, offset: u64) -> PhysAddr {
        PhysAddr::new(pfn.shifted_up(self.page.shift()) | (offset & self.page.mask()))
    }

    /// The physical addresses of some bytes of the list, step by step for all of them: none waits for the
    /// memory that another one needs.
    pub(super) fn phys_of_some(&self, offsets: [u64; SOME]) -> [PhysAddr; SOME] {
        let entries = offsets.map(|offset| (offset, self.leaves.entries(offset)));
        let spots = entries.map(|(offset, entries)| {
            let page = offset.shifted_down(self.page.shift());
            let address = self.leaves.address_by(entries, offset);
            address.ok_or_else(|| (offset, self.leaves.spot(entries, page)))
        });
        let frames = spots.map(|spot| spot.map_err(|(offset, spot)| (offset, spot.frame())));
        frames.map(|found| match found {
            Ok(address) => PhysAddr::new(address),
            Err((offset, frame)) => self.address(frame.get(), offset),
        })
    }
}

impl<'a, S: Storage> IntoIterator for &'a Sgl<S> {
    type Item = PageRun;
    type IntoIter = Runs<'a, S>;

    fn into_iter(self) -> Runs<'a, S> {
        self.runs()
    }
}

/// Takes back what the storage of a list of pages of the size `page` held before; as
/// [`SglBuilder::new_in`](super::SglBuilder::new_in).
pub(crate) fn check_storage<S: Storage>(page: PageSize, storage: &mut S) -> Result<(), BuildError> {
    if !(10..=30).contains(&page.shift()) {
        return Err(BuildError::PageSize { page });
    }
    let mut pieces = storage.pieces();
    while pieces != 0 {
        storage.shrink();
        let left = storage.pieces();
        if left >= pieces {
            return Err(BuildError::StorageInUse { pieces: left });
        }
        pieces = left;
    }
    Ok(())
}

/// Whether a run may be in a list of pages of the size `page`.
#[inline]
pub(crate) fn check_run(page: PageSize, run: PageRun) -> Result<(), BuildError> {
    check_pages(page, run.start().get(), run.count()).map_err(|failure| failure.at(0))
}

/// Whether pages, of which there is one at least, have addresses.
#[inline]
pub(super) const fn check_pages(page: PageSize, start: u64, count: u64) -> Result<(), Failure> {
    // As many pages as have a byte address; of these, none has the number of all.
    let first_out = exact::u64::plus(exact::u64::shifted_down(u64::MAX, page.shift()), 1);
    if start >= first_out || count > exact::u64::minus(first_out, start) {
        return Err(Failure::AddressTooLarge);
    }
    Ok(())
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

#[cfg(all(test, feature = "alloc", not(loom)))]
mod tests {
    use super::*;
    use crate::addr::Pfn;
    use crate::sgl::{MemoryKind, ProviderId, SglBuilder};
    use crate::store::Heap;

    /// What is made of one run without a builder is what a builder makes of it, to the bit; and it is read without a
    /// search as it is by one.
    #[test]
    fn a_list_of_one_run_is_that_of_a_builder() {
        let last = u64::MAX >> 12;
        let counts = [1, 2, 3, 511, 512, 513, 1 << 29, 1 << 30, 1 << 33, last];
        let kinds = [MemoryKind::Ram, MemoryKind::Mmio, MemoryKind::Device(ProviderId(9))];
        let starts = [0, 1, 0x200, 0x413, 1 << 40, last];
        for (start, count) in starts.into_iter().flat_map(|start| counts.map(|it| (start, it))) {
            for kind in kinds {
                let run = PageRun::new(Pfn::new(start), count, kind).unwrap();
                let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
                let pushed = builder.push_run(run);
                assert_eq!(check_run(PageSize::SIZE_4K, run), pushed);
                if pushed.is_err() {
                    continue;
                }
                let built = builder.finish().unwrap();
                let list = Sgl::of_run(PageSize::SIZE_4K, Heap::new(), run);
                assert_eq!(format!("{:?}", list.leaves), format!("{:?}", built.leaves));
                assert_eq!((list.runs, list.pages, list.only()), (1, count, Some(run)));
                for part in [0..count, 0..1, count / 2..count, count - 1..count] {
                    let searched = Runs::new(&list.leaves, count, part.start, part.end);
                    let read = list.runs_between(part.clone());
                    assert_eq!((read.clone().count_left(), searched.clone().count_left()), (1, 1));
                    assert!(read.clone().eq(searched));
                    let pages = read.fold(0, |pages, run| pages + run.count());
                    assert_eq!(pages, part.end - part.start);
                }
            }
        }
    }
}
