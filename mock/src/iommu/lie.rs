// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Lie`]: what a mock IOMMU says that is not so.
#![forbid(unsafe_code)]

/// A false report that an [`Iommu`](super::Iommu) makes once: see [`Iommu::lie`](super::Iommu::lie).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lie {
    /// A map call maps all, and reports a page more than it was asked for.
    MapsMore,
    /// A map call maps all, and reports success with a page less.
    MapsLess,
    /// A map call maps all, and reports failure with a byte less.
    MapsPartOfPage,
    /// A map call maps nothing, and reports failure with a page more than it was asked for.
    FailsWithMore,
    /// An unmap call unmaps all, and reports a page more.
    UnmapsMore,
    /// An unmap call unmaps all, and reports a page less.
    UnmapsLess,
    /// An unmap call unmaps all, and reports a byte less.
    UnmapsPartOfPage,
    /// An unmap call unmaps nothing, and says so.
    UnmapsNothing,
    /// An unmap call unmaps nothing, and reports all: only an access finds out.
    PretendsToUnmap,
    /// A flush does nothing: only an access finds out.
    PretendsToFlush,
    /// A read of the page table finds nothing.
    ReadsNothing,
    /// A read of the page table returns the page behind the right one.
    ReadsElsewhere,
    /// A read of the page table returns an entry without bytes.
    ReadsEmpty,
    /// A read of the page table returns an entry that does not end.
    ReadsTooLong,
}

/// The calls that can lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Liar {
    Map,
    Unmap,
    Flush,
    Read,
}

impl Lie {
    /// Which call makes it.
    pub(super) const fn liar(self) -> Liar {
        match self {
            Self::MapsMore | Self::MapsLess | Self::MapsPartOfPage | Self::FailsWithMore => {
                Liar::Map
            }
            Self::UnmapsMore
            | Self::UnmapsLess
            | Self::UnmapsPartOfPage
            | Self::UnmapsNothing
            | Self::PretendsToUnmap => Liar::Unmap,
            Self::PretendsToFlush => Liar::Flush,
            Self::ReadsNothing | Self::ReadsElsewhere | Self::ReadsEmpty | Self::ReadsTooLong => {
                Liar::Read
            }
        }
    }
}
