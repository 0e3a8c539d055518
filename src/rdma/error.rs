// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a failed call on a memory region gives back: the reason, and every value that it was given.
#![forbid(unsafe_code)]

use super::table::TableHolder;
use crate::addr::Iova;
use crate::granule::TileError;
use crate::page_size::PageSizes;
use crate::sgl::WindowError;
use crate::umem::AttachError;
use core::fmt;

/// Memory could not be registered; nothing of it is. The region and the card come back.
pub struct RegisterError<U, N: TableHolder> {
    pub(super) kind: RegisterErrorKind<N::Error>,
    pub(super) region: U,
    pub(super) nic: N,
}

impl<U, N: TableHolder> RegisterError<U, N> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &RegisterErrorKind<N::Error> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> RegisterErrorKind<N::Error> {
        self.kind
    }

    /// The region and the card.
    #[must_use]
    pub fn into_parts(self) -> (U, N) {
        (self.region, self.nic)
    }
}

impl<U, N: TableHolder> fmt::Debug for RegisterError<U, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<U, N: TableHolder<Error: fmt::Display>> fmt::Display for RegisterError<U, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot register: {}", self.kind)
    }
}

impl<U, N> core::error::Error for RegisterError<U, N>
where
    N: TableHolder<Error: core::error::Error + 'static>,
{
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Why memory is not registered; `E` is the error of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterErrorKind<E> {
    /// Some bits of the [`Access`](super::Access) are none.
    UnknownAccess {
        /// All bits that were given.
        bits: u32,
    },
    /// The region cannot be attached: it is read-only, or there are too many attachments.
    Attach(AttachError),
    /// There are no such bytes in the region.
    Window(WindowError),
    /// The bytes have no addresses there, or the card has no page sizes.
    Blocks(TileError),
    /// The memory cannot be cut into blocks of any size of the card at this address: address and
    /// memory differ in bits below the smallest, or a run begins inside a block.
    NoPageSize {
        /// Where the memory was to be registered.
        iova: Iova,
        /// What the card has.
        page_sizes: PageSizes,
    },
    /// The card failed.
    Nic(E),
}

impl<E: fmt::Display> fmt::Display for RegisterErrorKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAccess { bits } => write!(f, "unknown flags in {bits:#x}"),
            Self::Attach(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::Blocks(error) => error.fmt(f),
            Self::NoPageSize { iova, page_sizes } => {
                write!(f, "the memory cannot be cut into blocks of {page_sizes} at IOVA {iova}")
            }
            Self::Nic(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for RegisterErrorKind<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Attach(error) => Some(error),
            Self::Window(error) => Some(error),
            Self::Blocks(error) => Some(error),
            Self::UnknownAccess { .. } | Self::NoPageSize { .. } => None,
            Self::Nic(error) => Some(error),
        }
    }
}

/// The card could not take memory away from its peers. The region comes back attached for ever: its
/// pins are leaked.
pub struct DeregisterError<U, N: TableHolder> {
    pub(super) error: N::Error,
    pub(super) region: U,
    pub(super) nic: N,
}

impl<U, N: TableHolder> DeregisterError<U, N> {
    /// What the card said.
    #[must_use]
    pub const fn error(&self) -> &N::Error {
        &self.error
    }

    /// The region and the card.
    #[must_use]
    pub fn into_parts(self) -> (U, N) {
        (self.region, self.nic)
    }
}

impl<U, N: TableHolder> fmt::Debug for DeregisterError<U, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeregisterError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<U, N: TableHolder<Error: fmt::Display>> fmt::Display for DeregisterError<U, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot deregister: {}; the memory stays pinned for ever", self.error)
    }
}

impl<U, N> core::error::Error for DeregisterError<U, N>
where
    N: TableHolder<Error: core::error::Error + 'static>,
{
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}
