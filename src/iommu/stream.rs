// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Stream`]: pages flow from a pinner into a domain, a batch at a time, and nothing is stored.
//!
//! ```text
//!  map:     Pinner ──► batch ──► carry ──► tiles ──► Domain     the last run waits until it is whole
//!  unmap:   Domain ──► runs  ──► batch ──► unmap, flush ──► unpin
//! ```
//!
//! The tiles are those that a stored list would give, as a run is mapped only when it is known to be
//! maximal. The price is paid on the way out: to know what to unpin, the page table is read, and
//! there is a flush for each batch.

use super::domain::{Domain, ReadDomain};
use super::entries::{self, Breach, MapErrorKind, TileFault};
use super::prot::Prot;
use super::range::IovaRange;
use super::readback::Readback;
use crate::addr::{Iova, PhysAddr, UserAddr};
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun, Segment};
use crate::umem::{
    Accountant, AttachError, Charge, Holder, PinBatch, PinErrorKind, PinFlags, PinRequest, Pinner,
    RunSlot, UserRange,
};
use core::{
    fmt,
    mem::ManuallyDrop,
    ops::{ControlFlow, Deref},
    pin::pin,
    ptr,
};

/// Why a stream failed: the errors of the pinner that `P` holds and of the domain that `D` holds.
type Kind<P, D> = StreamErrorKind<
    <<P as Deref>::Target as Pinner>::Error,
    <<D as Deref>::Target as Domain>::Error,
>;

/// User memory that is pinned and mapped at an IOVA, of which no list is kept.
///
/// When it is dropped, it unmaps, flushes and unpins, a batch at a time, in that order. The memory of
/// the batch, `B`, is lent for that long: a page, or as little as one slot.
///
/// It takes RAM only, as a page table does not tell what else a page may be.
///
/// ```
/// use pinned_sgl::iommu::{Prot, Stream};
/// use pinned_sgl::mock::{Area, Device, Iommu, Memory, Process};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
/// use pinned_sgl::{Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
/// process.map(range, Area::read_write())?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
///
/// // A batch of 16 runs is all the memory that it takes.
/// let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_64K));
/// let (slots, iova, prot) = ([None; 16], Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
/// let stream =
///     Stream::map(process.clone(), &Unaccounted, iommu.clone(), slots, request, iova, prot)?;
/// Device::new(iommu, memory.clone()).write(Iova::new(0x8000_1000), b"streamed")?;
/// let mut bytes = [0; 8];
/// process.read(UserAddr::new(0x10_1000), &mut bytes)?;
/// assert_eq!(&bytes, b"streamed");
///
/// stream.unmap()?;
/// assert_eq!(memory.pinned_pages(), 0);
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a stream that is dropped is unmapped and unpinned"]
pub struct Stream<P, A, D, B>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    D: Holder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    pinner: ManuallyDrop<P>,
    charge: ManuallyDrop<Charge<A>>,
    domain: ManuallyDrop<D>,
    slots: B,
    flow: Flow,
}

