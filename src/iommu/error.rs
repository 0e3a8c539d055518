// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why memory is not mapped, not cut, or not unmapped: [`MapError`], [`CutError`], [`Breach`].
#![forbid(unsafe_code)]

use super::edges::Edges;
use crate::granule::TileError;
use crate::iova_range::IovaRange;
use crate::sgl::WindowError;
use crate::umem::AttachError;
use core::{error::Error, fmt};

/// Why memory is not mapped; `E` is the error of the domain.
///
/// Nothing of it is mapped then, unless it is a [`Breach`](Self::Breach): after that it is unknown what
/// the device reaches, and the memory stays pinned for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError<E> {
    /// Neither reading nor writing was asked for.
    NoAccess,
    /// Some bits of the [`Prot`](super::Prot) are none.
    UnknownProt {
        /// All bits that were given.
        bits: u32,
    },
    /// The region cannot be attached: it is read-only, or there are too many attachments.
    Attach(AttachError),
    /// There are no such bytes in the region.
    Window(WindowError),
    /// The window cannot be cut into pages of the IOMMU at this address.
    Tiles(TileError),
    /// The domain does not translate all of these addresses.
    Aperture {
        /// Where the window was to be mapped.
        range: IovaRange,
        /// What the domain translates.
        aperture: IovaRange,
    },
    /// The domain failed.
    Domain {
        /// Why.
        error: E,
        /// How many bytes it had mapped before. They have been unmapped and flushed, there and in all
        /// other domains.
        mapped: u64,
    },
    /// The domain broke its contract; the pins of the region are leaked.
    Breach(Breach),
}

impl<E> MapError<E> {
    /// Whether a device may reach some of the memory still.
    pub(super) const fn is_breach(&self) -> bool {
        matches!(self, Self::Breach(_))
    }

    /// Whether a device could reach some of the memory for a while.
    pub(super) const fn was_reached(&self) -> bool {
        match self {
            Self::Domain { mapped, .. } => *mapped > 0,
            _ => self.is_breach(),
        }
    }
}

impl<E> fmt::Display for MapError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccess => f.write_str("neither reading nor writing was asked for"),
            Self::UnknownProt { bits } => write!(f, "unknown flags in {bits:#x}"),
            Self::Attach(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::Tiles(error) => error.fmt(f),
            Self::Aperture { range, aperture } => {
                write!(f, "{range} is not in the aperture of the domain, {aperture}")
            }
            Self::Domain { mapped: 0, .. } => f.write_str("the domain failed to map"),
            Self::Domain { mapped, .. } => {
                write!(f, "the domain failed to map, {mapped:#x} bytes in")
            }
            Self::Breach(breach) => breach.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for MapError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Domain { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// A domain broke its contract: it reported another number of bytes than it can have (un)mapped.
///
/// What a device can reach now is not known. The memory stays pinned for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breach {
    /// The addresses that the call was about.
    pub range: IovaRange,
    /// The bytes that the domain reported.
    pub reported: u64,
}

impl Breach {
    /// Nothing was reported, where something must be.
    pub(super) const fn new(range: IovaRange) -> Self {
        Self { range, reported: 0 }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, reported } = self;
        write!(
            f,
            "the domain broke its contract: it reported {reported:#x} bytes for {range}; the \
             memory stays pinned for ever"
        )
    }
}

impl Error for Breach {}

/// Why a mapping cannot be cut at an offset, or a part of it not unmapped. Offsets are in bytes of the
/// mapping. Nothing has changed then, unless it is a [`Breach`](Self::Breach).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutError {
    /// The offset is not inside the mapping, or there is nothing between the two offsets.
    Outside {
        /// The bytes of the mapping.
        len: u64,
    },
    /// The offset lies inside a page table entry that the domain cannot cut there.
    InsideEntry {
        /// The nearest places where the mapping may be cut.
        edges: Edges,
    },
    /// The domain never cuts what was mapped as one.
    Indivisible,
    /// Each part holds the region, and no more can.
    Attach(AttachError),
    /// The domain broke its contract when the part was unmapped.
    Breach(Breach),
}

impl fmt::Display for CutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { len } => write!(f, "not a place inside a mapping of {len:#x} bytes"),
            Self::InsideEntry { edges: Edges { below, above } } => write!(
                f,
                "inside a page of the IOMMU, which it cannot cut there; \
                 the nearest edges are at {below:#x} and {above:#x}"
            ),
            Self::Indivisible => f.write_str("the domain unmaps it whole, or not at all"),
            Self::Attach(error) => error.fmt(f),
            Self::Breach(breach) => breach.fmt(f),
        }
    }
}

impl Error for CutError {}
