// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Prp`]: NVMe's lists of pages (NVM Express Base Specification, "Physical Region Page Entry and List").
//!
//! ```text
//!  command   PRP1 ──► the first bytes, anywhere in their page
//!            PRP2 ──► the second page, or
//!                 └─► list page [page, page, .., link] ──► list page [page, .., page]
//! ```
//!
//! All bytes but the first begin a page, and all but the last end one. A list page that is not the last one ends
//! with the address of the next; the last one may be exactly full.
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::{DeviceAddr, Extent, Joined};
use super::limits::TransferLimits;
use super::list::{link, Entries, ListMemory, Slot};
use crate::exact::{self, Exact as _};
use crate::page_size::PageSize;
use core::{fmt, marker::PhantomData};

/// PRPs, as a controller takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prp {
    page: PageSize,
    limits: TransferLimits,
}

/// What the first byte of all must lie at a multiple of.
const DWORD: u64 = 4;
/// The bytes of an entry: 2 to the power of this.
const ENTRY_SHIFT: u32 = 3;

impl Prp {
    /// PRPs of a controller whose memory page size is `page` (CC.MPS), which need not be that of the CPU.
    ///
    /// ```
    /// use pinned_sgl::descriptor::{ListMemory, Prp, TransferLimits};
    /// use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// // Three pages, without the first 512 bytes.
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 3, 9].map(Pfn::new))?;
    /// let window = sgl.window(0x200, 0x2e00)?;
    ///
    /// let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE.sector(512)?)?;
    /// let plan = prp.plan(window.iter())?;
    /// assert_eq!((plan.len(), plan.list_pages()), (0x2e00, 1));
    ///
    /// let mut page = [[0; 8]; 512]; // memory that the controller has at 0x8000
    /// let command = plan.write(&mut [ListMemory::new(PhysAddr::new(0x8000), &mut page)])?;
    /// assert_eq!(command, [0x7200, 0x8000]); // PRP1, PRP2
    /// assert_eq!(page[..2], [0x3000_u64, 0x9000].map(u64::to_le_bytes));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if no controller has such pages: 4 KiB to 128 MiB.
    pub const fn new(page: PageSize, limits: TransferLimits) -> Result<Self, DescriptorError> {
        match page.shift() {
            12..=27 => Ok(Self { page, limits }),
            _ => Err(DescriptorError::Format),
        }
    }

    /// What these bytes need, if PRPs can express them. O(extents).
    ///
    /// The extents are gone through again when the list is written: a clone must give the same ones.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`], with where: a start, an end, an address or a length.
    pub fn plan<A, I>(&self, extents: I) -> Result<PrpPlan<A, I::IntoIter>, DescriptorError>
    where
        A: DeviceAddr,
        I: IntoIterator<Item: Into<Extent<A>>, IntoIter: Clone>,
    {
        let extents = extents.into_iter();
        let mask = self.page.mask();
        let (mut len, mut pages, mut ended) = (0u64, 0u64, true);
        for extent in Joined::new(extents.clone()) {
            let addr = extent.first();
            let align = if len == 0 { DWORD } else { self.page.bytes() };
            if !ended {
                return Err(DescriptorError::End { offset: len, align });
            }
            if addr & align.minus(1) != 0 {
                return Err(DescriptorError::Start { offset: len, addr, align });
            }
            self.limits.check_extent(len, &extent)?;
            ended = extent.last() & mask == mask;
            let between = (extent.last() & !mask).minus(addr & !mask);
            pages = pages.saturating_add(between.shifted_down(self.page.shift()).plus(1));
            len = len.saturating_add(extent.len());
        }
        self.limits.check_len(len)?;
        Ok(PrpPlan { prp: *self, extents, pages, len, addresses: PhantomData })
    }

    /// The slots of a list page: 2 to the power of this.
    const fn slot_shift(&self) -> u32 {
        exact::u32::minus(self.page.shift(), ENTRY_SHIFT)
    }
}

/// Bytes that PRPs can express, and what they need; made by [`Prp::plan`].
#[derive(Clone)]
#[must_use = "a plan is to be written"]
pub struct PrpPlan<A, I> {
    prp: Prp,
    extents: I,
    pages: u64,
    len: u64,
    addresses: PhantomData<A>,
}

