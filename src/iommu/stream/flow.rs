// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Flow`]: how far a stream has flowed; the run that may still grow; and the way back.

use super::super::domain::{Domain, ReadDomain};
use super::super::entries::{self, TileFault};
use super::super::error::{Breach, MapError};
use super::super::prot::Prot;
use super::super::readback::Readback;
use super::error::StreamError;
use crate::addr::{Iova, PhysAddr, UserAddr};
use crate::exact::Exact as _;
use crate::iova_range::IovaRange;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun, Segment};
use crate::umem::{PinnedBatch, Pinner, RunSlot, UserRange};
use core::{iter::once, pin::pin};

/// How far a stream has flowed.
pub(super) struct Flow {
    pub(super) range: UserRange,
    pub(super) iova: Iova,
    pub(super) prot: Prot,
    page: PageSize,
    // Invariant: the first `mapped` bytes of the range are pinned, and mapped at `iova` by entries
    // of ours; they are whole runs, but for what lies outside of the range. The pages of `carry` come
    // next, and are pinned; they are not mapped, unless their state is unknown.
    pub(super) mapped: u64,
    carry: Option<Carry>,
}

/// The run that may still grow.
#[derive(Clone, Copy)]
struct Carry {
    at: UserAddr,
    run: PageRun,
    state: Reach,
}

/// What devices know of the run that may still grow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Nothing.
    Never,
    /// A part of it, for a while.
    Before,
    /// A call of the domain has not come back, or its report was false: it is unknown.
    Unknown,
}

impl Flow {
    /// One that has not begun.
    pub(super) const fn new(range: UserRange, iova: Iova, prot: Prot, page: PageSize) -> Self {
        Self { range, iova, prot, page, mapped: 0, carry: None }
    }

    /// The addresses that are mapped.
    pub(super) fn mapped_range(&self) -> IovaRange {
        // Where nothing is mapped there is no range; it is not asked for.
        IovaRange::new(self.iova, self.mapped).unwrap_or(IovaRange::ALL)
    }

    /// The bytes of `run` that belong to the range, if it begins at byte `offset` of the range, or
    /// at the first page.
    fn segment(&self, offset: u64, run: PageRun) -> Segment {
        let shift = self.page.shift();
        let skip = if offset == 0 { self.range.page_offset(self.page) } else { 0 };
        let phys = run.start().get().shifted_up(shift).plus(skip);
        let left = self.range.len().minus(offset);
        let len = run.count().shifted_up(shift).minus(skip).min(left);
        Segment::new(PhysAddr::new(phys), len, run.kind())
    }

    /// The pages that hold a segment.
    fn pages(&self, segment: &Segment) -> Option<PageRun> {
        let first = segment.phys.pfn(self.page);
        let last = segment.last().pfn(self.page);
        let more = last.checked_offset_from(first)?;
        PageRun::ram(first, more.checked_add(1)?).ok()
    }

    /// Takes the pages of a batch: each run joins the carry, or has it mapped and takes its place.
    pub(super) fn take<P, D>(
        &mut self,
        batch: &mut PinnedBatch<'_, P>,
        domain: &D,
    ) -> Result<(), StreamError<P::Error, D::Error>>
    where
        P: Pinner + ?Sized,
        D: Domain + ?Sized,
    {
        while let Some((at, run)) = batch.first() {
            if run.kind() != MemoryKind::Ram {
                return Err(StreamError::NotRam { at, kind: run.kind() });
            }
            let grown = self.carry.and_then(|carry| {
                let grows = carry.run.continues_with(&run);
                grows.then(|| carry.run.merged_with(&run).ok()).flatten()
            });
            if grown.is_none() {
                self.map_carry(domain).map_err(StreamError::Map)?;
            }
            // From here on nothing fails: the pins go from the batch to the carry.
            if let Some((at, run)) = batch.take_first() {
                self.carry = match (self.carry, grown) {
                    (Some(carry), Some(run)) => Some(Carry { run, ..carry }),
                    _ => Some(Carry { at, run, state: Reach::Never }),
                };
            }
        }
        Ok(())
    }

