// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Region`]: pinned memory that can be shown to devices, and [`Attachment`]: the hold that a
//! device has on it.

use super::address_kind::AddressKind;
use super::holder::Holder;
use crate::addr::UserAddr;
use crate::failed::Failed;
use crate::sgl::{Sgl, Window, WindowError};
use crate::store::Storage;
use core::{fmt, ops::Range};

/// Memory that stays where it is while it is attached: an `Umem`, or whatever else
/// keeps that promise (a buffer of another driver, guest memory that is never moved).
///
/// # Regions of several types
///
/// One address space holds regions that have nothing in common but this trait as `dyn Region`, or as
/// `dyn CpuRegion` if the CPU is to read and write there, too. What they have in common is where their
/// lists are stored, and how copying fails.
///
/// ```
/// use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
/// use pinned_sgl_mock::{Vma, BusError, Iommu, Memory, Process};
/// use pinned_sgl::umem::{Account, CpuRegion, PinFlags, PinRequest, Umem, Unaccounted, UserRange};
/// use pinned_sgl::{Heap, Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// type AnyRegion = dyn CpuRegion<Storage = Heap, AccessError = BusError> + Send + Sync;
///
/// let memory = Memory::with_frames(64);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
/// process.map(range, Vma::read_write())?;
/// let request = || PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let counted = Umem::pin(process.clone(), Arc::new(Account::new(16)), request())?;
/// let free = Umem::pin(process, &Unaccounted, request())?;
///
/// let mut space = HeapIoas::<Arc<AnyRegion>, Arc<Iommu>>::new();
/// space.attach(Arc::new(memory.iommu(PageSizes::SIZE_4K)))?;
/// let prot = Prot::READ | Prot::WRITE;
/// space.map(Placement::At(Iova::new(0x1000)), Arc::new(counted), prot)?;
/// space.map(Placement::At(Iova::new(0x5000)), Arc::new(free), prot)?;
/// space.write(Iova::new(0x4ffe), b"from one to the other")?;
/// # drop(space);
/// # memory.assert_no_leak();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Implementation safety
///
/// - the frames of [`sgl`](Self::sgl) are the memory of the region, whole pages, each of the
///   [kind](crate::MemoryKind) that the list says, of which the bytes from `page_offset` on, `len` of
///   them, are the region; none of the answers ever changes;
/// - where [`address_kind`](Self::address_kind) is [`AddressKind::User`], the frames are instead the pages
///   of this process at these addresses, which stay mapped to the same memory;
/// - between a successful [`attach`](Self::attach) and its [`detach`](Self::detach) the frames stay
///   what they are and are used for nothing else, also if the region is dropped or leaked;
/// - where [`is_writable`](Self::is_writable) is false, an attachment for writing is refused;
/// - a call of `attach` that unwinds has attached nothing.
///
/// # Safety
///
/// All but [`detach`](Self::detach) is safe to call.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Region`",
    note = "a region is passed by its holder: an `Arc<Umem<..>>` itself, or `&umem` of \
            an `Umem`; not `&arc`"
)]
#[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
pub unsafe trait Region {
    /// Where the list is stored.
    type Storage: Storage;

    /// The frames of the region.
    fn sgl(&self) -> &Sgl<Self::Storage>;

    /// What the addresses of the list are.
    fn address_kind(&self) -> AddressKind {
        AddressKind::Physical
    }

    /// The offset of the first byte in the first page.
    fn page_offset(&self) -> u64;

    /// The bytes of the region: never zero.
    fn len(&self) -> u64;

    /// Whether a device may write to it.
    fn is_writable(&self) -> bool;

    /// Where the first byte lies in a user process, if it does in one.
    fn user_addr(&self) -> Option<UserAddr>;

    /// Says that the memory has been written to, or may have been: by a device, or by the CPU through
    /// other than the process's own addresses. It counts as written for ever.
    fn mark_dirty(&self);

    /// Holds the memory in place, for a device that reads it or, if `writable`, writes it too.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing has changed then.
    fn attach(&self, writable: bool) -> Result<(), AttachError>;

