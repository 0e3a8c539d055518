// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageRun`]: pages that are physically contiguous, and [`MemoryKind`]: what they are made of.
#![forbid(unsafe_code)]

use crate::addr::{Pfn, RangeError};
use crate::exact;
use crate::exact::Exact as _;
use core::{fmt, num::NonZeroU64, str::FromStr};

/// What a page is made of; the merge key of a list beside adjacency.
///
/// Neighbours of different kinds never merge, even where their frame numbers do: a device may
/// reach one kind and not the other. Linux draws the same line in `pages_are_mergeable()`: device
/// pages merge only within one `pgmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MemoryKind {
    /// System memory.
    #[default]
    Ram,
    /// Memory of a device that has page structures, from one provider (Linux: one `pgmap`).
    Device(ProviderId),
    /// Memory-mapped I/O without page structures: it is never unpinned.
    Mmio,
}

/// Names one provider of device memory; the builder of a list chooses the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ProviderId(pub u64);

impl fmt::Display for MemoryKind {
    /// Writes `ram`, `mmio`, or `device:3` for provider 3.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram => f.write_str("ram"),
            Self::Device(ProviderId(id)) => write!(f, "device:{id}"),
            Self::Mmio => f.write_str("mmio"),
        }
    }
}

/// The text is not a [`MemoryKind`]: expected `ram`, `mmio`, `device` or `device:NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseKindError(());

impl fmt::Display for ParseKindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected ram, mmio, device or device:NUMBER")
    }
}

impl core::error::Error for ParseKindError {}

impl FromStr for MemoryKind {
    type Err = ParseKindError;

    /// Reads what `Display` writes, in any case; `device` alone is provider 0.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, id) = match text.split_once(':') {
            Some((name, id)) => (name, Some(id)),
            None => (text, None),
        };
        let is = |word: &str| name.eq_ignore_ascii_case(word);
        match id {
            None if is("ram") => Ok(Self::Ram),
            None if is("mmio") => Ok(Self::Mmio),
            None if is("device") => Ok(Self::Device(ProviderId(0))),
            Some(id) if is("device") && !id.starts_with('+') => {
                id.parse().map(|id| Self::Device(ProviderId(id))).map_err(|_| ParseKindError(()))
            }
            _ => Err(ParseKindError(())),
        }
    }
}

/// Physically contiguous pages of one kind: a start frame and a non-zero page count.
///
/// A folio enters a list as one run and is never split into pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRun {
    // Invariant: `start + count` fits 64 bits.
    start: Pfn,
    count: NonZeroU64,
    kind: MemoryKind,
}

impl PageRun {
    /// A run of `count` pages from `start` on.
    ///
    /// # Errors
    ///
    /// [`RangeError::Empty`] for no pages, [`RangeError::Wraps`] if the frame after the last one has
    /// no number.
    #[inline]
    pub const fn new(start: Pfn, count: u64, kind: MemoryKind) -> Result<Self, RangeError> {
        let Some(count) = NonZeroU64::new(count) else {
            return Err(RangeError::Empty);
        };
        if start.get().checked_add(count.get()).is_none() {
            return Err(RangeError::Wraps);
        }
        Ok(Self { start, count, kind })
    }

    /// A run of system memory.
    ///
    /// # Errors
    ///
    /// As [`PageRun::new`].
    #[inline]
    pub const fn ram(start: Pfn, count: u64) -> Result<Self, RangeError> {
        Self::new(start, count, MemoryKind::Ram)
    }

    /// A run of one page.
    ///
    /// # Errors
    ///
    /// As [`PageRun::new`].
    #[inline]
    pub const fn page(pfn: Pfn, kind: MemoryKind) -> Result<Self, RangeError> {
        Self::new(pfn, 1, kind)
    }

    /// A run out of a list, where the invariant was checked when it went in.
    #[inline]
    pub(crate) fn stored(start: u64, count: u64, kind: MemoryKind) -> Self {
        debug_assert!(count != 0 && start.checked_add(count).is_some());
        Self {
            start: Pfn::new(start),
            count: NonZeroU64::new(count).unwrap_or(NonZeroU64::MIN),
            kind,
        }
    }

    /// The first frame.
    #[inline]
    #[must_use]
    pub const fn start(&self) -> Pfn {
        self.start
    }

