// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Umem`]: a pinned region.

use super::access::{self, AccessError, PageAccess};
use super::batch::{unpin_runs, RunSlot};
use super::charge::{Accountant, Charge};
use super::error::{PinError, PinErrorKind};
use super::holder::Holder;
use super::pin::{PinRequest, Stopped, Unfinished};
use super::pinner::{PinFlags, Pinner};
use super::range::UserRange;
use super::region::{AttachError, Region};
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::sgl::{MemoryKind, Sgl, Storage};
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use core::{fmt, mem::ManuallyDrop, ops::ControlFlow, ptr};

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
/// [`mark_dirty`](Region::mark_dirty) was called.
///
/// `P` holds the [`Pinner`], `A` the [`Accountant`], and the list lives in `S`. What can be asked of
/// it and how devices are attached is the trait [`Region`]. Several devices may be attached to one
/// region, which is pinned and charged once.
///
/// ```
/// use pinned_sgl::mock::{Area, Memory, Process};
/// use pinned_sgl::umem::{Account, PinFlags, PinRequest, Region, Umem, UserRange};
/// use pinned_sgl::UserAddr;
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x2_0000)?;
/// process.map(range, Area::read_write())?;
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
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
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
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    /// Pins a region, with the list in `storage`, through batches in the memory of `slots`: a page of
    /// 4 KiB has 128 of them. O(pages).
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
    ) -> Result<Self, PinError<P>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let PinRequest { range, flags, mut progress } = request;
        Self::charge_and_pin(pinner, accountant, range, flags, |pinner| {
            let mut pinned = 0u64;
            let progress = |bytes| {
                pinned = pinned.saturating_add(bytes);
                progress(pinned)
            };
            Unfinished::pin(pinner, range, flags, storage, slots, progress)?.finish()
        })
    }

    /// Charges the region, lets `pin` pin it, and puts the parts together.
    pub(super) fn charge_and_pin(
        pinner: P,
        accountant: A,
        range: UserRange,
        flags: PinFlags,
        pin: impl FnOnce(&P::Target) -> Result<Sgl<S>, Stopped<<P::Target as Pinner>::Error>>,
    ) -> Result<Self, PinError<P>> {
        let page = pinner.page_size();
        let charge = match Charge::new(accountant, range.page_count(page)) {
            Ok(charge) => charge,
            Err(error) => {
                let (kind, at) = (PinErrorKind::Charge(error), range.first_page(page));
                return Err(PinError { kind, at, pinned: 0, pinner });
            }
        };
        // If this fails, all has been unpinned when it returns, and then the charge is given back.
        match pin(&*pinner) {
            Ok(sgl) => Ok(Self {
                pinner: ManuallyDrop::new(pinner),
                charge: ManuallyDrop::new(charge),
                sgl: ManuallyDrop::new(sgl),
                range,
                flags,
                attachments: AtomicUsize::new(0),
                dirty: AtomicBool::new(false),
            }),
            Err(Stopped { kind, at, pinned }) => Err(PinError { kind, at, pinned, pinner }),
        }
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

    /// Who has pinned the pages.
    #[inline]
    #[must_use]
    pub fn pinner(&self) -> &P {
        &self.pinner
    }

    /// How many devices are attached. Who does not find a device counted any more sees all that was
    /// done before it was detached.
    #[must_use]
    pub fn attachments(&self) -> usize {
        self.attachments.load(Ordering::Acquire)
    }

    /// Whether the pages will be marked dirty when they are unpinned.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Unpins the region now, and gives the holder of its pinner back.
    ///
    /// # Errors
    ///
    /// The region, if a device is attached to it.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub fn unpin(self) -> Result<P, Self> {
        if self.attachments() != 0 {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: no device is attached; `this` is not dropped, so this is the only call.
        unsafe { this.give_back() };
        // SAFETY: `give_back` leaves the pinner alone, and `this` is not used any more.
        Ok(unsafe { ptr::read(&raw const *this.pinner) })
    }

    /// Unpins all pages, then gives the charge back, then frees the list.
    ///
    /// # Safety
    ///
    /// Called at most once, with no device attached; the charge and the list are gone then.
    unsafe fn give_back(&mut self) {
        let (start, dirty) = (self.range.first_page(self.sgl.page_size()), self.is_dirty());
        // SAFETY: by the invariant the pins are ours; the caller says that no device is attached,
        // so nobody relies on them.
        unsafe { unpin_runs(&**self.pinner, start, self.sgl.runs(), dirty) };
        // SAFETY: they are not used again, as the caller promises.
        unsafe { ManuallyDrop::drop(&mut self.charge) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.sgl) };
    }

    /// Tells the pinner which pins are leaked.
    #[cold]
    fn tell_leaked(&self) {
        let page = self.sgl.page_size();
        self.sgl.runs().fold(self.range.first_page(page).get(), |at, run| {
            if run.kind() != MemoryKind::Mmio {
                self.pinner.leaked(UserAddr::new(at), run);
            }
            at.plus(run.count().shifted_up(page.shift()))
        });
    }

    /// Copies bytes of the region from `offset` on. O(log runs + bytes).
    ///
    /// # Errors
    ///
    /// [`AccessError`] with the offset at which it stopped.
    pub fn read(
        &self,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), AccessError<<P::Target as PageAccess>::Error>>
    where
        P::Target: PageAccess,
    {
        // SAFETY: the pages are pinned as long as the region is borrowed.
        unsafe { access::read(self, &**self.pinner, offset, bytes) }
    }

    /// Copies bytes into the region from `offset` on; it counts as written. O(log runs + bytes).
    ///
    /// # Errors
    ///
    /// [`AccessError`] with the offset at which it stopped; the bytes before it have been written.
    pub fn write(
        &self,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), AccessError<<P::Target as PageAccess>::Error>>
    where
        P::Target: PageAccess,
    {
        // SAFETY: the pages are pinned as long as the region is borrowed.
        unsafe { access::write(self, &**self.pinner, offset, bytes) }
    }
}

