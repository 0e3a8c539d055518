// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`SgTable`]: a part of a region as a C `struct sg_table`, and [`DmaList`], the same mapped for a
//! device by the DMA API.
//!
//! C headers: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h),
//! [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use super::foundation::run_table::{self, RunTable};
use super::{kernel, pin::UserMem};
use crate::addr::DmaAddr;
use crate::descriptor::Extent;
use crate::failed::Failed;
use crate::granule::SegmentLimits;
use crate::sgl::MemoryKind;
use crate::umem::{Attachment, Region, RegionExt as _, RegionHolder};
use core::{
    fmt,
    iter::FusedIterator,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, Range},
};
use kernel::{
    alloc::{Flags, KBox},
    bindings,
    device::{Bound, Device},
    dma::{attrs::DMA_ATTR_MMIO, Attrs, DataDirection},
    error::{code, Error, Result},
    scatterlist::SGTable,
};

/// The segments of the bytes `range`, none longer than the device takes and none across its boundary.
fn table(
    device: &Device<Bound>,
    region: &(impl Region + ?Sized),
    range: Range<u64>,
    flags: Flags,
) -> Result<RunTable> {
    let (window, limits) = (region.window(range)?, limits(device)?);
    let segments = window.segments(&limits)?;
    let count = window.segment_count(&limits).try_into().map_err(|_| code::EOVERFLOW)?;
    let runs = segments.map(|segment| {
        // That a frame has a number which could be that of memory says nothing.
        if segment.kind == MemoryKind::Mmio {
            return Err(code::EINVAL);
        }
        Ok((segment.phys.get(), segment.len.try_into().map_err(|_| code::EOVERFLOW)?))
    });
    RunTable::new(count, runs, flags)
}

/// What the device takes in one segment, and what the DMA API can map for it in one.
fn limits(device: &Device<Bound>) -> Result<SegmentLimits> {
    let (max_len, boundary_mask) = run_table::limits(device);
    let limits = SegmentLimits::NONE.max_len(max_len)?;
    match boundary_mask.checked_add(1) {
        Some(boundary) => Ok(limits.boundary(boundary)?),
        None => Ok(limits),
    }
}

/// An attachment that is released when it is dropped.
///
/// # Invariants
///
/// No device can reach the memory through it when it is released or dropped.
struct Hold<U: RegionHolder>(ManuallyDrop<Attachment<U>>);

impl<U: RegionHolder> Hold<U> {
    fn release(self) -> U {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "the container is not used again": `this` is neither used nor dropped afterwards.
        let attachment = unsafe { ManuallyDrop::take(&mut this.0) };
        // SAFETY: "the device .. cannot reach it any more, through no cache of translations either": by
        // the invariant.
        unsafe { attachment.release() }
    }
}

impl<U: RegionHolder> Drop for Hold<U> {
    fn drop(&mut self) {
        // SAFETY: "the container is not used again": a value is dropped once, and `release` does not
        // drop it.
        let attachment = unsafe { ManuallyDrop::take(&mut self.0) };
        // SAFETY: "the device .. cannot reach it any more, through no cache of translations either": by
        // the invariant.
        drop(unsafe { attachment.release() });
    }
}

/// A part of a region as a `struct sg_table`, cut as a device takes it: no segment is longer than
/// its `dma_get_max_seg_size()`, or than the DMA API maps as one, and none crosses its
/// `dma_get_seg_boundary()`.
///
/// The region stays attached, and so pinned, as long as the table is there. Nothing is mapped yet:
/// that is what [`map`](Self::map) is for. Dropping it frees the table and lets go of the region.
///
/// A table has 32 bytes for each segment (24 where the kernel does not keep DMA lengths apart),
/// which is what `dma_map_sgtable()` demands: it is made for a transfer, and not kept beside the list.
pub struct SgTable<'a, U: RegionHolder = KBox<UserMem>> {
    // Dropped in this order: the table, then the hold.
    table: RunTable,
    hold: Hold<U>,
    device: &'a Device<Bound>,
    direction: DataDirection,
}

