// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program maps, unmaps and tracks.

use crate::{
    abi::{self, UserBitmap},
    container::{Space, State},
    dma::Dma,
    memory::Memory,
};
use kernel::{prelude::*, rbtree::RBTreeNodeReservation};
use pinned_sgl::{
    iommu::{IoasError, IovaRange, Placement, Prot},
    Iova,
};

/// What to map.
pub(crate) struct Request {
    pub(crate) flags: u32,
    pub(crate) vaddr: u64,
    pub(crate) range: IovaRange,
}

/// What to unmap.
#[derive(Clone, Copy)]
pub(crate) struct Unmap {
    /// What the program asks for.
    pub(crate) range: IovaRange,
    /// From the first mapping of that to the last one; `None` if there is none.
    pub(crate) span: Option<IovaRange>,
}

impl State {
    /// The mapping that is a range, which is what programs unmap.
    fn exactly(&self, range: IovaRange) -> Option<&Dma> {
        self.dmas.get(&range.first().get()).filter(|dma| dma.range == range)
    }

    /// The first mapping that has an address of a range.
    pub(crate) fn first_in(&self, range: IovaRange) -> Option<&Dma> {
        // The one that begins there or behind, or the one before it.
        let (first, last) = (range.first().get(), range.last().get());
        let at = match self.dmas.cursor_lower_bound(&first) {
            Some(cursor) => {
                let before = cursor.peek_prev().filter(|(_, dma)| dma.last() >= first);
                let (at, _) = before.unwrap_or(cursor.current());
                (*at <= last).then_some(*at)
            }
            None => {
                let cursor = self.dmas.cursor_back()?;
                let (at, dma) = cursor.current();
                (dma.last() >= first).then_some(*at)
            }
        };
        self.dmas.get(&at?)
    }

    /// The mapping that has an address.
    pub(crate) fn at(&self, iova: u64) -> Option<&Dma> {
        self.first_in(IovaRange::new(Iova::new(iova), 1).ok()?)
    }

    /// Calls `each` with all mappings that have an address of a range, until it fails.
    pub(crate) fn each_in(
        &mut self,
        range: IovaRange,
        mut each: impl FnMut(&mut Space, &mut Dma) -> Result,
    ) -> Result {
        let Some(first) = self.first_in(range).map(Dma::first) else {
            return Ok(());
        };
        let mut cursor = self.dmas.cursor_lower_bound_mut(&first);
        while let Some(mut here) = cursor {
            let (at, dma) = here.current_mut();
            if *at > range.last().get() {
                break;
            }
            each(&mut self.ioas, dma)?;
            cursor = here.move_next();
        }
        Ok(())
    }

    /// Pins and maps a mapping in every domain.
    pub(crate) fn install(ioas: &mut Space, dma: &Dma) -> Result {
        let len = dma.range.len().ok_or(EOVERFLOW)?;
        ioas.map(Placement::At(dma.range.first()), dma.memory.pin_all(len)?, dma.prot)?;
        Ok(())
    }

