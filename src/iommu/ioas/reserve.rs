// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Reservation`]: addresses that are kept free of mappings.
//!
//! Reservations may overlap, as those of two devices do that are reached by interrupts at the same
//! addresses. In the tree lie disjoint parts; every reservation is made of whole ones:
//!
//! ```text
//!  reservations   ├─────── a ────────┤       ├─── c ───┤      kept beside the tree, in a list
//!                         ├─────── b ────────┤
//!  parts          ├───────┼──────────┼───────┼─────────┤      a part ends where any of them does
//! ```
//!
//! When one is taken back, the parts go that no other has, and those become one again that only it
//! had kept apart. That takes no memory.
#![forbid(unsafe_code)]

use super::area::{Area, AreaKind};
use super::error::IoasError;
use super::space::Ioas;
use super::store::IoasStore;
use crate::addr::Iova;
use crate::iommu::domain::DomainHolder;
use crate::iova_range::IovaRange;
use crate::store::NONE;
use crate::umem::RegionHolder;

/// Addresses that are kept free of mappings in an [`Ioas`]: its owner can
/// [take it back](Ioas::unreserve).
///
/// It belongs to the caller that reserves the addresses: a device, for its window of interrupts, has one for
/// each of its ranges. Dropping it takes nothing back: then the range is reserved as long as the
/// address space lives.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    key: u32,
    range: IovaRange,
}

impl Reservation {
    /// The addresses.
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.range
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Keeps mappings out of `range`: an address window for interrupts, for example. Others may have
    /// reserved some of it, too: it is reserved until the last of them takes it back. It has one place
    /// in the slab, and one for each part that is new. O(log n + reservations).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// let interrupts = IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000)?;
    /// let _reservation = space.reserve(interrupts)?;
    /// assert!(space.map(Placement::At(interrupts.first()), umem, Prot::READ).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::Overlap`] if something is mapped there, [`IoasError::Poisoned`], or
    /// [`IoasError::OutOfMemory`]; nothing has changed then.
    pub fn reserve(&mut self, range: IovaRange) -> Result<Reservation, IoasError<D::Error>> {
        let mut there = self.areas.overlapping(range);
        if let Some((range, area)) = there.find(|(_, area)| !area.is_reserved()) {
            return Err(area.in_the_way(range));
        }
        let Some(key) = self.keep_reservation(range) else {
            self.tidy(range);
            return Err(IoasError::OutOfMemory);
        };
        self.reservations = key;
        Ok(Reservation { key, range })
    }

    /// Makes the parts of a reservation, and keeps it; `None` if there is no memory for that.
    fn keep_reservation(&mut self, range: IovaRange) -> Option<u32> {
        self.cut_part(range.first())?;
        if let Some(behind) = range.last().checked_add(1) {
            self.cut_part(behind)?;
        }
        let mut from = Some(range.first());
        while let Some(gap) = from.and_then(|from| self.gap(from, range.last())) {
            self.areas.insert(gap, Area::reserved()).ok()?;
            from = gap.last().checked_add(1);
        }
        self.areas.keep(Area::reservation(range, self.reservations)).ok()
    }

    /// Lets a part begin at `iova`, if one lies across.
    fn cut_part(&mut self, iova: Iova) -> Option<()> {
        let across = self.areas.find(iova).filter(|(_, area)| area.is_reserved());
        let Some((part, _)) = across.filter(|(part, _)| part.first() < iova) else {
            return Some(());
        };
        let tail = IovaRange::inclusive(iova, part.last()).ok()?;
        self.areas.set_last(&self.areas.near(iova), iova.checked_sub(1)?);
        let cut = self.areas.insert(tail, Area::reserved()).ok();
        if cut.is_none() {
            self.areas.set_last(&self.areas.near(iova), part.last());
        }
        cut.map(drop)
    }

