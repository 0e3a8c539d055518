// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Memory`]: the memory of a process behind one mapping: who pins it, and who pays for it.
//!
//! Pages are charged to `locked_vm` as they are pinned, so that whatever is wrong first, a hole or
//! the limit, is told. Pages that an emulated device has pinned by itself are paid for once.

use crate::ffi;
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    mm::Mm,
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{aref::ARef, Arc, Mutex},
    task::Task,
};
use pinned_sgl::{
    kernel::{Pieces, PinnedPages},
    sgl::MemoryKind,
    umem::{
        Accountant, ChargeError, PinBatch, PinFlags, PinRequest, Pinner, RunSlot, Umem, UserRange,
    },
    PageRun, PageSize, Pfn, UserAddr,
};

pub(crate) const PAGE: u64 = bindings::PAGE_SIZE as u64;

/// A region that is pinned.
pub(crate) type Pinned = Umem<Arc<Memory>, Arc<Memory>, Pieces>;

/// Page pointers of one call: a page of memory.
const POINTERS: usize = 512;
/// Runs of one batch: a page of memory.
const SLOTS: usize = 128;

/// Who pays.
pub(crate) struct Owner {
    mm: ARef<Mm>,
    /// Whose limit counts.
    task: ARef<Task>,
    /// Whether it does not count, because of `CAP_IPC_LOCK`.
    may_lock: bool,
}

impl Owner {
    /// The calling process.
    pub(crate) fn current() -> Result<Self> {
        let task = current!();
        let mm: &Mm = task.mm().ok_or(ENODEV)?;
        Ok(Self {
            mm: mm.into(),
            task: task.group_leader().into(),
            may_lock: ffi::vfio_type1_may_lock(),
        })
    }

    fn charge(&self, pages: u64) -> Result {
        if pages == 0 {
            return Ok(());
        }
        let (mm, task) = (self.mm.as_raw(), self.task.as_ptr());
        // SAFETY: both are held by `self`.
        to_result(unsafe { ffi::vfio_type1_charge(mm, task, self.may_lock, pages) })
    }

    /// Whether `pages` more are allowed, as far as that can be said without a lock.
    fn may_charge(&self, pages: u64) -> bool {
        let (mm, task) = (self.mm.as_raw(), self.task.as_ptr());
        // SAFETY: both are held by `self`.
        self.may_lock || unsafe { ffi::vfio_type1_fits(mm, task, pages) }
    }

    fn uncharge(&self, pages: u64) {
        if pages != 0 {
            // SAFETY: both are held by `self`.
            unsafe { ffi::vfio_type1_uncharge(self.mm.as_raw(), self.task.as_ptr(), pages) };
        }
    }
}

/// A page that an emulated device has pinned.
struct External {
    /// It has a pin, but where the memory of a device is mapped.
    page: PageRun,
    count: u32,
}

impl External {
    fn is_pinned(&self) -> bool {
        self.page.kind() != MemoryKind::Mmio
    }
}

struct State {
    owner: Owner,
    /// Where the memory begins in the process.
    start: u64,
    /// Pages that are paid for.
    charged: u64,
    /// Pages that emulated devices have pinned, by their offset.
    external: RBTree<u64, External>,
}

impl State {
    /// How many of the pages in `offset..offset + len` emulated devices have pinned.
    fn external_in(&self, offset: u64, len: u64) -> u64 {
        let mut pages = 0;
        let mut from = offset;
        while let Some(here) = self.external.cursor_lower_bound(&from) {
            let (at, known) = here.current();
            if at.wrapping_sub(offset) >= len {
                break;
            }
            pages += u64::from(known.is_pinned());
            from = at.wrapping_add(PAGE);
        }
        pages
    }

    fn charge(&mut self, pages: u64) -> Result {
        self.owner.charge(pages)?;
        self.charged += pages;
        Ok(())
    }

    fn uncharge(&mut self, pages: u64) {
        self.owner.uncharge(pages);
        self.charged = self.charged.saturating_sub(pages);
    }
}

/// The memory of one mapping.
#[pin_data]
pub(crate) struct Memory {
    write: bool,
    #[pin]
    state: Mutex<State>,
}

/// What was found behind a user address.
enum Found {
    /// So many pages, each with a pin.
    Pages(usize),
    /// So many frames of a device, from this one on.
    Device(u64, u64),
}

