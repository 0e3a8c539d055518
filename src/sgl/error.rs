// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BuildError`]: why a builder does not take what it is given.
#![forbid(unsafe_code)]

use crate::page_size::PageSize;
use crate::store::AllocError;
use core::fmt;

/// Why a push fails, without the position.
pub(super) enum Failure {
    OutOfMemory,
    AddressTooLarge,
    TooManyPages,
}

impl Failure {
    #[cold]
    pub(super) fn at(self, index: usize) -> BuildError {
        match self {
            Self::OutOfMemory => BuildError::OutOfMemory { index },
            Self::AddressTooLarge => BuildError::AddressTooLarge { index },
            Self::TooManyPages => BuildError::TooManyPages { index },
        }
    }
}

/// Why a builder could not be made or could not take what it was given.
///
/// `index` is the position in the slice, the iterator or the list that was given. Nothing of it
/// has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The storage has no memory left.
    OutOfMemory {
        /// Where the memory ran out.
        index: usize,
    },
    /// The byte address of the end of the pages needs more than 64 bits.
    AddressTooLarge {
        /// The page or run.
        index: usize,
    },
    /// The list would have more bytes than 64 bits count.
    TooManyPages {
        /// The page or run that is one too many.
        index: usize,
    },
    /// A base page has 1 KiB to 1 GiB.
    PageSize {
        /// The size that was asked for.
        page: PageSize,
    },
    /// The storage holds pieces and does not take them back: it broke its contract.
    StorageInUse {
        /// How many there are.
        pieces: usize,
    },
    /// The pages of the other list have another size.
    OtherPageSize {
        /// The size of the pages of the other list.
        page: PageSize,
        /// The size of the pages of this one.
        expected: PageSize,
    },
}

impl BuildError {
    /// The same for a caller that had pushed `before` pages or runs by then.
    pub(crate) const fn behind(self, before: usize) -> Self {
        match self {
            Self::OutOfMemory { index } => {
                Self::OutOfMemory { index: before.saturating_add(index) }
            }
            Self::AddressTooLarge { index } => {
                Self::AddressTooLarge { index: before.saturating_add(index) }
            }
            Self::TooManyPages { index } => {
                Self::TooManyPages { index: before.saturating_add(index) }
            }
            other => other,
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { index } => write!(f, "{AllocError}, at index {index}"),
            Self::AddressTooLarge { index } => {
                write!(f, "the byte address needs more than 64 bits, at index {index}")
            }
            Self::TooManyPages { index } => {
                write!(f, "the list needs more than 64 bits of bytes, at index {index}")
            }
            Self::PageSize { page } => write!(f, "a base page has 1K to 1G, not {page}"),
            Self::StorageInUse { pieces } => {
                write!(f, "the storage holds {pieces} pieces and does not take them back")
            }
            Self::OtherPageSize { page, expected } => {
                write!(f, "the other list has pages of {page}, expected {expected}")
            }
        }
    }
}

impl core::error::Error for BuildError {}
