// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a failed call on a mapping gives back: the reason, how far it got, and every value that it
//! was given.
#![forbid(unsafe_code)]

use super::domain::DomainHolder;
use super::edges::Edges;
use super::entries::{Breach, MapErrorKind};
use super::mapping::Mapping;
use crate::umem::{AttachError, RegionHolder};
use core::fmt;

/// Memory could not be mapped; nothing of it is.
///
/// The region and the domain come back. After [`MapErrorKind::Breach`] nobody knows what the device
/// reaches, and the region stays attached for ever.
pub struct MapError<U, D: DomainHolder> {
    pub(super) kind: MapErrorKind<D::Error>,
    pub(super) mapped: u64,
    pub(super) region: U,
    pub(super) domain: D,
}

impl<U, D: DomainHolder> MapError<U, D> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &MapErrorKind<D::Error> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> MapErrorKind<D::Error> {
        self.kind
    }

    /// How many bytes were mapped before it went wrong. They have been unmapped and flushed.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The region and the domain.
    #[must_use]
    pub fn into_parts(self) -> (U, D) {
        (self.region, self.domain)
    }
}

impl<U, D: DomainHolder> fmt::Debug for MapError<U, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapError")
            .field("kind", &self.kind)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl<U, D: DomainHolder<Error: fmt::Display>> fmt::Display for MapError<U, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot map")?;
        if self.mapped > 0 {
            write!(f, ", {:#x} bytes in", self.mapped)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl<U, D> core::error::Error for MapError<U, D>
where
    D: DomainHolder<Error: core::error::Error + 'static>,
{
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.kind.source()
    }
}

/// The domain broke its contract while a mapping was taken down. The region comes back attached for
/// ever: its pins are leaked.
pub struct UnmapError<U, D> {
    pub(super) breach: Breach,
    pub(super) region: U,
    pub(super) domain: D,
}

impl<U, D> UnmapError<U, D> {
    /// What the domain did.
    #[must_use]
    pub const fn breach(&self) -> Breach {
        self.breach
    }

    /// The region and the domain.
    #[must_use]
    pub fn into_parts(self) -> (U, D) {
        (self.region, self.domain)
    }
}

impl<U, D> fmt::Debug for UnmapError<U, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnmapError").field("breach", &self.breach).finish_non_exhaustive()
    }
}

impl<U, D> fmt::Display for UnmapError<U, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot unmap: {}; the memory stays pinned for ever", self.breach)
    }
}

impl<U, D> core::error::Error for UnmapError<U, D> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.breach)
    }
}

/// A mapping cannot be cut there; it comes back as it was.
pub struct CutError<M> {
    pub(super) kind: CutErrorKind,
    pub(super) mapping: M,
}

impl<M> CutError<M> {
    /// What is wrong with the place.
    #[must_use]
    pub const fn kind(&self) -> CutErrorKind {
        self.kind
    }

    /// The mapping.
    #[must_use]
    pub fn into_mapping(self) -> M {
        self.mapping
    }
}

impl<M> fmt::Debug for CutError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for CutError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<M> core::error::Error for CutError<M> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.kind)
    }
}

/// Why a mapping cannot be cut at an offset. Offsets are in bytes of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutErrorKind {
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
}

impl fmt::Display for CutErrorKind {
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
        }
    }
}

impl core::error::Error for CutErrorKind {}

/// A part of a mapping could not be unmapped.
pub enum UnmapRangeError<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    /// The mapping cannot be cut there; nothing has changed.
    Cut(CutError<Mapping<U, D>>),
    /// The domain broke its contract. What lies around the part is still mapped.
    Breach {
        /// What the domain did.
        error: UnmapError<U, D>,
        /// What lies before.
        head: Option<Mapping<U, D>>,
        /// What lies behind.
        tail: Option<Mapping<U, D>>,
    },
}

impl<U, D> From<CutError<Mapping<U, D>>> for UnmapRangeError<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    fn from(error: CutError<Mapping<U, D>>) -> Self {
        Self::Cut(error)
    }
}

impl<U, D> fmt::Debug for UnmapRangeError<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(error) => error.fmt(f),
            Self::Breach { error, .. } => error.fmt(f),
        }
    }
}

impl<U, D> fmt::Display for UnmapRangeError<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(error) => error.fmt(f),
            Self::Breach { error, .. } => error.fmt(f),
        }
    }
}

impl<U, D> core::error::Error for UnmapRangeError<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
}
