// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MapFault`]: why an [`Iommu`](super::Iommu) could not do what it was asked for.
#![forbid(unsafe_code)]

use pinned_sgl::Iova;
use std::fmt;

/// Why an [`Iommu`](super::Iommu) could not do what it was asked for: the error of its
/// [`Domain`](pinned_sgl::iommu::Domain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapFault {
    /// The arguments are none that an IOMMU takes; the witness knows why.
    BadCall,
    /// Something is mapped at this address already.
    Exists {
        /// The first address in the way.
        iova: Iova,
    },
    /// The plan said so.
    Injected,
}

impl fmt::Display for MapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCall => f.write_str("no IOMMU takes such arguments"),
            Self::Exists { iova } => write!(f, "IOVA {iova} is mapped already"),
            Self::Injected => f.write_str("the plan lets it fail"),
        }
    }
}

impl std::error::Error for MapFault {}