    /// Unmaps in every domain, and unpins.
    fn uninstall(ioas: &mut Space, range: IovaRange) -> Result {
        match ioas.unmap(range) {
            Ok(_) => Ok(()),
            // Said by the domain, and worth a line: the pages stay pinned.
            Err(IoasError::Breach(breach)) => {
                pr_err!("the IOMMU did not unmap: {:?}\n", breach);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn map(&mut self, request: &Request) -> Result {
        let Request { flags, vaddr, range } = *request;
        let (page, iova) = (self.page(), range.first().get());
        if (vaddr | iova | range.len().ok_or(EOVERFLOW)?) & page.mask() != 0 {
            return Err(EINVAL);
        }
        let known = self.first_in(range).map(|dma| (dma.range, dma.moving));
        if flags & abi::map::VADDR != 0 {
            if known.ok_or(ENOENT)? != (range, true) {
                return Err(EINVAL);
            }
            let dma = self.dmas.get_mut(&iova).ok_or(ENOENT)?;
            dma.memory.move_to(vaddr)?;
            dma.moving = false;
            self.moving = self.moving.saturating_sub(1);
            return Ok(());
        }
        if known.is_some() {
            return Err(EEXIST);
        }
        let available = self.available.checked_sub(1).ok_or(ENOSPC)?;
        if !self.ranges.allow(iova, range.last().get()) {
            return Err(EINVAL);
        }
        let mut prot = Prot::CACHE;
        if flags & abi::map::READ != 0 {
            prot |= Prot::READ;
        }
        if flags & abi::map::WRITE != 0 {
            prot |= Prot::WRITE;
        }
        let memory = Memory::new(vaddr, prot.contains_all(Prot::WRITE))?;
        let mut dma = Dma { range, prot, moving: false, memory, dirty: None };
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        if self.is_paged() {
            Self::install(&mut self.ioas, &dma)?;
        }
        if self.tracking {
            let tracked = dma.track(page);
            if let (Err(error), true) = (tracked, self.is_paged()) {
                Self::uninstall(&mut self.ioas, range)?;
                return Err(error);
            }
            tracked?;
        }
        self.dmas.insert(node.into_node(iova, dma));
        self.available = available;
        Ok(())
    }

    /// What is to be unmapped, if it can be.
    pub(crate) fn check_unmap(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<&UserBitmap>,
    ) -> Result<Unmap> {
        if flags & abi::unmap::VADDR != 0 && self.has_emulated() {
            return Err(EBUSY);
        }
        let (iova, size) = (abi::address(iova)?, abi::size(size)?);
        let page = self.page();
        if iova & page.mask() != 0 {
            return Err(EINVAL);
        }
        let all = flags & abi::unmap::ALL != 0;
        let range = if all {
            if iova != 0 || size != 0 {
                return Err(EINVAL);
            }
            IovaRange::ALL
        } else {
            if size == 0 || size & page.mask() != 0 {
                return Err(EINVAL);
            }
            abi::range(iova, size)?
        };
        if bitmap.is_some_and(|bitmap| !self.tracking || bitmap.page != page.bytes()) {
            return Err(EINVAL);
        }
        let span = self.span(range);
        if self.v2 && !all && span != Some(range) && self.cuts(range) {
            return Err(EINVAL);
        }
        Ok(Unmap { range, span })
    }

    /// Whether a mapping lies across an end of the range.
    fn cuts(&self, range: IovaRange) -> bool {
        let (first, last) = (range.first().get(), range.last().get());
        self.exactly(range).is_none()
            && (self.at(first).is_some_and(|dma| dma.first() != first)
                || self.at(last).is_some_and(|dma| dma.last() != last))
    }

    /// The mappings that an unmap of a range takes, as the range from the first of the first to the
    /// last of the last. In a container of version 1, a mapping goes whole with its first address,
    /// and a range that begins inside of one takes nothing.
    fn span(&self, range: IovaRange) -> Option<IovaRange> {
        if self.exactly(range).is_some() {
            return Some(range);
        }
        let from = self.first_in(range)?.range.first();
        if from < range.first() {
            return None;
        }
        let to = self.at(range.last().get()).map_or(range.last(), |dma| dma.range.last());
        IovaRange::inclusive(from, to).ok()
    }

    /// The first mapping of what is to be unmapped in which an emulated device has pinned pages.
    pub(crate) fn pinned_in(&mut self, what: Unmap) -> Option<IovaRange> {
        let span = what.span?;
        if let Some(dma) = self.exactly(span) {
            return dma.memory.has_external().then_some(span);
        }
        let mut found = None;
        let _ = self.each_in(span, |_, dma| {
            if dma.memory.has_external() {
                found = Some(dma.range);
                return Err(EAGAIN);
            }
            Ok(())
        });
        found
    }

    /// The memory behind what could be unmapped will lie elsewhere.
    pub(crate) fn start_moving(&mut self, what: Unmap) -> Result<u64> {
        let Some(span) = what.span else {
            return Ok(0);
        };
        self.each_in(span, |_, dma| if dma.moving { Err(EINVAL) } else { Ok(()) })?;
        let (mut bytes, mut count) = (0u64, 0usize);
        self.each_in(span, |_, dma| {
            dma.moving = true;
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(dma.len());
            Ok(())
        })?;
        self.moving = self.moving.saturating_add(count);
        Ok(bytes)
    }

    /// Unmaps what can be; returns how many bytes.
    pub(crate) fn unmap(&mut self, what: Unmap, bitmap: Option<&UserBitmap>) -> Result<u64> {
        let Unmap { range, span: Some(span) } = what else {
            return Ok(0);
        };
        let paged = self.is_paged();
        if let Some(bitmap) = bitmap {
            let (page, all_dirty) = (self.page(), paged && self.writes_unseen());
            self.each_in(span, |_, dma| {
                if all_dirty {
                    dma.all_written();
                }
                dma.report(page, range.first().get(), bitmap)
            })?;
        }
        // One flush for all of them.
        if paged && Self::uninstall(&mut self.ioas, span).is_err() {
            // Something there is lost since the IOMMU has failed: around it.
            let _ = self.each_in(span, |ioas, dma| {
                let _ = Self::uninstall(ioas, dma.range);
                Ok(())
            });
        }
        Ok(self.forget(span))
    }

    /// Forgets all mappings of a range, which begins where the first of them does: they are mapped nowhere any
    /// more.
    fn forget(&mut self, range: IovaRange) -> u64 {
        let (mut bytes, mut at) = (0u64, Some(range.first().get()));
        while let Some(here) = at {
            // A range begins where a mapping does, and often there is no other.
            let Some(dma) = self.dmas.remove(&here) else { break };
            bytes = bytes.saturating_add(dma.len());
            self.moving = self.moving.saturating_sub(dma.moving.into());
            self.available = self.available.saturating_add(1);
            let behind = dma.range.last().checked_add(1).filter(|next| *next <= range.last());
            let rest = behind.and_then(|next| IovaRange::inclusive(next, range.last()).ok());
            at = rest.and_then(|rest| self.first_in(rest)).map(Dma::first);
        }
        bytes
    }

    /// Unmaps everything.
    pub(crate) fn remove_all(&mut self) {
        self.ioas.unmap_all();
        let dmas = core::mem::take(&mut self.dmas);
        let count = u32::try_from(dmas.iter().count()).unwrap_or(u32::MAX);
        self.available = self.available.saturating_add(count);
        self.moving = 0;
    }

    /// Whether devices write to pages that they have not pinned: then all pages are dirty.
    fn writes_unseen(&self) -> bool {
        self.groups.iter().any(|group| !group.pins_what_it_writes)
    }

    pub(crate) fn start_tracking(&mut self) -> Result {
        if self.tracking {
            return Ok(());
        }
        let page = self.page();
        let tracked = self.each_in(IovaRange::ALL, |_, dma| dma.track(page));
        self.tracking = tracked.is_ok();
        tracked.inspect_err(|_| self.stop_tracking())
    }

    pub(crate) fn stop_tracking(&mut self) {
        self.tracking = false;
        let _ = self.each_in(IovaRange::ALL, |_, dma| {
            dma.dirty = None;
            Ok(())
        });
    }

    /// Writes which pages of a range are dirty. Those that are pinned are dirty again at once.
    pub(crate) fn read_dirty(&mut self, range: IovaRange, user: &UserBitmap) -> Result {
        let (page, base) = (self.page(), range.first().get());
        let aligned = (base | range.len().unwrap_or(0)) & page.mask() == 0;
        if user.page != page.bytes() || !aligned || !self.tracking || self.cuts(range) {
            return Err(EINVAL);
        }
        let all_dirty = self.is_paged() && self.writes_unseen();
        self.each_in(range, |_, dma| {
            if all_dirty {
                dma.all_written();
            }
            dma.report(page, base, user)?;
            if let Some(words) = &mut dma.dirty {
                words.fill(0);
            }
            dma.pinned_is_written();
            Ok(())
        })
    }
}
