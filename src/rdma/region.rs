// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MemoryRegion`]: bytes of a pinned region, registered with a card.

use super::error::RegisterError;
use super::table::{Access, BlockLayout, BlockTable, TableHolder};
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::iova_range::IovaRange;
use crate::page_size::PageSize;
use crate::sgl::{Window, WindowError};
use crate::umem::{AddressKind, Attachment, Region, RegionExt as _, RegionHolder, Shown};
use core::{
    fmt,
    mem::ManuallyDrop,
    ops::{Deref, Range},
};

/// The storage of the list of the region that `U` holds.
type RegionStorage<U> = <<U as Deref>::Target as Region>::Storage;

/// Bytes of a pinned region, registered with a card under a key: what RDMA calls a memory region.
///
/// It holds the region and the card. When it is dropped, it invalidates the key, and then lets go of
/// them, in that order: nothing is unpinned that a peer can reach. If it is leaked, the pins of the
/// region are leaked with it.
///
/// The card gets the largest of its page sizes in which the memory can be cut at this address:
/// [`Window::best_page_size`]. The address is an argument here and is kept here; the region knows
/// nothing of it, and can be registered elsewhere, and mapped in a
/// [`Domain`](crate::iommu::Domain), at the same time.
///
/// ```
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::rdma::{Access, MemoryRegion};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
/// use pinned_sgl::{Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// // A megabyte of a process, aligned to nothing, pinned.
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// process.map(UserRange::new(UserAddr::new(0x10_0000), 0x20_0000)?, Vma::read_write())?;
/// let range = UserRange::new(UserAddr::new(0x12_3456), 0x10_0000)?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Arc::new(Umem::pin(process.clone(), &Unaccounted, request)?);
///
/// // Peers see it where it lies in the process.
/// let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_64K;
/// let nic = Arc::new(memory.nic().with_page_sizes(sizes));
/// let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
/// let region = MemoryRegion::register(umem, nic.clone(), Iova::new(0x12_3456), access)?;
/// nic.write(region.key(), Iova::new(0x12_8000), b"from afar")?;
/// let mut bytes = [0; 9];
/// process.read(UserAddr::new(0x12_8000), &mut bytes)?;
/// assert_eq!(&bytes, b"from afar");
///
/// // The region was the last holder of the memory.
/// drop(region);
/// memory.assert_no_leak();
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a memory region that is dropped is invalidated"]
pub struct MemoryRegion<U, N>
where
    U: RegionHolder,
    N: TableHolder,
{
    // Invariant: the bytes of the region from `offset` on are registered with the card as `layout`,
    // under `key`, which this value alone may invalidate; and the attachment stands for them.
    shown: Shown<U, N>,
    key: N::Key,
    layout: BlockLayout,
    offset: u64,
}

