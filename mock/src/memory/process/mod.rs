// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Process`]: an address space whose pages can be pinned.
#![forbid(unsafe_code)]

mod moves;

use crate::memory::dma::parts;
use crate::memory::fault::{PinFault, Want};
use crate::memory::folios::{State, Unmoved};
use crate::memory::frame::Frame;
use crate::memory::machine::{Inner, Memory};
use crate::memory::page_table::{Entry, PageTable};
use crate::memory::vma::{Backing, Slice, Vma, VmaError, Vmas};
use crate::memory::zone::Zone;
use crate::sync::{has_failed, lock, AtomicU64, Mutex, Ordering};
use pinned_sgl::umem::UserRange;
use pinned_sgl::{Pfn, RangeError, UserAddr};
use std::sync::Arc;
use std::{fmt, ops::Range};

/// A process: an address space in a [`Memory`], and a [`Pinner`](pinned_sgl::umem::Pinner) of its pages.
///
/// Pages get their frames when they are first touched or pinned. Dropping the process unmaps
/// everything; a frame that is pinned then is freed by its last unpin.
///
/// ```
/// use pinned_sgl_mock::{Vma, Memory, PinFault, Process};
/// use pinned_sgl::{umem::UserRange, UserAddr};
/// let memory = Memory::with_frames(16);
/// let process = Process::new(&memory);
/// let at = UserAddr::new(0x10_0000);
/// process.map(UserRange::new(at, 0x2000)?, Vma::read_write())?;
/// process.write(UserAddr::new(0x10_0fff), b"across")?;
///
/// let child = process.fork()?;
/// child.write(UserAddr::new(0x10_1000), b"****")?;
/// let mut bytes = [0; 6];
/// process.read(UserAddr::new(0x10_0fff), &mut bytes)?;
/// assert_eq!(&bytes, b"across");
/// assert_eq!(process.frame_at(at), child.frame_at(at));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Locks are taken in this order: VMAs, memory. Pinning a page that is there takes none but a look
/// at the VMAs.
pub struct Process {
    pub(in crate::memory) memory: Memory,
    pub(in crate::memory) vmas: Mutex<Vmas>,
    /// Pages that one call pins at most.
    pub(in crate::memory) pin_limit: AtomicU64,
    /// One more than the pages after which the next call that pins is interrupted; or 0.
    interrupt: AtomicU64,
    pub(in crate::memory) largest_order: AtomicU64,
}