    /// Maps the carry, which is a maximal run. If it fails, the carry is still there, unmapped; after a
    /// breach, or if the domain unwinds, it is there, and it is unknown what devices reach of it.
    pub(super) fn map_carry<D: Domain + ?Sized>(
        &mut self,
        domain: &D,
    ) -> Result<(), MapError<D::Error>> {
        let Some(carry) = self.carry else {
            return Ok(());
        };
        let segment = self.segment(self.mapped, carry.run);
        let iova = Iova::new(self.iova.get().plus(self.mapped));
        let sizes = domain.page_sizes();
        let tiles = segment
            .tiles(sizes, iova)
            .map_err(|error| MapError::Tiles(error.further(self.mapped)))?;
        self.carry = Some(Carry { state: Reach::Unknown, ..carry });
        let mut mapped = 0u64;
        let range = IovaRange::new(iova, segment.len).unwrap_or(IovaRange::ALL);
        // SAFETY: "the memory of the tiles stays what it is, and may be accessed as `prot` says, until
        // what is in `mapped` has been unmapped and flushed; for ever, after a breach or if this
        // unwinds": the pages are pinned, for writing if `prot` has `WRITE` as `Stream::map` has checked,
        // and what is mapped or unknown is not unpinned. "They make up `range`, and so do the runs": both
        // are those of the segment.
        let outcome =
            unsafe { entries::map_at(domain, range, once(segment), tiles, self.prot, &mut mapped) };
        let fault = match outcome {
            Ok(()) => {
                self.mapped = self.mapped.plus(segment.len);
                self.carry = None;
                return Ok(());
            }
            Err(TileFault::Breach(breach)) => return Err(MapError::Breach(breach)),
            Err(TileFault::Domain(error)) => error,
        };
        let mut state = carry.state;
        if mapped > 0 {
            let part = Segment::new(segment.phys, mapped, segment.kind);
            let range = IovaRange::new(iova, mapped);
            let breach = Breach::new(range.unwrap_or(IovaRange::ALL));
            let (Ok(range), Ok(tiles)) = (range, part.tiles(sizes, iova)) else {
                return Err(MapError::Breach(breach));
            };
            let mut gather = pin!(D::Gather::default());
            // SAFETY: "the bytes of the tiles were reported .. and what is unmapped begins and ends
            // where the domain can cut; the tiles make up the range": so many bytes have just been
            // reported, up to the end of a call or a page of its tile.
            let undone = unsafe { entries::unmap_tiles(domain, range, tiles, gather.as_mut()) };
            domain.flush(gather);
            undone.map_err(MapError::Breach)?;
            state = Reach::Before;
        }
        self.carry = Some(Carry { state, ..carry });
        Err(MapError::Domain { error: fault, mapped: self.mapped.plus(mapped) })
    }