impl<U, N> MemoryRegion<U, N>
where
    U: RegionHolder,
    N: TableHolder,
{
    /// Registers the whole region at `iova`, which may be any address. O(runs + blocks).
    ///
    /// ```
    /// # use pinned_sgl::rdma::{Access, MemoryRegion};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0040), 0x3000)?)?;
    /// # let nic = Arc::new(memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    /// let access = Access::REMOTE_READ | Access::REMOTE_WRITE;
    /// let region = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0x10_0040), access)?;
    /// nic.write(region.key(), Iova::new(0x10_0050), b"from a peer")?;
    /// # drop(region);
    /// // Below the size of a block, the address must lie as the memory does.
    /// assert!(MemoryRegion::register(umem, nic, Iova::new(0x10_0000), access).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RegisterError`], with the region and the card; nothing is registered then. The region stays pinned
    /// and charged as long as the error [holds](Failed) it.
    pub fn register(
        region: U,
        nic: N,
        iova: Iova,
        access: Access,
    ) -> Result<Self, Failed<RegisterError<N::Error>, (U, N)>> {
        let len = region.len();
        Self::register_range(region, 0..len, nic, iova, access)
    }

    /// Registers the bytes `range` of the region at `iova`, which may be any address.
    /// O(runs + blocks).
    ///
    /// ```
    /// # use pinned_sgl::rdma::{Access, MemoryRegion};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0040), 0x3000)?)?;
    /// # let nic = Arc::new(memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    /// let (part, iova) = (0x1000..0x1800, Iova::new(0x40));
    /// let region = MemoryRegion::register_range(umem, part, nic.clone(), iova, Access::REMOTE_READ)?;
    /// assert!(nic.read(region.key(), Iova::new(0x83f), &mut [0]).is_ok());
    /// assert!(nic.read(region.key(), Iova::new(0x840), &mut [0]).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RegisterError`], with the region and the card; nothing is registered then. The region stays pinned
    /// and charged as long as the error [holds](Failed) it.
    pub fn register_range(
        region: U,
        range: Range<u64>,
        nic: N,
        iova: Iova,
        access: Access,
    ) -> Result<Self, Failed<RegisterError<N::Error>, (U, N)>> {
        if !Access::all().contains_all(access) {
            let error = RegisterError::UnknownAccess { bits: access.bits() };
            return Err(Failed::new(error, (region, nic)));
        }
        let attachment = match Attachment::hold(region, AddressKind::Physical, access.is_writable())
        {
            Ok(attachment) => attachment,
            Err(refused) => {
                let refused = refused.map_error(RegisterError::Attach);
                return Err(refused.map_value(|region| (region, nic)));
            }
        };
        let offset = range.start;
        // SAFETY: "the region is attached, for writing if the access writes, until the key was
        // invalidated, or for ever": by `attachment`, which is released behind an invalidation only.
        match unsafe { show(&**attachment.region(), range, &*nic, iova, access) } {
            Ok((key, layout)) => {
                // Whether a peer has written is not known: it can from now on.
                if access.is_writable() {
                    attachment.region().mark_dirty();
                }
                Ok(Self { shown: Shown::new(attachment, nic), key, layout, offset })
            }
            // SAFETY: "the device cannot reach the memory any more": nothing is registered, as the card
            // has failed, or was not asked.
            Err(error) => Err(Failed::new(error, (unsafe { attachment.release() }, nic))),
        }
    }

    /// The region.
    #[inline]
    #[must_use]
    pub fn region(&self) -> &U {
        self.shown.region()
    }

    /// The card.
    #[inline]
    #[must_use]
    pub fn nic(&self) -> &N {
        self.shown.device()
    }

    /// What a peer must know to reach the memory.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> N::Key {
        self.key
    }

    /// How the card sees the memory.
    #[inline]
    #[must_use]
    pub const fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// Where the card sees the first byte.
    #[inline]
    #[must_use]
    pub const fn iova(&self) -> Iova {
        self.layout.range.first()
    }

    /// The addresses at which the card sees the memory.
    #[inline]
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.layout.range
    }

    /// The bytes that are registered: never zero. Blocks may have more.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a memory region is never empty")]
    pub fn len(&self) -> u64 {
        // Made from a number of bytes that fits.
        self.layout.range.len().unwrap_or(u64::MAX)
    }

    /// The size of a block.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.layout.page_size
    }

    /// How many blocks the card was given: 8 bytes each, in the tables of most. O(1).
    ///
    /// ```
    /// # use pinned_sgl::rdma::{Access, MemoryRegion};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0040), 0x3000)?)?;
    /// # let nic = Arc::new(memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    /// # let region = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0x40), Access::REMOTE_READ)?;
    /// // 0x3000 bytes from 0x40 on are in four blocks of 4K.
    /// assert_eq!((region.page_size(), region.block_count()), (PageSize::SIZE_4K, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.layout.block_count()
    }

    /// What may be done with the memory.
    #[inline]
    #[must_use]
    pub const fn access(&self) -> Access {
        self.layout.access
    }

    /// The bytes of the region that are registered.
    #[must_use]
    pub fn region_range(&self) -> Range<u64> {
        self.offset..self.offset.plus(self.len())
    }

    /// What is registered, as a window of the list.
    ///
    /// ```
    /// # use pinned_sgl::rdma::{Access, MemoryRegion};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0040), 0x3000)?)?;
    /// # let nic = Arc::new(memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    /// # let region = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0x40), Access::REMOTE_READ)?;
    /// assert_eq!((region.window()?.len(), region.window()?.page_offset()), (0x3000, 0x40));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the region has broken its contract.
    pub fn window(&self) -> Result<Window<'_, RegionStorage<U>>, WindowError> {
        self.region().window(self.region_range())
    }

    /// Takes the memory away from all peers, and gives the region and the card back. In Linux:
    /// `ib_dereg_mr()`.
    ///
    /// ```
    /// # use pinned_sgl::rdma::{Access, MemoryRegion};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0040), 0x3000)?)?;
    /// # let nic = Arc::new(memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    /// # let region = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0x40), Access::REMOTE_READ)?;
    /// let key = region.key();
    /// let (umem, nic) = region.deregister()?;
    /// assert!(nic.read(key, Iova::new(0x40), &mut [0]).is_err());
    /// assert_eq!(umem.attachments(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the card, with the region and the card, if the card failed. The region comes back
    /// attached for ever: its pins are leaked.
    pub fn deregister(self) -> Result<(U, N), Failed<N::Error, (U, N)>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "called once, at the end": `this` is neither used nor dropped again.
        unsafe { this.take_down() }
    }

    /// Invalidates the key, and takes the memory region apart.
    ///
    /// # Safety
    ///
    /// Called once, at the end.
    unsafe fn take_down(&mut self) -> Result<(U, N), Failed<N::Error, (U, N)>> {
        // SAFETY: "the key was given by `register` of this table, and has not been passed here
        // before": by the invariant; by the contract of `Holder` it is the same table; and the caller
        // promises that this is the first call.
        let gone = unsafe { self.nic().invalidate(self.key) };
        // SAFETY:
        // - "called at most once, and nothing else is called afterwards": as the caller promises;
        // - "if `hidden` is `Ok`, the device cannot reach the memory any more under this attachment": the
        //   key was invalidated.
        unsafe { self.shown.end(gone) }
    }
}

