// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Turn`]: runs on their way into a page table: many by one call, under one lock.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::{domain::RawDomain, kernel, page_structs::PAGE_SIZE};
use crate::addr::PhysAddr;
use crate::exact::Exact as _;
use crate::iommu::{Domain as _, Prot};
use crate::page_size::PageSizes;
use crate::sgl::{MemoryKind, Segment};
use core::mem;
use kernel::{
    alloc::{Flags, KVec},
    bindings::scatterlist,
    error::{code, Result},
    sync::lock::{mutex::MutexBackend, Guard},
};

/// Runs that are mapped by one call, before others have their turn.
const RUNS: usize = 64;
/// Bytes that are mapped before others have it: in pages of 4 KiB, within a millisecond.
const AT_ONCE: u64 = 1 << 26;

/// Room for the runs of a call, which is used under the lock of a domain.
pub(super) struct Room(KVec<scatterlist>);

impl Room {
    pub(super) fn new(flags: Flags) -> Result<Self> {
        Ok(Self(KVec::from_elem(scatterlist::default(), RUNS, flags)?))
    }
}

/// A call of `map_runs`, and the runs that it has taken and not mapped yet. Dropping it leaves them out.
pub(super) struct Turn<'a, F> {
    domain: &'a RawDomain,
    room: Option<Guard<'a, Room, MutexBackend>>,
    /// Whether to go on, and with pages of any size.
    go_on: F,
    /// Bytes of the runs of a call, at most: none, where each page is mapped by itself.
    most: u64,
    prot: Prot,
    /// Where the first run goes that is not mapped yet.
    iova: u64,
    // Invariant: `used` runs are in the room, of `bytes` bytes together; there is none once one has failed.
    used: usize,
    bytes: u64,
    /// What is mapped.
    done: u64,
    outcome: Result,
}

impl<'a, F: FnMut() -> Result<bool>> Turn<'a, F> {
    pub(super) fn new(domain: &'a RawDomain, iova: u64, prot: Prot, go_on: F) -> Self {
        let mut turn = Self {
            domain,
            room: None,
            go_on,
            most: 0,
            prot,
            iova,
            used: 0,
            bytes: 0,
            done: 0,
            outcome: Err(code::EINVAL),
        };
        if Prot::all().contains_all(prot) {
            turn.outcome = turn.begin();
        }
        turn
    }

    /// Lets others have their turn.
    fn begin(&mut self) -> Result {
        self.room = None;
        self.most = if (self.go_on)()? { AT_ONCE } else { 0 };
        self.room = Some(self.domain.lock.lock());
        Ok(())
    }

    /// Takes a run, unless one before it has failed.
    ///
    /// # Safety
    ///
    /// That of [`Domain::map_runs`](crate::iommu::Domain::map_runs), for this run.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most a page, and `AT_ONCE`")]
    pub(super) unsafe fn take(&mut self, run: Segment) {
        let (phys, mmio) = (run.phys.get(), run.kind == MemoryKind::Mmio);
        let bytes = self.bytes.saturating_add(run.len);
        if bytes <= self.most && !mmio {
            let entry = self.room.as_mut().and_then(|room| room.0.get_mut(self.used));
            if let (Some(entry), Ok(pfn)) = (entry, usize::try_from(phys >> PAGE_SIZE.shift())) {
                entry.page_link = pfn;
                entry.offset = (phys & PAGE_SIZE.mask()) as u32;
                entry.length = run.len as u32;
                self.used = self.used.plus(1);
                self.bytes = bytes;
                return;
            }
        }
        // SAFETY: as the caller promises.
        unsafe { self.take_next(phys, run.len, mmio) };
    }

    /// Takes a run for which there is no room.
    ///
    /// # Safety
    ///
    /// That of [`take`](Self::take).
    #[inline(never)]
    unsafe fn take_next(&mut self, phys: u64, len: u64, mmio: bool) {
        if self.used != 0 {
            self.map_room();
        }
        if self.outcome.is_ok() {
            self.outcome = self.begin();
        }
        if self.outcome.is_err() {
            // There is no room for anything any more.
            self.room = None;
        } else if len <= self.most && !mmio {
            let run = Segment::new(PhysAddr::new(phys), len, MemoryKind::Ram);
            // SAFETY: as the caller promises. There is room for it now.
            unsafe { self.take(run) };
        } else {
            // SAFETY: as the caller promises.
            unsafe { self.map_alone(phys, len) };
        }
    }

