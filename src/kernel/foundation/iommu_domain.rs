// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains of IOMMUs that a driver fills by itself.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::{ffi, kernel, raw::Raw as _};
use core::{
    fmt,
    pin::Pin,
    ptr::{self, NonNull},
};
use kernel::{
    alloc::{Flags, KVec},
    bindings,
    device::{Bound, Device},
    error::{code, from_err_ptr, to_result, Result},
    ffi::c_void,
    types::Opaque,
};

/// `struct iommu_domain`.
#[repr(transparent)]
pub struct IommuDomain(Opaque<bindings::iommu_domain>);

impl IommuDomain {
    /// The domain at `raw`.
    ///
    /// # Safety
    ///
    /// It is a paging domain, and is there as long as the reference.
    #[inline]
    #[must_use]
    pub const unsafe fn from_raw<'a>(raw: NonNull<bindings::iommu_domain>) -> &'a Self {
        // SAFETY: it is a transparent wrapper; as the caller promises.
        unsafe { raw.cast().as_ref() }
    }

    /// As C has it.
    #[inline]
    #[must_use]
    pub const fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.0.get()
    }

    /// A bit for each size of its pages.
    #[inline]
    #[must_use]
    pub fn page_sizes(&self) -> usize {
        // SAFETY: the domain is there, and nothing writes to the field.
        unsafe { (*self.as_raw()).pgsize_bitmap }
    }

    /// The first and the last address that it translates.
    #[must_use]
    pub fn aperture(&self) -> (u64, u64) {
        // SAFETY: the domain is there.
        let geometry = unsafe { &raw const (*self.as_raw()).geometry };
        // SAFETY: it is a field of the domain, and nothing writes to it.
        unsafe { ((*geometry).aperture_start, (*geometry).aperture_end) }
    }

    /// Maps all of it or nothing, with the bits of `IOMMU_READ` and its like.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`, `EEXIST` and others where there is something already; what `iommu_map()` answers.
    ///
    /// # Safety
    ///
    /// - Nothing else maps, unmaps or reads at these addresses meanwhile;
    /// - the memory stays what it is, and may be accessed like that, until it has been unmapped and flushed.
    #[inline]
    pub unsafe fn map(
        &self,
        iova: usize,
        phys: u64,
        len: usize,
        prot: u32,
        flags: Flags,
    ) -> Result {
        let (raw, flags) = (self.as_raw(), flags.as_raw());
        // SAFETY: as the caller promises.
        to_result(unsafe { ffi::iommu_domain_map(raw, iova, phys, len, prot, flags) })
    }

    /// Maps runs one behind the other, of `len` bytes together, or none of them. Their `page_link` is the number of
    /// the first frame, and is another one afterwards.
    ///
    /// # Errors
    ///
    /// Those of [`map`](Self::map).
    ///
    /// # Safety
    ///
    /// That of [`map`](Self::map), for each of them.
    #[inline]
    pub unsafe fn map_runs(
        &self,
        iova: usize,
        runs: &mut [bindings::scatterlist],
        len: usize,
        prot: u32,
        flags: Flags,
    ) -> Result {
        let (raw, flags) = (self.as_raw(), flags.as_raw());
        // SAFETY: as the caller promises.
        to_result(unsafe {
            ffi::iommu_domain_map_runs(raw, iova, runs.as_mut_ptr(), runs.len(), len, prot, flags)
        })
    }

    /// Unmaps up to `len` bytes from `iova` on; returns how many. With a gather they are flushed with it, and by
    /// themselves without.
    ///
    /// # Safety
    ///
    /// - Nothing else maps, unmaps or reads at these addresses meanwhile;
    /// - they are the caller's, and begin and end where what was mapped may be cut.
    #[inline]
    pub unsafe fn unmap(&self, iova: usize, len: usize, gather: Option<Pin<&mut Gather>>) -> usize {
        let raw = self.as_raw();
        match gather {
            // SAFETY: as the caller promises; by the invariant of `Gather` that one is valid.
            Some(gather) => unsafe { bindings::iommu_unmap_fast(raw, iova, len, gather.get()) },
            // SAFETY: as the caller promises.
            None => unsafe { bindings::iommu_unmap(raw, iova, len) },
        }
    }

    /// After it has returned, no device reaches what was unmapped with the gather.
    #[inline]
    pub fn sync(&self, gather: Pin<&mut Gather>) {
        // SAFETY: by the invariant of `Gather` it is valid. It may be called beside all others: what it frees is linked
        // nowhere.
        unsafe { ffi::iommu_iotlb_sync(self.as_raw(), gather.get()) };
    }

    /// Where an address leads, if that is not zero.
    ///
    /// # Safety
    ///
    /// Nothing else unmaps meanwhile.
    #[inline]
    #[must_use]
    pub unsafe fn phys(&self, iova: u64) -> Option<u64> {
        // SAFETY: as the caller promises.
        let phys = unsafe { bindings::iommu_iova_to_phys(self.as_raw(), iova) };
        (phys != 0).then_some(phys)
    }
}

