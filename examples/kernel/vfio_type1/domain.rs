// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GroupDomain`]: an address space of the IOMMU for groups of devices.

use crate::{ffi, memory::PAGE_SIZE};
use core::{iter, pin::Pin, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, Prot},
    kernel::{Gather, RawDomain},
    sgl::Segment,
    Iova, PageSizes, Tile,
};

/// A group of devices, which vfio keeps as long as it is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupPtr(pub(crate) *mut bindings::iommu_group);

// SAFETY: a pointer, which is handed to functions that any thread may call.
unsafe impl Send for GroupPtr {}
// SAFETY: a shared one gives no more than the pointer does.
unsafe impl Sync for GroupPtr {}

/// A domain of the IOMMU. The container takes its groups out before it drops it.
pub(crate) struct GroupDomain {
    // Invariant: ours, and freed when this is dropped.
    raw: RawDomain,
    /// Whether the IOMMU makes all accesses coherent.
    pub(crate) coherent: bool,
}

impl GroupDomain {
    /// An empty domain, in which the devices of `group` can be.
    pub(crate) fn new(group: GroupPtr) -> Result<Self> {
        // SAFETY: vfio keeps the group while it is attached.
        let raw = from_err_ptr(unsafe { ffi::vfio_type1_domain_alloc(group.0) })?;
        let raw = NonNull::new(raw).ok_or(ENODEV)?;
        // SAFETY: it is a paging domain that nothing else knows, and it is freed when this is dropped; the
        // container has detached all groups by then.
        match unsafe { RawDomain::new(raw, GFP_KERNEL_ACCOUNT) } {
            Ok(raw) => Ok(Self { raw, coherent: false }),
            Err(error) => {
                // SAFETY: it is ours, and no device is in it.
                unsafe { bindings::iommu_domain_free(raw.as_ptr()) };
                Err(error)
            }
        }
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
        // SAFETY: by the invariant the domain is there; vfio keeps the group, and the container, which has
        // put it there, knows that it is in this domain.
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
        // SAFETY: it is ours, nothing else has it, and no device is in it.
        unsafe { bindings::iommu_domain_free(self.raw.as_ptr()) };
    }
}

// SAFETY:
// - "`map` may be asked for any addresses at any time .. never replaces an entry that is there, and reports
//   no byte that this call did not map"; "after `map` has reported `n` bytes, the devices reach exactly the
//   first `n` bytes of the tile": by `RawDomain`, unchanged. Its pages may be smaller than those of the tile;
// - "after `unmap` or `unmap_range` has reported `n` bytes, exactly the entries of the first `n` bytes are
//   gone"; "after `flush` has returned, no device reaches what was unmapped": by `RawDomain`, unchanged;
// - "when a domain is dropped, no device reaches anything through it": the container takes all groups out
//   before it drops the domain;
// - "`page_sizes`, `aperture` and `cuts` never change": they do not depend on `disable_hugepages`;
// - "any method may unwind": a kernel does not unwind.
unsafe impl Domain for GroupDomain {
    type Error = Error;
    type Gather = Gather;

    const MAPS_RUNS: bool = true;

    fn page_sizes(&self) -> PageSizes {
        let sizes = self.raw.page_sizes();
        // What is pinned are pages of the CPU: smaller ones are of no use here.
        if sizes.smallest().is_some_and(|size| size < PAGE_SIZE) {
            sizes.at_least(PAGE_SIZE)
        } else {
            sizes
        }
    }

    fn aperture(&self) -> IovaRange {
        self.raw.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        // SAFETY: that of `map`, "for all of the runs": as the caller promises for the tile.
        unsafe { self.map_runs(tile.iova, iter::once(tile.into()), prot) }
    }

    unsafe fn map_runs(
        &self,
        iova: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
    ) -> (u64, Result<()>) {
        let go_on = || {
            if ffi::vfio_type1_killed() {
                return Err(EINTR);
            }
            // `disable_hugepages` may change at any time: then every page is mapped by itself.
            Ok(ffi::vfio_type1_huge_pages())
        };
        // SAFETY: "that of `map_runs`": as the caller promises.
        unsafe { self.raw.map_runs_while(iova, runs, prot, go_on) }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        // SAFETY: "the bytes of the tile were reported by `map` to the caller", by calls of `RawDomain`, "and
        // have not been unmapped since; and what is unmapped begins and ends where the domain can cut": the
        // caller promises all of it, and both domains can cut in the same places.
        unsafe { self.raw.unmap(tile, gather) }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        // SAFETY: "that of `unmap`, for all of the tiles, which make up the range": the caller promises it,
        // and it means the same for the domain inside: see `unmap`.
        unsafe { self.raw.unmap_range(range, tiles, gather) }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        self.raw.flush(gather);
    }
}