impl<'a, U: RegionHolder> SgTable<'a, U> {
    /// The bytes `range` of `region`, for `device`; the table is allocated with `flags`: `GFP_KERNEL_ACCOUNT` where
    /// user space decides how much. May sleep.
    ///
    /// A region that the device writes (`FromDevice`, `Bidirectional`) counts as written from here on.
    ///
    /// # Errors
    ///
    /// With the region, which is not attached then, and stays pinned and charged as long as the error
    /// [holds](Failed) it: `EINVAL` if the range is empty, reaches beyond
    /// the region, or has memory without a `struct page`, for the direction `None`, and for limits of
    /// the device that are none; `EPERM` if the device would write what was pinned for reading;
    /// `EBUSY` if there are too many attachments; `EOVERFLOW` for more than `u32::MAX` segments;
    /// `ENOMEM`.
    pub fn new(
        device: &'a Device<Bound>,
        region: U,
        range: Range<u64>,
        direction: DataDirection,
        flags: Flags,
    ) -> Result<Self, Failed<Error, U>> {
        let writable = match direction {
            DataDirection::ToDevice => false,
            DataDirection::FromDevice | DataDirection::Bidirectional => true,
            DataDirection::None => return Err(Failed::new(code::EINVAL, region)),
        };
        let attachment =
            Attachment::new(region, writable).map_err(|refused| refused.map_error(Error::from))?;
        // INVARIANT: nothing is mapped for a device before `map`, whose caller promises that it has
        // finished when the list is unmapped or dropped, after which this is released.
        let hold = Hold(ManuallyDrop::new(attachment));
        match table(device, &**hold.0.region(), range, flags) {
            Ok(table) => Ok(Self { table, hold, device, direction }),
            Err(error) => Err(Failed::new(error, hold.release())),
        }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &U {
        self.hold.0.region()
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &'a Device<Bound> {
        self.device
    }

    /// Which way the bytes go.
    #[must_use]
    pub const fn direction(&self) -> DataDirection {
        self.direction
    }

    /// How many entries the table has, for the CPU: `orig_nents`.
    #[must_use]
    pub fn entries(&self) -> u32 {
        // SAFETY: by its invariant it is a table, which changes only by `&mut` or C's mapping.
        unsafe { (*self.as_raw()).orig_nents }
    }

    /// The table of C, for functions that read it. It is valid as long as `self` is there.
    #[must_use]
    pub const fn as_raw(&self) -> *mut bindings::sg_table {
        self.table.as_raw()
    }

    /// Frees the table and lets go of the region.
    pub fn into_region(self) -> U {
        let Self { table, hold, .. } = self;
        drop(table);
        hold.release()
    }

    /// Maps it for the device: [`map_with_attrs`](Self::map_with_attrs) with none.
    ///
    /// # Safety
    ///
    /// That of `map_with_attrs`.
    ///
    /// # Errors
    ///
    /// Those of `map_with_attrs`.
    pub unsafe fn map(self) -> Result<DmaList<'a, U>, Failed<Error, Self>> {
        // SAFETY: as the caller promises.
        unsafe { self.map_raw(None) }
    }

    /// Maps it for the device: [`dma_map_sgtable()`](srctree/kernel/dma/mapping.c). With `DMA_ATTR_SKIP_CPU_SYNC`,
    /// the driver calls [`DmaList::sync_for_device`] before the device comes, and [`DmaList::sync_for_cpu`] after it.
    ///
    /// # Safety
    ///
    /// When the list is unmapped or dropped, the device has finished with its addresses. The DMA API
    /// does not stop a device: without an IOMMU nothing does, and where an IOMMU is flushed lazily,
    /// an address that is unmapped may lead to the memory for a while.
    ///
    /// A list that is kept by [`DmaList::into_devres`] is dropped at the latest when the driver is unbound.
    ///
    /// The device is not in a domain that its driver fills by itself.
    ///
    /// # Errors
    ///
    /// What `dma_map_sgtable()` answers, with the table, whose region stays attached as long as the error
    /// [holds](Failed) it: `ENOMEM`; `EIO` if the device does not reach
    /// the memory; `EREMOTEIO` for memory of another device that it does not reach; `EINVAL`, also for
    /// `DMA_ATTR_MMIO`, which this memory is not.
    pub unsafe fn map_with_attrs(
        self,
        attrs: Attrs,
    ) -> Result<DmaList<'a, U>, Failed<Error, Self>> {
        if attrs.contains(DMA_ATTR_MMIO) {
            return Err(Failed::new(code::EINVAL, self));
        }
        // SAFETY: as the caller promises.
        unsafe { self.map_raw(Some(attrs)) }
    }

    /// # Safety
    ///
    /// That of `map_with_attrs`.
    unsafe fn map_raw(self, attrs: Option<Attrs>) -> Result<DmaList<'a, U>, Failed<Error, Self>> {
        // SAFETY: "it is not mapped, and nothing else maps or unmaps it meanwhile": only a `DmaList` is mapped, and this is
        // owned; "the pages are there until it is unmapped": `self` holds the region, and they stay pinned.
        match unsafe { self.table.map(self.device, self.direction, attrs) } {
            // INVARIANT: it is mapped.
            Ok(()) => Ok(DmaList { table: ManuallyDrop::new(self), attrs }),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl<U: RegionHolder> fmt::Debug for SgTable<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SgTable")
            .field("entries", &self.entries())
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

/// The DMA-mapped twin of a list: addresses of a device for a part of a region, which stays attached
/// as long as they are mapped. Made by [`SgTable::map`].
///
/// It leads to the table of the kernel, whose entries are the segments as the device sees them: at most as many as
/// [`SgTable::entries`], because an IOMMU may make one of several. Their lengths add up to the range that was mapped.
///
/// ```ignore
/// let plan = prp.plan(list.extents())?;
/// let [prp1, prp2] = plan.write(&mut pages)?;
/// ```
///
/// It borrows the bound device, so it is gone before the driver is unbound; [`into_devres`](Self::into_devres) makes
/// one that is unmapped then at the latest. Dropping it unmaps it, and lets go of the region then; one that is leaked
/// stays mapped, and its region pinned.
///
/// # Invariants
///
/// `table` is mapped for its device, in its direction, with `attrs`.
pub struct DmaList<'a, U: RegionHolder = KBox<UserMem>> {
    table: ManuallyDrop<SgTable<'a, U>>,
    attrs: Option<Attrs>,
}

