// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Window`]: a byte range of a list, where every way to break it up starts.
#![forbid(unsafe_code)]

use super::list::Sgl;
use super::run::{MemoryKind, PageRun};
use super::runs::Runs;
use crate::abridged::Abridged;
use crate::addr::PhysAddr;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::store::Storage;
use core::{fmt, iter::FusedIterator, num::NonZeroU64};

/// A byte range of an [`Sgl`]: checked once, never empty, cheap to copy.
///
/// ```text
///  page      0          1          2          3
///  list  ├──────────┼──────────┼──────────┼──────────┤
///            ├──────── window ─────────┤
///            offset                    offset + len
/// ```
///
/// Offsets given to its methods count from the first byte of the window, not of the list.
pub struct Window<'a, S> {
    sgl: &'a Sgl<S>,
    offset: u64,
    // Invariant: `offset + len` is at most the bytes of the list.
    len: NonZeroU64,
}

impl<S: Storage> Sgl<S> {
    /// The window that begins at byte `offset` of the first page and has `len` bytes.
    ///
    /// Pages beyond the end of the window are left alone. Where a window should begin further in
    /// the list, it is a window of a window: [`Window::window`].
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let window = sgl.window(0x800, 0x2000)?;
    /// assert_eq!((window.page_count(), window.phys(0)), (3, Some(PhysAddr::new(0x7800))));
    /// assert!(sgl.window(0x1800, 0x800).is_err()); // not in the first page
    /// assert!(sgl.window(0x800, 0x3000).is_err()); // beyond the last
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the offset is not in the first page, if `len` is zero, or if the window
    /// reaches beyond the list.
    pub fn window(&self, offset: u64, len: u64) -> Result<Window<'_, S>, WindowError> {
        if offset > self.page_size().mask() {
            return Err(WindowError::OffsetBeyondFirstPage { offset, page: self.page_size() });
        }
        Window::new(self, 0, self.byte_len(), offset, len)
    }

    /// The window of all bytes of all pages.
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert_eq!(sgl.whole()?.len(), 0x3000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError::Empty`] if the list has no pages.
    pub fn whole(&self) -> Result<Window<'_, S>, WindowError> {
        self.window(0, self.byte_len())
    }
}

impl<'a, S: Storage> Window<'a, S> {
    /// The bytes `offset..offset + len` of the `within` bytes of the list from `base` on.
    pub(super) fn new(
        sgl: &'a Sgl<S>,
        base: u64,
        within: u64,
        offset: u64,
        len: u64,
    ) -> Result<Self, WindowError> {
        let beyond = WindowError::Beyond { offset, len, available: within };
        let len = NonZeroU64::new(len).ok_or(WindowError::Empty)?;
        if offset.checked_add(len.get()).is_none_or(|end| end > within) {
            return Err(beyond);
        }
        Ok(Self { sgl, offset: base.plus(offset), len })
    }

    /// The list.
    #[inline]
    #[must_use]
    pub const fn sgl(&self) -> &'a Sgl<S> {
        self.sgl
    }

    /// Where the window begins in the list, in bytes.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes of the window: never zero.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a window is never empty")]
    pub const fn len(&self) -> u64 {
        self.len.get()
    }

    /// The size of the pages of the list.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.sgl.page_size()
    }

    /// The offset of the first byte in its page.
    #[inline]
    #[must_use]
    pub const fn page_offset(&self) -> u64 {
        self.offset & self.page_size().mask()
    }

    /// The window of `len` bytes that begins at byte `offset` of this one.
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let tail = sgl.whole()?.window(0x1800, 0x1000)?;
    /// assert_eq!((tail.offset(), tail.phys(0x800)), (0x1800, Some(PhysAddr::new(0x3000))));
    /// assert!(tail.window(0x800, 0x1000).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if `len` is zero or the new window would reach beyond this one.
    pub fn window(&self, offset: u64, len: u64) -> Result<Self, WindowError> {
        Self::new(self.sgl, self.offset, self.len(), offset, len)
    }

    /// The pages of the list that hold a byte of the window: the first and the one after the last.
    #[inline]
    fn page_range(&self) -> (u64, u64) {
        let shift = self.page_size().shift();
        let last = self.offset.plus(self.len.get().minus(1));
        (self.offset.shifted_down(shift), last.shifted_down(shift).plus(1))
    }

    /// How many pages hold a byte of the window. O(1).
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert_eq!(sgl.window(0xfff, 2)?.page_count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn page_count(&self) -> u64 {
        let (first, end) = self.page_range();
        end.minus(first)
    }

    /// The runs of whole pages that hold a byte of the window.
    ///
    /// ```
    /// # use pinned_sgl::{PageRun, PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert!(sgl.window(0xfff, 2)?.runs().eq([PageRun::ram(Pfn::new(7), 2)?]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn runs(&self) -> Runs<'a, S> {
        let (first, end) = self.page_range();
        Runs::of(self.sgl, first..end)
    }

    /// How many maximal runs hold a byte of the window. O(groups), of which there is one for up to
    /// 64, 255 or 2048 runs of one kind; nothing is decoded.
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert_eq!((sgl.whole()?.run_count(), sgl.window(0xfff, 2)?.run_count()), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn run_count(&self) -> u64 {
        self.runs().count_left()
    }

    /// The physical address of byte `offset` of the window, or `None` beyond its end. O(log runs).
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// assert_eq!(sgl.whole()?.phys(0x2345), Some(PhysAddr::new(0x3345)));
    /// assert_eq!(sgl.whole()?.phys(0x3000), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn phys(&self, offset: u64) -> Option<PhysAddr> {
        (offset < self.len()).then(|| self.sgl.phys(self.offset.plus(offset)))
    }

    /// Calls `take` with the physical address of each byte that `offsets` names, in this order, sorted or
    /// not; `None` beyond the end. Eight are looked up together, so that their waits for memory overlap.
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let mut expected = [Some(PhysAddr::new(0x3345)), None].into_iter();
    /// sgl.whole()?.phys_of_many(&[0x2345, 0x3000], |phys| {
    ///     assert_eq!(Some(phys), expected.next());
    /// });
    /// assert_eq!(expected.next(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn phys_of_many(&self, offsets: &[u64], mut take: impl FnMut(Option<PhysAddr>)) {
        let (mut rest, last) = (offsets, self.len().minus(1));
        while let Some((some, behind)) = rest.split_first_chunk() {
            let found = self.sgl.phys_of_some(some.map(|at| self.offset.plus(at.min(last))));
            some.iter().zip(found).for_each(|(at, phys)| take((*at <= last).then_some(phys)));
            rest = behind;
        }
        rest.iter().for_each(|offset| take(self.phys(*offset)));
    }

    /// The segment that holds byte `offset`: where it begins in the window, and the maximal run,
    /// clipped to the window. `None` beyond its end. O(log runs).
    ///
    /// ```
    /// # use pinned_sgl::{MemoryKind::Ram, PageSize, Pfn, PhysAddr, SglBuilder};
    /// # let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
    /// builder.push_pages(&[7, 3, 4].map(Pfn::new), Ram)?;
    /// let sgl = builder.finish()?;
    /// let (begin, segment) = sgl.whole()?.segment_at(0x2345).expect("there are three pages");
    /// assert_eq!((begin, segment.phys, segment.len), (0x1000, PhysAddr::new(0x3000), 0x2000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segment_at(&self, offset: u64) -> Option<(u64, Segment)> {
        if offset >= self.len() {
            return None;
        }
        let shift = self.page_size().shift();
        let page = self.offset.plus(offset).shifted_down(shift);
        let (begin, run) = self.sgl.run_at(page);
        // In bytes of the list; a run that begins before the window is clipped to it.
        let at = begin.shifted_up(shift).max(self.offset);
        let skip = at.minus(begin.shifted_up(shift));
        let at = at.minus(self.offset);
        Some((at, clip(run, shift, skip, self.len().minus(at))))
    }

    /// The bytes of the window, run by run.
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let window = sgl.window(0x800, 0x2000)?;
    /// let bytes = window.iter().map(|segment| (segment.phys.get(), segment.len));
    /// assert!(bytes.eq([(0x7800, 0x1800), (0x3000, 0x800)]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn iter(&self) -> Iter<'a, S> {
        let shift = self.page_size().shift();
        Iter { runs: self.runs(), shift, skip: self.page_offset(), left: self.len() }
    }

    /// The bytes of the window from `offset` on, run by run; none beyond its end. O(log runs).
    ///
    /// ```
    /// # use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let lengths = sgl.whole()?.iter_at(0x1fff).map(|segment| segment.len);
    /// assert!(lengths.eq([1, 0x1000]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn iter_at(&self, offset: u64) -> Iter<'a, S> {
        match self.window(offset, self.len().saturating_sub(offset)) {
            Ok(rest) => rest.iter(),
            Err(_) => Iter { left: 0, ..self.iter() },
        }
    }
}