    /// Maps what is in the room, or nothing of it.
    fn map_room(&mut self) {
        let (used, bytes) = (mem::take(&mut self.used), mem::take(&mut self.bytes));
        let (iova, len) = (usize::try_from(self.iova), usize::try_from(bytes));
        let runs = self.room.as_mut().and_then(|room| room.0.get_mut(..used));
        let (Some(runs), Ok(iova), Ok(len)) = (runs, iova, len) else {
            self.outcome = Err(code::ERANGE);
            return;
        };
        let (domain, prot, flags) = (self.domain.raw(), self.prot.bits(), self.domain.flags);
        // SAFETY: "nothing else maps, unmaps or reads at these addresses meanwhile": it is locked; "the memory stays
        // what it is, and may be accessed like that, until it has been unmapped and flushed": as the callers of `take`
        // have promised for each of these runs, of `len` bytes.
        self.outcome = unsafe { domain.map_runs(iova, runs, len, prot, flags) };
        if self.outcome.is_ok() {
            self.mapped(bytes);
        }
    }

    fn mapped(&mut self, bytes: u64) {
        self.done = self.done.plus(bytes);
        // Behind the last address of all nothing is mapped.
        self.iova = self.iova.wrapping_add(bytes);
    }

    /// Maps one run, in as many parts as it takes, or nothing of it.
    ///
    /// # Safety
    ///
    /// That of [`take`](Self::take).
    unsafe fn map_alone(&mut self, phys: u64, bytes: u64) {
        let (Ok(begin), Ok(len)) = (usize::try_from(self.iova), usize::try_from(bytes)) else {
            self.outcome = Err(code::ERANGE);
            return;
        };
        let mut mapped = 0usize;
        // SAFETY: as the caller promises.
        self.outcome = unsafe { self.map_parts(begin, phys, len, &mut mapped) };
        if self.outcome.is_err() {
            self.room = None;
            let _room = self.domain.lock.lock();
            // SAFETY: "nothing else maps, unmaps or reads at these addresses meanwhile": it is locked; "they are the
            // caller's, and begin and end where what was mapped may be cut": these bytes were mapped just now, by calls
            // that began and ended where these do.
            let undone = unsafe { self.domain.raw().unmap(begin, mapped, None) };
            // What cannot be unmapped is reported as mapped: it is leaked when that is found out.
            if undone == mapped {
                return;
            }
        }
        self.mapped(bytes);
    }

    /// Maps parts of a run until one fails; adds to `mapped` what is mapped.
    ///
    /// # Safety
    ///
    /// That of [`take`](Self::take).
    unsafe fn map_parts(
        &mut self,
        begin: usize,
        phys: u64,
        len: usize,
        mapped: &mut usize,
    ) -> Result {
        let sizes = self.domain.page_sizes();
        while *mapped < len {
            if *mapped > 0 {
                self.begin()?;
            }
            let (iova, phys) = (begin.plus(*mapped), phys.plus(*mapped as u64));
            let part = self.part(sizes, iova as u64, phys).min(len.minus(*mapped));
            let (domain, prot, flags) = (self.domain.raw(), self.prot.bits(), self.domain.flags);
            // SAFETY: "nothing else maps, unmaps or reads at these addresses meanwhile": it is locked; "the memory
            // stays what it is, and may be accessed like that, until it has been unmapped and flushed": as the caller
            // promises for the run.
            unsafe { domain.map(iova, phys, part, prot, flags) }?;
            *mapped = mapped.plus(part);
        }
        Ok(())
    }

    /// How many bytes may be mapped by one call there: up to where no page is cut in two.
    fn part(&self, sizes: PageSizes, iova: u64, phys: u64) -> usize {
        let both = iova ^ phys;
        let step = if self.most != 0 {
            // The largest that divides the distance of both addresses.
            let fitting = sizes.sizes().filter(|size| both & size.mask() == 0);
            fitting.map(|size| size.bytes()).fold(AT_ONCE, u64::max)
        } else {
            sizes.smallest().map_or(AT_ONCE, |size| size.bytes())
        };
        usize::try_from(step.minus(iova & step.minus(1))).unwrap_or(usize::MAX)
    }

    /// Maps what is left; reports how many bytes are mapped.
    pub(super) fn finish(mut self) -> (u64, Result) {
        if self.used != 0 {
            self.map_room();
        }
        (self.done, self.outcome)
    }
}
