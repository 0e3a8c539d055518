// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Tracking`]: how domains note what devices write.
#![forbid(unsafe_code)]

use super::written::Written;
use crate::iommu::domain::DomainHolder;
use crate::iova_range::IovaRange;
use core::ops::Deref;

/// How the domains of an address space are made to note what devices write, and asked for it: what is
/// known of them once a session has started, and needed where any domain will do.
pub(super) struct Tracking<D: DomainHolder> {
    pub(super) start: fn(&D::Target) -> Result<(), D::Error>,
    pub(super) read: Read<D>,
}

/// Adds what a domain has noted in a range.
type Read<D> =
    fn(&<D as Deref>::Target, IovaRange, &mut Written) -> Result<(), <D as DomainHolder>::Error>;
