// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Stream`]: pages flow from a pinner into a domain, a batch at a time, and nothing is stored.
//!
//! ```text
//!  map:     Pinner ──► batch ──► carry ──► tiles ──► Domain   the last run waits until it is whole
//!  unmap:   Domain ──► runs  ──► batch ──► unmap, flush ──► unpin
//! ```
//!
//! The tiles are those that a stored list would give, as a run is mapped only when it is known to be
//! maximal. The price is paid on the way out: to know what to unpin, the page table is read, and
//! there is a flush for each batch.

mod error;
mod flow;

use super::domain::{Domain, DomainHolder, ReadDomain};
use super::entries;
use super::error::{Breach, MapError};
use super::prot::Prot;
use super::readback::Readback;
use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::sgl::BuildError;
use crate::umem::{
    in_batches, AccountantHolder, AttachError, Charge, PinError, PinErrorKind, PinFlags,
    PinRequest, PinnedBatch, Pinner, PinnerHolder, RunSlot, UserRange,
};
use core::{fmt, mem::ManuallyDrop, ops::ControlFlow, ptr};
use error::Failure;
use flow::Flow;

pub use error::StreamError;

/// User memory that is pinned and mapped at an IOVA, of which no list is kept.
///
/// When it is dropped, it unmaps, flushes and unpins, a batch at a time, in that order. The memory of
/// the batch, `B`, is lent for that long: a page, or as little as one slot.
///
/// It takes RAM only, as a page table does not say what else a page may be.
///
/// ```
/// use pinned_sgl::iommu::{Prot, Stream};
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
/// use pinned_sgl::{Iova, PageSizes, UserAddr};
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(1024);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
/// process.map(range, Vma::read_write())?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
///
/// // A batch of 16 runs is all the memory that it takes.
/// let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K | PageSizes::SIZE_64K));
/// let (slots, iova, prot) = ([None; 16], Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
/// let stream =
///     Stream::map(process.clone(), &Unaccounted, iommu.clone(), slots, request, iova, prot)?;
/// memory.device(iommu).write(Iova::new(0x8000_1000), b"streamed")?;
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
    P: PinnerHolder,
    A: AccountantHolder,
    D: DomainHolder<Target: ReadDomain>,
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
    P: PinnerHolder,
    A: AccountantHolder,
    D: DomainHolder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    /// Pins the range of the request and maps it at `iova`, batch by batch. O(pages).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Prot, Stream};
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
    /// # use pinned_sgl::{Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let process = Arc::new(Process::new(&memory));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let iova = Iova::new(0x8000);
    /// let request = PinRequest::new(range, PinFlags::LONGTERM);
    /// let slots = [None; 4];
    /// let stream = Stream::map(process, &Unaccounted, iommu, slots, request, iova, Prot::READ)?;
    /// assert_eq!((stream.user_range(), memory.pinned_pages()), (range, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`StreamError`], with the pinner and the domain; nothing is mapped, pinned or charged then. After a
    /// [breach](MapError::Breach) the pages stay pinned and charged for ever.
    pub fn map<F>(
        pinner: P,
        accountant: A,
        domain: D,
        slots: B,
        request: PinRequest<F>,
        iova: Iova,
        prot: Prot,
    ) -> Result<Self, Failed<StreamError<P::Error, D::Error>, (P, D)>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let range = request.range();
        let page = pinner.page_size();
        let writable = request.flags().contains_all(PinFlags::WRITE);
        let flags = request.flags();
        let pages = range.page_count(page);
        let at = range.first_page(page);
        let checked = if !PinFlags::all().contains_all(flags) {
            let unknown = PinErrorKind::UnknownFlags { bits: flags.bits() };
            Err(StreamError::Pin(PinError::new(unknown, at)))
        } else if pages > u64::MAX.shifted_down(page.shift()) {
            // Nor would a list take them.
            let many = PinErrorKind::List(BuildError::TooManyPages { index: 0 });
            Err(StreamError::Pin(PinError::new(many, at)))
        } else if pinner.address_kind() != D::Target::ADDRESS_KIND {
            let (list, device) = (pinner.address_kind(), D::Target::ADDRESS_KIND);
            Err(StreamError::Map(MapError::Attach(AttachError::AddressKind { list, device })))
        } else if prot.contains_all(Prot::WRITE) && !writable {
            Err(StreamError::Map(MapError::Attach(AttachError::ReadOnly)))
        } else {
            let checked = entries::check(&*domain, range.len(), iova, prot);
            checked.map(drop).map_err(StreamError::Map)
        };
        let charge = checked.and_then(|()| {
            let charge = Charge::new(accountant, pages);
            charge.map_err(|error| StreamError::Pin(PinError::new(error, at)))
        });
        let charge = match charge {
            Ok(charge) => charge,
            Err(error) => return Err(Failed::new(error, (pinner, domain))),
        };
        let mut this = Self {
            pinner: ManuallyDrop::new(pinner),
            charge: ManuallyDrop::new(charge),
            domain: ManuallyDrop::new(domain),
            slots,
            flow: Flow::new(range, iova, prot, page),
        };
        match this.fill(request) {
            Ok(()) => Ok(this),
            Err(error) => {
                // After a breach it is unknown what is mapped: nothing is taken down or unpinned.
                let breach = matches!(error, StreamError::Map(MapError::Breach(_)));
                let (undone, pinner, domain) = this.end(!breach);
                let error = match undone {
                    Ok(()) => error,
                    Err(breach) => StreamError::Map(MapError::Breach(breach)),
                };
                Err(Failed::new(error, (pinner, domain)))
            }
        }
    }

    /// Pins and maps all of the range.
    fn fill<F>(&mut self, request: PinRequest<F>) -> Result<(), Failure<P, D>>
    where
        F: FnMut(u64) -> ControlFlow<()>,
    {
        let (range, flags, progress) = request.into_parts();
        let (pinner, domain) = (&**self.pinner, &**self.domain);
        let (slots, flow) = (self.slots.as_mut(), &mut self.flow);
        let take = |mut batch: PinnedBatch<'_, P::Target>, _| flow.take(&mut batch, domain);
        in_batches(pinner, range, flags, slots, take, progress)?;
        flow.map_carry(domain).map_err(StreamError::Map)?;
        let synced = domain.sync_map(flow.mapped_range());
        synced.map_err(|error| StreamError::Map(MapError::Domain { error, mapped: flow.mapped }))
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
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Prot, Stream};
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
    /// # use pinned_sgl::{Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let process = Arc::new(Process::new(&memory));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let iova = Iova::new(0x8000);
    /// # let request = PinRequest::new(range, PinFlags::LONGTERM);
    /// # let stream =
    /// #     Stream::map(process, &Unaccounted, iommu, [None; 4], request, iova, Prot::READ)?;
    /// assert!(stream.translate(Iova::new(0x9234)).is_some_and(|phys| phys.get() % 0x1000 == 0x234));
    /// assert_eq!(stream.translate(Iova::new(0xc000)), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.flow.mapped_range().contains(iova).then(|| self.domain.read(iova))?.map(|e| e.phys)
    }

    /// What is mapped, as maximal runs, read out of the page table.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Prot, Stream};
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
    /// # use pinned_sgl::{Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let process = Arc::new(Process::new(&memory));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let iova = Iova::new(0x8000);
    /// # let request = PinRequest::new(range, PinFlags::LONGTERM);
    /// # let stream =
    /// #     Stream::map(process, &Unaccounted, iommu, [None; 4], request, iova, Prot::READ)?;
    /// let bytes: Vec<_> = stream.segments().map(|segment| segment.len).collect();
    /// assert_eq!(bytes, [0x4000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn segments(&self) -> Readback<'_, D::Target> {
        Readback::new(&**self.domain, self.flow.mapped_range())
    }

    /// Unmaps and unpins, and gives the pinner and the domain back.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Prot, Stream};
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Unaccounted, UserRange};
    /// # use pinned_sgl::{Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let process = Arc::new(Process::new(&memory));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let iova = Iova::new(0x8000);
    /// # let request = PinRequest::new(range, PinFlags::LONGTERM);
    /// # let stream =
    /// #     Stream::map(process, &Unaccounted, iommu, [None; 4], request, iova, Prot::READ)?;
    /// let (process, _iommu) = stream.unmap()?;
    /// assert_eq!(process.pins_at(range.start()), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Breach`], with both, if the domain broke its contract; what was not unmapped stays pinned and
    /// charged for ever.
    pub fn unmap(self) -> Result<(P, D), Failed<Breach, (P, D)>> {
        match self.end(true) {
            (Ok(()), pinner, domain) => Ok((pinner, domain)),
            (Err(breach), pinner, domain) => Err(Failed::new(breach, (pinner, domain))),
        }
    }

    /// Ends the stream: takes it down, unless its pages are to be leaked, and gives its parts back.
    fn end(self, take_down: bool) -> (Result<(), Breach>, P, D) {
        let mut this = ManuallyDrop::new(self);
        let undone = if take_down {
            // SAFETY: "called at most once; the charge is gone then": `this` is neither dropped nor taken
            // down again, and the charge is not read below.
            unsafe { this.take_down() }
        } else {
            this.flow.report_all_leaked(&**this.pinner, &**this.domain);
            Ok(())
        };
        // SAFETY: the fields are valid, and each is read or dropped once: `this` is neither used nor
        // dropped again. The charge was given back by `take_down`, or is leaked with the pins.
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
        // SAFETY: "called at most once, with the pinner and the domain of the stream": by the caller's
        // promise; by the contract of `Holder` they are the same values as before.
        unsafe { self.flow.take_down(pinner, domain, self.slots.as_mut()) }?;
        // SAFETY: "the container is not used again": as the caller promises.
        unsafe { ManuallyDrop::drop(&mut self.charge) };
        Ok(())
    }
}

impl<P, A, D, B> Drop for Stream<P, A, D, B>
where
    P: PinnerHolder,
    A: AccountantHolder,
    D: DomainHolder<Target: ReadDomain>,
    B: AsMut<[RunSlot]>,
{
    fn drop(&mut self) {
        // SAFETY: "called at most once; the charge is gone then": the value is being dropped.
        let undone = unsafe { self.take_down() };
        // SAFETY: "the container is not used again": the value is being dropped.
        unsafe { ManuallyDrop::drop(&mut self.domain) };
        if undone.is_ok() {
            // SAFETY: "the container is not used again": the value is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.pinner) };
        }
    }
}

impl<P, A, D, B> fmt::Debug for Stream<P, A, D, B>
where
    P: PinnerHolder,
    A: AccountantHolder,
    D: DomainHolder<Target: ReadDomain>,
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
