// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stays mapped as long as a device is bound, and not only as long as a borrow of it lasts: for drivers whose
//! ioctls map, and whose interrupts unmap.
//!
//! Dropping it unmaps. What is left when the driver is unbound is unmapped then, after the driver's own data were
//! dropped: where the DMA API has mapped it, the driver has stopped the device in its `unbind`.
//!
//! C header: [`include/linux/device/devres.h`](srctree/include/linux/device/devres.h)

use super::{domain::PagingDomain, kernel, pin::UserMem, sg_table::DmaList};
use crate::iommu::Mapping;
use crate::umem::RegionHolder;
use kernel::{
    alloc::KBox,
    devres::DevresLt,
    error::Result,
    sync::Arc,
    types::{CovariantForLt, ForLt},
};

/// A [`DmaList`] that is unmapped when it is dropped, or when the driver is unbound.
pub type DevresDmaList<U = KBox<UserMem>> = DevresLt<DmaList<'static, U>>;

impl<U: RegionHolder + 'static> ForLt for DmaList<'static, U> {
    type Of<'a> = DmaList<'a, U>;
}

// SAFETY: all that has the lifetime is a shared reference of the device.
unsafe impl<U: RegionHolder + 'static> CovariantForLt for DmaList<'static, U> {}

impl<U: RegionHolder + Send + 'static> DmaList<'_, U> {
    /// Keeps it mapped until it is dropped, or the driver is unbound.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: it is unmapped then.
    pub fn into_devres(self) -> Result<DevresDmaList<U>> {
        let device = self.device();
        // SAFETY: "valid for the device's full bound scope": it borrows nothing but the device.
        unsafe { DevresLt::new(device, self) }
    }
}

/// Memory that is mapped in a [`PagingDomain`] which its mappings share: the last of them, or the last clone of
/// the `Arc`, drops it.
pub type DomainMapping<'a, U = KBox<UserMem>> = Mapping<U, Arc<PagingDomain<'a>>>;

/// A [`DomainMapping`] that is unmapped when it is dropped, or when the driver is unbound.
pub type DevresMapping<U = KBox<UserMem>> = DevresLt<DomainMapping<'static, U>>;

impl<U: RegionHolder + 'static> ForLt for DomainMapping<'static, U> {
    type Of<'a> = DomainMapping<'a, U>;
}

impl<U: RegionHolder + Send + 'static> DomainMapping<'_, U> {
    /// Keeps it mapped until it is dropped, or the driver is unbound.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: it is unmapped then.
    pub fn into_devres(self) -> Result<DevresMapping<U>> {
        let device = self.domain().device();
        // SAFETY: "valid for the device's full bound scope": it borrows nothing but the device.
        unsafe { DevresLt::new(device, self) }
    }
}

/// What leads from the lifetime of a domain to an `Arc` of it.
#[derive(Debug)]
pub enum ArcDomain {}

impl ForLt for ArcDomain {
    type Of<'a> = Arc<PagingDomain<'a>>;
}

/// A [`PagingDomain`] in which the device stays until this is dropped, and all mappings in it, or the driver is
/// unbound.
pub type DevresDomain = DevresLt<ArcDomain>;

impl PagingDomain<'_> {
    /// Keeps the device in it until the returned value is dropped, or the driver is unbound.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn devres(this: &Arc<Self>) -> Result<DevresDomain> {
        // SAFETY: "valid for the device's full bound scope": it borrows nothing but the device.
        unsafe { DevresLt::new(this.device(), this.clone()) }
    }
}
