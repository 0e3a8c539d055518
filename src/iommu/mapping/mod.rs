// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Mapping`]: a window of a region, shown to a device at an IOVA.

mod cut;

use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::iommu::domain::{Domain, DomainHolder};
use crate::iommu::edges::Edges;
use crate::iommu::entries;
use crate::iommu::error::{Breach, MapError};
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::sgl::{Window, WindowError};
use crate::umem::{Attachment, Region, RegionExt as _, RegionHolder, Shown};
use core::{
    fmt,
    mem::ManuallyDrop,
    ops::{Deref, Range},
};

pub use cut::Remains;

/// The storage of the list of the region that `U` holds.
type RegionStorage<U> = <<U as Deref>::Target as Region>::Storage;

/// A window of a pinned region, mapped in a domain at an IOVA.
///
/// It holds the region and the domain. When it is dropped, it unmaps, flushes, and then lets go of
/// them, in that order: nothing is unpinned that a device can reach. If it is leaked, the pins of
/// the region are leaked with it.
///
/// The holders may be references, `Rc`, `Arc`, or a kernel's own: see [`Holder`](crate::umem::Holder).
///
/// ```
/// use pinned_sgl::iommu::{Mapping, Prot};
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
/// use pinned_sgl::{Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
/// process.map(range, Vma::read_write())?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Arc::new(Umem::pin(process, &Unaccounted, request)?);
///
/// let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
/// let (iova, prot) = (Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
/// let mapping = Mapping::map(umem.clone(), iommu.clone(), iova, prot)?;
/// let device = memory.device(iommu);
/// device.write(Iova::new(0x8000_2000), b"from the device")?;
/// let mut bytes = [0; 15];
/// umem.read(0x2000, &mut bytes)?;
/// assert_eq!(&bytes, b"from the device");
///
/// // Two parts, each with a life of its own; the first ends here.
/// let (head, tail) = mapping.split_at(0x3000)?;
/// head.unmap()?;
/// assert!(device.read(Iova::new(0x8000_2000), &mut bytes).is_err());
/// device.read(tail.iova(), &mut bytes)?;
/// # drop((tail, umem));
/// # memory.assert_no_leak();
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a mapping that is dropped is unmapped"]
pub struct Mapping<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    // Invariant: the bytes `offset..offset + len` of the region are mapped in the domain at `iova`,
    // by entries that this value alone may remove, and the attachment stands for them.
    shown: Shown<U, D>,
    offset: u64,
    len: u64,
    iova: Iova,
    prot: Prot,
}