impl Process {
    /// A process with an empty address space.
    #[must_use]
    pub fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            vmas: Mutex::new(Vmas::default()),
            pin_limit: AtomicU64::new(u64::MAX),
            interrupt: AtomicU64::new(0),
            largest_order: AtomicU64::new(0),
        }
    }

    /// The memory that it lives in.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Maps whole pages, as many as there are. None of them is in a frame yet, nor costs anything.
    ///
    /// # Errors
    ///
    /// [`VmaError`]; nothing has changed then.
    pub fn map(&self, range: UserRange, vma: Vma) -> Result<(), VmaError> {
        self.map_pages(self.whole_pages(range)?, vma)
    }

    /// Maps pages that are these frames, in this order, all of which must be free; returns where the pages
    /// are. So a test has the very page list that it wants, or a fuzzer one that it has made up.
    ///
    /// Each frame is a folio of its own. What is moved later, or swapped out and in again, goes wherever
    /// there is room, and so do frames of a [zone](super::Zone) in which pages are not pinned for long,
    /// when that is done to them.
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
    /// # use pinned_sgl::{Pfn, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// let memory = Memory::builder().zone(Default::default(), 0..0x100).build()?;
    /// let process = Process::new(&memory);
    /// let frames = [7, 8, 3].map(Pfn::new);
    /// let range = process.map_frames(UserAddr::new(0x10_0000), &frames, Vma::read_write())?;
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin(Box::new(process), &Unaccounted, request)?;
    /// assert!(umem.whole()?.pages().eq(frames));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`VmaError`], with the first frame that is not free; nothing has changed then.
    pub fn map_frames(
        &self,
        at: UserAddr,
        frames: &[Pfn],
        vma: Vma,
    ) -> Result<UserRange, VmaError> {
        let inner = &self.memory.inner;
        let len = (frames.len() as u64).checked_mul(inner.page.bytes()).ok_or(RangeError::Wraps);
        let range = len.and_then(|len| UserRange::new(at, len)).map_err(VmaError::Range)?;
        self.map_table(self.whole_pages(range)?, vma, |table| {
            let mut state = lock(&inner.state);
            for (done, pfn) in frames.iter().enumerate() {
                if inner.alloc_at(&mut state, pfn.get()).is_none() {
                    frames.iter().take(done).for_each(|pfn| inner.let_go(&mut state, pfn.get()));
                    return Err(VmaError::NotFree(*pfn));
                }
            }
            for (index, pfn) in (0..).zip(frames.iter().map(|pfn| pfn.get())) {
                state.add_map(pfn, pfn, table, index);
                table.set(index, Entry::present(pfn, true));
            }
            Ok(())
        })?;
        Ok(range)
    }

    pub(in crate::memory) fn map_pages(&self, pages: Range<u64>, vma: Vma) -> Result<(), VmaError> {
        self.map_table(pages, vma, |_| Ok(()))
    }

    /// Maps pages, which `fill` puts into frames, if they are to be in any.
    fn map_table(
        &self,
        pages: Range<u64>,
        vma: Vma,
        fill: impl FnOnce(&Arc<PageTable>) -> Result<(), VmaError>,
    ) -> Result<(), VmaError> {
        let mut vmas = lock(&self.vmas);
        if let Some(taken) = vmas.first_in(pages.start, pages.end) {
            return Err(VmaError::Overlap(self.addr_of(taken)));
        }
        let count = pages.end.saturating_sub(pages.start);
        let table = Arc::new(PageTable::new(count));
        fill(&table)?;
        let slice = Slice { table, user: Arc::new(()), first: 0, pages: count, vma };
        vmas.insert(pages.start, slice);
        self.largest_order.fetch_max(vma.order.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Unmaps whole pages, where there are any; a hole is left. Frames that are pinned keep their
    /// contents until their last unpin.
    ///
    /// # Errors
    ///
    /// [`VmaError::Misaligned`]; nothing has changed then.
    pub fn unmap(&self, range: UserRange) -> Result<(), VmaError> {
        let pages = self.whole_pages(range)?;
        self.unmap_pages(pages);
        Ok(())
    }

    /// Unmaps everything.
    pub fn exit(&self) {
        self.unmap_pages(0..u64::MAX);
    }

    fn unmap_pages(&self, pages: Range<u64>) {
        let mut vmas = lock(&self.vmas);
        let removed = vmas.remove(pages.start, pages.end);
        let mut state = lock(&self.memory.inner.state);
        for slice in removed {
            let (from, to) = match slice.vma.backing {
                Backing::Shared if Arc::strong_count(&slice.user) > 1 => continue,
                // The last process that shares the pages lets go of all.
                Backing::Shared => (0, slice.table.pages()),
                Backing::Private | Backing::FromZero => {
                    (slice.first, slice.first.saturating_add(slice.pages))
                }
            };
            for (index, _) in slice.table.entries(from, to) {
                self.memory.inner.clear(&mut state, &slice.table, index);
            }
        }
    }

    /// Makes whole pages writable or not, where there are any (`mprotect`).
    ///
    /// # Errors
    ///
    /// [`VmaError::Misaligned`]; nothing has changed then.
    pub fn protect(&self, range: UserRange, writable: bool) -> Result<(), VmaError> {
        let pages = self.whole_pages(range)?;
        let mut vmas = lock(&self.vmas);
        vmas.carve(pages.start, pages.end).for_each(|slice| slice.vma.writable = writable);
        Ok(())
    }

    /// A child with the same address space. Private pages are shared until one of the two writes;
    /// those that are pinned are copied now, so that this process keeps the frames that its devices
    /// know.
    ///
    /// # Errors
    ///
    /// [`PinFault::NoMemory`] if there is no frame for such a copy; there is no child then.
    pub fn fork(&self) -> Result<Self, PinFault> {
        let child = Self::new(&self.memory);
        let (vmas, mut state) = (lock(&self.vmas), lock(&self.memory.inner.state));
        let mut failed = None;
        let mut copies = Vmas::default();
        for (start, slice) in vmas.iter() {
            let mut copy = slice.clone();
            if slice.vma.backing != Backing::Shared {
                copy.table = Arc::new(PageTable::new(slice.pages));
                copy.user = Arc::new(());
                copy.first = 0;
                failed = self.memory.inner.share(&mut state, slice, &copy.table);
            }
            copies.insert(start, copy);
            if let Some(index) = failed {
                failed = Some(start.saturating_add(index));
                break;
            }
        }
        // The child is dropped without these locks if it is not complete: it takes them itself.
        drop((vmas, state));
        *lock(&child.vmas) = copies;
        let order = self.largest_order.load(Ordering::Relaxed);
        child.largest_order.store(order, Ordering::Relaxed);
        match failed {
            Some(page) => Err(PinFault::NoMemory(self.addr_of(page))),
            None => Ok(child),
        }
    }

    /// Faults in all pages that hold a byte of the range, to be read or written.
    ///
    /// # Errors
    ///
    /// [`PinFault`] for the first page that cannot be; those before it are there.
    pub fn touch(&self, range: UserRange, write: bool) -> Result<(), PinFault> {
        let vmas = lock(&self.vmas);
        let mut state = lock(&self.memory.inner.state);
        for page in self.pages_of(range) {
            self.ready(&vmas, &mut state, page, Want::cpu(write))?;
        }
        Ok(())
    }

    /// Reads as the CPU of the process does: absent pages are faulted in.
    ///
    /// # Errors
    ///
    /// [`PinFault`] for the first page that cannot be read.
    pub fn read(&self, from: UserAddr, bytes: &mut [u8]) -> Result<(), PinFault> {
        let vmas = lock(&self.vmas);
        let mut state = lock(&self.memory.inner.state);
        for part in parts(from.get(), bytes.len(), self.shift()) {
            let (page, offset, range) = part.ok_or(PinFault::NotMapped(from))?;
            let entry = self.ready(&vmas, &mut state, page, Want::cpu(false))?;
            if let (Some(pfn), Some(bytes)) = (entry.pfn(), bytes.get_mut(range)) {
                self.memory.inner.contents.read(pfn, offset, bytes);
            }
        }
        Ok(())
    }

    /// Writes as the CPU of the process does: absent pages are faulted in, shared ones are copied.
    ///
    /// # Errors
    ///
    /// [`PinFault`] for the first page that cannot be written; those before it have been.
    pub fn write(&self, to: UserAddr, bytes: &[u8]) -> Result<(), PinFault> {
        let vmas = lock(&self.vmas);
        let mut state = lock(&self.memory.inner.state);
        for part in parts(to.get(), bytes.len(), self.shift()) {
            let (page, offset, range) = part.ok_or(PinFault::NotMapped(to))?;
            let entry = self.ready(&vmas, &mut state, page, Want::cpu(true))?;
            if let (Some(pfn), Some(bytes)) = (entry.pfn(), bytes.get(range)) {
                self.memory.inner.contents.write(pfn, offset, bytes);
            }
        }
        Ok(())
    }

    fn ready(
        &self,
        vmas: &Vmas,
        state: &mut State,
        page: u64,
        want: Want,
    ) -> Result<Entry, PinFault> {
        let at = self.addr_of(page);
        let found = vmas.find(page).ok_or(PinFault::NotMapped(at))?;
        self.memory.inner.make_ready(state, &found, want, at)
    }

    /// The frame of the page at this address, if it is in one.
    #[must_use]
    pub fn frame_at(&self, at: UserAddr) -> Option<Pfn> {
        let found = lock(&self.vmas).find(self.page_number(at))?;
        let mut entry = found.table.load(found.index);
        if entry == Entry::MOVING {
            // It is hidden for a moment, under this lock: by what moves the page, or finds it pinned.
            let _state = lock(&self.memory.inner.state);
            entry = found.table.load(found.index);
        }
        entry.pfn().map(Pfn::new)
    }

    /// How often the frame of the page at this address is pinned; 0 if it is in none.
    #[must_use]
    pub fn pins_at(&self, at: UserAddr) -> u64 {
        self.frame_at(at).map_or(0, |pfn| self.memory.pins(pfn))
    }

    /// Lets each call that pins do so with at most `pages` pages (at least one) from now on, and
    /// stop short then. [`u64::MAX`] means no limit.
    pub fn set_pin_limit(&self, pages: u64) {
        self.pin_limit.store(pages, Ordering::Relaxed);
    }

    /// Sends a signal: the next call that pins fails with [`PinFault::Interrupted`], once.
    pub fn interrupt(&self) {
        self.interrupt_after(0);
    }

    /// Sends a signal: the next call that pins fails with [`PinFault::Interrupted`], once, when it
    /// has pinned `pages` pages, where there are so many.
    pub fn interrupt_after(&self, pages: u64) {
        self.interrupt.store(pages.saturating_add(1), Ordering::Relaxed);
    }

    pub(in crate::memory) fn take_interrupt(&self) -> Option<u64> {
        self.interrupt.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    fn shift(&self) -> u32 {
        self.memory.inner.page.shift()
    }

    pub(in crate::memory) fn page_number(&self, at: UserAddr) -> u64 {
        at.get() >> self.shift()
    }

    fn addr_of(&self, page: u64) -> UserAddr {
        UserAddr::new(page << self.shift())
    }

    /// The numbers of the pages that hold a byte of the range.
    pub(in crate::memory) fn pages_of(&self, range: UserRange) -> Range<u64> {
        let first = self.page_number(range.start());
        first..first.saturating_add(range.page_count(self.memory.inner.page))
    }

    fn whole_pages(&self, range: UserRange) -> Result<Range<u64>, VmaError> {
        let page = self.memory.inner.page;
        if range.start().is_aligned(page) && range.len() & page.mask() == 0 {
            Ok(self.pages_of(range))
        } else {
            Err(VmaError::Misaligned)
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !has_failed() {
            self.exit();
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = lock(&self.vmas).iter().fold(0u64, |sum, (_, s)| sum.saturating_add(s.pages));
        f.debug_struct("Process").field("mapped_pages", &pages).finish_non_exhaustive()
    }
}

impl Inner {
    /// Gives a child the pages of a slice; the number of the first page for which there is no frame.
    fn share(&self, state: &mut State, slice: &Slice, child: &Arc<PageTable>) -> Option<u64> {
        let end = slice.first.saturating_add(slice.pages);
        let entries: Vec<_> = slice.table.entries(slice.first, end).collect();
        for (index, entry) in entries {
            let to = index.saturating_sub(slice.first);
            let shared = if let Some(slot) = entry.slot() {
                Entry::swapped(state.copy_slot(slot))
            } else if let Some(pfn) = entry.own_pfn() {
                let shared = entry.with_exclusive(false);
                // First the entry, then the look at the pins: a pinner that comes after that look
                // sees the new entry, and gives his pin back.
                slice.table.set(index, shared);
                let head = self.head_of(pfn).unwrap_or(pfn);
                if entry.is_exclusive() && self.frame(head).is_some_and(Frame::is_folio_pinned) {
                    slice.table.set(index, entry);
                    let copied = self.alloc(state, slice.vma.zone, 0);
                    let Some(copy) = copied.or_else(|| self.alloc(state, Zone::Normal, 0)) else {
                        return Some(to);
                    };
                    self.copy_page(pfn, copy);
                    state.add_map(copy, copy, child, to);
                    Entry::present(copy, true)
                } else {
                    let base = to.wrapping_sub(pfn - head);
                    state.add_maps(head, child, base, 1);
                    shared
                }
            } else {
                entry
            };
            child.set(to, shared);
        }
        None
    }

    fn swap_out(
        &self,
        state: &mut State,
        table: &Arc<PageTable>,
        index: u64,
        pfn: u64,
    ) -> Result<(), Unmoved> {
        let head = self.head_of(pfn).unwrap_or(pfn);
        let folio = self.frame(head).ok_or(Unmoved::Busy)?;
        let entry = table.set(index, Entry::MOVING);
        if !folio.freeze() {
            table.set(index, entry);
            return Err(Unmoved::Busy);
        }
        let slot = state.swap_in_place(self.contents.copy(pfn));
        table.set(index, Entry::swapped(slot));
        folio.thaw();
        self.drop_map(state, pfn, table, index);
        Ok(())
    }
}