/// A device in a domain of its own. Dropping it takes the device out, and frees the domain.
///
/// # Invariants
///
/// `resource` was made by `iommu_domain_attach()` for `device`, and `raw` is its domain.
pub struct AttachedDevice<'a> {
    raw: NonNull<bindings::iommu_domain>,
    resource: NonNull<c_void>,
    device: &'a Device<Bound>,
}

// SAFETY: the device may be taken out by any thread, and `resource` is touched by nothing else.
unsafe impl Send for AttachedDevice<'_> {}
// SAFETY: as above: through a shared reference `resource` is not used.
unsafe impl Sync for AttachedDevice<'_> {}

impl<'a> AttachedDevice<'a> {
    /// Makes a domain for `device` and moves it there.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no IOMMU before the device, `EOPNOTSUPP` if the device's accesses through
    /// it are not coherent (`IOMMU_CAP_CACHE_COHERENCY`), or if it is not on the PCI bus and reaches all memory
    /// outside of the domain (`iommu=pt`); `EINVAL` if it shares a group with others,
    /// `EBUSY` if it is another owner's, or in another domain already; `ENOMEM`.
    pub fn new(device: &'a Device<Bound>, flags: Flags) -> Result<Self> {
        let mut made = ptr::null_mut();
        // SAFETY: a bound device is there as long as it is borrowed, and its driver is bound; the other pointer
        // is to a local.
        let resource = from_err_ptr(unsafe {
            ffi::iommu_domain_attach(device.as_raw(), flags.as_raw(), &mut made)
        })?;
        let resource = NonNull::new(resource).ok_or(code::ENODEV)?;
        let raw = NonNull::new(made).ok_or(code::ENODEV)?;
        // INVARIANT: it was made for `device`.
        Ok(Self { raw, resource, device })
    }

    /// The domain, which nothing else knows: a paging domain, freed when this is dropped.
    #[must_use]
    pub const fn domain(&self) -> NonNull<bindings::iommu_domain> {
        self.raw
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &'a Device<Bound> {
        self.device
    }

    /// The first and the last of the addresses that the device cannot use, although the domain translates them.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `E2BIG` if there are more than 16 of them.
    pub fn reserved(&self, flags: Flags) -> Result<KVec<[u64; 2]>> {
        let mut ranges = [[0; 2]; 16];
        // SAFETY: a bound device is there as long as it is borrowed, and there is room for so many
        // ranges.
        let count = unsafe {
            let device = self.device.as_raw();
            ffi::iommu_domain_reserved(device, ranges.as_mut_ptr(), ranges.len())
        };
        let mut reserved = KVec::with_capacity(count, flags)?;
        reserved.extend_from_slice(ranges.get(..count).ok_or(code::E2BIG)?, flags)?;
        Ok(reserved)
    }
}

impl Drop for AttachedDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariant it was made for this device; "before the driver is unbound, or as a resource that
        // is younger": the device is borrowed until then, and what `DevresLt` keeps longer was made after it; and a
        // value is dropped once.
        unsafe { ffi::iommu_domain_detach(self.resource.as_ptr(), self.device.as_raw()) };
    }
}

/// `struct iommu_iotlb_gather`: what was unmapped and is to be flushed.
///
/// It holds a list of page tables that points to itself, so it is made where it stays: at its first
/// use.
///
/// # Invariants
///
/// If `ready` is set, `raw` is valid, and has not moved since.
pub struct Gather {
    raw: Opaque<bindings::iommu_iotlb_gather>,
    ready: bool,
}

impl Default for Gather {
    fn default() -> Self {
        // INVARIANT: it is not ready.
        Self { raw: Opaque::uninit(), ready: false }
    }
}

impl Gather {
    fn get(self: Pin<&mut Self>) -> *mut bindings::iommu_iotlb_gather {
        // SAFETY: nothing is moved out of the reference.
        let this = unsafe { self.get_unchecked_mut() };
        let raw = this.raw.get();
        if !this.ready {
            // SAFETY: there is room for it, and by `&mut` nothing else uses it.
            unsafe { ffi::iommu_iotlb_gather_init(raw) };
            // INVARIANT: it is valid now; being pinned it stays here, as an `Opaque` is not `Unpin`.
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
