// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Memory`]: the memory of a process behind one mapping: what pins it, and what it is charged to.
//!
//! Pages are charged to `locked_vm` as they are pinned, so that whatever is wrong first, a hole or
//! the limit, is said. Pages that an emulated device has pinned by itself are paid for once.

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
pub(crate) use pinned_sgl::kernel::PAGE_SIZE;
use pinned_sgl::{
    kernel::{Counter, Kmalloc, MmAccountant, PinnedPages},
    sgl::MemoryKind,
    umem::{
        Accountant, ChargeError, PinBatch, PinFlags, PinRequest, Pinner, RunSlot, Umem, UserRange,
    },
    PageRun, PageSize, Pfn, UserAddr,
};

pub(crate) const PAGE: u64 = PAGE_SIZE.bytes();

/// A region that is pinned.
pub(crate) type Pinned = Umem<Arc<Memory>, Arc<Memory>, Kmalloc>;

/// Page pointers of one call: a page of memory.
const POINTERS: usize = 512;
/// Runs of one batch: a page of memory.
const SLOTS: usize = 128;
/// Pages for which nothing is allocated while they are pinned.
const FEW: usize = 8;

/// What is charged: its address space is also what is pinned of, and its limit is looked at before pages are charged.
pub(crate) struct Owner {
    accountant: MmAccountant,
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
            accountant: MmAccountant::new(task, Counter::Locked).ok_or(ENODEV)?,
            mm: mm.into(),
            task: task.group_leader().into(),
            may_lock: ffi::vfio_type1_may_lock(),
        })
    }

    fn charge(&self, pages: u64) -> Result {
        if pages == 0 {
            return Ok(());
        }
        Ok(self.accountant.charge(pages)?)
    }

    /// Whether `pages` more are allowed, as far as that can be said without a lock.
    fn may_charge(&self, pages: u64) -> bool {
        let (mm, task) = (self.mm.as_raw(), self.task.as_ptr());
        // SAFETY: both are held by `self`.
        self.may_lock || unsafe { ffi::vfio_type1_fits(mm, task, pages) }
    }

    /// Says in the log that a limit was in the way.
    fn refused(&self) -> Error {
        // SAFETY: it is held by `self`.
        unsafe { ffi::vfio_type1_limit_exceeded(self.task.as_ptr()) };
        ENOMEM
    }

    fn uncharge(&self, pages: u64) {
        if pages != 0 {
            self.accountant.uncharge(pages);
        }
    }
}

/// A page that an emulated device has pinned.
struct External {
    /// It has a pin, but where the memory of a device is mapped.
    page: PageRun,
    /// Whether it counts as locked memory.
    counts: bool,
    /// How often the device has pinned it.
    pins: u64,
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
    /// How many of `pages` from `offset` on are paid for because emulated devices have pinned them.
    fn paid_in(&self, offset: u64, pages: u64) -> u64 {
        let last = pages.checked_sub(1).and_then(|more| more.checked_mul(PAGE));
        let last = last.map_or(u64::MAX, |more| offset.saturating_add(more));
        let mut paid = 0u64;
        let mut from = Some(offset);
        while let Some(here) = from.and_then(|from| self.external.cursor_lower_bound(&from)) {
            let (at, known) = here.current();
            if *at > last {
                break;
            }
            paid = paid.saturating_add(known.counts.into());
            from = at.checked_add(PAGE);
        }
        paid
    }

    fn charge(&mut self, pages: u64) -> Result {
        let charged = self.charged.checked_add(pages).ok_or(EOVERFLOW)?;
        self.owner.charge(pages)?;
        self.charged = charged;
        Ok(())
    }

    fn uncharge(&mut self, pages: u64) {
        self.owner.uncharge(pages);
        self.charged = self.charged.saturating_sub(pages);
    }
}

/// The memory of one mapping.
#[pin_data(PinnedDrop)]
pub(crate) struct Memory {
    write: bool,
    #[pin]
    state: Mutex<State>,
}

/// What was found behind a user address.
enum Found {
    /// So many pages, each with a pin.
    Pages { count: usize, counts: bool },
    /// So many frames of a device, from this one on.
    Device { first: u64, count: u64 },
}