    /// The first unused addresses from `from` up to `last`.
    fn gap(&self, from: Iova, last: Iova) -> Option<IovaRange> {
        let within = IovaRange::inclusive(from, last).ok()?;
        self.areas.gaps(within, 1).next()
    }

    /// Takes a reservation back. What is not reserved otherwise can be used then. O(reservations) for each
    /// part of it.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// let reservation = space.reserve(IovaRange::new(Iova::new(0x8000), 0x1000)?)?;
    /// assert!(space.unreserve(reservation).is_ok());
    /// space.map(Placement::At(Iova::new(0x8000)), umem, Prot::READ)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The reservation, if there is none like it here: it is one of another address space.
    pub fn unreserve(&mut self, reservation: Reservation) -> Result<(), Reservation> {
        let Reservation { key, range } = reservation;
        let found = self.reservations().find(|(_, at, there)| (*at, *there) == (key, range));
        let Some((before, ..)) = found else {
            return Err(reservation);
        };
        let Some(AreaKind::Reservation { next, .. }) =
            self.areas.remove_kept(key).map(|area| area.kind)
        else {
            return Err(reservation);
        };
        match self.areas.get_mut(before).map(|area| &mut area.kind) {
            Some(AreaKind::Reservation { next: behind, .. }) => *behind = next,
            _ => self.reservations = next,
        }
        self.tidy(range);
        Ok(())
    }

    /// All reservations, the latest first: the key of the one before, its own key, and its range.
    fn reservations(&self) -> impl Iterator<Item = (u32, u32, IovaRange)> + '_ {
        let (mut before, mut next) = (NONE, self.reservations);
        core::iter::from_fn(move || {
            let AreaKind::Reservation { range, next: behind } = self.areas.get(next)?.kind else {
                return None;
            };
            let this = (before, next, range);
            (before, next) = (next, behind);
            Some(this)
        })
    }

    /// Removes the parts around `range` that no reservation has, and joins those that none keeps apart.
    fn tidy(&mut self, range: IovaRange) {
        let last = range.last().checked_add(1).unwrap_or(range.last());
        let mut next = Some(range.first());
        while let Some((part, area)) = next.and_then(|next| self.areas.first_from(next)) {
            if part.first() > last {
                break;
            }
            next = part.last().checked_add(1);
            if !area.is_reserved() {
                continue;
            }
            if self.reservations().all(|(.., it)| it.intersection(&part).is_none()) {
                self.areas.remove(part.first());
                continue;
            }
            let Some(before) = part.first().checked_sub(1) else {
                continue;
            };
            let touches = self.areas.find(before).is_some_and(|(_, area)| area.is_reserved());
            let ends = |it: IovaRange| it.first() == part.first() || it.last() == before;
            if touches && !self.reservations().any(|(.., it)| ends(it)) {
                self.areas.remove(part.first());
                self.areas.set_last(&self.areas.near(before), part.last());
            }
        }
    }

    /// The reserved addresses, in order: those that touch are one range, however they were reserved.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # space.map(pinned_sgl::iommu::Placement::Anywhere, umem, pinned_sgl::iommu::Prot::READ)?;
    /// space.reserve(IovaRange::new(Iova::new(0xfee0_0000), 0x8_0000)?)?;
    /// space.reserve(IovaRange::new(Iova::new(0xfee8_0000), 0x8_0000)?)?;
    /// assert!(space.reserved().eq([IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000)?]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserved(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let parts = self.areas.iter().filter(|(_, area)| area.is_reserved());
        let mut parts = parts.map(|(part, _)| part);
        let mut next = parts.next();
        core::iter::from_fn(move || {
            let mut whole = next.take()?;
            next = parts.next();
            while let Some(part) =
                next.filter(|part| whole.last().checked_add(1) == Some(part.first()))
            {
                whole = IovaRange::inclusive(whole.first(), part.last()).unwrap_or(part);
                next = parts.next();
            }
            Some(whole)
        })
    }
}
