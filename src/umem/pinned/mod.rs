// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Umem`]: a pinned region.

mod one_run;
mod region;
mod split;

use crate::addr::UserAddr;
use crate::failed::Failed;
use crate::sgl::{Sgl, Window, WindowError};
use crate::store::Storage;
use crate::sync::{Acquire, AtomicBool, AtomicUsize, Relaxed};
use crate::umem::access::{self, AccessError, AccessHolder};
use crate::umem::batch::RunSlot;
use crate::umem::charge::AccountantHolder;
use crate::umem::charge::Charge;
use crate::umem::error::PinError;
use crate::umem::flags::PinFlags;
use crate::umem::pin::{charge, pin_list, PinRequest};
use crate::umem::pinned_batch::{report_leaked, unpin_list};
use crate::umem::pinner::PinnerHolder;
use crate::umem::range::UserRange;
use crate::umem::region::RegionExt;
use core::{
    fmt,
    mem::ManuallyDrop,
    ops::{ControlFlow, Range},
};

pub use split::SplitError;

/// A region of user memory that is pinned: all of its pages, charged and listed.
///
/// ```text
///  user range          ├──────────── len ────────────┤
///  pages      ├─────────┼─────────┼─────────┼─────────┤   pinned, every one of them
///             ├────────┤ page_offset
///  Sgl        [ run ][ run          ][ run            ]   where they are in memory
/// ```
///
/// It is pinned whole or not at all. It is unpinned when it is dropped, unless a device is still
/// attached: that can only be where a mapping was leaked, and then the pins, the charge and the
/// holder of the pinner are leaked, too. Memory that a device may still write is never given back.
///
/// Its pages are marked dirty on the way out if a device could ever write to them, or if
/// [`mark_dirty`](crate::umem::Region::mark_dirty) was called.
///
/// `P` holds the [`Pinner`](crate::umem::Pinner), `A` the [`Accountant`](crate::umem::Accountant), and the
/// list lives in `S`. What can be asked of it and how devices are attached is the trait
/// [`Region`](crate::umem::Region). Several devices may be attached to one region, which is pinned and
/// charged once.
///
/// ```
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::umem::{Account, PinFlags, PinRequest, Region, Umem, UserRange};
/// use pinned_sgl::UserAddr;
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x2_0000)?;
/// process.map(range, Vma::read_write())?;
///
/// let account = Arc::new(Account::new(100));
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Umem::pin(process, account.clone(), request)?;
/// assert_eq!((umem.len(), umem.sgl().run_count(), account.charged()), (0x2_0000, 1, 32));
/// umem.write(0x1_0000, b"bytes")?;
/// assert!(umem.is_dirty());
///
/// drop(umem);
/// assert_eq!((memory.pinned_pages(), account.charged()), (0, 0));
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    // Invariant: each page of `sgl` has one pin that is ours, for the user pages from the first of
    // `range` on, until `give_back` takes it back.
    pinner: ManuallyDrop<P>,
    charge: ManuallyDrop<Charge<A>>,
    sgl: ManuallyDrop<Sgl<S>>,
    range: UserRange,
    flags: PinFlags,
    attachments: AtomicUsize,
    dirty: AtomicBool,
}