    /// Lets go of one attachment.
    ///
    /// # Safety
    ///
    /// Made for one successful [`attach`](Self::attach) that was not detached before; the device
    /// cannot reach the memory any more, through no cache of translations either.
    unsafe fn detach(&self);
}

/// A [`Holder`] of a region. There is nothing to implement.
pub trait RegionHolder: Holder<Target: Region> {}

impl<U: Holder<Target: Region>> RegionHolder for U {}

/// What follows from the answers of a [`Region`], and is the same for all of them: an implementation
/// cannot change it.
pub trait RegionExt: Region {
    /// The bytes `range` of the region.
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the range is empty or reaches beyond the region.
    fn window(&self, range: Range<u64>) -> Result<Window<'_, Self::Storage>, WindowError> {
        let len = range.end.saturating_sub(range.start);
        self.whole()?.window(range.start, len)
    }

    /// All bytes of the region.
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the list has fewer: an implementation that keeps its promises has not.
    fn whole(&self) -> Result<Window<'_, Self::Storage>, WindowError> {
        self.sgl().window(self.page_offset(), self.len())
    }
}

impl<R: Region + ?Sized> RegionExt for R {}

/// The hold that a device has on a region: as long as there is one, nothing is unpinned.
///
/// A mapping has one inside. A driver whose device translates by itself takes one, shows the memory
/// to the device, and [releases](Self::release) it when the device has forgotten the memory.
///
/// It cannot be copied, and dropping it is not a release: then the region is attached for ever, and its
/// pins are leaked. A device may still write to the memory, and there is no way to know.
#[must_use = "an attachment that is dropped leaks the pins of its region"]
pub struct Attachment<U: RegionHolder> {
    region: U,
}

impl<U: RegionHolder> Attachment<U> {
    /// Attaches a device that reads `region` at its physical addresses or, if `writable`, writes it too:
    /// then it counts as written.
    ///
    /// # Errors
    ///
    /// [`AttachError`], with the region, which stays pinned and charged as long as the error
    /// [holds](Failed) it.
    pub fn new(region: U, writable: bool) -> Result<Self, Failed<AttachError, U>> {
        let this = Self::hold(region, AddressKind::Physical, writable)?;
        if writable {
            this.region.mark_dirty();
        }
        Ok(this)
    }

    /// Attaches a device that is given addresses of this kind, and can reach nothing yet.
    pub(crate) fn hold(
        region: U,
        device: AddressKind,
        writable: bool,
    ) -> Result<Self, Failed<AttachError, U>> {
        let list = region.address_kind();
        if list != device {
            return Err(Failed::new(AttachError::AddressKind { list, device }, region));
        }
        match region.attach(writable) {
            Ok(()) => Ok(Self { region }),
            Err(error) => Err(Failed::new(error, region)),
        }
    }

    /// What is attached.
    #[inline]
    #[must_use]
    pub const fn region(&self) -> &U {
        &self.region
    }

    /// Lets go of the region.
    ///
    /// # Safety
    ///
    /// The device to which the memory was shown under this attachment cannot reach it any more,
    /// through no cache of translations either.
    pub unsafe fn release(self) -> U {
        // SAFETY:
        // - "made for one successful `attach` that was not detached before": `hold` has attached the
        //   region, which by the contract of `Holder` is the same, and `self` is consumed;
        // - "the device cannot reach the memory any more": as the caller promises.
        unsafe { self.region.detach() };
        self.region
    }

    /// Gives up: the region stays attached for ever, and its pins are leaked. For a device that does
    /// not let go.
    pub fn leak(self) -> U {
        self.region
    }
}

impl<U: RegionHolder> fmt::Debug for Attachment<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}

/// Why a device cannot be attached to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The device would write, and the region was not pinned for that.
    ReadOnly,
    /// There are as many attachments as can be counted.
    TooMany,
    /// The list has addresses that mean nothing to the device.
    AddressKind {
        /// What the list has.
        list: AddressKind,
        /// What the device is given.
        device: AddressKind,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("the memory was pinned for reading only"),
            Self::TooMany => f.write_str("too many attachments"),
            Self::AddressKind { list, device } => {
                write!(f, "the list has {list} addresses, and the device takes {device} ones")
            }
        }
    }
}

impl core::error::Error for AttachError {}
