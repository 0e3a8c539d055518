// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PagingDomain`]: an address space of the IOMMU that a driver fills by itself.

use super::ffi;
use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::granule::Tile;
use crate::iommu::{Domain, Entry, IovaRange, Prot, ReadDomain};
use crate::page_size::PageSizes;
use core::{
    fmt,
    pin::Pin,
    ptr::{self, NonNull},
};
use kernel::{
    alloc::{flags::GFP_KERNEL, KVec},
    bindings,
    device::{Bound, Device},
    error::{code, from_err_ptr, to_result, Error, Result},
    types::Opaque,
};

/// A paging domain of the IOMMU, which somebody else keeps: what a [`PagingDomain`] is made of, and
/// what a subsystem uses that attaches groups of devices by itself, as vfio does.
pub struct RawDomain {
    // Invariant: a paging domain that is there as long as this is.
    raw: NonNull<bindings::iommu_domain>,
}

// SAFETY: an `iommu_domain` may be used by any thread.
unsafe impl Send for RawDomain {}
// SAFETY: `iommu_map()` and its siblings may be called by several threads, for ranges that do not
// overlap: the contract of `Domain` asks no more of the callers.
unsafe impl Sync for RawDomain {}

impl RawDomain {
    /// The domain at `raw`.
    ///
    /// # Safety
    ///
    /// It is a paging domain, and is freed only after this was dropped. Before this is dropped, no
    /// device is in it any more.
    #[must_use]
    pub const unsafe fn new(raw: NonNull<bindings::iommu_domain>) -> Self {
        Self { raw }
    }

    /// The domain of the kernel.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.raw.as_ptr()
    }
}

/// A paging domain of the IOMMU with one device in it, which was taken out of the domain of the DMA
/// API. It goes back there when the domain is dropped: with `iommu=pt` it reaches all memory from then
/// on, so that a device which has not stopped, as far as its driver knows, is better left here for good
/// (`mem::forget`).
///
/// It borrows the bound device, so it is gone before the driver is unbound. Calls may sleep.
pub struct PagingDomain<'a> {
    // Invariant: a paging domain that is ours, with `device` attached.
    domain: RawDomain,
    device: &'a Device<Bound>,
}

pub(super) fn raw_device(device: &Device<Bound>) -> *mut bindings::device {
    // `Device` is a transparent wrapper of it.
    ptr::from_ref(device).cast_mut().cast()
}

impl<'a> PagingDomain<'a> {
    /// Makes a domain for `device` and moves it there. Its page tables are charged to the
    /// memory cgroup of whoever maps (`GFP_KERNEL_ACCOUNT`).
    ///
    /// The device must not use the DMA API while it is in it: what it maps leads nowhere.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no IOMMU before the device, `EINVAL` if it shares a group with others,
    /// `EBUSY` if it is in a domain of somebody else, `ENOMEM`.
    pub fn attach(device: &'a Device<Bound>) -> Result<Self> {
        let raw_device = raw_device(device);
        // SAFETY: a bound device is there as long as it is borrowed.
        let raw = from_err_ptr(unsafe { ffi::pinned_sgl_domain_alloc(raw_device) })?;
        let raw = NonNull::new(raw).ok_or(code::ENODEV)?;
        // SAFETY: both are there, and nothing is mapped yet.
        let attached =
            to_result(unsafe { bindings::iommu_attach_device(raw.as_ptr(), raw_device) });
        if let Err(error) = attached {
            // SAFETY: it is ours, and no device is in it.
            unsafe { bindings::iommu_domain_free(raw.as_ptr()) };
            return Err(error);
        }
        // SAFETY: it is ours, and is freed when this is dropped, after the device was taken out.
        Ok(Self { domain: unsafe { RawDomain::new(raw) }, device })
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &'a Device<Bound> {
        self.device
    }

    /// The addresses that the device cannot use, although the domain translates them: the window of
    /// message-signalled interrupts, and what the firmware keeps for itself. An `Ioas` is told of
    /// them by `reserve`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `E2BIG` if there are more than 16 of them.
    pub fn reserved(&self) -> Result<KVec<IovaRange>> {
        let mut ranges = [[0; 2]; 16];
        // SAFETY: the device is there, and there is room for so many ranges.
        let count = unsafe {
            ffi::pinned_sgl_reserved(raw_device(self.device), ranges.as_mut_ptr(), ranges.len())
        };
        let ranges = ranges.get(..count).ok_or(code::E2BIG)?;
        let mut reserved = KVec::with_capacity(count, GFP_KERNEL)?;
        for [first, last] in ranges {
            let range = IovaRange::inclusive(Iova::new(*first), Iova::new(*last))?;
            reserved.push(range, GFP_KERNEL)?;
        }
        Ok(reserved)
    }
}

impl Drop for PagingDomain<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariant the device is attached, and the domain is ours. Nothing reaches
        // it any more when it is freed.
        unsafe {
            bindings::iommu_detach_device(self.domain.as_ptr(), raw_device(self.device));
            bindings::iommu_domain_free(self.domain.as_ptr());
        }
    }
}

/// `struct iommu_iotlb_gather`: what was unmapped and is to be flushed.
///
/// It holds a list of page tables that points to itself, so it is made where it stays: at its first
/// use.
pub struct Gather {
    raw: Opaque<bindings::iommu_iotlb_gather>,
    // Invariant: if it is set, `raw` is valid, and has not moved since.
    ready: bool,
}