impl<P, A, D, B> Stream<P, A, D, B>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    D: Holder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    /// Pins the range of the request and maps it at `iova`, batch by batch. O(pages).
    ///
    /// # Errors
    ///
    /// [`StreamError`], with the pinner and the domain; nothing is mapped, pinned or charged then.
    pub fn map<F>(
        pinner: P,
        accountant: A,
        domain: D,
        slots: B,
        request: PinRequest<F>,
        iova: Iova,
        prot: Prot,
    ) -> Result<Self, StreamError<P, D>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let range = request.range();
        let page = pinner.page_size();
        let writable = request.flags().contains(PinFlags::WRITE);
        let checked = if prot.contains(Prot::WRITE) && !writable {
            Err(MapErrorKind::Attach(AttachError::ReadOnly))
        } else {
            entries::check(&*domain, range.len(), iova, prot).map(|_| ())
        };
        let charge = checked.map_err(StreamErrorKind::Map).and_then(|()| {
            let charge = Charge::new(accountant, range.page_count(page));
            charge.map_err(|error| StreamErrorKind::Pin(PinErrorKind::Charge(error)))
        });
        let charge = match charge {
            Ok(charge) => charge,
            Err(kind) => return Err(StreamError { kind, mapped: 0, pinner, domain }),
        };
        let mut this = Self {
            pinner: ManuallyDrop::new(pinner),
            charge: ManuallyDrop::new(charge),
            domain: ManuallyDrop::new(domain),
            slots,
            flow: Flow { range, iova, prot, page, mapped: 0, carry: None },
        };
        match this.fill(request) {
            Ok(()) => Ok(this),
            Err(kind) => {
                let mapped = this.flow.mapped;
                // After a breach nobody knows what is mapped: nothing is taken down or unpinned.
                let breach = matches!(kind, StreamErrorKind::Map(MapErrorKind::Breach(_)));
                let (undone, pinner, domain) = this.end(!breach);
                let kind = match undone {
                    Ok(()) => kind,
                    Err(breach) => StreamErrorKind::Map(MapErrorKind::Breach(breach)),
                };
                Err(StreamError { kind, mapped, pinner, domain })
            }
        }
    }

    /// Pins and maps all of the range.
    fn fill<F>(&mut self, request: PinRequest<F>) -> Result<(), Kind<P, D>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let (range, flags, mut progress) = request.into_parts();
        let (pinner, domain) = (&**self.pinner, &**self.domain);
        let (slots, flow) = (self.slots.as_mut(), &mut self.flow);
        let mut rest = range;
        let mut pinned = 0u64;
        loop {
            let mut batch = PinBatch::new(pinner, rest, flags, slots);
            pinner.pin(&mut batch).map_err(|error| pin_failed(PinErrorKind::Pinner(error)))?;
            let (next, left) = (batch.next(), batch.left());
            if batch.is_empty() {
                return Err(pin_failed(PinErrorKind::NoProgress));
            }
            let bytes = batch.page_count().wrapping_shl(flow.page.shift());
            pinned = pinned.saturating_add(bytes);
            flow.take(&mut batch, domain)?;
            drop(batch);
            if progress(pinned).is_break() {
                return Err(pin_failed(PinErrorKind::Cancelled));
            }
            if left == 0 {
                break;
            }
            let len = range.last().checked_offset_from(next).map_or(0, |more| more.wrapping_add(1));
            rest = UserRange::new(next, len).map_err(|_| pin_failed(PinErrorKind::NoProgress))?;
        }
        flow.map_carry(domain).map_err(StreamErrorKind::Map)?;
        let synced = domain.sync_map(flow.mapped_range());
        synced.map_err(|error| StreamErrorKind::Map(MapErrorKind::Domain(error)))
    }

    /// The bytes of the process that are mapped.
    #[must_use]
    pub const fn user_range(&self) -> UserRange {
        self.flow.range
    }

    /// Where the device sees the first byte.
    #[must_use]
    pub const fn iova(&self) -> Iova {
        self.flow.iova
    }

    /// What the device may do.
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.flow.prot
    }

    /// What was charged.
    #[must_use]
    pub fn charge(&self) -> &Charge<A> {
        &self.charge
    }

    /// Where an address leads in memory; `None` if it is not of this stream. Reads the page table.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.flow.mapped_range().contains(iova).then(|| self.domain.read(iova))?.map(|e| e.phys)
    }

    /// What is mapped, as maximal runs, read out of the page table.
    pub fn segments(&self) -> Readback<'_, D::Target> {
        Readback::new(&**self.domain, self.flow.mapped_range())
    }

    /// Unmaps and unpins, and gives the pinner and the domain back.
    ///
    /// # Errors
    ///
    /// [`StreamUnmapError`], with both, if the domain broke its contract; what was not unmapped
    /// stays pinned and charged for ever.
    pub fn unmap(self) -> Result<(P, D), StreamUnmapError<P, D>> {
        match self.end(true) {
            (Ok(()), pinner, domain) => Ok((pinner, domain)),
            (Err(breach), pinner, domain) => Err(StreamUnmapError { breach, pinner, domain }),
        }
    }

    /// Ends the stream: takes it down, unless its pages are to be leaked, and gives its parts back.
    fn end(self, take_down: bool) -> (Result<(), Breach>, P, D) {
        let mut this = ManuallyDrop::new(self);
        let undone = if take_down {
            // SAFETY: `this` is not dropped, so this is the only call.
            unsafe { this.take_down() }
        } else {
            Ok(())
        };
        // SAFETY: each field is read or dropped once, and `this` is neither used nor dropped again.
        // The charge was given back by `take_down`, or is leaked with the pins.
        unsafe {
            ptr::drop_in_place(&raw mut this.slots);
            (undone, ptr::read(&raw const *this.pinner), ptr::read(&raw const *this.domain))
        }
    }

    /// Unmaps, flushes and unpins all that is mapped, unpins what is not mapped yet, and gives the
    /// charge back.
    ///
    /// # Safety
    ///
    /// Called at most once; the charge is gone then.
    unsafe fn take_down(&mut self) -> Result<(), Breach> {
        let (pinner, domain) = (&**self.pinner, &**self.domain);
        // SAFETY: the pins and the entries are those of the stream, which ends here.
        unsafe { self.flow.take_down(pinner, domain, self.slots.as_mut()) }?;
        // SAFETY: the caller says that it is not used again.
        unsafe { ManuallyDrop::drop(&mut self.charge) };
        Ok(())
    }
}