#[cfg(feature = "alloc")]
impl<P, A> Umem<P, A, crate::sgl::Heap>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
{
    /// Pins a region, with the list on the heap. O(pages).
    ///
    /// # Errors
    ///
    /// [`PinError`], with the pinner; nothing is pinned or charged then.
    pub fn pin<F>(pinner: P, accountant: A, request: PinRequest<F>) -> Result<Self, PinError<P>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let Some(mut slots) = super::batch::slots_on_the_heap() else {
            let at = request.range.first_page(pinner.page_size());
            return Err(PinError { kind: PinErrorKind::OutOfMemory, at, pinned: 0, pinner });
        };
        Self::pin_in(pinner, accountant, crate::sgl::Heap::new(), &mut slots, request)
    }
}

// SAFETY: the list, the range and the flags never change. An attachment is counted, and as long as
// there is one, `drop` unpins nothing: then the pins, and the holder of the pinner, are leaked. A
// writing device is refused unless the pages were pinned for writing.
unsafe impl<P, A, S> Region for Umem<P, A, S>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    type Storage = S;

    #[inline]
    fn sgl(&self) -> &Sgl<S> {
        &self.sgl
    }

    #[inline]
    fn page_offset(&self) -> u64 {
        self.range.page_offset(self.sgl.page_size())
    }

    #[inline]
    fn len(&self) -> u64 {
        self.range.len()
    }

    #[inline]
    fn is_writable(&self) -> bool {
        self.flags.contains(PinFlags::WRITE)
    }

    #[inline]
    fn user_addr(&self) -> Option<UserAddr> {
        Some(self.range.start())
    }

    fn mark_dirty(&self) {
        // Read when the region is dropped, which whoever drops it has put in order after this.
        self.dirty.store(true, Ordering::Relaxed);
    }

    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        if writable && !self.is_writable() {
            return Err(AttachError::ReadOnly);
        }
        let add = |count: usize| count.checked_add(1);
        let counted = self.attachments.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        counted.map(|_| ()).map_err(|_| AttachError::TooMany)
    }

    unsafe fn detach(&self) {
        // What the device did comes before the count is seen to be zero.
        self.attachments.fetch_sub(1, Ordering::Release);
    }
}

impl<P, A, S> Drop for Umem<P, A, S>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    fn drop(&mut self) {
        if self.attachments() != 0 {
            return self.tell_leaked();
        }
        // SAFETY: no device is attached, and `drop` is called once.
        unsafe { self.give_back() };
        // SAFETY: the pinner is not used again.
        unsafe { ManuallyDrop::drop(&mut self.pinner) };
    }
}

impl<P, A, S> fmt::Debug for Umem<P, A, S>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
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
