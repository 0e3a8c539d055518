// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mapping is cut in two, or loses a part.

use super::Mapping;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::iommu::domain::{Cuts, Domain as _, DomainHolder};
use crate::iommu::error::{Breach, CutError};
use crate::iommu::prot::Prot;
use crate::umem::{Attachment, RegionHolder, SharedHolder, Shown};
use core::{mem::ManuallyDrop, ops::Range};

impl<U, D> Mapping<U, D>
where
    U: RegionHolder + SharedHolder,
    D: DomainHolder + SharedHolder,
{
    /// Cuts the mapping in two at byte `offset`; nothing is unmapped.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// let (head, tail) = mapping.split_at(0x1000)?;
    /// assert_eq!((head.len(), tail.iova(), umem.attachments()), (0x1000, Iova::new(0x9000), 2));
    /// assert!(head.split_at(0x800).is_err()); // a page of the IOMMU
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CutError`], with the mapping, if the offset lies inside a page table entry and the domain
    /// cannot cut there, or is not inside the mapping. It stays mapped as long as the error [holds](Failed)
    /// it, and its region pinned and charged.
    pub fn split_at(self, offset: u64) -> Result<(Self, Self), Failed<CutError, Self>> {
        let error = match self.cut_fault(offset) {
            Some(error) => error,
            None => {
                let writable = self.prot.contains_all(Prot::WRITE);
                match Attachment::hold(self.region().clone(), D::Target::ADDRESS_KIND, writable) {
                    Ok(attachment) => return Ok(self.split_off(offset, attachment)),
                    Err(refused) => CutError::Attach(refused.into_error()),
                }
            }
        };
        Err(Failed::new(error, self))
    }

    /// Unmaps the bytes `range` of the mapping, and leaves what lies before and behind them mapped.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{Mapping, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mapping = Mapping::map(umem.clone(), iommu, Iova::new(0x8000), Prot::READ)?;
    /// let (head, tail) = mapping.unmap_range(0x1000..0x4000)?;
    /// assert!(head.is_some_and(|head| head.len() == 0x1000) && tail.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CutError`], with what [remains](Remains); unless the domain broke its contract, nothing has changed
    /// then. It stays mapped as long as the error [holds](Failed) it, and its region pinned and charged.
    pub fn unmap_range(
        self,
        range: Range<u64>,
    ) -> Result<(Option<Self>, Option<Self>), Failed<CutError, Remains<U, D>>> {
        // Both edges first: nothing happens unless all of it can.
        let fault = [range.start, range.end].into_iter().find_map(|offset| {
            if offset == 0 || offset == self.len {
                return None;
            }
            self.cut_fault(offset)
        });
        let empty = (range.start >= range.end).then_some(CutError::Outside { len: self.len });
        if let Some(error) = empty.or(fault) {
            return Err(Failed::new(error, Remains::Whole(self)));
        }
        let (head, rest) = match range.start {
            0 => (None, self),
            start => {
                let (head, rest) =
                    self.split_at(start).map_err(|refused| refused.map_value(Remains::Whole))?;
                (Some(head), rest)
            }
        };
        let (middle, tail) = match range.end.saturating_sub(range.start) {
            len if len == rest.len => (rest, None),
            len => match rest.split_at(len) {
                Ok((middle, tail)) => (middle, Some(tail)),
                Err(refused) => {
                    return Err(refused.map_value(|rest| match head {
                        Some(head) => Remains::Whole(head.join(rest)),
                        None => Remains::Whole(rest),
                    }));
                }
            },
        };
        match middle.unmap() {
            Ok(_) => Ok((head, tail)),
            Err(failed) => {
                let (breach, (region, domain)) = failed.into_parts();
                let remains = Remains::Around { head, tail, region, domain };
                Err(Failed::new(CutError::Breach(breach), remains))
            }
        }
    }

    /// Why the mapping cannot be cut at `offset`.
    fn cut_fault(&self, offset: u64) -> Option<CutError> {
        if offset == 0 || offset >= self.len {
            return Some(CutError::Outside { len: self.len });
        }
        if self.domain().cuts() == Cuts::Never {
            return Some(CutError::Indivisible);
        }
        let edges = self.edges(offset);
        (!edges.is_exact()).then_some(CutError::InsideEntry { edges })
    }

    /// The two halves; the second one has `attachment`.
    fn split_off(self, offset: u64, attachment: Attachment<U>) -> (Self, Self) {
        // A clone may unwind: then the mapping is whole, and only the attachment is leaked.
        let domain = D::clone(self.domain());
        let mut head = self;
        let tail = Self {
            shown: Shown::new(attachment, domain),
            offset: head.offset.plus(offset),
            len: head.len.minus(offset),
            // Inside the range, so it has an address.
            iova: Iova::new(head.iova.get().plus(offset)),
            prot: head.prot,
        };
        head.len = offset;
        (head, tail)
    }

    /// What `split_off` has cut, as one again.
    fn join(self, tail: Self) -> Self {
        let mut whole = self;
        whole.len = whole.len.plus(tail.len);
        let mut tail = ManuallyDrop::new(tail);
        // SAFETY:
        // - "called at most once, and nothing else is called afterwards": `tail` is neither used nor
        //   dropped again;
        // - "the device cannot reach the memory any more under this attachment": through nothing that it
        //   stands for: `whole`, which is attached, stands for both parts from now on.
        drop(unsafe { tail.shown.end(Ok::<(), Breach>(())) });
        whole
    }
}

/// What is left of a mapping of which a part [could not be unmapped](Mapping::unmap_range).
#[derive(Debug)]
pub enum Remains<U: RegionHolder, D: DomainHolder> {
    /// The mapping as it was.
    Whole(Mapping<U, D>),
    /// After a [`Breach`]: what lies around the part is still mapped.
    Around {
        /// What lies before.
        head: Option<Mapping<U, D>>,
        /// What lies behind.
        tail: Option<Mapping<U, D>>,
        /// The region, which stays attached for ever: its pins are leaked.
        region: U,
        /// The domain.
        domain: D,
    },
}
