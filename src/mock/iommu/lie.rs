// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Lie`]: what a mock IOMMU says that is not so.
#![forbid(unsafe_code)]

/// A lie that an [`Iommu`](super::Iommu) tells once: see [`Iommu::lie`](super::Iommu::lie).
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
    /// A read of the page table finds nothing.
    ReadsNothing,
    /// A read of the page table returns the page behind the right one.
    ReadsElsewhere,
    /// A read of the page table returns an entry without bytes.
    ReadsEmpty,
    /// A read of the page table returns an entry that does not end.
    ReadsTooLong,
}

impl Lie {
    pub(super) const fn is_of_map(self) -> bool {
        matches!(self, Self::MapsMore | Self::MapsLess | Self::MapsPartOfPage | Self::FailsWithMore)
    }

    pub(super) const fn is_of_read(self) -> bool {
        matches!(
            self,
            Self::ReadsNothing | Self::ReadsElsewhere | Self::ReadsEmpty | Self::ReadsTooLong
        )
    }
}
