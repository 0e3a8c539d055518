// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IovaRange`]: addresses from a first to a last one, both included.
#![forbid(unsafe_code)]

use crate::addr::{Iova, RangeError};
use crate::exact;
use core::fmt;

/// Addresses of a device, from a first to a last one, both included: never empty, never wrapping.
///
/// The last address of 64 bits can be in a range, so a range knows its last byte and not the one
/// after it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IovaRange {
    // Invariant: `first <= last`.
    first: Iova,
    last: Iova,
}

impl IovaRange {
    /// All addresses of 64 bits.
    pub const ALL: Self = Self { first: Iova::new(0), last: Iova::new(u64::MAX) };

    /// The `len` addresses from `first` on.
    ///
    /// # Errors
    ///
    /// [`RangeError`] if there are none, or if the last one needs more than 64 bits.
    pub const fn new(first: Iova, len: u64) -> Result<Self, RangeError> {
        let Some(more) = len.checked_sub(1) else {
            return Err(RangeError::Empty);
        };
        match first.checked_add(more) {
            Some(last) => Ok(Self { first, last }),
            None => Err(RangeError::Wraps),
        }
    }

    /// The addresses from `first` to `last`, both included.
    ///
    /// # Errors
    ///
    /// [`RangeError::Empty`] if the last one lies before the first.
    pub const fn inclusive(first: Iova, last: Iova) -> Result<Self, RangeError> {
        if first.get() > last.get() {
            return Err(RangeError::Empty);
        }
        Ok(Self { first, last })
    }

    /// The first address.
    #[inline]
    #[must_use]
    pub const fn first(&self) -> Iova {
        self.first
    }

    /// The last address.
    #[inline]
    #[must_use]
    pub const fn last(&self) -> Iova {
        self.last
    }

    /// How many addresses; `None` for all 2^64 of them.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> Option<u64> {
        exact::u64::minus(self.last.get(), self.first.get()).checked_add(1)
    }

    /// Whether `iova` is one of them.
    #[inline]
    #[must_use]
    pub const fn contains(&self, iova: Iova) -> bool {
        self.first.get() <= iova.get() && iova.get() <= self.last.get()
    }

    /// Whether all of `other` are among them.
    #[inline]
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// The addresses that both have.
    #[inline]
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::inclusive(self.first.max(other.first), self.last.min(other.last)).ok()
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IovaRange({:#x}..={:#x})", self.first, self.last)
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_reach_the_last_address() {
        let last = IovaRange::new(Iova::new(u64::MAX), 1).unwrap();
        assert_eq!((last.last().get(), last.len()), (u64::MAX, Some(1)));
        assert_eq!(IovaRange::new(Iova::new(u64::MAX), 2), Err(RangeError::Wraps));
        assert_eq!(IovaRange::new(Iova::new(1), 0), Err(RangeError::Empty));
        assert_eq!(IovaRange::inclusive(Iova::new(1), Iova::new(0)), Err(RangeError::Empty));
        assert_eq!(IovaRange::ALL.len(), None);
        assert!(IovaRange::ALL.covers(&last) && !last.covers(&IovaRange::ALL));
        assert_eq!(last.intersection(&IovaRange::new(Iova::new(0), 9).unwrap()), None);
        assert_eq!(IovaRange::ALL.intersection(&last), Some(last));
        assert_eq!(format!("{last:?}"), "IovaRange(0xffffffffffffffff..=0xffffffffffffffff)");
    }
}