#[pinned_drop]
impl PinnedDrop for Memory {
    /// The driver of an emulated device has left pins behind: its device may still write there, so
    /// that the pages are never given back.
    fn drop(self: Pin<&mut Self>) {
        let state = self.state.lock();
        kernel::warn_on!(!state.external.is_empty());
        for (offset, left) in state.external.iter() {
            self.leaked(UserAddr::new(state.start.wrapping_add(*offset)), left.page);
        }
    }
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
    pub(crate) fn pin_all(self: &Arc<Self>, len: u64) -> Result<KBox<Pinned>> {
        let start = self.state.lock().start;
        let range = UserRange::new(UserAddr::new(start), len).map_err(|_| EOVERFLOW)?;
        let (mut few, mut many);
        let slots = if len >> PAGE_SIZE.shift() <= FEW as u64 {
            few = [RunSlot::None; FEW];
            &mut few[..]
        } else {
            many = KVec::from_elem(RunSlot::None, SLOTS, GFP_KERNEL_ACCOUNT)?;
            &mut many[..]
        };
        let request = PinRequest::new(range, self.flags());
        let storage = Kmalloc::new(GFP_KERNEL_ACCOUNT);
        let pinned = Umem::pin_in(self.clone(), self.clone(), storage, slots, request)?;
        Ok(KBox::new(pinned, GFP_KERNEL_ACCOUNT)?)
    }

