// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`UserRange`]: the bytes of a user process that are to be pinned.
#![forbid(unsafe_code)]

use crate::addr::{RangeError, UserAddr};
use crate::exact::{self, Exact as _};
use crate::page_size::PageSize;
use core::{fmt, num::NonZeroU64};

/// Bytes of a user process: a start and a length, never empty, never wrapping.
///
/// ```text
///  page     0          1          2          3
///       ├──────────┼──────────┼──────────┼──────────┤
///           ├──────── range ──────────┤
///           start                     start + len
///       ├──┤ page_offset              page_count: 3, the partial ones included
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserRange {
    start: UserAddr,
    // Invariant: `start + (len - 1)` fits 64 bits.
    len: NonZeroU64,
}

impl UserRange {
    /// The `len` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// [`RangeError`] if there are no bytes, or if the last of them has no address.
    pub const fn new(start: UserAddr, len: u64) -> Result<Self, RangeError> {
        let Some(len) = NonZeroU64::new(len) else {
            return Err(RangeError::Empty);
        };
        if start.checked_add(exact::u64::minus(len.get(), 1)).is_none() {
            return Err(RangeError::Wraps);
        }
        Ok(Self { start, len })
    }

    /// The first byte.
    #[inline]
    #[must_use]
    pub const fn start(&self) -> UserAddr {
        self.start
    }

    /// How many bytes: never zero.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> u64 {
        self.len.get()
    }

    /// The last byte.
    #[inline]
    #[must_use]
    pub const fn last(&self) -> UserAddr {
        UserAddr::new(exact::u64::plus(self.start.get(), exact::u64::minus(self.len.get(), 1)))
    }

    /// The page that holds the first byte.
    #[inline]
    #[must_use]
    pub const fn first_page(&self, page: PageSize) -> UserAddr {
        self.start.align_down(page)
    }

    /// The offset of the first byte in its page.
    #[inline]
    #[must_use]
    pub const fn page_offset(&self, page: PageSize) -> u64 {
        self.start.offset_in(page)
    }

    /// The rest of the range from `next` on; `None` if `next` is not an address of it.
    pub(crate) fn rest_from(&self, next: UserAddr) -> Option<Self> {
        if next <= self.start || next > self.last() {
            return None;
        }
        let more = self.last().get().minus(next.get());
        Self::new(next, more.plus(1)).ok()
    }

    /// How many pages hold a byte of the range, the partial ones at the ends included: what pinning
    /// it will charge. O(1).
    ///
    /// ```
    /// use pinned_sgl::{PageSize, UserAddr, umem::UserRange};
    /// let range = UserRange::new(UserAddr::new(0x1fff), 2)?;
    /// assert_eq!(range.page_count(PageSize::SIZE_4K), 2);
    /// # Ok::<(), pinned_sgl::RangeError>(())
    /// ```
    #[inline]
    #[must_use]
    pub const fn page_count(&self, page: PageSize) -> u64 {
        let first = exact::u64::shifted_down(self.start.get(), page.shift());
        let last = exact::u64::shifted_down(self.last().get(), page.shift());
        // 2^64 pages of one byte would not fit; there is no such page size in a list.
        exact::u64::minus(last, first).saturating_add(1)
    }
}

impl fmt::Debug for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserRange({:#x}+{:#x})", self.start, self.len)
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_pages_count_whole() {
        let page = PageSize::SIZE_4K;
        let pages =
            |start, len| UserRange::new(UserAddr::new(start), len).unwrap().page_count(page);
        assert_eq!(pages(0, 1), 1);
        assert_eq!(pages(0xfff, 1), 1);
        assert_eq!(pages(0xfff, 2), 2);
        assert_eq!(pages(0x1000, 0x1000), 1);
        assert_eq!(pages(0x1800, 0x1000), 2);
        assert_eq!(pages(u64::MAX, 1), 1);
        assert_eq!(pages(0, u64::MAX), 1 << 52);
    }

    #[test]
    fn a_range_is_never_empty_and_never_wraps() {
        assert_eq!(UserRange::new(UserAddr::new(7), 0), Err(RangeError::Empty));
        assert_eq!(UserRange::new(UserAddr::new(u64::MAX), 2), Err(RangeError::Wraps));
        let last = UserRange::new(UserAddr::new(u64::MAX), 1).unwrap();
        assert_eq!(last.last(), UserAddr::new(u64::MAX));
        assert_eq!(format!("{last:?}"), "UserRange(0xffffffffffffffff+0x1)");
    }
}
