// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scatterlists that are made of runs of frames, for the DMA API.
//!
//! C headers: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h),
//! [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::{ffi, kernel, raw::Raw as _};
use core::iter;
use kernel::{
    alloc::Flags,
    bindings,
    device::{Bound, Device},
    dma::{Attrs, Coherent, DataDirection},
    error::{code, to_result, Result},
    ffi::{c_uint, c_ulong},
    ptr::KnownSize,
    types::Opaque,
};

/// What a device takes in one segment, and what the DMA API can map for it in one: the bytes at most, and the mask
/// that the first and the last byte must agree beyond.
pub fn limits(device: &Device<Bound>) -> (u64, u64) {
    let (mut max_len, mut boundary_mask) = (0, 0);
    // SAFETY: a bound device is there as long as it is borrowed; the other pointers are to locals.
    unsafe { ffi::run_table_limits(device.as_raw(), &mut max_len, &mut boundary_mask) };
    (max_len, boundary_mask)
}

/// A `struct sg_table`. Dropping it frees the table.
///
/// # Invariants
///
/// It was made by `sg_alloc_table()` or `dma_get_sgtable()`, and changes by mapping only.
pub struct RunTable(Opaque<bindings::sg_table>);

// SAFETY: a table is memory of the kernel's allocator, which any thread may read and free.
unsafe impl Send for RunTable {}
// SAFETY: through a shared reference it is only read, but by `map` and its like, whose callers take turns.
unsafe impl Sync for RunTable {}

impl RunTable {
    /// A table of `count` runs: the address of the first byte, and how many there are. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a run of no bytes, or without page structures, and if there are not as many as `count`; that of
    /// `runs`; `ENOMEM`.
    pub fn new(
        count: c_uint,
        runs: impl Iterator<Item = Result<(u64, u32)>>,
        flags: Flags,
    ) -> Result<Self> {
        let raw = Opaque::zeroed();
        // SAFETY: there is room for it, and zeros are a table of nothing.
        to_result(unsafe { bindings::sg_alloc_table(raw.get(), count, flags.as_raw()) })?;
        // INVARIANT: it has been made; from here on it is freed by dropping it.
        let this = Self(raw);
        // SAFETY: by the invariant the table is valid.
        let mut at = unsafe { (*this.as_raw()).sgl };
        for run in runs {
            let (phys, len) = run?;
            // SAFETY: `at` is an entry of the table, or null behind the last one.
            to_result(unsafe { ffi::run_table_set(&mut at, phys, len) })?;
        }
        if !at.is_null() {
            return Err(code::EINVAL);
        }
        Ok(this)
    }

    /// The pages of memory of the DMA API.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENXIO` if there are no page structures.
    ///
    /// # Safety
    ///
    /// The memory was allocated for this device.
    pub unsafe fn of_coherent<T: KnownSize + ?Sized>(
        device: &Device<Bound>,
        memory: &Coherent<T>,
    ) -> Result<Self> {
        let (raw, first) = (Opaque::zeroed(), memory.dma_address());
        let (device, start) = (device.as_raw(), memory.as_mut_ptr().cast());
        // SAFETY: the device is bound; the memory is there, was allocated for it as the caller promises, and has so
        // many bytes; there is room for a table.
        to_result(unsafe { ffi::dma_get_sgtable(device, raw.get(), start, first, memory.size()) })?;
        // INVARIANT: it has been made.
        Ok(Self(raw))
    }

    /// As C has it: valid as long as `self` is there.
    #[must_use]
    pub const fn as_raw(&self) -> *mut bindings::sg_table {
        self.0.get()
    }

    /// What the CPU sees: first byte and length of each run.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        // SAFETY: by the invariant it is a table.
        let mut at = unsafe { (*self.as_raw()).sgl };
        iter::from_fn(move || {
            if at.is_null() {
                return None;
            }
            // SAFETY: it is an entry of the table.
            let run = unsafe { (ffi::run_table_phys(at), (*at).length) };
            // SAFETY: as above; null behind the last one.
            at = unsafe { bindings::sg_next(at) };
            Some(run)
        })
    }

    /// Maps it for a device: `dma_map_sgtable()`.
    ///
    /// # Errors
    ///
    /// What that answers.
    ///
    /// # Safety
    ///
    /// - It is not mapped, and nothing else maps or unmaps it meanwhile;
    /// - the pages are there until it is unmapped.
    pub unsafe fn map(
        &self,
        device: &Device<Bound>,
        direction: DataDirection,
        attrs: Option<Attrs>,
    ) -> Result {
        let (device, direction) = (device.as_raw(), direction.into());
        // SAFETY: a bound device is there as long as it is borrowed; the table is valid; its pages are there, as the
        // caller promises.
        to_result(unsafe {
            bindings::dma_map_sgtable(device, self.as_raw(), direction, raw_attrs(attrs))
        })
    }

    /// Unmaps it: `dma_unmap_sgtable()`.
    ///
    /// # Safety
    ///
    /// It is mapped for this device, in this direction and with these attributes, and the device has finished with it.
    pub unsafe fn unmap(
        &self,
        device: &Device<Bound>,
        direction: DataDirection,
        attrs: Option<Attrs>,
    ) {
        let (device, direction) = (device.as_raw(), direction.into());
        // SAFETY: as the caller promises.
        unsafe { bindings::dma_unmap_sgtable(device, self.as_raw(), direction, raw_attrs(attrs)) };
    }

    /// Lets the CPU see what the device has written: `dma_sync_sgtable_for_cpu()`.
    ///
    /// # Safety
    ///
    /// It is mapped for this device in this direction.
    pub unsafe fn sync_for_cpu(&self, device: &Device<Bound>, direction: DataDirection) {
        let (device, direction) = (device.as_raw(), direction.into());
        // SAFETY: as the caller promises.
        unsafe { ffi::dma_sync_sgtable_for_cpu(device, self.as_raw(), direction) };
    }

    /// Lets the device see what the CPU has written: `dma_sync_sgtable_for_device()`.
    ///
    /// # Safety
    ///
    /// It is mapped for this device in this direction.
    pub unsafe fn sync_for_device(&self, device: &Device<Bound>, direction: DataDirection) {
        let (device, direction) = (device.as_raw(), direction.into());
        // SAFETY: as the caller promises.
        unsafe { ffi::dma_sync_sgtable_for_device(device, self.as_raw(), direction) };
    }
}

fn raw_attrs(attrs: Option<Attrs>) -> c_ulong {
    attrs.map_or(0, |attrs| attrs.as_raw())
}

impl Drop for RunTable {
    fn drop(&mut self) {
        // SAFETY: by the invariant it is a table; by `&mut` nothing else uses it, and a value is dropped
        // once.
        unsafe { bindings::sg_free_table(self.0.get()) };
    }
}