const fn pin_failed<E, F>(kind: PinErrorKind<E>) -> StreamErrorKind<E, F> {
    StreamErrorKind::Pin(kind)
}

/// How far a stream has flowed.
struct Flow {
    range: UserRange,
    iova: Iova,
    prot: Prot,
    page: PageSize,
    // Invariant: the first `mapped` bytes of the range are pinned, and mapped at `iova` by entries
    // of ours; they are whole runs, but for what lies outside of the range. The pages of `carry` come
    // next, and are pinned and not mapped.
    mapped: u64,
    carry: Option<Carry>,
}

/// The run that may still grow.
#[derive(Clone, Copy)]
struct Carry {
    at: UserAddr,
    run: PageRun,
    /// Whether a device could reach it for a while.
    reached: bool,
}

impl Flow {
    /// The addresses that are mapped.
    fn mapped_range(&self) -> IovaRange {
        // Where nothing is mapped there is no range; nobody asks then.
        IovaRange::new(self.iova, self.mapped).unwrap_or(IovaRange::ALL)
    }

    /// The bytes of `run` that belong to the range, if it begins at byte `offset` of the range, or
    /// at the first page.
    fn segment(&self, offset: u64, run: PageRun) -> Segment {
        let shift = self.page.shift();
        let skip = if offset == 0 { self.range.page_offset(self.page) } else { 0 };
        let phys = run.start().get().wrapping_shl(shift).wrapping_add(skip);
        let left = self.range.len().wrapping_sub(offset);
        let len = run.count().wrapping_shl(shift).wrapping_sub(skip).min(left);
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
    fn take<P, D>(
        &mut self,
        batch: &mut PinBatch<'_, P>,
        domain: &D,
    ) -> Result<(), StreamErrorKind<P::Error, D::Error>>
    where
        P: Pinner + ?Sized,
        D: Domain + ?Sized,
    {
        while let Some(run) = batch.first() {
            if run.kind() != MemoryKind::Ram {
                return Err(StreamErrorKind::Kind(run.kind()));
            }
            let grown = self.carry.and_then(|carry| {
                let grows = carry.run.continues_with(&run);
                grows.then(|| carry.run.merged_with(&run).ok()).flatten()
            });
            if grown.is_none() {
                self.map_carry(domain).map_err(StreamErrorKind::Map)?;
            }
            // From here on nothing fails: the pins go from the batch to the carry.
            if let Some((at, run)) = batch.take_first() {
                self.carry = match (self.carry, grown) {
                    (Some(carry), Some(run)) => Some(Carry { run, ..carry }),
                    _ => Some(Carry { at, run, reached: false }),
                };
            }
        }
        Ok(())
    }

    /// Maps the carry, which is a maximal run. If it fails, the carry is still there, unmapped.
    fn map_carry<D: Domain + ?Sized>(&mut self, domain: &D) -> Result<(), MapErrorKind<D::Error>> {
        let Some(carry) = self.carry else {
            return Ok(());
        };
        let segment = self.segment(self.mapped, carry.run);
        let iova = Iova::new(self.iova.get().wrapping_add(self.mapped));
        let sizes = domain.page_sizes();
        let tiles = segment
            .tiles(sizes, iova)
            .map_err(|error| MapErrorKind::Tiles(error.further(self.mapped)))?;
        let mut mapped = 0u64;
        // SAFETY: the pages are pinned, and stay so until they were unmapped and flushed. The domain
        // refuses addresses that are in use.
        let outcome = unsafe { entries::map_tiles(domain, tiles, self.prot, &mut mapped) };
        let fault = match outcome {
            Ok(()) => {
                self.mapped = self.mapped.wrapping_add(segment.len);
                self.carry = None;
                return Ok(());
            }
            Err(TileFault::Breach(breach)) => return Err(MapErrorKind::Breach(breach)),
            Err(TileFault::Domain(error)) => error,
        };
        if mapped > 0 {
            self.carry = Some(Carry { reached: true, ..carry });
            let part = Segment::new(segment.phys, mapped, segment.kind);
            let tiles = part.tiles(sizes, iova);
            let (range, tiles) = match (IovaRange::new(iova, mapped), tiles) {
                (Ok(range), Ok(tiles)) => (range, tiles),
                _ => return Err(MapErrorKind::Domain(fault)),
            };
            let mut gather = pin!(D::Gather::default());
            // SAFETY: these bytes have just been mapped.
            let undone = unsafe { entries::unmap_tiles(domain, range, tiles, gather.as_mut()) };
            domain.flush(gather);
            undone.map_err(MapErrorKind::Breach)?;
        }
        Err(MapErrorKind::Domain(fault))
    }

    /// Unmaps, flushes and unpins, a batch of maximal runs at a time.
    ///
    /// # Safety
    ///
    /// Called at most once, with the pinner and the domain of the stream.
    unsafe fn take_down<P, D>(
        &mut self,
        pinner: &P,
        domain: &D,
        slots: &mut [RunSlot],
    ) -> Result<(), Breach>
    where
        P: Pinner + ?Sized,
        D: ReadDomain + ?Sized,
    {
        let writable = self.prot.contains(Prot::WRITE);
        if let Some(Carry { at, run, reached }) = self.carry.take() {
            // SAFETY: by the invariant the pins are ours, and the run is not mapped.
            unsafe { pinner.unpin(at, run, writable && reached) };
        }
        let mut done = 0u64;
        let mut at = self.range.first_page(self.page);
        while done < self.mapped {
            let (end, used) = self.read_back(domain, done, slots)?;
            let first = Iova::new(self.iova.get().wrapping_add(done));
            let len = end.wrapping_sub(done);
            let breach = Breach::new(IovaRange::new(first, len).unwrap_or(IovaRange::ALL));
            let runs = slots.iter().take(used).flatten();
            let sizes = domain.page_sizes();
            // The same segments as those that were read, out of the pages in the slots.
            let mut offset = done;
            let tiles = runs.clone().filter_map(|run| {
                let mut segment = self.segment(offset, *run);
                segment.len = segment.len.min(self.mapped.wrapping_sub(offset));
                let iova = Iova::new(self.iova.get().wrapping_add(offset));
                offset = offset.wrapping_add(segment.len);
                segment.tiles(sizes, iova).ok()
            });
            let mut gather = pin!(D::Gather::default());
            // SAFETY: by the invariant these entries are ours.
            let undone = unsafe {
                entries::unmap_tiles(domain, breach.range, tiles.flatten(), gather.as_mut())
            };
            domain.flush(gather);
            undone?;
            for run in runs {
                // SAFETY: the pins are ours, and what was mapped has been unmapped and flushed.
                unsafe { pinner.unpin(at, *run, writable) };
                let bytes = run.count().wrapping_shl(self.page.shift());
                at = UserAddr::new(at.get().wrapping_add(bytes));
            }
            done = end;
        }
        self.mapped = 0;
        Ok(())
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
        let first = Iova::new(self.iova.get().wrapping_add(from));
        let rest = IovaRange::inclusive(first, mapped.last()).unwrap_or(mapped);
        let (mut end, mut used) = (from, 0usize);
        for (slot, segment) in slots.iter_mut().zip(Readback::new(domain, rest)) {
            *slot = Some(self.pages(&segment).ok_or(Breach::new(rest))?);
            end = end.wrapping_add(segment.len);
            used = used.wrapping_add(1);
        }
        // Something is mapped there, so something must be read; and there is a slot, as `fill` would
        // have got nowhere without.
        if used == 0 {
            return Err(Breach::new(rest));
        }
        Ok((end, used))
    }
}

impl<P, A, D, B> Drop for Stream<P, A, D, B>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    D: Holder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    fn drop(&mut self) {
        // SAFETY: the value is being dropped, so this is the only call.
        let undone = unsafe { self.take_down() };
        // SAFETY: the domain is not used again; when it goes, no device reaches anything through it.
        unsafe { ManuallyDrop::drop(&mut self.domain) };
        if undone.is_ok() {
            // SAFETY: nor is the pinner.
            unsafe { ManuallyDrop::drop(&mut self.pinner) };
        }
    }
}