impl<A, I> fmt::Debug for PrpPlan<A, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrpPlan")
            .field("len", &self.len)
            .field("entries", &self.pages)
            .finish_non_exhaustive()
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>> + Clone> PrpPlan<A, I> {
    /// The bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there are no plans of nothing")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// How many entries there are, PRP1 and PRP2 included, and those that lead from list to list not.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.pages
    }

    /// How many list pages are needed: none for one or two pages of memory.
    #[must_use]
    pub fn list_pages(&self) -> u64 {
        // PRP1, and the last entry of the last page, need no slot that could have been a link.
        let Some(mut left @ 1..) = self.pages.checked_sub(2) else {
            return 0;
        };
        // Divided by a full page's entries without the link, 2^n - 1, and rounded up, where a machine may have no
        // division: a * 2^n + b is a times as much, and a + b.
        let (shift, mut lists) = (self.prp.slot_shift(), 0u64);
        let most = 1u64.shifted_up(shift).minus(1);
        while left > most {
            let whole = left.shifted_down(shift);
            (lists, left) = (lists.plus(whole), whole.plus(left & most));
        }
        lists.plus(1)
    }

    /// Writes the list into the first of `lists`, as many as are [needed](Self::list_pages), each a page
    /// of the controller; returns PRP1 and PRP2, as numbers. O(entries).
    ///
    /// # Errors
    ///
    /// [`DescriptorError`] if there are too few, or if one is no page, or out of reach.
    pub fn write(&self, lists: &mut [ListMemory<'_, A, 8>]) -> Result<[u64; 2], DescriptorError> {
        let (given, needed) = (lists.len() as u64, self.list_pages());
        let slots = 1u64.shifted_up(self.prp.slot_shift());
        let lists = match usize::try_from(needed) {
            Ok(needed) => lists.get_mut(..needed),
            Err(_) => None,
        };
        let Some(lists) = lists else {
            let [needed, given] = [needed, given].map(|pages| pages.saturating_mul(slots));
            return Err(DescriptorError::Room { needed, given });
        };
        for (index, list) in lists.iter().enumerate() {
            let (addr, align) = (list.addr.number(), self.prp.page.bytes());
            self.prp.limits.check_list(index, addr, align, align)?;
            if list.slots.len() as u64 != slots {
                let slots = usize::try_from(slots).unwrap_or(usize::MAX);
                return Err(DescriptorError::List { index, addr, align, slots });
            }
        }
        let mut writer = self.writer();
        let first = writer.next_entry();
        let Some(list) = lists.first() else {
            return Ok([first, writer.next_entry()]);
        };
        let command = [first, list.addr.number()];
        link(lists, |_, list| list.addr.number().to_le_bytes());
        let mut entries = Entries::new(lists);
        writer.for_each(|entry| entries.push(entry.to_le_bytes()));
        Ok(command)
    }

    /// Writes the list page by page, as memory for it comes.
    pub fn writer(&self) -> PrpWriter<A, I> {
        let (extents, page, left) = (self.extents.clone(), self.prp.page, self.pages);
        PrpWriter { extents, page, at: None, left, started: false, addresses: PhantomData }
    }
}

/// Writes entries a few at a time; made by [`PrpPlan::writer`].
#[derive(Clone)]
#[must_use = "a writer does nothing until it is asked to"]
pub struct PrpWriter<A, I> {
    extents: I,
    page: PageSize,
    /// The next address of the current extent, and its last one.
    at: Option<(u64, u64)>,
    left: u64,
    started: bool,
    addresses: PhantomData<A>,
}

impl<A, I> fmt::Debug for PrpWriter<A, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrpWriter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>>> PrpWriter<A, I> {
    /// How many entries are still to be written.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next entry; zero behind the last one. The first is PRP1, and where it is the last but one, the second
    /// is PRP2.
    #[inline]
    pub fn next_entry(&mut self) -> u64 {
        let Some((next, last)) = self.at.take().or_else(|| self.next_extent()) else {
            return 0;
        };
        self.left = self.left.saturating_sub(1);
        self.at = behind(self.page.mask(), next, last);
        next
    }

    /// All entries that are left: faster than one by one.
    fn for_each(mut self, mut f: impl FnMut(u64)) {
        let (mask, at) = (self.page.mask(), self.at.take());
        let mut rest = move |(first, last)| {
            let mut next = Some((first, last));
            while let Some((entry, last)) = next {
                f(entry);
                next = behind(mask, entry, last);
            }
        };
        at.map(&mut rest);
        self.extents.map(Into::into).for_each(|extent| {
            new_in(mask, &extent).map(&mut rest);
        });
    }

    /// What the next extent has that is in no page before.
    #[inline]
    fn next_extent(&mut self) -> Option<(u64, u64)> {
        let mask = self.page.mask();
        if self.started {
            return self.extents.by_ref().map(Into::into).find_map(|extent| new_in(mask, &extent));
        }
        self.started = true;
        self.extents.next().map(Into::into).map(|extent| (extent.first(), extent.last()))
    }

    /// Fills a list page; where not all entries find room, the last slot leads to `next`. What is behind the last
    /// entry is left as it is.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Room`] if there is no room for the rest and no `next`; nothing is written then.
    pub fn write_page(
        &mut self,
        slots: &mut [Slot<8>],
        next: Option<A>,
    ) -> Result<(), DescriptorError> {
        let given = slots.len() as u64;
        let (entries, link) = if self.left <= given {
            (slots, None)
        } else {
            match (next, slots.split_last_mut()) {
                (Some(next), Some((link, entries))) => (entries, Some((link, next))),
                _ => return Err(DescriptorError::Room { needed: self.left, given }),
            }
        };
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        for slot in entries.iter_mut().take(left) {
            *slot = self.next_entry().to_le_bytes();
        }
        if let Some((link, next)) = link {
            *link = next.number().to_le_bytes();
        }
        Ok(())
    }
}

/// The first and the last address of what begins a page behind `addr`, up to `last`.
#[inline]
fn behind(mask: u64, addr: u64, last: u64) -> Option<(u64, u64)> {
    let border = (addr | mask).checked_add(1);
    border.filter(|begin| *begin <= last).map(|begin| (begin, last))
}

/// What an extent has that is in no page before. Where it begins inside of a page, it goes on with the one before:
/// so the plan has found.
#[inline]
fn new_in<A: DeviceAddr>(mask: u64, extent: &Extent<A>) -> Option<(u64, u64)> {
    let (first, last) = (extent.first(), extent.last());
    if first & mask == 0 {
        return Some((first, last));
    }
    behind(mask, first, last)
}
