// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`AddressKind`]: what the page numbers of a list stand for.
#![forbid(unsafe_code)]

use core::fmt;

/// What the addresses in the list of a region are, and what a device's translation is made from.
///
/// Where they are a process's, all that the list calls a physical address, from [`Segment::phys`] to
/// [`Mapping::translate`], is one of the process.
///
/// A region goes to the devices of its own kind only:
/// [`AttachError::AddressKind`](super::AttachError::AddressKind).
///
/// [`Segment::phys`]: crate::sgl::Segment::phys
/// [`Mapping::translate`]: crate::iommu::Mapping::translate
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Physical addresses, of pages that are pinned.
    Physical,
    /// Addresses of this process, for an interface that pins what it maps: the map calls of VFIO and iommufd.
    User,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Physical => "physical",
            Self::User => "user",
        })
    }
}