impl<P, A, D, B> fmt::Debug for Stream<P, A, D, B>
where
    P: Holder<Target: Pinner>,
    A: Holder<Target: Accountant>,
    D: Holder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("range", &self.flow.range)
            .field("iova", &self.flow.iova)
            .field("prot", &self.flow.prot)
            .finish_non_exhaustive()
    }
}

/// Memory could not be streamed into a domain; nothing of it is mapped, pinned or charged.
///
/// The pinner and the domain come back. After a [`Breach`] the pages stay pinned and charged for
/// ever.
pub struct StreamError<P: Holder<Target: Pinner>, D: Holder<Target: Domain>> {
    kind: Kind<P, D>,
    mapped: u64,
    pinner: P,
    domain: D,
}

impl<P: Holder<Target: Pinner>, D: Holder<Target: Domain>> StreamError<P, D> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &Kind<P, D> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> Kind<P, D> {
        self.kind
    }

    /// How many bytes, of whole runs, were mapped before it went wrong. They have been unmapped.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The pinner and the domain.
    #[must_use]
    pub fn into_parts(self) -> (P, D) {
        (self.pinner, self.domain)
    }
}

impl<P: Holder<Target: Pinner>, D: Holder<Target: Domain>> fmt::Debug for StreamError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamError")
            .field("kind", &self.kind)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl<P, D> fmt::Display for StreamError<P, D>