impl<P, A, S> Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    /// Pins a region, with the list in `storage`, through batches in the memory of `slots`: a page of
    /// 4 KiB has 128 of them. O(pages).
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::UserAddr;
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// use pinned_sgl::Pool;
    /// let (mut memory, mut slots) = ([[0; 512]; 4], [None; 16]);
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin_in(process, &Unaccounted, Pool::new(&mut memory), &mut slots, request);
    /// assert_eq!(umem.unwrap().sgl().page_count(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PinError`], with the pinner; nothing is pinned or charged then.
    pub fn pin_in<F>(
        pinner: P,
        accountant: A,
        storage: S,
        slots: &mut [RunSlot],
        request: PinRequest<F>,
    ) -> Result<Self, Failed<PinError<P::Error>, P>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let (range, flags) = (request.range, request.flags);
        let mut charge = match charge(&*pinner, accountant, range, flags) {
            Ok(charge) => charge,
            Err(error) => return Err(Failed::new(error, pinner)),
        };
        // If this fails or unwinds, all has been unpinned when the charge is given back.
        match pin_list(&*pinner, request, storage, slots, &mut charge) {
            Ok(sgl) => Ok(Self::of(pinner, charge, sgl, range, flags)),
            Err(error) => Err(Failed::new(error, pinner)),
        }
    }

    /// Puts the parts together: each page of the list has one pin, for the user pages from the first of `range` on.
    #[inline]
    pub(in crate::umem) fn of(
        pinner: P,
        charge: Charge<A>,
        sgl: Sgl<S>,
        range: UserRange,
        flags: PinFlags,
    ) -> Self {
        Self {
            pinner: ManuallyDrop::new(pinner),
            charge: ManuallyDrop::new(charge),
            sgl: ManuallyDrop::new(sgl),
            range,
            flags,
            attachments: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
        }
    }

    /// The frames of the region.
    #[inline]
    #[must_use]
    pub fn sgl(&self) -> &Sgl<S> {
        &self.sgl
    }

    /// The bytes of the region: never zero.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub const fn len(&self) -> u64 {
        self.range.len()
    }

    /// The offset of the first byte in the first page.
    #[inline]
    #[must_use]
    pub fn page_offset(&self) -> u64 {
        self.range.page_offset(self.sgl.page_size())
    }

    /// The bytes `range` of the region.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0800), 0x3000)?)?;
    /// let window = umem.window(0x1000..0x2000)?;
    /// assert_eq!((window.len(), window.page_offset()), (0x1000, 0x800));
    /// assert!(umem.window(0x2000..0x3001).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the range is empty or reaches beyond the region.
    pub fn window(&self, range: Range<u64>) -> Result<Window<'_, S>, WindowError> {
        RegionExt::window(self, range)
    }

    /// All bytes of the region.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0800), 0x3000)?)?;
    /// assert_eq!((umem.whole()?.len(), umem.sgl().byte_len()), (0x3000, 0x4000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WindowError`] if the list has fewer: if its storage or its pinner broke its contract.
    pub fn whole(&self) -> Result<Window<'_, S>, WindowError> {
        RegionExt::whole(self)
    }

    /// The bytes of the process that are pinned.
    #[inline]
    #[must_use]
    pub const fn user_range(&self) -> UserRange {
        self.range
    }

    /// How they were pinned.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> PinFlags {
        self.flags
    }

    /// What was charged.
    #[inline]
    #[must_use]
    pub fn charge(&self) -> &Charge<A> {
        &self.charge
    }

    /// What has pinned the pages.
    #[inline]
    #[must_use]
    pub fn pinner(&self) -> &P {
        &self.pinner
    }

    /// How many devices are attached. A caller that sees the count fall also sees all that was
    /// done before it was detached.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x3000)?)?;
    /// let iommu = std::sync::Arc::new(memory.iommu("4K".parse()?));
    /// let mapping = Mapping::map(umem.clone(), iommu, pinned_sgl::Iova::new(0), Prot::READ)?;
    /// assert_eq!(umem.attachments(), 1);
    /// drop(mapping);
    /// assert_eq!(umem.attachments(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attachments(&self) -> usize {
        self.attachments.load(Acquire)
    }

    /// Counts the memory as written for ever: see [`Region::mark_dirty`](crate::umem::Region::mark_dirty).
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x1000)?)?;
    /// let page = umem.sgl().runs().next().ok_or("no page")?.start();
    /// let process = umem.pinner().clone(); // without it the page would be free, not dirty
    /// umem.mark_dirty();
    /// drop(umem);
    /// assert!(memory.is_dirty(page));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mark_dirty(&self) {
        // Read when the region is dropped, which the dropping thread has ordered after this.
        self.dirty.store(true, Relaxed);
    }

    /// Whether the pages will be marked dirty when they are unpinned.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Relaxed)
    }

    /// Unpins the region now, and gives the holder of its pinner back.
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::UserAddr;
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin(process, &Unaccounted, request)?;
    /// let process = umem.unpin().expect("no device is attached");
    /// assert_eq!(process.pins_at(range.start()), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The region, if a device is attached to it; it stays pinned and charged.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub fn unpin(self) -> Result<P, Self> {
        if self.attachments() != 0 {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "called at most once, with no device attached": `this` is not dropped, and was
        // found to have no attachments; it is held by value, so none can be added.
        Ok(unsafe { this.give_back() })
    }

    /// Unpins all pages, then frees the list, then gives the charge back; returns the pinner. What
    /// unwinds on the way leaks what comes later, and unpins nothing twice.
    ///
    /// # Safety
    ///
    /// Called at most once, with no device attached; nothing of the region is used afterwards.
    unsafe fn give_back(&mut self) -> P {
        let (start, dirty) = (self.first_page(), self.is_dirty());
        // SAFETY:
        // - "each page of the run was pushed to a batch by `pin`, for the user address that follows
        //   from `at`, and its pin has not been taken back": by the invariant, and as the caller
        //   promises that this is the first call;
        // - "no device can reach the page": the caller promises that no device is attached.
        unsafe { unpin_list(&**self.pinner, start, &self.sgl, dirty) };
        // SAFETY: "the container is not used again": as the caller promises, each of them.
        let (pinner, charge) =
            unsafe { (ManuallyDrop::take(&mut self.pinner), ManuallyDrop::take(&mut self.charge)) };
        // SAFETY: as above. It is large, and not moved.
        unsafe { ManuallyDrop::drop(&mut self.sgl) };
        drop(charge);
        pinner
    }

    /// The user page that holds the first byte.
    fn first_page(&self) -> UserAddr {
        self.range.first_page(self.sgl.page_size())
    }

    /// Copies bytes of the region from `offset` on. O(log runs + bytes).
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0800), 0x3000)?)?;
    /// umem.pinner().write(UserAddr::new(0x10_0ffe), b"across")?;
    /// let mut bytes = [0; 6];
    /// umem.read(0x7fe, &mut bytes)?;
    /// assert_eq!(&bytes, b"across");
    /// assert!(umem.read(0x2ffb, &mut bytes).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AccessError`], with the offset at which it stopped.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError<P::AccessError>>
    where
        P: AccessHolder,
    {
        // SAFETY: "all pages of the region are pinned by `access`, at the user addresses that the
        // region has": by the invariant, as long as the region is borrowed.
        unsafe { access::read(self, &**self.pinner, offset, bytes) }
    }

    /// Copies bytes into the region from `offset` on; it counts as written. O(log runs + bytes).
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let memory = Memory::with_frames(64);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0800), 0x3000)?)?;
    /// umem.write(0x7fe, b"across")?;
    /// let mut bytes = [0; 6];
    /// umem.pinner().read(UserAddr::new(0x10_0ffe), &mut bytes)?;
    /// assert_eq!((&bytes, umem.is_dirty()), (b"across", true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AccessError`], with the offset at which it stopped; the bytes before it have been written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AccessError<P::AccessError>>
    where
        P: AccessHolder,
    {
        // SAFETY: "all pages of the region are pinned by `access`, at the user addresses that the
        // region has": by the invariant, as long as the region is borrowed; "where the region is
        // writable, its pages are pinned for writing": `is_writable` says so of the flags they were
        // pinned with.
        unsafe { access::write(self, &**self.pinner, offset, bytes) }
    }
}