impl<'a, U: RegionHolder> DmaList<'a, U> {
    /// The region.
    #[must_use]
    pub fn region(&self) -> &U {
        self.table.region()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &'a Device<Bound> {
        self.table.device
    }

    /// Which way the bytes go.
    #[must_use]
    pub fn direction(&self) -> DataDirection {
        self.table.direction
    }

    /// What the device sees, in order, for its [descriptors](crate::descriptor).
    pub fn extents(&self) -> DmaExtents<'_> {
        // SAFETY: by the invariant it is a table, which `self` owns, and which changes by `&mut` only.
        let (at, left) = unsafe { ((*self.table.as_raw()).sgl, (*self.table.as_raw()).nents) };
        DmaExtents { at, left, list: PhantomData }
    }

    /// Lets the CPU see what the device has written, between two transfers, where their caches are not coherent, or
    /// the DMA API copies: `dma_sync_sgtable_for_cpu()`. Unmapping does it, too, without `DMA_ATTR_SKIP_CPU_SYNC`.
    pub fn sync_for_cpu(&self) {
        let SgTable { table, device, direction, .. } = &*self.table;
        // SAFETY: "it is mapped for this device in this direction": by the invariant.
        unsafe { table.sync_for_cpu(device, *direction) };
    }

    /// Lets the device see what the CPU has written, between two transfers:
    /// `dma_sync_sgtable_for_device()`. Mapping does it, too, without `DMA_ATTR_SKIP_CPU_SYNC`.
    pub fn sync_for_device(&self) {
        let SgTable { table, device, direction, .. } = &*self.table;
        // SAFETY: "it is mapped for this device in this direction": by the invariant.
        unsafe { table.sync_for_device(device, *direction) };
    }

    /// Unmaps it, and returns the table, which can be mapped again.
    pub fn unmap(self) -> SgTable<'a, U> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "called once; the list is not used as one any more": `this` is not dropped, and only
        // its table is taken out.
        unsafe { this.unmap_raw() };
        // SAFETY: "the container is not used again": `this` is neither used nor dropped afterwards.
        unsafe { ManuallyDrop::take(&mut this.table) }
    }

    /// # Safety
    ///
    /// Called once; the list is not used as one any more.
    unsafe fn unmap_raw(&mut self) {
        let SgTable { table, device, direction, .. } = &*self.table;
        // SAFETY: "it is mapped for this device, in this direction and with these attributes": by the invariant, and
        // once, as the caller promises; "the device has finished with it": as the caller of `map` has promised.
        unsafe { table.unmap(device, *direction, self.attrs) };
    }
}

impl<U: RegionHolder> Drop for DmaList<'_, U> {
    fn drop(&mut self) {
        // SAFETY: "called once; the list is not used as one any more": a value is dropped once, and
        // `unmap` does not drop it.
        unsafe { self.unmap_raw() };
        // SAFETY: "the container is not used again": a value is dropped once, and `unmap` does not drop
        // it. The table is freed, and then the region let go.
        unsafe { ManuallyDrop::drop(&mut self.table) };
    }
}

impl<U: RegionHolder> Deref for DmaList<'_, U> {
    type Target = SGTable;

    fn deref(&self) -> &SGTable {
        // SAFETY: "valid for the entire lifetime": by the invariant it is a table, which `self` owns; "not modified
        // concurrently": what is mapped changes when it is unmapped, by value.
        unsafe { SGTable::from_raw(self.table.as_raw()) }
    }
}

impl<U: RegionHolder> fmt::Debug for DmaList<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaList")
            .field("segments", &self.iter().count())
            .field("direction", &self.direction())
            .finish_non_exhaustive()
    }
}

/// The parts of a [`DmaList`], as the device sees them; made by [`DmaList::extents`].
///
/// # Invariants
///
/// `at` is an entry of a table that is mapped and does not change as long as the list is borrowed, and `left` entries
/// of it are mapped from there on.
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless they are walked"]
pub struct DmaExtents<'a> {
    at: *mut bindings::scatterlist,
    left: u32,
    list: PhantomData<&'a SGTable>,
}

impl Iterator for DmaExtents<'_> {
    type Item = Extent<DmaAddr>;

    fn next(&mut self) -> Option<Extent<DmaAddr>> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        // SAFETY: by the invariant it is an entry of a table, and mapped.
        let (addr, len) = unsafe { (bindings::sg_dma_address(at), bindings::sg_dma_len(at)) };
        // SAFETY: as above. INVARIANT: one entry less is left behind it.
        self.at = unsafe { bindings::sg_next(at) };
        Some(Extent::clamped(DmaAddr::new(addr), len.into()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for DmaExtents<'_> {}

impl FusedIterator for DmaExtents<'_> {}