impl<S> Clone for Window<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Window<'_, S> {}

impl<S: Storage> fmt::Debug for Window<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("offset", &format_args!("{:#x}", self.offset))
            .field("len", &format_args!("{:#x}", self.len))
            .field("segments", &self.iter())
            .finish()
    }
}

impl<'a, S: Storage> IntoIterator for Window<'a, S> {
    type Item = Segment;
    type IntoIter = Iter<'a, S>;

    fn into_iter(self) -> Iter<'a, S> {
        self.iter()
    }
}

impl<'a, S: Storage> IntoIterator for &Window<'a, S> {
    type Item = Segment;
    type IntoIter = Iter<'a, S>;

    fn into_iter(self) -> Iter<'a, S> {
        self.iter()
    }
}

/// Physically contiguous bytes of one kind: a part of a window.
///
/// Its last byte is at `phys + (len - 1)`, which always has an address; the byte after it may not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Segment {
    /// The address of the first byte.
    pub phys: PhysAddr,
    /// The bytes of the segment: never zero.
    pub len: u64,
    /// What the bytes are made of.
    pub kind: MemoryKind,
}

impl Segment {
    #[inline]
    pub(crate) const fn new(phys: PhysAddr, len: u64, kind: MemoryKind) -> Self {
        Self { phys, len, kind }
    }

