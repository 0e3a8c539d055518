// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why memory is not registered, and why an access is refused.

use super::Key;
use crate::bus::BusError;
use pinned_sgl::{Iova, PageSize, PhysAddr};
use std::fmt;

/// Why a region could not be registered with a [`Nic`](super::Nic).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicError {
    /// The region has no bytes, or its last one would need an address of more than 64 bits.
    Range,
    /// The card has no blocks of this size.
    PageSize {
        /// The size.
        page_size: PageSize,
    },
    /// There are more or fewer blocks than the region needs.
    BlockCount {
        /// How many it needs.
        needs: u64,
    },
    /// A block lies at no multiple of its size.
    Misaligned {
        /// The block.
        block: PhysAddr,
    },
    /// A region would have more than 2^24 blocks.
    TooManyBlocks,
    /// All keys have been given.
    NoKeys,
    /// The plan said so.
    Injected,
}

impl NicError {
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Range => "a region has no bytes, or wraps",
            Self::PageSize { .. } => "a region has blocks of a size that the card does not have",
            Self::BlockCount { .. } => "a region has more or fewer blocks than it needs",
            Self::Misaligned { .. } => "a block lies at no multiple of its size",
            Self::TooManyBlocks => "a region has more than 2^24 blocks",
            Self::NoKeys => "all keys have been given",
            Self::Injected => "the plan lets it fail",
        }
    }
}

impl fmt::Display for NicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())?;
        match self {
            Self::PageSize { page_size } => write!(f, ": {page_size}"),
            Self::BlockCount { needs } => write!(f, ": {needs}"),
            Self::Misaligned { block } => write!(f, ": {block}"),
            Self::Range | Self::TooManyBlocks | Self::NoKeys | Self::Injected => Ok(()),
        }
    }
}

impl std::error::Error for NicError {}

/// What a [`Nic`](super::Nic) could not do: mostly, why a peer could not access memory through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicFault {
    /// No region has this key: it never had one, or was invalidated.
    NoRegion {
        /// The key.
        key: Key,
    },
    /// Some of the bytes from this address on are none of the region.
    OutOfBounds {
        /// The address of the first byte.
        iova: Iova,
    },
    /// Peers may not access the region so.
    NotPermitted {
        /// The address of the first byte.
        iova: Iova,
    },
    /// A block leads to memory that is not there for the card.
    Bus(BusError),
    /// The card does not take the region away from its peers.
    Stuck {
        /// The key.
        key: Key,
    },
    /// The region could not be registered.
    Register(NicError),
}

impl From<BusError> for NicFault {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl fmt::Display for NicFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRegion { key } => write!(f, "no region has the key {:#x}", key.0),
            Self::OutOfBounds { iova } => {
                write!(f, "bytes from IOVA {iova} on lie outside the region")
            }
            Self::NotPermitted { iova } => write!(f, "peers may not do that at IOVA {iova}"),
            Self::Bus(error) => error.fmt(f),
            Self::Stuck { key } => write!(f, "the card does not give the key {:#x} back", key.0),
            Self::Register(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NicFault {}
