// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GroupDomain`]: an address space of the IOMMU for groups of devices.

use crate::ffi;
use core::{pin::Pin, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, Prot},
    kernel::{Gather, RawDomain},
    PageSize, PageSizes, Tile,
};

/// A group of devices, which vfio keeps as long as it is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupPtr(pub(crate) *mut bindings::iommu_group);

// SAFETY: a pointer, which is handed to functions that any thread may call.
unsafe impl Send for GroupPtr {}
// SAFETY: as above.
unsafe impl Sync for GroupPtr {}

/// A domain of the IOMMU. The container takes its groups out before it drops it.
pub(crate) struct GroupDomain {
    // Invariant: ours, and freed when this is dropped.
    raw: RawDomain,
    /// Whether the IOMMU makes all accesses coherent.
    pub(crate) coherent: bool,
    /// Whether one call may map many pages. `disable_hugepages` may change while this is in use.
    huge: bool,
}

impl GroupDomain {
    /// An empty domain, in which the devices of `group` can be.
    pub(crate) fn new(group: GroupPtr) -> Result<Self> {
        // SAFETY: vfio keeps the group while it is attached.
        let raw = from_err_ptr(unsafe { ffi::vfio_type1_domain_alloc(group.0) })?;
        let raw = NonNull::new(raw).ok_or(ENODEV)?;
        // SAFETY: it is a paging domain, and it is freed when this is dropped; the container has
        // detached all groups by then.
        let raw = unsafe { RawDomain::new(raw) };
        Ok(Self { raw, coherent: false, huge: ffi::vfio_type1_huge_pages() })
    }

    /// Makes all accesses coherent, where the IOMMU can.
    pub(crate) fn enforce_coherency(&mut self) {
        // SAFETY: by the invariant the domain is there.
        self.coherent = unsafe { ffi::vfio_type1_enforce_coherency(self.raw.as_ptr()) };
    }

    /// Puts the devices of a group into it.
    pub(crate) fn attach(&self, group: GroupPtr) -> Result {
        // SAFETY: by the invariant the domain is there, and vfio keeps the group.
        to_result(unsafe { bindings::iommu_attach_group(self.raw.as_ptr(), group.0) })
    }

    /// Takes them out.
    pub(crate) fn detach(&self, group: GroupPtr) {
        // SAFETY: as above; the group is in it.
        unsafe { bindings::iommu_detach_group(self.raw.as_ptr(), group.0) };
    }

    /// Whether groups of `other` could be in it, too.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        // SAFETY: by the invariant both are there; the field does not change.
        let same = unsafe { (*self.raw.as_ptr()).ops == (*other.raw.as_ptr()).ops };
        same && self.coherent == other.coherent
    }

    /// Gives interrupts an address, where software must do that.
    pub(crate) fn reserve_msi(&self, base: u64) -> Result {
        // SAFETY: by the invariant the domain is there.
        match to_result(unsafe { bindings::iommu_get_msi_cookie(self.raw.as_ptr(), base) }) {
            Err(error) if error != ENODEV => Err(error),
            _ => Ok(()),
        }
    }

    /// The sizes of its pages, as the kernel writes them.
    pub(crate) fn size_bits(&self) -> u64 {
        // SAFETY: by the invariant the domain is there; the field does not change.
        unsafe { (*self.raw.as_ptr()).pgsize_bitmap as u64 }
    }

    /// The domain of the kernel.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.raw.as_ptr()
    }
}

impl Drop for GroupDomain {
    fn drop(&mut self) {
        // SAFETY: it is ours, nobody else has it, and no device is in it.
        unsafe { bindings::iommu_domain_free(self.raw.as_ptr()) };
    }
}

// SAFETY: it is the domain inside. Where pages are mapped one by one, those that were mapped are
// counted.
unsafe impl Domain for GroupDomain {
    type Error = Error;
    type Gather = Gather;

    fn page_sizes(&self) -> PageSizes {
        let sizes = self.raw.page_sizes();
        // What is pinned are pages of the CPU: smaller ones are of no use here.
        let page = PageSize::SIZE_4K;
        let sizes = if sizes.smallest().is_some_and(|size| size < page) {
            sizes.at_least(page)
        } else {
            sizes
        };
        match sizes.smallest() {
            Some(smallest) if !self.huge => smallest.into(),
            _ => sizes,
        }
    }

    fn aperture(&self) -> IovaRange {
        self.raw.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        if self.huge {
            // SAFETY: the caller's promise is handed on.
            return unsafe { self.raw.map(tile, prot) };
        }
        let mut done = 0;
        let mut page = tile;
        page.count = 1;
        while done < tile.len() {
            // SAFETY: a page of the tile, for which the caller speaks.
            let (bytes, mapped) = unsafe { self.raw.map(page, prot) };
            done += bytes;
            if mapped.is_err() {
                return (done, mapped);
            }
            let (iova, phys) = (page.iova.checked_add(bytes), page.phys.checked_add(bytes));
            let (Some(iova), Some(phys)) = (iova, phys) else { break };
            (page.iova, page.phys) = (iova, phys);
        }
        (done, Ok(()))
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.raw.unmap(tile, gather) }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.raw.unmap_range(range, tiles, gather) }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        self.raw.flush(gather);
    }
}
