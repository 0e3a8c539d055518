// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region is split in two, so that a part of it can be mapped and given back without the other.

use super::Umem;
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::page_size::PageSize;
use crate::sgl::{BuildError, MemoryKind, Sgl, SglBuilder};
use crate::store::Storage;
use crate::sync::{AtomicBool, AtomicUsize};
use crate::umem::{AccountantHolder, PinnerHolder, SharedHolder, UserRange};
use core::{fmt, mem::ManuallyDrop, ops::Range, ptr};

impl<P, A, S> Umem<P, A, S>
where
    P: PinnerHolder + SharedHolder,
    A: AccountantHolder + SharedHolder,
    S: Storage,
{
    /// Splits the region in two at byte `offset`, with the lists in `storages`. O(runs).
    ///
    /// Each part is a region of its own, which has its pages, their pins and their charge, and is unpinned
    /// when it is dropped. No page is pinned again, and none is unpinned.
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::{Pool, UserAddr};
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// let (mut slots, mut memory) = ([None; 16], [[[0; 512]; 4]; 3]);
    /// let [whole, head, tail] = memory.each_mut().map(|pieces| Pool::new(pieces));
    /// let request = PinRequest::new(range, PinFlags::LONGTERM);
    /// let umem = Umem::pin_in(process, &Unaccounted, whole, &mut slots, request).unwrap();
    /// let (head, tail) = umem.split_at_in(0x1000, (head, tail)).unwrap();
    /// assert_eq!((head.len(), tail.len()), (0x1000, 0x3000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SplitError`], with the region as it was, which stays pinned and charged as long as the error
    /// [holds](Failed) it.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub fn split_at_in(
        self,
        offset: u64,
        storages: (S, S),
    ) -> Result<(Self, Self), Failed<SplitError, Self>> {
        let parts = self.ranges(offset).and_then(|(head, tail)| {
            let pages = head.page_count(self.sgl.page_size());
            let head = Part::new(&self.sgl, head, 0..pages, storages.0)?;
            Ok((head, Part::new(&self.sgl, tail, pages..self.sgl.page_count(), storages.1)?))
        });
        let (head, tail) = match parts {
            Ok(parts) => parts,
            Err(error) => return Err(Failed::new(error, self)),
        };
        // Whatever may unwind comes before the region is taken apart.
        let (pinner, accountant) = (P::clone(&self.pinner), A::clone(self.charge.accountant()));
        let dirty = self.is_dirty();
        let this = ManuallyDrop::new(self);
        // SAFETY: the fields are valid, and each is read once: `this` is neither used nor dropped again.
        let (old_pinner, mut charge, sgl, flags) = unsafe {
            (
                ptr::read(&raw const *this.pinner),
                ptr::read(&raw const *this.charge),
                ptr::read(&raw const *this.sgl),
                this.flags,
            )
        };
        let tail_charge = charge.split_off(accountant, tail.charged);
        // INVARIANT: each page of the region is in the list of one of them, whose user range begins with
        // the same page; the holder of the pinner leads to the one that has pinned it, as a clone does.
        let whole = |pinner, charge, part: Part<S>| Self {
            pinner: ManuallyDrop::new(pinner),
            charge: ManuallyDrop::new(charge),
            sgl: ManuallyDrop::new(part.sgl),
            range: part.range,
            flags,
            attachments: AtomicUsize::new(0),
            dirty: AtomicBool::new(dirty),
        };
        let parts = (whole(old_pinner, charge, head), whole(pinner, tail_charge, tail));
        drop(sgl);
        Ok(parts)
    }

    /// The bytes before and behind `offset`.
    fn ranges(&self, offset: u64) -> Result<(UserRange, UserRange), SplitError> {
        let (range, page) = (self.range, self.sgl.page_size());
        let attachments = self.attachments();
        if attachments != 0 {
            return Err(SplitError::Attached { attachments });
        }
        let outside = SplitError::Outside { len: range.len() };
        let at = range.start().checked_add(offset).ok_or(outside)?;
        let (Ok(head), Some(tail)) = (UserRange::new(range.start(), offset), range.rest_from(at))
        else {
            return Err(outside);
        };
        if !at.is_aligned(page) {
            return Err(SplitError::InsidePage { page });
        }
        Ok((head, tail))
    }
}