    /// The address of the last byte; the nearest there is to it, if a caller has changed the fields so
    /// that it has none.
    #[inline]
    #[must_use]
    pub const fn last(&self) -> PhysAddr {
        PhysAddr::new(self.phys.get().saturating_add(self.len.saturating_sub(1)))
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:#x}+{:#x} {})", self.phys, self.len, self.kind)
    }
}

/// The bytes of a window, run by run: each segment is a maximal run, clipped to the window.
///
/// Made by [`Window::iter`] and [`Window::iter_at`].
#[must_use = "iterators do nothing unless they are walked"]
pub struct Iter<'a, S> {
    runs: Runs<'a, S>,
    shift: u32,
    /// Bytes of the next page that lie before the window.
    skip: u64,
    /// Bytes that are still to come.
    left: u64,
}

impl<S: Storage> Iter<'_, S> {
    /// The bytes that are still to come.
    #[inline]
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.left
    }
}

impl<S: Storage> Iterator for Iter<'_, S> {
    type Item = Segment;

    // A call would pass all that a step changes through memory.
    #[inline(always)]
    fn next(&mut self) -> Option<Segment> {
        if self.left == 0 {
            return None;
        }
        let skip = core::mem::take(&mut self.skip);
        let segment = clip(self.runs.next()?, self.shift, skip, self.left);
        self.left = self.left.minus(segment.len);
        Some(segment)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.left == 0 {
            (0, Some(0))
        } else {
            self.runs.size_hint()
        }
    }

    #[inline]
    fn fold<B, F>(self, init: B, mut f: F) -> B
    where
        F: FnMut(B, Segment) -> B,
    {
        let Self { runs, shift, skip, left } = self;
        if left == 0 {
            return init;
        }
        // What changes from run to run is handed on by value, and stays in registers.
        let (acc, _, _) = runs.fold((init, skip, left), |(acc, skip, left), run| {
            let segment = clip(run, shift, skip, left);
            (f(acc, segment), 0, left.minus(segment.len))
        });
        acc
    }
}

/// The bytes of a run, without the first `skip` and at most `left`.
#[inline]
fn clip(run: PageRun, shift: u32, skip: u64, left: u64) -> Segment {
    let phys = run.start().get().shifted_up(shift).plus(skip);
    let len = run.count().shifted_up(shift).minus(skip).min(left);
    Segment::new(PhysAddr::new(phys), len, run.kind())
}

impl<S: Storage> FusedIterator for Iter<'_, S> {}

impl<S> Clone for Iter<'_, S> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), ..*self }
    }
}

impl<S: Storage> fmt::Debug for Iter<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Abridged(self.clone()).fmt(f)
    }
}

/// Why numbers do not make a [`Window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowError {
    /// A window has at least one byte.
    Empty,
    /// The first byte is not in the first page of the list.
    OffsetBeyondFirstPage {
        /// The offset that was asked for.
        offset: u64,
        /// The size of a page of the list.
        page: PageSize,
    },
    /// The window reaches beyond the bytes that are there.
    Beyond {
        /// The offset that was asked for.
        offset: u64,
        /// The length that was asked for.
        len: u64,
        /// The bytes that are there.
        available: u64,
    },
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a window of zero bytes"),
            Self::OffsetBeyondFirstPage { offset, page } => {
                write!(f, "offset {offset:#x} is beyond the first page of {page}")
            }
            Self::Beyond { offset, len, available } => write!(
                f,
                "{len:#x} bytes from offset {offset:#x} reach beyond the {available:#x} bytes that \
                 are there"
            ),
        }
    }
}

impl core::error::Error for WindowError {}