    /// Unmaps, flushes and unpins, a batch of maximal runs at a time.
    ///
    /// # Safety
    ///
    /// Called at most once, with the pinner and the domain of the stream.
    pub(super) unsafe fn take_down<P, D>(
        &mut self,
        pinner: &P,
        domain: &D,
        slots: &mut [RunSlot],
    ) -> Result<(), Breach>
    where
        P: Pinner + ?Sized,
        D: ReadDomain + ?Sized,
    {
        let writable = self.prot.contains_all(Prot::WRITE);
        let mut outcome = Ok(());
        match self.carry.take() {
            Some(Carry { at, run, state: Reach::Unknown }) => {
                pinner.leaked(at, run);
                let first = Iova::new(self.iova.get().plus(self.mapped));
                let range = IovaRange::new(first, self.segment(self.mapped, run).len);
                outcome = Err(Breach::new(range.unwrap_or(IovaRange::ALL)));
            }
            // SAFETY:
            // - "each page of the run was pushed to a batch by `pin`, for the user address that follows
            //   from `at`, and its pin has not been taken back": by the invariant, and it is taken out;
            // - "no device can reach the page": by the invariant it is not mapped.
            Some(Carry { at, run, state }) => unsafe {
                pinner.unpin(at, run, writable && state == Reach::Before);
            },
            None => {}
        }
        // A caller that lends no slots any more gets one.
        let mut one = [None];
        let slots = if slots.is_empty() { &mut one } else { slots };
        let mut done = 0u64;
        let mut at = self.range.first_page(self.page);
        while done < self.mapped {
            let (end, used) = match self.read_back(domain, done, slots) {
                Ok(read) => read,
                Err(breach) => {
                    self.report_leaked(pinner, domain, done, at);
                    return Err(breach);
                }
            };
            let first = Iova::new(self.iova.get().plus(done));
            let len = end.minus(done);
            let breach = Breach::new(IovaRange::new(first, len).unwrap_or(IovaRange::ALL));
            let runs = slots.iter().take(used).flatten();
            let sizes = domain.page_sizes();
            // The same segments as those that were read, out of the pages in the slots.
            let mut offset = done;
            let tiles = runs.clone().map_while(|run| {
                let mut segment = self.segment(offset, *run);
                segment.len = segment.len.min(self.mapped.minus(offset));
                let iova = Iova::new(self.iova.get().plus(offset));
                offset = offset.plus(segment.len);
                segment.tiles(sizes, iova).ok()
            });
            let mut gather = pin!(D::Gather::default());
            // SAFETY: "the bytes of the tiles were reported .. and what is unmapped begins and ends
            // where the domain can cut; the tiles make up the range": by the invariant they are mapped by
            // entries of ours, and whole runs were mapped each by calls of its own.
            let undone = unsafe {
                entries::unmap_tiles(domain, breach.range, tiles.flatten(), gather.as_mut())
            };
            domain.flush(gather);
            for run in runs {
                match undone {
                    // SAFETY:
                    // - "each page of the run was pushed to a batch by `pin`, for the user address that
                    //   follows from `at`, and its pin has not been taken back": by the invariant, as
                    //   a domain reads back what was mapped, and this is the first call;
                    // - "no device can reach the page": it has been unmapped and flushed.
                    Ok(()) => unsafe { pinner.unpin(at, *run, writable) },
                    Err(_) => pinner.leaked(at, *run),
                }
                at = self.behind(at, *run);
            }
            if let Err(breach) = undone {
                self.report_leaked(pinner, domain, end, at);
                return Err(breach);
            }
            done = end;
        }
        self.mapped = 0;
        outcome
    }

    /// The user address behind a run that begins at `at`.
    fn behind(&self, at: UserAddr, run: PageRun) -> UserAddr {
        UserAddr::new(at.get().wrapping_add(run.count().shifted_up(self.page.shift())))
    }

    /// Reports to the pinner that all pins of the stream are leaked.
    pub(super) fn report_all_leaked<P, D>(&self, pinner: &P, domain: &D)
    where
        P: Pinner + ?Sized,
        D: ReadDomain + ?Sized,
    {
        self.report_leaked(pinner, domain, 0, self.range.first_page(self.page));
    }

    /// Reports to the pinner which pins are leaked: those from byte `from` on, whose first page is at `at`,
    /// as far as the page table shows, and the carry.
    #[cold]
    fn report_leaked<P, D>(&self, pinner: &P, domain: &D, from: u64, at: UserAddr)
    where
        P: Pinner + ?Sized,
        D: ReadDomain + ?Sized,
    {
        if let Some(Carry { at, run, .. }) = self.carry {
            pinner.leaked(at, run);
        }
        if from < self.mapped {
            let first = Iova::new(self.iova.get().plus(from));
            let rest = IovaRange::inclusive(first, self.mapped_range().last());
            let segments = rest.map(|rest| Readback::new(domain, rest)).into_iter().flatten();
            segments.filter_map(|segment| self.pages(&segment)).fold(at, |at, run| {
                pinner.leaked(at, run);
                self.behind(at, run)
            });
        }
    }

    /// Reads as many maximal runs from byte `from` on as there are slots: where they end, and how
    /// many they are.
    fn read_back<D: ReadDomain + ?Sized>(
        &self,
        domain: &D,
        from: u64,
        slots: &mut [RunSlot],
    ) -> Result<(u64, usize), Breach> {
        let mapped = self.mapped_range();
        let first = Iova::new(self.iova.get().plus(from));
        let rest = IovaRange::inclusive(first, mapped.last()).unwrap_or(mapped);
        let (mut end, mut used) = (from, 0usize);
        for (slot, segment) in slots.iter_mut().zip(Readback::new(domain, rest)) {
            *slot = Some(self.pages(&segment).ok_or(Breach::new(rest))?);
            end = end.plus(segment.len);
            used = used.plus(1);
        }
        // Something is mapped there, so something must be read, and there is a slot.
        if used == 0 {
            return Err(Breach::new(rest));
        }
        Ok((end, used))
    }
}