impl Memory {
    /// The memory of the calling process from `start` on.
    pub(crate) fn new(start: u64, write: bool) -> Result<Arc<Self>> {
        let external = RBTree::new();
        let state = State { owner: Owner::current()?, start, charged: 0, external };
        Arc::pin_init(
            pin_init!(Self { write, state <- new_mutex!(state) }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn flags(&self) -> PinFlags {
        if self.write {
            PinFlags::LONGTERM | PinFlags::WRITE
        } else {
            PinFlags::LONGTERM
        }
    }

    /// Pins `len` bytes, whole pages, from the beginning on.
    pub(crate) fn pin_all(self: &Arc<Self>, len: u64) -> Result<Pinned> {
        let start = self.state.lock().start;
        let range = UserRange::new(UserAddr::new(start), len).map_err(|_| EOVERFLOW)?;
        let slots = usize::try_from(len / PAGE).map_or(SLOTS, |pages| pages.clamp(1, SLOTS));
        let mut slots = KVec::from_elem(RunSlot::None, slots, GFP_KERNEL_ACCOUNT)?;
        let request = PinRequest::new(range, self.flags());
        let storage = Pieces::new(GFP_KERNEL_ACCOUNT);
        Ok(Umem::pin_in(self.clone(), self.clone(), storage, &mut slots, request)?)
    }

    /// Pins up to as many pages as `pages` has room for.
    fn find(&self, mm: &Mm, at: u64, pages: &mut [*mut bindings::page]) -> Result<Found> {
        let at = usize::try_from(at).map_err(|_| EFAULT)?;
        let count = u32::try_from(pages.len()).map_err(|_| EINVAL)?;
        let mut pfn = 0;
        // SAFETY: `mm` is held by the caller, and there is room for as many pointers.
        let found = unsafe {
            ffi::vfio_type1_pin(mm.as_raw(), at, count, self.write, pages.as_mut_ptr(), &mut pfn)
        };
        let count = usize::try_from(found)
            .map_err(|_| i32::try_from(found).map_or(EINVAL, Error::from_errno))?;
        match pages.first() {
            Some(first) if first.is_null() => Ok(Found::Device(pfn, count as u64)),
            Some(_) if count > 0 => Ok(Found::Pages(count)),
            _ => Err(EFAULT),
        }
    }

    /// Whether an emulated device has pinned anything.
    pub(crate) fn has_external(&self) -> bool {
        !self.state.lock().external.is_empty()
    }

    /// Calls `each` with the offsets of all pages that emulated devices have pinned.
    pub(crate) fn each_external(&self, mut each: impl FnMut(u64)) {
        self.state.lock().external.keys().for_each(|offset| each(*offset));
    }

    /// Pins a page for an emulated device; once more, if it is pinned. `charge` if nothing else pays
    /// for it. Tells its frame, and whether it was pinned by this call.
    pub(crate) fn pin_page(&self, offset: u64, charge: bool) -> Result<(u64, bool)> {
        let mut state = self.state.lock();
        if let Some(known) = state.external.get_mut(&offset) {
            known.count += 1;
            return Ok((known.page.start().get(), false));
        }
        let reservation = kernel::rbtree::RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let mut page = [ptr::null_mut()];
        let at = state.start.wrapping_add(offset);
        let page = match self.find(&state.owner.mm, at, &mut page)? {
            Found::Device(pfn, _) if ffi::vfio_type1_page(pfn).is_null() => return Err(EINVAL),
            Found::Device(pfn, _) => {
                PageRun::page(Pfn::new(pfn), MemoryKind::Mmio).map_err(|_| EOVERFLOW)?
            }
            Found::Pages(_) => {
                // SAFETY: it was pinned once, for us.
                let mut pinned = unsafe { PinnedPages::new(&mut page) };
                if charge {
                    state.charge(1)?;
                }
                pinned.take_run().ok_or(EINVAL)?
            }
        };
        let pfn = page.start().get();
        state.external.insert(reservation.into_node(offset, External { page, count: 1 }));
        Ok((pfn, true))
    }

    /// Takes one pin of an emulated device back; the last one unpins the page.
    pub(crate) fn unpin_page(&self, offset: u64, uncharge: bool) {
        let mut state = self.state.lock();
        let Some(known) = state.external.get_mut(&offset) else {
            return;
        };
        known.count = known.count.saturating_sub(1);
        if known.count > 0 {
            return;
        }
        if let Some(known) = state.external.remove(&offset).filter(External::is_pinned) {
            // SAFETY: the pin is ours, and the device has just given it back.
            unsafe { PinnedPages::unpin(known.page, self.write) };
            if uncharge {
                state.uncharge(1);
            }
        }
    }

    /// The memory lies at `start` of the calling process from now on, which pays for it.
    pub(crate) fn move_to(&self, start: u64) -> Result {
        let mut state = self.state.lock();
        let owner = Owner::current()?;
        if owner.mm.as_raw() != state.owner.mm.as_raw() {
            owner.charge(state.charged)?;
            let old = core::mem::replace(&mut state.owner, owner);
            old.uncharge(state.charged);
        }
        state.start = start;
        Ok(())
    }

    /// Copies bytes of the process itself, as an emulated device does.
    pub(crate) fn copy(&self, offset: u64, data: *mut u8, len: usize, write: bool) -> Result {
        let state = self.state.lock();
        let (mm, at) = (state.owner.mm.clone(), state.start.wrapping_add(offset));
        drop(state);
        let at = usize::try_from(at).map_err(|_| EFAULT)?;
        // SAFETY: `mm` is held; vfio has `len` bytes at `data`.
        to_result(unsafe { ffi::vfio_type1_copy(mm.as_raw(), at, data.cast(), len, write) })
    }
}

// SAFETY: GUP tells the pages of the user range in order, each with a pin of its own that lasts until
// it is taken back, for writing and for long as the flags say, which are those of `flags()`. Frames of
// a device are of the kind that is never unpinned: nothing holds them, and that they stay what they
// are, as long as they are mapped, is up to the program and whose device it is, as with the C backend.
unsafe impl Pinner for Memory {
    type Error = Error;

    fn page_size(&self) -> PageSize {
        const SIZE: PageSize = match PageSize::new(PAGE) {
            Some(size) => size,
            None => PageSize::SIZE_4K,
        };
        SIZE
    }

    fn pin(&self, batch: &mut PinBatch<'_, Self>) -> Result {
        let mut state = self.state.lock();
        let most = usize::try_from(batch.left()).unwrap_or(usize::MAX).min(POINTERS);
        let mut pointers = KVec::from_elem(ptr::null_mut(), most, GFP_KERNEL)?;
        // Whether the last pages came in long runs, so that more of them than slots will fit.
        let mut smooth = false;
        // Pages to pay for. Those of a call are paid for at once, but looked at as they are found: it
        // is told what is wrong first, a hole or the limit.
        let mut pages = 0;
        while batch.left() > 0 && batch.room() > 0 {
            let most = if smooth { most } else { most.min(batch.room()) };
            let most = usize::try_from(batch.left()).unwrap_or(usize::MAX).min(most);
            let found = pointers.get_mut(..most).ok_or(EINVAL)?;
            let found = match self.find(&state.owner.mm, batch.next().get(), found)? {
                Found::Device(pfn, count) => {
                    let run = PageRun::new(Pfn::new(pfn), count, MemoryKind::Mmio);
                    // SAFETY: the page table of the process has these frames there.
                    if unsafe { batch.push(run.map_err(|_| EOVERFLOW)?) }.is_err() {
                        break;
                    }
                    continue;
                }
                Found::Pages(count) => count,
            };
            // SAFETY: each was pinned once, for us.
            let mut pinned = unsafe { PinnedPages::new(pointers.get_mut(..found).ok_or(EINVAL)?) };
            let unpaid = |batch: &PinBatch<'_, Self>, count: usize| {
                let offset = batch.next().get().wrapping_sub(state.start);
                count as u64 - state.external_in(offset, count as u64 * PAGE)
            };
            pages += unpaid(batch, found);
            if !state.owner.may_charge(pages) {
                return Err(ENOMEM);
            }
            // SAFETY: GUP has pinned these pages for the user pages from `next` on, in order.
            let runs = unsafe { pinned.give(batch) };
            if !pinned.is_empty() {
                // No room: these pages are unpinned, and pinned again for the next batch.
                pages -= unpaid(batch, pinned.len());
                break;
            }
            smooth = runs * 8 <= found;
        }
        state.charge(pages)
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: the caller says that each page has a pin of ours that nobody relies on.
        unsafe { PinnedPages::unpin(run, dirty) };
    }

    fn leaked(&self, at: UserAddr, run: PageRun) {
        pr_err!(
            "{} pages from frame {:#x} on, of user address {:#x}, stay pinned for ever\n",
            run.count(),
            run.start().get(),
            at.get()
        );
    }
}

impl Accountant for Memory {
    /// Pages are charged when they are pinned: only then is it known which of them count.
    fn charge(&self, _: u64) -> Result<(), ChargeError> {
        Ok(())
    }

    /// What is still pinned afterwards was pinned by emulated devices.
    fn uncharge(&self, _: u64) {
        let mut state = self.state.lock();
        let kept = state.external_in(0, u64::MAX);
        let pages = state.charged.saturating_sub(kept);
        state.uncharge(pages);
    }
}