impl Default for Gather {
    fn default() -> Self {
        Self { raw: Opaque::uninit(), ready: false }
    }
}

impl Gather {
    fn get(self: Pin<&mut Self>) -> *mut bindings::iommu_iotlb_gather {
        // SAFETY: nothing is moved out of it.
        let this = unsafe { self.get_unchecked_mut() };
        let raw = this.raw.get();
        if !this.ready {
            // SAFETY: there is room for it, it is ours, and being pinned it stays here: it may not
            // be moved once it is pinned, because an `Opaque` is not `Unpin`.
            unsafe { ffi::pinned_sgl_gather_init(raw) };
            this.ready = true;
        }
        raw
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("ready", &self.ready).finish_non_exhaustive()
    }
}

// SAFETY: `iommu_map()` maps all of the range or leaves nothing of it; the page tables of Linux
// refuse addresses that are in use; `iommu_unmap_fast()` tells how many bytes it has unmapped from the beginning on, and
// `iommu_iotlb_sync()` flushes what the gather has collected. The other answers are set when a
// domain is made. No device is in it when it is dropped: `RawDomain::new()` was promised that.
unsafe impl Domain for RawDomain {
    type Error = Error;
    type Gather = Gather;

    fn page_sizes(&self) -> PageSizes {
        // SAFETY: by the invariant the domain is there; the field does not change.
        PageSizes::from_bits_truncate(unsafe { (*self.raw.as_ptr()).pgsize_bitmap } as u64)
    }

    fn aperture(&self) -> IovaRange {
        // SAFETY: as above.
        let geometry = unsafe { &raw const (*self.raw.as_ptr()).geometry };
        // SAFETY: as above.
        let (first, last) = unsafe { ((*geometry).aperture_start, (*geometry).aperture_end) };
        // Where a driver has none, it translates all addresses.
        IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap_or(IovaRange::ALL)
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        let (iova, len) = (usize::try_from(tile.iova.get()), usize::try_from(tile.len()));
        let (Ok(iova), Ok(len)) = (iova, len) else {
            return (0, Err(code::ERANGE));
        };
        // SAFETY: by the invariant the domain is there; the caller answers for the memory.
        let errno = unsafe {
            ffi::pinned_sgl_map(self.raw.as_ptr(), iova, tile.phys.get(), len, prot.bits())
        };
        match to_result(errno) {
            Ok(()) => (tile.len(), Ok(())),
            // What was mapped of the range was unmapped again.
            Err(error) => (0, Err(error)),
        }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        match IovaRange::new(tile.iova, tile.len()) {
            // SAFETY: the caller's promise is handed on.
            Ok(range) => unsafe { self.unmap_range(range, [tile].into_iter(), gather) },
            Err(_) => 0,
        }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        _: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        let iova = usize::try_from(range.first().get());
        let len = range.len().and_then(|len| usize::try_from(len).ok());
        let (Ok(iova), Some(len)) = (iova, len) else {
            return 0;
        };
        // SAFETY: by the invariant the domain is there; the caller has mapped the range; the gather
        // is valid and pinned.
        unsafe { bindings::iommu_unmap_fast(self.raw.as_ptr(), iova, len, gather.get()) as u64 }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        // SAFETY: by the invariant the domain is there; the gather is valid and pinned.
        unsafe { ffi::pinned_sgl_iotlb_sync(self.raw.as_ptr(), gather.get()) };
    }
}

// SAFETY: the IOMMU's driver reads the page table that the device uses; what lies between an
// address and the end of its smallest page is contiguous.
unsafe impl ReadDomain for RawDomain {
    fn read(&self, iova: Iova) -> Option<Entry> {
        let smallest = self.page_sizes().smallest()?;
        // SAFETY: by the invariant the domain is there.
        let phys = unsafe { bindings::iommu_iova_to_phys(self.raw.as_ptr(), iova.get()) };
        // Zero means nothing, and no frame that is pinned begins there.
        let len = smallest.bytes().minus(iova.get() & smallest.mask());
        (phys != 0).then_some(Entry::new(PhysAddr::new(phys), len))
    }
}

impl fmt::Debug for RawDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawDomain")
            .field("page_sizes", &self.page_sizes())
            .field("aperture", &self.aperture())
            .finish_non_exhaustive()
    }
}

// SAFETY: it is the domain inside, which it owns; `Drop` takes the device out before it is freed.
unsafe impl Domain for PagingDomain<'_> {
    type Error = Error;
    type Gather = Gather;

    fn page_sizes(&self) -> PageSizes {
        self.domain.page_sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.domain.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.domain.map(tile, prot) }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.domain.unmap(tile, gather) }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.domain.unmap_range(range, tiles, gather) }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        self.domain.flush(gather);
    }
}

// SAFETY: it is the domain inside, which it owns.
unsafe impl ReadDomain for PagingDomain<'_> {
    fn read(&self, iova: Iova) -> Option<Entry> {
        self.domain.read(iova)
    }
}

impl fmt::Debug for PagingDomain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagingDomain")
            .field("page_sizes", &self.page_sizes())
            .field("aperture", &self.aperture())
            .finish_non_exhaustive()
    }
}