    /// Pins up to as many pages as `pages` has room for; or finds frames of a device, up to `left`.
    fn find(
        &self,
        mm: &Mm,
        at: u64,
        left: u64,
        pages: &mut [*mut bindings::page],
    ) -> Result<Found> {
        let at = usize::try_from(at).map_err(|_| EFAULT)?;
        let mut found = ffi::Pages {
            room: u32::try_from(pages.len()).map_err(|_| EINVAL)?,
            pages: pages.as_mut_ptr(),
            left: usize::try_from(left).unwrap_or(usize::MAX),
            device: false,
            pfn: 0,
            reserved: false,
        };
        // SAFETY: `mm` is held by the caller, and there is room for as many pointers.
        let count = unsafe { ffi::vfio_type1_pin(mm.as_raw(), at, &mut found, self.write) };
        let count = usize::try_from(count)
            .map_err(|_| i32::try_from(count).map_or(EINVAL, Error::from_errno))?;
        if found.device {
            Ok(Found::Device { first: found.pfn, count: count as u64 })
        } else {
            Ok(Found::Pages { count, counts: !found.reserved })
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
    /// for it. Returns its frame, and whether it was pinned by this call.
    pub(crate) fn pin_page(&self, offset: u64, charge: bool) -> Result<(u64, bool)> {
        let mut state = self.state.lock();
        if let Some(known) = state.external.get_mut(&offset) {
            known.pins = known.pins.checked_add(1).ok_or(EOVERFLOW)?;
            return Ok((known.page.start().get(), false));
        }
        let reservation = kernel::rbtree::RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let mut page = [ptr::null_mut()];
        let at = state.start.checked_add(offset).ok_or(EFAULT)?;
        let (page, counts) = match self.find(&state.owner.mm, at, 1, &mut page)? {
            Found::Device { first, .. } if ffi::vfio_type1_page(first).is_null() => {
                return Err(EINVAL);
            }
            Found::Device { first, .. } => {
                let page = PageRun::page(Pfn::new(first), MemoryKind::Mmio);
                (page.map_err(|_| EOVERFLOW)?, false)
            }
            Found::Pages { counts, .. } => {
                // SAFETY: "each of `pages` points to the structure of a page that was pinned once": by `find`, for us.
                let mut pinned = unsafe { PinnedPages::new(&mut page) };
                if charge && counts {
                    let charged = state.charge(1);
                    charged.map_err(|error| match error {
                        ENOMEM => state.owner.refused(),
                        other => other,
                    })?;
                }
                (pinned.take_run().ok_or(EINVAL)?, counts)
            }
        };
        let pfn = page.start().get();
        let external = External { page, counts, pins: 1 };
        state.external.insert(reservation.into_node(offset, external));
        Ok((pfn, true))
    }

    /// Takes one pin of an emulated device back; the last one unpins the page.
    pub(crate) fn unpin_page(&self, offset: u64, uncharge: bool) {
        let mut state = self.state.lock();
        let Some(known) = state.external.get_mut(&offset) else {
            return;
        };
        known.pins = known.pins.saturating_sub(1);
        if known.pins > 0 {
            return;
        }
        let Some(known) = state.external.remove(&offset) else {
            return;
        };
        if known.page.kind() != MemoryKind::Mmio {
            // SAFETY: the pin is ours, and the device has just given it back.
            unsafe { PinnedPages::unpin(known.page, self.write) };
        }
        if uncharge {
            state.uncharge(known.counts.into());
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
        let (mm, at) = (state.owner.mm.clone(), state.start.checked_add(offset).ok_or(EFAULT)?);
        drop(state);
        let at = usize::try_from(at).map_err(|_| EFAULT)?;
        // SAFETY: `mm` is held; vfio has `len` bytes at `data`.
        to_result(unsafe { ffi::vfio_type1_copy(mm.as_raw(), at, data.cast(), len, write) })
    }
}

// SAFETY:
// - "each run are the frames of the next pages of the user range, in order, of the kind that they are, and
//   each of its pages carries one pin": GUP returns the pages so, and `PinnedPages` makes runs of them; what
//   GUP refuses is looked up in the page table of the process, and is of the kind that has no pins;
// - "a pinned page keeps its frame .. until it is unpinned as often as it was pinned": so does `FOLL_PIN`,
//   which knows of no pinner;
// - "a page that was pinned with `WRITE` may be written by a device, one that was pinned with `LONGTERM` may
//   stay pinned for ever": `vfio_type1_pin()` passes both on; all requests have the flags of `flags()`;
// - "`page_size` never changes": it is a constant;
// - "runs of `Mmio` .. must stay what they are": nothing holds them. That they do, as long as they are mapped, is
//   up to the program and whose device it is, as with the C backend;
// - "`pin` may unwind": a kernel does not unwind.
unsafe impl Pinner for Memory {
    type Error = Error;

    fn page_size(&self) -> PageSize {
        PAGE_SIZE
    }

    /// None: `pin` charges them itself, as it finds them.
    fn charged_pages(&self, _: UserRange) -> u64 {
        0
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result {
        let mut state = self.state.lock();
        let (mut few, mut many);
        let pointers = if batch.left() <= FEW as u64 {
            few = [ptr::null_mut(); FEW];
            &mut few[..]
        } else {
            many = KVec::from_elem(ptr::null_mut(), POINTERS, GFP_KERNEL)?;
            &mut many[..]
        };
        // Whether the last pages came in long runs, so that more of them than slots will fit.
        let mut smooth = false;
        // Pages to pay for. Those of a call are paid for at once, but looked at as they are found: it
        // is said what is wrong first, a hole or the limit.
        let mut pages = 0u64;
        while batch.left() > 0 && batch.room() > 0 {
            let most = if smooth { POINTERS } else { POINTERS.min(batch.room()) };
            let most = usize::try_from(batch.left()).unwrap_or(usize::MAX).min(most);
            let found = pointers.get_mut(..most).ok_or(EINVAL)?;
            let found = self.find(&state.owner.mm, batch.next().get(), batch.left(), found)?;
            let (count, counts) = match found {
                Found::Device { first, count } => {
                    let run = PageRun::new(Pfn::new(first), count, MemoryKind::Mmio);
                    // SAFETY: "the frames of these user pages, of the kind that they are, each with a pin": the
                    // page table of the process has them there; this kind has no pins.
                    if unsafe { batch.push(run.map_err(|_| EOVERFLOW)?) }.is_err() {
                        break;
                    }
                    continue;
                }
                Found::Pages { count, counts } => (count, counts),
            };
            // SAFETY: "each of `pages` points to the structure of a page that was pinned once": by `find`, just now.
            let mut pinned = unsafe { PinnedPages::new(pointers.get_mut(..count).ok_or(EINVAL)?) };
            let unpaid = |batch: &PinBatch<'_>, count: usize| {
                let offset = batch.next().get().saturating_sub(state.start);
                let count = if counts { count as u64 } else { 0 };
                count.saturating_sub(state.paid_in(offset, count))
            };
            let more = unpaid(batch, count);
            pages = pages.checked_add(more).ok_or(EOVERFLOW)?;
            if more > 0 && !state.owner.may_charge(pages) {
                return Err(state.owner.refused());
            }
            // SAFETY: "they are those of the user pages from `next` on, in order": `find` was asked for these.
            let runs = unsafe { pinned.give(batch) };
            if !pinned.is_empty() {
                // No room: these pages are unpinned, and pinned again for the next batch.
                pages = pages.saturating_sub(unpaid(batch, pinned.len()));
                break;
            }
            smooth = runs <= count >> 3;
        }
        state.charge(pages)
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: "each of them has a pin of the caller's that nothing relies on any more": the caller promises
        // that each was pushed by `pin` and not taken back, and that no device reaches it.
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
        let kept = state.paid_in(0, u64::MAX);
        let pages = state.charged.saturating_sub(kept);
        state.uncharge(pages);
    }
}