/// Cuts the bytes `range` of a region into blocks and shows them to a card; returns the key, and what
/// the card was given.
///
/// # Safety
///
/// The region is attached, for writing if the access writes, until the key was invalidated, or for
/// ever.
unsafe fn show<R: Region + ?Sized, T: BlockTable + ?Sized>(
    region: &R,
    range: Range<u64>,
    nic: &T,
    iova: Iova,
    access: Access,
) -> Result<(T::Key, BlockLayout), RegisterError<T::Error>> {
    let window = region.window(range).map_err(RegisterError::Window)?;
    let page_sizes = nic.page_sizes();
    let best = window.best_page_size(page_sizes, iova).map_err(RegisterError::Blocks)?;
    let (Some(best), Ok(range)) = (best, IovaRange::new(iova, window.len())) else {
        // That the range does not wrap is known by now.
        return Err(RegisterError::NoPageSize { iova, page_sizes });
    };
    let layout = BlockLayout::new(range, best.page_size(), access);
    // SAFETY: "the bytes of the range stay what they are, and may be written if the access is writable,
    // until the key was successfully invalidated; for ever, if that fails or the call unwinds": the
    // region is attached for that, as the caller promises, and the best page size proves that the
    // blocks hold its bytes; "all bits of the access are flags": as the caller has checked.
    let key = unsafe { nic.register(layout, best.blocks()) }.map_err(RegisterError::Nic)?;
    Ok((key, layout))
}

impl<U, N> Drop for MemoryRegion<U, N>
where
    U: RegionHolder,
    N: TableHolder,
{
    fn drop(&mut self) {
        // SAFETY: "called once, at the end": the value is being dropped.
        drop(unsafe { self.take_down() });
    }
}

impl<U, N> fmt::Debug for MemoryRegion<U, N>
where
    U: RegionHolder,
    N: TableHolder,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegion")
            .field("key", &self.key)
            .field("range", &self.range())
            .field("region_range", &self.region_range())
            .field("page_size", &self.page_size())
            .field("access", &self.access())
            .finish_non_exhaustive()
    }
}
