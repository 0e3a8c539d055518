// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`SglBuilder`]: takes pages in any form and makes the maximal runs of them.
#![forbid(unsafe_code)]

use super::error::{BuildError, Failure};
use super::list::{check_pages, check_storage, Sgl};
use super::packed::{self, Batch, BATCH};
use super::run::{contiguous, MemoryKind, PageRun};
use super::runs::Runs;
use super::shift::{shift_down, shift_up};
use crate::addr::Pfn;
use crate::exact::{self, Exact as _};
use crate::failed::Failed;
use crate::page_size::PageSize;
use crate::store::{AllocError, Storage};
use core::{fmt, mem};

/// Builds an [`Sgl`] from pages, slices of pages, runs, or whole lists.
///
/// **Merge law.** The runs of the list are the unique maximal runs of its page sequence under
/// (adjacent, ascending, same kind). However the pages arrive, the list is the same. Duplicates and
/// descending neighbours never merge.
///
/// **All or nothing.** A push that fails has changed nothing, whatever it was given; the builder can
/// be used on.
///
/// The last runs wait unpacked in the builder, which is therefore about 1.4 KiB large. It is made and
/// finished by value: where the stack is small, count on moving it twice.
///
/// ```
/// use pinned_sgl::{MemoryKind::Ram, PageRun, PageSize, Pfn, SglBuilder};
/// let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
/// builder.push_page(Pfn::new(7), Ram)?;
/// builder.push_pages(&[Pfn::new(8), Pfn::new(9), Pfn::new(4)], Ram)?;
/// builder.push_run(PageRun::ram(Pfn::new(5), 512)?)?;
/// let sgl = builder.finish()?;
/// let runs = sgl.runs().map(|run| (run.start().get(), run.count()));
/// assert!(runs.eq([(7, 3), (4, 513)]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SglBuilder<S> {
    /// The open runs are not in it.
    packed: Sgl<S>,
    /// All pages, the open runs among them.
    pages: u64,
    /// The last runs, which are of one kind. The last of them may still grow, so there is always
    /// one, unless the list is empty.
    starts: [u64; BATCH],
    counts: [u64; BATCH],
    open: usize,
    kind: MemoryKind,
}

/// What a builder has taken; everything after it can be undone.
#[derive(Clone, Copy)]
struct Checkpoint {
    packed_runs: u64,
    packed_pages: u64,
    pages: u64,
    open: usize,
    last_count: u64,
    kind: MemoryKind,
}

#[cfg(feature = "alloc")]
impl SglBuilder<crate::store::Heap> {
    /// A builder of a list on the heap, of pages of the size `page`.
    ///
    /// # Errors
    ///
    /// As [`SglBuilder::new_in`].
    pub fn new(page: PageSize) -> Result<Self, BuildError> {
        Self::new_in(page, crate::store::Heap::new())
    }
}

impl<S: Storage> SglBuilder<S> {
    /// A builder of a list in `storage`, of pages of the size `page`. What the storage held before is
    /// taken back.
    ///
    /// # Errors
    ///
    /// [`BuildError::PageSize`] if a page is smaller than 1 KiB or larger than 1 GiB,
    /// [`BuildError::StorageInUse`] if the storage does not let go of what it held before.
    #[inline]
    pub fn new_in(page: PageSize, mut storage: S) -> Result<Self, BuildError> {
        check_storage(page, &mut storage)?;
        Ok(Self::empty(page, storage))
    }

    /// The same in a storage that was [checked](check_storage).
    #[inline]
    pub(crate) fn empty(page: PageSize, storage: S) -> Self {
        Self {
            packed: Sgl::empty(page, storage),
            pages: 0,
            starts: [0; BATCH],
            counts: [0; BATCH],
            open: 0,
            kind: MemoryKind::Ram,
        }
    }