#[cfg(feature = "alloc")]
impl<P, A> Umem<P, A, crate::store::Heap>
where
    P: PinnerHolder + SharedHolder,
    A: AccountantHolder + SharedHolder,
{
    /// Splits the region in two at byte `offset`, with the lists on the heap. O(runs).
    ///
    /// Memory of a virtual machine that is plugged and unplugged by blocks is pinned as one, and split
    /// into the blocks before they are mapped: a block that is unplugged is then unmapped and given back
    /// alone.
    ///
    /// ```
    /// use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
    /// use pinned_sgl::UserAddr;
    /// use pinned_sgl_mock::{Vma, Memory, Process};
    /// use std::sync::Arc;
    ///
    /// let memory = Memory::with_frames(64);
    /// let process = Arc::new(Process::new(&memory));
    /// let range = UserRange::new(UserAddr::new(0x10_0000), 0x8000)?;
    /// process.map(range, Vma::read_write())?;
    /// let account = Arc::new(Account::new(8));
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin(process, account.clone(), request)?;
    ///
    /// let (first, second) = umem.split_at(0x3000)?;
    /// drop(first);
    /// assert_eq!((memory.pinned_pages(), account.charged(), second.len()), (5, 5, 0x5000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SplitError`], with the region as it was, which stays pinned and charged as long as the error
    /// [holds](Failed) it.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub fn split_at(self, offset: u64) -> Result<(Self, Self), Failed<SplitError, Self>> {
        let heap = crate::store::Heap::new;
        self.split_at_in(offset, (heap(), heap()))
    }
}

/// What one of two parts is made of.
struct Part<S> {
    range: UserRange,
    sgl: Sgl<S>,
    /// Its pages that have a pin.
    charged: u64,
}

impl<S: Storage> Part<S> {
    /// The part of a list that has the pages `pages`.
    fn new(
        sgl: &Sgl<S>,
        range: UserRange,
        pages: Range<u64>,
        storage: S,
    ) -> Result<Self, SplitError> {
        let mut builder = SglBuilder::new_in(sgl.page_size(), storage)?;
        builder.push_runs(sgl.runs_between(pages))?;
        let sgl = builder.finish().map_err(|_| BuildError::OutOfMemory { index: 0 })?;
        let charged = sgl.runs().filter(|run| run.kind() != MemoryKind::Mmio);
        let charged = charged.fold(0u64, |sum, run| sum.plus(run.count()));
        Ok(Self { range, sgl, charged })
    }
}

/// Why a region cannot be split at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitError {
    /// Devices are attached to the region.
    Attached {
        /// How many.
        attachments: usize,
    },
    /// The offset is not inside the region.
    Outside {
        /// The bytes of the region.
        len: u64,
    },
    /// The offset lies inside a page, which belongs to one part.
    InsidePage {
        /// The size of the pages.
        page: PageSize,
    },
    /// A list of the parts cannot be built.
    List(BuildError),
}

impl From<BuildError> for SplitError {
    fn from(error: BuildError) -> Self {
        Self::List(error)
    }
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached { attachments } => write!(f, "attached devices: {attachments}"),
            Self::Outside { len } => write!(f, "not an offset inside a region of {len:#x} bytes"),
            Self::InsidePage { page } => write!(f, "the offset lies inside a page of {page}"),
            Self::List(_) => f.write_str("the list of a part cannot be built"),
        }
    }
}

impl core::error::Error for SplitError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::List(error) => Some(error),
            _ => None,
        }
    }
}
