// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GroupDomain`]: an address space of the IOMMU for groups of devices.

use crate::{ffi, memory::PAGE_SIZE};
use core::{
    iter,
    pin::{pin, Pin},
    ptr::NonNull,
};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, Prot},
    kernel::{Gather, RawDomain},
    PageSizes, Tile,
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

/// Pages that are mapped before a signal is looked for: within a millisecond.
const AT_ONCE: u64 = 4096;

// SAFETY:
// - "`map` may be asked for any addresses at any time .. never replaces an entry that is there, and reports
//   no byte that this call did not map": so does `RawDomain`, which is called for one part of the tile after
//   the other; where one fails, those before it are unmapped, and none is reported;
// - "after `map` has reported `n` bytes, the devices reach exactly the first `n` bytes of the tile": the
//   parts follow each other in both address spaces. Their pages may be smaller than those of the tile;
// - "after `unmap` or `unmap_range` has reported `n` bytes, exactly the entries of the first `n` bytes are
//   gone"; "after `flush` has returned, no device reaches what was unmapped": by `RawDomain`, unchanged;
// - "when a domain is dropped, no device reaches anything through it": the container takes all groups out
//   before it drops the domain;
// - "`page_sizes`, `aperture` and `cuts` never change": they do not depend on `disable_hugepages`;
// - "any method may unwind": a kernel does not unwind.
unsafe impl Domain for GroupDomain {
    type Error = Error;
    type Gather = Gather;

    const MAPS_BATCHES: bool = true;

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
        let mut part = tile;
        let mut most = AT_ONCE;
        // `disable_hugepages` may change at any time: then every page is mapped by itself.
        if !ffi::vfio_type1_huge_pages() {
            let Some(smallest) = self.page_sizes().smallest() else { return (0, Err(EINVAL)) };
            (part.page_size, most) = (smallest, 1);
        }
        let mut done = 0u64;
        let failed = loop {
            let left = tile.len().saturating_sub(done);
            if left == 0 {
                return (done, Ok(()));
            }
            if ffi::vfio_type1_killed() {
                break EINTR;
            }
            part.count = most.min(left >> part.page_size.shift());
            // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until the
            // bytes that were reported have been unmapped and flushed": the caller promises it for the tile,
            // of which this is a part; what is not reported to the caller is unmapped and flushed below.
            let (bytes, mapped) = unsafe { self.raw.map(part, prot) };
            done = done.saturating_add(bytes);
            if let Err(error) = mapped {
                break error;
            }
            // Behind the last page of all there is nothing left.
            part.iova = part.iova.checked_add(bytes).unwrap_or(part.iova);
            part.phys = part.phys.checked_add(bytes).unwrap_or(part.phys);
        };
        // Whole pages of the tile must be reported, which may have been mapped in smaller ones: none.
        let undone = IovaRange::new(tile.iova, done).map_or(0, |range| {
            let mut gather = pin!(Gather::default());
            // SAFETY: "the bytes were reported by `map` to the caller and have not been unmapped since": to
            // this function, above; "what is unmapped begins and ends where the domain can cut": where calls
            // of `map` began and ended.
            let undone = unsafe { self.raw.unmap_range(range, iter::empty(), gather.as_mut()) };
            self.raw.flush(gather);
            undone
        });
        // What could not be unmapped is reported as mapped: the unmap finds that out, and leaks it.
        (if undone == done { 0 } else { tile.len() }, Err(failed))
    }

    unsafe fn map_tiles(
        &self,
        mut tiles: impl Iterator<Item = Tile>,
        prot: Prot,
    ) -> (u64, Result<()>) {
        let mut done = 0u64;
        loop {
            if ffi::vfio_type1_killed() {
                return (done, Err(EINTR));
            }
            let (mut most, mut large) = (AT_ONCE, None);
            let single = !ffi::vfio_type1_huge_pages();
            let small = iter::from_fn(|| {
                let tile = if most == 0 { None } else { tiles.next() }?;
                most = most.saturating_sub(tile.count);
                large = (single || tile.count > AT_ONCE).then_some(tile);
                large.is_none().then_some(tile)
            });
            // SAFETY: "that of `map`, for all of the tiles": as the caller promises.
            let (bytes, mapped) = unsafe { self.raw.map_tiles(small, prot) };
            done = done.saturating_add(bytes);
            if mapped.is_err() {
                return (done, mapped);
            }
            if let Some(tile) = large {
                // SAFETY: that of `map`: as the caller promises for all of the tiles.
                let (bytes, mapped) = unsafe { self.map(tile, prot) };
                done = done.saturating_add(bytes);
                if mapped.is_err() {
                    return (done, mapped);
                }
            } else if most > 0 {
                return (done, Ok(()));
            }
        }
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