#[cfg(feature = "alloc")]
impl<P, A> Umem<P, A, crate::store::Heap>
where
    P: PinnerHolder,
    A: AccountantHolder,
{
    /// Pins a region, with the list on the heap. O(pages).
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::UserAddr;
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin(process, &Unaccounted, request)?;
    /// assert_eq!((umem.len(), umem.sgl().page_count()), (0x4000, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PinError`], with the pinner; nothing is pinned or charged then.
    pub fn pin<F>(
        pinner: P,
        accountant: A,
        request: PinRequest<F>,
    ) -> Result<Self, Failed<PinError<P::Error>, P>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        use crate::store::Heap;
        use crate::umem::{batch, error::PinErrorKind, pinner::Pinner as _};
        if request.range.page_count(pinner.page_size()) <= batch::FEW.into() {
            let mut slots = [None; batch::FEW as usize];
            return Self::pin_in(pinner, accountant, Heap::new(), &mut slots, request);
        }
        let Some(mut slots) = batch::slots_on_the_heap() else {
            let at = request.range.first_page(pinner.page_size());
            return Err(Failed::new(PinError::new(PinErrorKind::OutOfMemory, at), pinner));
        };
        Self::pin_in(pinner, accountant, Heap::new(), &mut slots, request)
    }
}

impl<P, A, S> Drop for Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    fn drop(&mut self) {
        if self.attachments() != 0 {
            return report_leaked(&**self.pinner, self.first_page(), self.sgl.runs());
        }
        // SAFETY: "called at most once, with no device attached": `drop` is called once, and no
        // attachment was found; none can be added, as nothing else can reach the value.
        drop(unsafe { self.give_back() });
    }
}

impl<P, A, S> fmt::Debug for Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Umem")
            .field("range", &self.range)
            .field("flags", &self.flags)
            .field("charged", &self.charge.pages())
            .field("attachments", &self.attachments())
            .field("dirty", &self.is_dirty())
            .field("sgl", &*self.sgl)
            .finish_non_exhaustive()
    }
}