impl<U, D> Mapping<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    /// Maps the whole region at `iova`. O(tiles).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// assert_eq!((mapping.len(), umem.attachments()), (0x4000, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError`], with the region and the domain; nothing is mapped then. The region stays pinned and
    /// charged as long as the error [holds](Failed) it.
    pub fn map(
        region: U,
        domain: D,
        iova: Iova,
        prot: Prot,
    ) -> Result<Self, Failed<MapError<D::Error>, (U, D)>> {
        let len = region.len();
        Self::map_range(region, 0..len, domain, iova, prot)
    }

    /// Maps the bytes `range` of the region at `iova`. O(tiles).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// let part = 0x1000..0x3000;
    /// let mapping = Mapping::map_range(umem.clone(), part, iommu, Iova::new(0x8000), Prot::READ)?;
    /// assert_eq!(mapping.translate(Iova::new(0x8000)), umem.whole()?.phys(0x1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError`], with the region and the domain; nothing is mapped then. The region stays pinned and
    /// charged as long as the error [holds](Failed) it.
    pub fn map_range(
        region: U,
        range: Range<u64>,
        domain: D,
        iova: Iova,
        prot: Prot,
    ) -> Result<Self, Failed<MapError<D::Error>, (U, D)>> {
        let writable = prot.contains_all(Prot::WRITE);
        let attachment = match Attachment::hold(region, D::Target::ADDRESS_KIND, writable) {
            Ok(attachment) => attachment,
            Err(refused) => {
                let refused = refused.map_error(MapError::Attach);
                return Err(refused.map_value(|region| (region, domain)));
            }
        };
        let region = attachment.region();
        let mapped = match region.window(range.clone()) {
            // SAFETY: "the memory of the window is attached, for writing if `prot` has `WRITE`, and
            // stays so until it was uninstalled and flushed; for ever after a breach, or if this unwinds":
            // by `attachment`, which is released behind an uninstall only, and leaked otherwise.
            Ok(window) => unsafe { entries::install(&*domain, window, iova, prot) },
            Err(error) => Err(MapError::Window(error)),
        };
        // A device may have written, however short the time was.
        if writable && mapped.as_ref().map_or_else(MapError::was_reached, |()| true) {
            region.mark_dirty();
        }
        match mapped {
            Ok(()) => Ok(Self {
                shown: Shown::new(attachment, domain),
                offset: range.start,
                len: range.end.saturating_sub(range.start),
                iova,
                prot,
            }),
            Err(error) => {
                let region = if error.is_breach() {
                    attachment.leak()
                } else {
                    // SAFETY: "the device cannot reach the memory any more, through no cache of
                    // translations either": nothing is mapped; what was, has been unmapped and flushed.
                    unsafe { attachment.release() }
                };
                Err(Failed::new(error, (region, domain)))
            }
        }
    }

    /// The region.
    #[inline]
    #[must_use]
    pub fn region(&self) -> &U {
        self.shown.region()
    }

    /// The domain.
    #[inline]
    #[must_use]
    pub fn domain(&self) -> &D {
        self.shown.device()
    }

    /// Where the device sees the first byte.
    #[inline]
    #[must_use]
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// The bytes that are mapped: never zero.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The addresses that are mapped.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        IovaRange::new(self.iova, self.len).unwrap_or(IovaRange::ALL)
    }

    /// What the device may do.
    #[inline]
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.prot
    }

    /// The bytes of the region that are mapped.
    #[must_use]
    pub fn region_range(&self) -> Range<u64> {
        self.offset..self.offset.plus(self.len)
    }

    /// What is mapped, as a window of the list.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// assert_eq!(mapping.window()?.tile_count(PageSizes::SIZE_4K, mapping.iova())?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the region has broken its contract.
    pub fn window(&self) -> Result<Window<'_, RegionStorage<U>>, WindowError> {
        self.region().window(self.region_range())
    }

    /// Where an address leads in memory; `None` if it is not of this mapping. O(log runs), and the
    /// page table is not read.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// assert_eq!(mapping.translate(Iova::new(0x9234)), umem.whole()?.phys(0x1234));
    /// assert_eq!(mapping.translate(Iova::new(0xc000)), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.window().ok()?.phys(iova.checked_offset_from(self.iova)?)
    }

    /// The nearest places around byte `offset` of the mapping at which the domain can cut it.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// let edges = mapping.edges(0x1800);
    /// assert_eq!((edges.below, edges.above), (0x1000, 0x2000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn edges(&self, offset: u64) -> Edges {
        match self.window() {
            Ok(window) => Edges::of_domain(&**self.domain(), &window, self.iova, offset),
            Err(_) => Edges { below: 0, above: self.len },
        }
    }

    /// Unmaps the mapping, and gives the region and the domain back. O(log runs), if the domain
    /// unmaps whole ranges, plus what the domain takes.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// # drop(umem);
    /// let (umem, _iommu) = mapping.unmap()?;
    /// assert_eq!((umem.attachments(), memory.pinned_pages()), (0, 4)); // unpinned when it is dropped
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Breach`], with the region and the domain, if the domain broke its contract. The region comes back
    /// attached for ever: its pins are leaked.
    pub fn unmap(self) -> Result<(U, D), Failed<Breach, (U, D)>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "called once, at the end": `this` is neither used nor dropped again.
        unsafe { this.take_down() }
    }

    /// Unmaps, flushes, and takes the mapping apart.
    ///
    /// # Safety
    ///
    /// Called once, at the end.
    unsafe fn take_down(&mut self) -> Result<(U, D), Failed<Breach, (U, D)>> {
        // SAFETY: "called once, at the end": as the caller promises.
        let uninstalled = unsafe { self.uninstall() };
        // SAFETY:
        // - "called at most once, and nothing else is called afterwards": as the caller promises;
        // - "if `hidden` is `Ok`, the device cannot reach the memory any more under this attachment": what
        //   was mapped under it has been unmapped and flushed.
        unsafe { self.shown.end(uninstalled) }
    }

    /// Unmaps and flushes.
    ///
    /// # Safety
    ///
    /// Called once, at the end.
    unsafe fn uninstall(&self) -> Result<(), Breach> {
        let domain = &**self.domain();
        let window = self.window().map_err(|_| Breach::new(self.range()))?;
        // SAFETY: "the window was installed by the caller and has not been uninstalled since, as one or as
        // part of a larger one that the domain can cut where this one begins and ends": by the
        // invariant, as `cut_fault` asks the domain before a mapping is cut, and as the caller promises
        // that this is the first call.
        unsafe { entries::uninstall(domain, &window, self.iova) }
    }
}

impl<U, D> Drop for Mapping<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    fn drop(&mut self) {
        // SAFETY: "called once, at the end": the value is being dropped.
        drop(unsafe { self.take_down() });
    }
}

impl<U, D> fmt::Debug for Mapping<U, D>
where
    U: RegionHolder,
    D: DomainHolder,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("range", &self.range())
            .field("region_range", &self.region_range())
            .field("prot", &self.prot)
            .finish_non_exhaustive()
    }
}