    /// The size of the pages of the list.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.packed.page
    }

    /// How many pages the list has so far.
    #[inline]
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.pages
    }

    /// How many maximal runs the list has so far.
    #[inline]
    #[must_use]
    pub const fn run_count(&self) -> u64 {
        exact::u64::plus(self.packed.runs, self.open as u64)
    }

    /// Adds one page. O(1) amortised.
    ///
    /// # Errors
    ///
    /// [`BuildError`]; nothing has changed then.
    #[inline]
    pub fn push_page(&mut self, pfn: Pfn, kind: MemoryKind) -> Result<(), BuildError> {
        self.push(pfn.get(), 1, kind).map_err(|failure| failure.at(0))
    }

    /// Adds one run: a folio, a huge page, whatever is known to be contiguous. O(1) amortised,
    /// however many pages it has.
    ///
    /// # Errors
    ///
    /// [`BuildError`]; nothing has changed then.
    #[inline]
    pub fn push_run(&mut self, run: PageRun) -> Result<(), BuildError> {
        let pushed = self.push(run.start().get(), run.count(), run.kind());
        pushed.map_err(|failure| failure.at(0))
    }

    /// Adds pages of one kind. O(pages), at the speed of reading them where they are contiguous.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with the index of the page, or of the first page of the run, that could not
    /// be taken; nothing has changed then.
    pub fn push_pages(&mut self, pages: &[Pfn], kind: MemoryKind) -> Result<(), BuildError> {
        self.all_or_nothing(|builder| {
            let mut rest = pages;
            while let Some(first) = rest.first() {
                let mut count = contiguous(rest);
                if let Err(failure) = builder.push(first.get(), count as u64, kind) {
                    return Err(failure.at(pages.len().minus(rest.len())));
                }
                rest = rest.get(count..).unwrap_or(&[]);
                if count == 1 {
                    count = builder.push_scattered(rest);
                    rest = rest.get(count..).unwrap_or(&[]);
                }
            }
            Ok(())
        })
    }

    /// Adds runs. O(runs).
    ///
    /// # Errors
    ///
    /// [`BuildError`] with the index of the run that could not be taken; nothing has changed then,
    /// nor if the iterator panics.
    pub fn push_runs<I>(&mut self, runs: I) -> Result<(), BuildError>
    where
        I: IntoIterator<Item = PageRun>,
    {
        self.all_or_nothing(|builder| {
            let (mut runs, mut index) = (runs.into_iter(), 0usize);
            let mut next = runs.next();
            while let Some(run) = next {
                let pushed = builder.push(run.start().get(), run.count(), run.kind());
                pushed.map_err(|failure| failure.at(index))?;
                index = index.plus(1);
                if run.count() == 1 && run.kind() == MemoryKind::Ram {
                    let singles;
                    (singles, next) = builder.push_single_runs(run, &mut runs);
                    index = index.plus(singles);
                } else {
                    next = runs.next();
                }
            }
            Ok(())
        })
    }

    /// Adds the leading runs that are single pages of RAM, none of which continues the one before, the first
    /// one not `last`; returns how many, and the run behind them.
    #[inline]
    fn push_single_runs(
        &mut self,
        last: PageRun,
        runs: &mut impl Iterator<Item = PageRun>,
    ) -> (usize, Option<PageRun>) {
        let limit = u64::MAX.shifted_down(self.page_size().shift());
        let (mut behind, mut other) = (last.start().get().plus(1), None);
        let taken = self.push_singles(|room| {
            let mut taken = 0usize;
            for place in room {
                let Some(run) = runs.next() else { return taken };
                let start = run.start().get();
                let other_kind = run.count() != 1 || run.kind() != MemoryKind::Ram;
                if other_kind || start == behind || start > limit {
                    other = Some(run);
                    return taken;
                }
                *place = start;
                behind = start.plus(1);
                taken = taken.plus(1);
            }
            other = runs.next();
            taken
        });
        (taken, other)
    }

    /// Adds a whole list: how threads that pin disjoint parts join their work. Merges across the
    /// seam. O(runs).
    ///
    /// # Errors
    ///
    /// [`BuildError`] with the index of the run that could not be taken, or because the pages of
    /// the other list have another size; nothing has changed then.
    pub fn push_sgl<T: Storage>(&mut self, sgl: &Sgl<T>) -> Result<(), BuildError> {
        if sgl.page_size() != self.page_size() {
            return Err(BuildError::OtherPageSize {
                page: sgl.page_size(),
                expected: self.page_size(),
            });
        }
        self.push_runs(sgl)
    }

    /// The maximal runs so far, in order: what a caller that gives up must unpin.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        let packed = Runs::new(&self.packed.leaves, self.packed.pages, 0, self.packed.pages);
        let open = self.starts.iter().zip(&self.counts).take(self.open);
        packed.chain(open.map(|(start, count)| PageRun::stored(*start, *count, self.kind)))
    }

    /// Packs what is left and makes the list.
    ///
    /// # Errors
    ///
    /// [`AllocError`], with the builder, unchanged, if there is no memory for the last runs. What was pinned
    /// for it stays so: see [`runs`](Self::runs).
    #[expect(clippy::result_large_err, reason = "a box would need the very memory that is missing")]
    pub fn finish(mut self) -> Result<Sgl<S>, Failed<AllocError, Self>> {
        match self.pack() {
            Ok(()) => Ok(self.into_packed()),
            Err(error) => Err(Failed::new(error, self)),
        }
    }

    /// Packs all that is left, and adds the directory: nothing is pushed any more.
    ///
    /// If this fails or unwinds, the list is the same.
    pub(crate) fn pack(&mut self) -> Result<(), AllocError> {
        self.flush()?;
        self.packed.leaves.add_directory(self.packed.pages, self.packed.page)
    }

    /// The list of what is packed: of everything, behind [`pack`](Self::pack).
    #[inline]
    pub(crate) fn into_packed(self) -> Sgl<S> {
        debug_assert_eq!(self.open, 0, "some runs are not packed");
        self.packed
    }

    /// Adds the leading pages, each of which starts a new run, and returns how many. Stops at anything
    /// else.
    #[inline]
    fn push_scattered(&mut self, pages: &[Pfn]) -> usize {
        let limit = u64::MAX.shifted_down(self.page_size().shift());
        self.push_singles(|room| {
            let mut taken = 0usize;
            for (start, pair) in room.iter_mut().zip(pages.windows(2)) {
                let &[this, next] = pair else {
                    break;
                };
                if next.get() == this.get().wrapping_add(1) || this.get() > limit {
                    break;
                }
                *start = this.get();
                taken = taken.plus(1);
            }
            taken
        })
    }

    /// Adds pages of the kind of the open run, none of which continues the one before: `find` writes
    /// as many as it has room for, and returns how many.
    #[inline]
    pub(crate) fn push_singles(&mut self, find: impl FnOnce(&mut [u64]) -> usize) -> usize {
        let left = u64::MAX.shifted_down(self.page_size().shift()).minus(self.pages);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let end = self.open.saturating_add(left).min(BATCH);
        let room = self.starts.get_mut(self.open..end).unwrap_or_default();
        let taken = find(room).min(room.len());
        let end = self.open.plus(taken);
        self.counts.get_mut(self.open..end).unwrap_or_default().fill(1);
        self.open = end;
        self.pages = self.pages.plus(taken as u64);
        taken
    }

    /// Adds contiguous pages; `count` is not zero. Changes nothing on failure.
    #[inline]
    fn push(&mut self, start: u64, count: u64, kind: MemoryKind) -> Result<(), Failure> {
        check_pages(self.page_size(), start, count)?;
        let limit = u64::MAX.shifted_down(self.page_size().shift());
        if count > limit.minus(self.pages) {
            return Err(Failure::TooManyPages);
        }
        let is_same = kind == self.kind;
        if let Some(last) = self.open.checked_sub(1) {
            if let (Some(last_start), Some(last_count)) =
                (self.starts.get(last), self.counts.get_mut(last))
            {
                if last_start.plus(*last_count) == start && is_same {
                    *last_count = last_count.plus(count);
                    self.pages = self.pages.plus(count);
                    return Ok(());
                }
            }
            if !(is_same && self.open < BATCH) {
                self.make_room(kind).map_err(|AllocError| Failure::OutOfMemory)?;
            }
        }
        // There is room now; if there were not, pages must not be dropped in silence.
        let (Some(s), Some(c)) = (self.starts.get_mut(self.open), self.counts.get_mut(self.open))
        else {
            return Err(Failure::OutOfMemory);
        };
        (*s, *c) = (start, count);
        if !is_same {
            self.kind = kind;
        }
        self.open = self.open.plus(1);
        self.pages = self.pages.plus(count);
        Ok(())
    }

    /// Makes room for an open run of `kind`, where there is none.
    #[inline(never)]
    fn make_room(&mut self, kind: MemoryKind) -> Result<(), AllocError> {
        if kind == self.kind {
            return self.pack_some();
        }
        self.flush()
    }

    /// Packs all open runs.
    ///
    /// If this fails or unwinds half-way, the list is the same, and its last run is still open: runs
    /// are packed from the front.
    fn flush(&mut self) -> Result<(), AllocError> {
        while self.open > 0 {
            self.pack_some()?;
        }
        Ok(())
    }

    /// Packs at least one of the open runs. What the list holds is the same before and after.
    fn pack_some(&mut self) -> Result<(), AllocError> {
        let mut packed = self.append();
        if packed == 0 {
            self.packed.leaves.add(self.packed.pages)?;
            packed = self.append();
        }
        // An empty leaf takes a run; without this line, one that does not would loop for ever.
        if packed == 0 {
            return Err(AllocError);
        }
        let left = self.counts.get(packed..self.open).unwrap_or_default();
        let left = left.iter().fold(0u64, |sum, count| sum.plus(*count));
        self.packed.pages = self.pages.minus(left);
        self.packed.runs = self.packed.runs.plus(packed as u64);
        if packed < self.open {
            shift_down(&mut self.starts, packed);
            shift_down(&mut self.counts, packed);
        }
        self.open = self.open.minus(packed);
        Ok(())
    }

    /// Packs open runs into the last leaf; returns how many.
    fn append(&mut self) -> usize {
        let leaf = self.packed.leaves.count().minus(1);
        let first = self.packed.pages.minus(self.packed.leaves.first_page(leaf).unwrap_or(0));
        let (Some(starts), Some(counts)) =
            (self.starts.get(..self.open), self.counts.get(..self.open))
        else {
            return 0;
        };
        packed::append(
            self.packed.leaves.last_mut(),
            first,
            Batch { starts, counts, kind: self.kind },
        )
    }

    fn checkpoint(&self) -> Checkpoint {
        let last = self.open.checked_sub(1).and_then(|last| self.counts.get(last));
        Checkpoint {
            packed_runs: self.packed.runs,
            packed_pages: self.packed.pages,
            pages: self.pages,
            open: self.open,
            last_count: last.map_or(0, |count| *count),
            kind: self.kind,
        }
    }

    /// Runs `work`, and undoes what it did if it fails or unwinds.
    #[inline]
    pub(crate) fn all_or_nothing<E>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let undo = Undo { then: self.checkpoint(), builder: self };
        work(&mut *undo.builder)?;
        mem::forget(undo);
        Ok(())
    }

    /// Gives the builder back as it was: what was open then is taken out of the leaves again.
    #[cold]
    fn undo(&mut self, then: Checkpoint) {
        #[expect(clippy::cast_possible_truncation, reason = "at most `then.open`")]
        let packed = self.packed.runs.minus(then.packed_runs).min(then.open as u64) as usize;
        // What was packed comes back in front of what is still open of it.
        shift_up(&mut self.starts, packed);
        shift_up(&mut self.counts, packed);
        let runs =
            Runs::new(&self.packed.leaves, self.packed.pages, then.packed_pages, self.packed.pages);
        let open = self.starts.iter_mut().zip(&mut self.counts).take(packed);
        for ((start, count), run) in open.zip(runs) {
            (*start, *count) = (run.start().get(), run.count());
        }
        if let Some(last) = then.open.checked_sub(1).and_then(|last| self.counts.get_mut(last)) {
            *last = then.last_count;
        }
        self.packed.leaves.truncate(then.packed_pages);
        self.packed.runs = then.packed_runs;
        self.packed.pages = then.packed_pages;
        self.pages = then.pages;
        self.open = then.open;
        self.kind = then.kind;
    }
}

/// Gives a builder back as it was when it is dropped.
struct Undo<'a, S: Storage> {
    then: Checkpoint,
    builder: &'a mut SglBuilder<S>,
}

impl<S: Storage> Drop for Undo<'_, S> {
    fn drop(&mut self) {
        self.builder.undo(self.then);
    }
}

impl<S: Storage> fmt::Debug for SglBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SglBuilder")
            .field("page", &self.page_size())
            .field("pages", &self.pages)
            .field("runs", &self.run_count())
            .finish_non_exhaustive()
    }
}
