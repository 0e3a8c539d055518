// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IoasError`]: why an address space does not do what it was asked; nothing has changed then.
#![forbid(unsafe_code)]

use super::domains::DomainId;
use crate::addr::{Iova, RangeError};
use crate::iommu::entries::{Breach, MapErrorKind};
use crate::iommu::range::IovaRange;
use core::fmt;

/// Why an address space refuses; `E` is the error of its domains.
///
/// All but [`Breach`](Self::Breach) leave everything as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoasError<E> {
    /// The addresses are none: no bytes, or more than 64 bits.
    Range(RangeError),
    /// Something is mapped at some of the addresses.
    Overlap {
        /// The first mapping there.
        existing: IovaRange,
    },
    /// Some of the addresses are reserved.
    Reserved {
        /// The first of the reserved ranges there.
        range: IovaRange,
    },
    /// A domain broke its contract earlier, or did not come back from a call: nobody knows what devices
    /// reach at these addresses, which cannot be used any more.
    Poisoned {
        /// The addresses.
        range: IovaRange,
    },
    /// There is no room for so many bytes where they may lie.
    NoRoom {
        /// The bytes.
        len: u64,
    },
    /// There are as many mappings as are allowed.
    EntryLimit {
        /// The limit.
        limit: usize,
    },
    /// There is no memory to keep another mapping, domain or reserved range.
    OutOfMemory,
    /// Nothing is mapped there.
    NotMapped {
        /// The first address at which nothing is.
        iova: Iova,
    },
    /// A mapping lies across the edge of the range: it can be unmapped whole, or not at all.
    CutsMapping {
        /// The edge: the first or the last address that was asked for.
        edge: Iova,
        /// The mapping, whose ends are the nearest legal edges.
        mapping: IovaRange,
    },
    /// The edge of the range lies inside a page table entry.
    CutsEntry {
        /// The first or the last address that was asked for.
        edge: Iova,
        /// The entry, whose ends are the nearest legal edges.
        entry: IovaRange,
    },
    /// A domain cannot map the memory.
    Map(MapErrorKind<E>),
    /// A domain failed.
    Domain(E),
    /// There is no such domain.
    NoSuchDomain,
    /// The domain is attached already.
    Attached {
        /// Its number.
        id: DomainId,
    },
    /// The domain has no pages of any size: nothing could be mapped any more.
    NoPageSizes,
    /// The domain translates none of the addresses that all others do: nothing could be mapped any more.
    NoCommonAperture {
        /// What the domain translates.
        aperture: IovaRange,
        /// What all others do.
        others: IovaRange,
    },
    /// A domain broke its contract. The pins of the mapping are leaked, and its addresses are not
    /// used again.
    Breach(Breach),
}

impl<E> From<MapErrorKind<E>> for IoasError<E> {
    fn from(kind: MapErrorKind<E>) -> Self {
        match kind {
            MapErrorKind::Breach(breach) => Self::Breach(breach),
            kind => Self::Map(kind),
        }
    }
}

impl<E> From<RangeError> for IoasError<E> {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl<E: fmt::Display> fmt::Display for IoasError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Overlap { existing } => write!(f, "{existing} is mapped already"),
            Self::Reserved { range } => write!(f, "{range} is reserved"),
            Self::Poisoned { range } => {
                write!(f, "{range} cannot be used any more: a domain broke its contract there")
            }
            Self::NoRoom { len } => write!(f, "there is no room for {len:#x} bytes"),
            Self::EntryLimit { limit } => write!(f, "there are {limit} mappings, the limit"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NotMapped { iova } => write!(f, "nothing is mapped at {iova}"),
            Self::CutsMapping { edge, mapping } => {
                write!(
                    f,
                    "{edge} lies inside the mapping {mapping}, which goes whole or not at all"
                )
            }
            Self::CutsEntry { edge, entry } => {
                write!(f, "{edge} lies inside a page of the IOMMU, {entry}")
            }
            Self::Map(kind) => kind.fmt(f),
            Self::Domain(error) => error.fmt(f),
            Self::NoSuchDomain => f.write_str("there is no such domain"),
            Self::Attached { .. } => f.write_str("it is attached already"),
            Self::NoPageSizes => f.write_str("it has no page sizes"),
            Self::NoCommonAperture { aperture, others } => {
                write!(f, "it translates {aperture}, and all others only {others}")
            }
            Self::Breach(breach) => breach.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for IoasError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Range(error) => Some(error),
            Self::Map(kind) => Some(kind),
            Self::Domain(error) => Some(error),
            Self::Breach(breach) => Some(breach),
            _ => None,
        }
    }
}

/// A region could not be mapped; it comes back, and nothing of it is mapped.
pub struct IoasMapError<U, E> {
    pub(super) kind: IoasError<E>,
    pub(super) mapped: u64,
    pub(super) region: U,
}

impl<U, E> IoasMapError<U, E> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &IoasError<E> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> IoasError<E> {
        self.kind
    }

    /// How many bytes were mapped, in the domain that failed, before it did. They have been unmapped
    /// and flushed, there and in all other domains.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The region.
    #[must_use]
    pub fn into_region(self) -> U {
        self.region
    }
}

impl<U, E: fmt::Debug> fmt::Debug for IoasMapError<U, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoasMapError")
            .field("kind", &self.kind)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl<U, E: fmt::Display> fmt::Display for IoasMapError<U, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot map")?;
        if self.mapped > 0 {
            write!(f, ", {:#x} bytes in", self.mapped)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl<U, E: core::error::Error + 'static> core::error::Error for IoasMapError<U, E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.kind)
    }
}

/// A domain could not be attached; it comes back, and nothing is mapped in it.
pub struct IoasAttachError<D, E> {
    pub(super) kind: IoasError<E>,
    pub(super) at: Option<IovaRange>,
    pub(super) domain: D,
}

impl<D, E> IoasAttachError<D, E> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &IoasError<E> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> IoasError<E> {
        self.kind
    }

    /// The mapping that the domain could not take, if it was one.
    #[must_use]
    pub const fn at(&self) -> Option<IovaRange> {
        self.at
    }

    /// The domain.
    #[must_use]
    pub fn into_domain(self) -> D {
        self.domain
    }
}

impl<D, E: fmt::Debug> fmt::Debug for IoasAttachError<D, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoasAttachError")
            .field("kind", &self.kind)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl<D, E: fmt::Display> fmt::Display for IoasAttachError<D, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot attach the domain")?;
        if let Some(range) = self.at {
            write!(f, ", at {range}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl<D, E: core::error::Error + 'static> core::error::Error for IoasAttachError<D, E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.kind)
    }
}