where
    P: Holder<Target: Pinner<Error: fmt::Display>>,
    D: Holder<Target: Domain<Error: fmt::Display>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot stream, {:#x} bytes in: {}", self.mapped, self.kind)
    }
}

impl<P, D> core::error::Error for StreamError<P, D>
where
    P: Holder<Target: Pinner<Error: core::error::Error>>,
    D: Holder<Target: Domain<Error: core::error::Error>>,
{
}

/// Why memory could not be streamed; `E` is the error of the pinner, `F` that of the domain.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamErrorKind<E, F> {
    /// It could not be charged or pinned.
    Pin(PinErrorKind<E>),
    /// It could not be mapped.
    Map(MapErrorKind<F>),
    /// Some of it is not RAM.
    Kind(MemoryKind),
}

impl<E: fmt::Display, F: fmt::Display> fmt::Display for StreamErrorKind<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(kind) => kind.fmt(f),
            Self::Map(kind) => kind.fmt(f),
            Self::Kind(kind) => write!(f, "only RAM can be streamed, not {kind}"),
        }
    }
}

/// The domain broke its contract while a stream was taken down. What was not unmapped stays pinned
/// and charged for ever.
pub struct StreamUnmapError<P, D> {
    breach: Breach,
    pinner: P,
    domain: D,
}

impl<P, D> StreamUnmapError<P, D> {
    /// What the domain did.
    #[must_use]
    pub const fn breach(&self) -> Breach {
        self.breach
    }

    /// The pinner and the domain.
    #[must_use]
    pub fn into_parts(self) -> (P, D) {
        (self.pinner, self.domain)
    }
}

impl<P, D> fmt::Debug for StreamUnmapError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamUnmapError").field("breach", &self.breach).finish_non_exhaustive()
    }
}

impl<P, D> fmt::Display for StreamUnmapError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot unmap: {}; the memory stays pinned for ever", self.breach)
    }
}

impl<P, D> core::error::Error for StreamUnmapError<P, D> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.breach)
    }
}
