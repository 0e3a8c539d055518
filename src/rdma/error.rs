// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`RegisterError`]: why memory is not registered.
#![forbid(unsafe_code)]

use crate::addr::Iova;
use crate::granule::TileError;
use crate::page_size::PageSizes;
use crate::sgl::WindowError;
use crate::umem::AttachError;
use core::{error::Error, fmt};

/// Why memory is not registered; `E` is the error of the card. Nothing of it is registered then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError<E> {
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

impl<E> fmt::Display for RegisterError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAccess { bits } => write!(f, "unknown flags in {bits:#x}"),
            Self::Attach(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::Blocks(error) => error.fmt(f),
            Self::NoPageSize { iova, page_sizes } => {
                write!(f, "the memory cannot be cut into blocks of {page_sizes} at IOVA {iova}")
            }
            Self::Nic(_) => f.write_str("the card cannot register the memory"),
        }
    }
}

impl<E: Error + 'static> Error for RegisterError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Nic(error) => Some(error),
            _ => None,
        }
    }
}
