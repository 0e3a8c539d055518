// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Memory`]: the physical memory of a machine, for tests.

mod builder;
mod leaks;

use crate::memory::contents::Contents;
use crate::memory::folios::{State, Unmoved};
use crate::memory::fragmentation::Fragmentation;
use crate::memory::frame::Frame;
use crate::memory::reach::Reach;
use crate::memory::zone::{Frames, Zone};
use crate::plan::Plan;
use crate::sync::{lock, AtomicU64, Mutex, OnceLock};
use crate::witness::Witness;
use crate::{Device, Iommu, Nic};
use pinned_sgl::{MemoryKind, PageSize, PageSizes, Pfn};
use std::sync::Arc;
use std::{
    fmt,
    ops::{Deref, RangeInclusive},
};

use builder::{FIRST_PFN, MAX_FRAMES};

pub use builder::{MemoryBuilder, MemoryError};

/// The physical memory of a machine: page frames that count their pins.
///
/// ```text
///   Process ── pin, unpin ──►┌─────────────────────────────────────────┐
///   Process ── pin, unpin ──►│ Memory: frames, pins, contents, Witness │◄── a device
///                            └─────────────────────────────────────────┘    (`Bus`)
/// ```
///
/// Clones are the same memory. What must never happen is reported to its [`Witness`]; what is to fail is
/// decided by its [`Plan`]. Both are those of the whole machine: of its processes, and of the IOMMUs
/// and the devices that it makes. Frames cost nothing until they are used.
///
/// ```
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::umem::{PinFlags, PinnedBatch, UserRange};
/// use pinned_sgl::UserAddr;
///
/// let memory = Memory::with_frames(1024);
/// let process = Process::new(&memory);
/// let range = UserRange::new(UserAddr::new(0x7f00_0020_0000), 2 << 20)?;
/// process.map(range, Vma::read_write().huge(9))?;
///
/// let mut slots = [None; 8];
/// let flags = PinFlags::WRITE | PinFlags::LONGTERM;
/// let mut batch = PinnedBatch::new(&process, range, flags, &mut slots);
/// batch.fill()?;
/// assert_eq!((batch.runs().count(), batch.page_count()), (1, 512));
/// assert_eq!(memory.pinned_pages(), 512);
///
/// drop(batch);
/// memory.assert_no_leak();
/// memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Memory {
    pub(in crate::memory) inner: Arc<Inner>,
}

/// What all clones of a memory share.
pub(in crate::memory) struct Inner {
    pub(in crate::memory) page: PageSize,
    pub(in crate::memory) fragmentation: Fragmentation,
    /// Ascending.
    pub(in crate::memory) zones: Vec<Frames>,
    pub(in crate::memory) contents: Contents,
    /// The lock of the memory: page tables are changed under it.
    pub(in crate::memory) state: Mutex<State>,
    pub(in crate::memory) witness: Witness,
    pub(in crate::memory) plan: Plan,
    pub(in crate::memory) leaked: AtomicU64,
    /// What devices can reach, when there is one. Its lock is taken after that of the device, and
    /// before that of the memory.
    pub(in crate::memory) reach: OnceLock<Mutex<Reach>>,
}

impl Memory {
    /// Describes a memory.
    ///
    /// ```
    /// use pinned_sgl::MemoryKind;
    /// use pinned_sgl_mock::{Fragmentation, Memory, Zone};
    /// # use pinned_sgl::{umem::UserRange, Pfn, UserAddr};
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::builder()
    ///     .zone(Zone::Normal, 0x100..0x200)
    ///     .fragmentation(Fragmentation::Reverse)
    ///     .build()?;
    /// assert!(memory.pinned(range)?.whole()?.pages().eq([Pfn::new(0x1ff), Pfn::new(0x1fe)]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// A memory of `frames` frames of 4 KiB from frame 0x1000 on, all for everything, handed out in
    /// ascending order. More than 2^32 frames are 2^32 frames.
    ///
    /// ```
    /// use pinned_sgl_mock::{Memory, Zone};
    /// assert_eq!(Memory::with_frames(1024).free_frames(Zone::Normal), 1024);
    /// ```
    #[must_use]
    pub fn with_frames(frames: u64) -> Self {
        let end = FIRST_PFN.saturating_add(frames.min(MAX_FRAMES));
        let mut builder = Self::builder();
        builder.zones.push((Zone::Normal, FIRST_PFN..end));
        builder.made(PageSize::SIZE_4K)
    }