    /// How many pages: never zero.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count.get()
    }

    /// What the pages are made of.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// The last frame.
    #[inline]
    #[must_use]
    pub const fn last(&self) -> Pfn {
        Pfn::new(exact::u64::plus(self.start.get(), exact::u64::minus(self.count.get(), 1)))
    }

    /// The frame after the last one.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> Pfn {
        Pfn::new(exact::u64::plus(self.start.get(), self.count.get()))
    }

    /// Whether `next` continues this run: adjacent, ascending, and of the same kind.
    ///
    /// ```
    /// use pinned_sgl::{MemoryKind, PageRun, Pfn};
    /// let run = PageRun::ram(Pfn::new(4), 2)?;
    /// assert!(run.continues_with(&PageRun::ram(Pfn::new(6), 1)?));
    /// assert!(!run.continues_with(&PageRun::ram(Pfn::new(5), 1)?));
    /// assert!(!run.continues_with(&PageRun::new(Pfn::new(6), 1, MemoryKind::Mmio)?));
    /// # Ok::<(), pinned_sgl::RangeError>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn continues_with(&self, next: &Self) -> bool {
        self.end() == next.start && self.kind == next.kind
    }

    /// This run and `next`, which continues it, as one.
    ///
    /// # Errors
    ///
    /// As [`PageRun::new`], for the end of both together.
    #[inline]
    pub(crate) const fn merged_with(&self, next: &Self) -> Result<Self, RangeError> {
        match self.count.get().checked_add(next.count.get()) {
            Some(count) => Self::new(self.start, count, self.kind),
            None => Err(RangeError::Wraps),
        }
    }
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRun({:#x}+{} {})", self.start.get(), self.count, self.kind)
    }
}

/// How many pages from the start of `pages` are contiguous: at least one, unless there are none.
///
/// The numbers are the caller's and not checked yet; a run that wraps is refused when it is pushed.
#[inline]
pub(super) fn contiguous(pages: &[Pfn]) -> usize {
    /// Long enough for the processor to compare several pages at a time; where runs are shorter, a
    /// few pages one by one are faster.
    const STRIDE: usize = 16;
    let Some(first) = pages.first() else {
        return 0;
    };
    let continue_from = |count: usize, pages: &[Pfn]| {
        let expected = first.get().wrapping_add(count as u64);
        let follows = |(page, index): &(&Pfn, u64)| page.get() == expected.wrapping_add(*index);
        pages.iter().zip(0u64..).take_while(follows).count()
    };
    let few = continue_from(0, pages.get(..STRIDE).unwrap_or(pages));
    if few < STRIDE {
        return few;
    }
    let mut count = STRIDE;
    let rest = pages.get(STRIDE..).unwrap_or(&[]);
    for chunk in rest.chunks_exact(STRIDE) {
        let expected = first.get().wrapping_add(count as u64);
        let differs = chunk
            .iter()
            .zip(0u64..)
            .fold(0, |acc, (page, index)| acc | (page.get() ^ expected.wrapping_add(index)));
        if differs != 0 {
            break;
        }
        count = count.plus(STRIDE);
    }
    count.plus(continue_from(count, pages.get(count..).unwrap_or(&[])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_print_and_parse() {
        for kind in [MemoryKind::Ram, MemoryKind::Mmio, MemoryKind::Device(ProviderId(u64::MAX))] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("Device".parse(), Ok(MemoryKind::Device(ProviderId(0))));
        for bad in [
            "",
            "rom",
            "ram:1",
            "mmio:0",
            "device:",
            "device:x",
            "device:-1",
            "device:+1",
            "device:1:2",
        ] {
            assert_eq!(bad.parse::<MemoryKind>(), Err(ParseKindError(())), "{bad:?}");
        }
    }

    #[test]
    fn a_run_is_never_empty_and_never_wraps() {
        assert_eq!(PageRun::ram(Pfn::new(1), 0), Err(RangeError::Empty));
        assert_eq!(PageRun::ram(Pfn::new(u64::MAX), 1), Err(RangeError::Wraps));
        let last = PageRun::ram(Pfn::new(u64::MAX - 1), 1).unwrap();
        assert_eq!(last.end(), Pfn::new(u64::MAX));
        assert_eq!(format!("{last:?}"), "PageRun(0xfffffffffffffffe+1 ram)");
    }
}
