// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IoasError`]: why an address space does not do what it was asked; nothing has changed then.
#![forbid(unsafe_code)]

use super::domains::DomainId;
use crate::addr::{Iova, RangeError};
use crate::iommu::error::{Breach, MapError};
use crate::iova_range::IovaRange;
use core::{error::Error, fmt};

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
    /// A domain broke its contract earlier, or did not come back from a call: it is unknown what devices
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
    MappingLimit {
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
    Map(MapError<E>),
    /// A domain cannot map what is mapped here already, so that it cannot be attached.
    Replay {
        /// Where it is mapped.
        range: IovaRange,
        /// Why.
        error: MapError<E>,
    },
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

impl<E> From<MapError<E>> for IoasError<E> {
    fn from(error: MapError<E>) -> Self {
        match error {
            MapError::Breach(breach) => Self::Breach(breach),
            error => Self::Map(error),
        }
    }
}

impl<E> From<RangeError> for IoasError<E> {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl<E> fmt::Display for IoasError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Overlap { existing } => write!(f, "{existing} is mapped already"),
            Self::Reserved { range } => write!(f, "{range} is reserved"),
            Self::Poisoned { range } => {
                write!(f, "{range} cannot be used any more: a domain broke its contract there")
            }
            Self::NoRoom { len } => write!(f, "there is no room for {len:#x} bytes"),
            Self::MappingLimit { limit } => write!(f, "there are {limit} mappings, the limit"),
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
            Self::Map(error) => error.fmt(f),
            Self::Replay { range, .. } => {
                write!(f, "the domain cannot map what is mapped at {range}")
            }
            Self::Domain(_) => f.write_str("a domain failed"),
            Self::NoSuchDomain => f.write_str("there is no such domain"),
            Self::Attached { .. } => f.write_str("the domain is attached already"),
            Self::NoPageSizes => f.write_str("the domain has no page sizes"),
            Self::NoCommonAperture { aperture, others } => {
                write!(f, "the domain translates {aperture}, and all others only {others}")
            }
            Self::Breach(breach) => breach.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for IoasError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Map(error) => error.source(),
            Self::Replay { error, .. } => Some(error),
            Self::Domain(error) => Some(error),
            _ => None,
        }
    }
}