    /// An IOMMU of this machine, with pages of `sizes`: see [`IommuConfig::memory`] for others.
    ///
    /// [`IommuConfig::memory`]: crate::IommuConfig::memory
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// # use pinned_sgl::{iommu::{Mapping, Prot}, Iova, PageSizes};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(16);
    /// # let umem = memory.pinned(range)?;
    /// let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
    /// let _mapping = Mapping::map(umem, iommu.clone(), Iova::new(0x8000), Prot::READ)?;
    /// assert_eq!((iommu.stats().map_calls, iommu.stats().pages_mapped), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iommu(&self, sizes: PageSizes) -> Iommu {
        Iommu::config(sizes).memory(self).build()
    }

    /// A device of this machine, behind one of its IOMMUs.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// # use pinned_sgl::{iommu::{Mapping, Prot}, Iova, PageSizes};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(16);
    /// # let umem = memory.pinned(range)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let _mapping = Mapping::map(umem, iommu.clone(), Iova::new(0x8000), Prot::READ)?;
    /// let device = memory.device(iommu);
    /// assert!(device.reads_as(Iova::new(0x8000), &[0; 16])?);
    /// assert!(device.write(Iova::new(0x8000), b"x").is_err()); // mapped to be read
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn device<H: Deref<Target = Iommu>>(&self, iommu: H) -> Device<H, Self> {
        Device::new(iommu, self.clone())
    }

    /// A network card of this machine.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// # use pinned_sgl::{rdma::{Access, MemoryRegion}, Iova};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(16);
    /// # let umem = memory.pinned(range)?;
    /// let nic = Arc::new(memory.nic());
    /// let region = MemoryRegion::register(umem, nic.clone(), Iova::new(0), Access::REMOTE_WRITE)?;
    /// nic.write(region.key(), Iova::new(0), b"from a peer")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn nic(&self) -> Nic<Self> {
        Nic::new(self.clone()).with_memory(self)
    }

    /// The size of a frame.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.inner.page
    }

    /// Where violations are reported.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let phys = umem.whole()?.phys(0).ok_or("no byte")?;
    /// drop(umem);
    /// // What a device does that does not know it yet.
    /// use pinned_sgl_mock::{Bus, ViolationKind};
    /// assert!(memory.write(phys, b"late").is_err());
    /// assert_eq!(memory.witness().take()[0].kind, ViolationKind::DmaToUnpinned);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn witness(&self) -> &Witness {
        &self.inner.witness
    }

    /// What decides which call fails.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// memory.plan().fail_at(0);
    /// assert!(memory.pinned(range).is_err());
    /// assert!(memory.pinned(range).is_ok()); // it fails once
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The zone of a frame; `None` if there is no such frame.
    ///
    /// ```
    /// # use pinned_sgl::Pfn;
    /// # use pinned_sgl_mock::{Memory, Zone};
    /// let memory = Memory::builder().zone(Zone::Cma, 0x100..0x200).build()?;
    /// assert_eq!(memory.zone(Pfn::new(0x1ff)), Some(Zone::Cma));
    /// assert_eq!(memory.zone(Pfn::new(0x200)), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn zone(&self, pfn: Pfn) -> Option<Zone> {
        self.inner.zone_of(pfn.get())
    }

    /// The first frame and the order of the folio that a frame belongs to: it has `2^order` pages.
    /// `None` if the frame is free, or if there is no such frame.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, Pfn, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// let memory = Memory::with_frames(1024);
    /// let process = Process::new(&memory);
    /// let range = UserRange::new(UserAddr::new(0x20_0000), 2 << 20)?;
    /// process.map(range, Vma::read_write().huge(9))?;
    /// process.touch(range, true)?;
    /// let page = process.frame_at(UserAddr::new(0x20_5000)).ok_or("no frame")?;
    /// let (first, order) = memory.folio(page).ok_or("no folio")?;
    /// assert_eq!((page.checked_offset_from(first), order), (Some(5), 9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn folio(&self, pfn: Pfn) -> Option<(Pfn, u32)> {
        let frame = self.inner.peek(pfn.get()).filter(|frame| !frame.is_free())?;
        Some((Pfn::new(self.inner.head_of(pfn.get())?), frame.order()))
    }

    /// How often a frame is pinned.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let page = umem.sgl().runs().next().ok_or("no page")?.start();
    /// assert_eq!(memory.pins(page), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pins(&self, pfn: Pfn) -> u64 {
        self.inner.peek(pfn.get()).map_or(0, Frame::pins)
    }

    /// The pins of all frames together. O(frames that were ever used).
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// assert_eq!(memory.pinned_pages(), 2);
    /// drop(umem);
    /// assert_eq!(memory.pinned_pages(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pinned_pages(&self) -> u64 {
        self.inner.used().fold(0, |sum, (_, frame)| sum.saturating_add(frame.pins()))
    }

    /// Whether a frame was marked dirty when it was unpinned. What the CPU of a process writes does
    /// not count here: its page table would remember that.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let page = umem.sgl().runs().next().ok_or("no page")?.start();
    /// let process = umem.pinner().clone(); // without it the page would be free, not dirty
    /// umem.write(0, b"x")?;
    /// assert!(memory.is_written(page) && !memory.is_dirty(page));
    /// drop(umem);
    /// assert!(memory.is_dirty(page));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_dirty(&self, pfn: Pfn) -> bool {
        self.inner.peek(pfn.get()).is_some_and(Frame::is_dirty)
    }

    /// Whether a frame was written through a pin, by a device or for one, and was not marked dirty
    /// since.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let page = umem.sgl().runs().next().ok_or("no page")?.start();
    /// assert!(!memory.is_written(page));
    /// umem.write(0, b"x")?;
    /// assert!(memory.is_written(page));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_written(&self, pfn: Pfn) -> bool {
        self.inner.peek(pfn.get()).is_some_and(Frame::is_written)
    }

    /// Writes a frame back: it is not dirty any more. Whether it was.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let page = umem.sgl().runs().next().ok_or("no page")?.start();
    /// let process = umem.pinner().clone();
    /// umem.write(0, b"x")?;
    /// drop(umem);
    /// assert!(memory.clean(page) && !memory.clean(page));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clean(&self, pfn: Pfn) -> bool {
        self.inner.peek(pfn.get()).is_some_and(Frame::clean)
    }

    /// How many frames of a zone are free. A frame of zeros that has been used once is never free
    /// again.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// assert_eq!(memory.free_frames(pinned_sgl_mock::Zone::Normal), 14);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn free_frames(&self, zone: Zone) -> u64 {
        let state = lock(&self.inner.state);
        let zones = self.inner.zones.iter().zip(&state.pools);
        zones
            .filter(|(frames, _)| frames.zone == zone)
            .fold(0, |sum, (_, pool)| sum.saturating_add(pool.free))
    }

    /// Moves every folio that is not pinned to other frames of its zone, where there are some; how
    /// many pages have moved. A device that uses a page without a pin is found out then.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// let process = umem.pinner().clone();
    /// assert_eq!(memory.compact(), 0); // all is pinned
    /// drop(umem);
    /// assert_eq!(memory.compact(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(&self) -> u64 {
        let mut state = lock(&self.inner.state);
        let mut moved = 0u64;
        for head in state.heads() {
            let Some(zone) = self.inner.zone_of(head) else { continue };
            match self.inner.migrate(&mut state, head, zone) {
                Ok(pages) => moved = moved.saturating_add(pages),
                Err(Unmoved::Busy | Unmoved::NoMemory) => {}
            }
        }
        moved
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("page_size", &self.inner.page)
            .field("fragmentation", &self.inner.fragmentation)
            .field("zones", &self.inner.zones)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn part(&self, pfn: u64) -> Option<&Frames> {
        let behind = self.zones.partition_point(|frames| frames.start <= pfn);
        let frames = self.zones.get(behind.checked_sub(1)?)?;
        (pfn < frames.end).then_some(frames)
    }

    /// The record of a frame, which is made if need be.
    pub(in crate::memory) fn frame(&self, pfn: u64) -> Option<&Frame> {
        self.part(pfn)?.frames.get(pfn)
    }

    /// The record of a frame; `None` also if the frame was never used.
    pub(in crate::memory) fn peek(&self, pfn: u64) -> Option<&Frame> {
        self.part(pfn)?.frames.peek(pfn)
    }

    /// The numbers of a range that are those of frames.
    pub(in crate::memory) fn frames_in(
        &self,
        pages: RangeInclusive<u64>,
    ) -> impl Iterator<Item = u64> + '_ {
        let (first, end) = (*pages.start(), pages.end().saturating_add(1));
        self.zones.iter().flat_map(move |part| part.start.max(first)..part.end.min(end))
    }

    /// The records of all frames that were ever used.
    fn used(&self) -> impl Iterator<Item = (u64, &Frame)> {
        self.zones.iter().flat_map(|frames| frames.frames.made())
    }

    pub(in crate::memory) fn zone_of(&self, pfn: u64) -> Option<Zone> {
        self.part(pfn).map(|frames| frames.zone)
    }

    pub(in crate::memory) fn kind_of(&self, pfn: u64) -> MemoryKind {
        self.zone_of(pfn).map_or(MemoryKind::Mmio, Zone::kind)
    }

    pub(in crate::memory) fn order_of(&self, pfn: u64) -> u32 {
        self.peek(pfn).map_or(0, Frame::order)
    }

    /// The first frame of the folio: folios are aligned to their size.
    pub(in crate::memory) fn head_of(&self, pfn: u64) -> Option<u64> {
        let order = self.peek(pfn)?.order();
        Some(pfn.checked_shr(order)? << order)
    }
}
