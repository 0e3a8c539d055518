// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping in an [`Ioas`]: at an address, or wherever there is room.

use super::super::domain::Domain;
use super::super::entries::{MapErrorKind, NotMapped};
use super::super::prot::Prot;
use super::super::range::IovaRange;
use super::super::slab::Slab;
use super::super::tree::Node;
use super::area::{Area, AreaKind, Mapped};
use super::domains::{install, uninstall, DomainLink};
use super::error::{IoasError, IoasMapError};
use super::placement::{Alignment, Placement};
use super::space::{DomainError, Ioas};
use crate::exact::Exact as _;
use crate::granule::TileError;
use crate::umem::{Attachment, Holder, Region};
use core::ops::Range;

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: Holder<Target: Region>,
    D: Holder<Target: Domain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// Maps a whole region in every domain, and tells where. O(log n + tiles).
    ///
    /// # Errors
    ///
    /// [`IoasMapError`], with the region; nothing has changed then.
    pub fn map(
        &mut self,
        placement: Placement<'_>,
        region: U,
        prot: Prot,
    ) -> Result<IovaRange, IoasMapError<U, DomainError<D>>> {
        let len = region.len();
        self.map_range(placement, region, 0..len, prot)
    }

    /// Maps the bytes `range` of a region in every domain, and tells where. O(log n + tiles), and
    /// O(runs) to find the best place, if there is a choice.
    ///
    /// # Errors
    ///
    /// [`IoasMapError`], with the region; nothing has changed then.
    pub fn map_range(
        &mut self,
        placement: Placement<'_>,
        region: U,
        range: Range<u64>,
        prot: Prot,
    ) -> Result<IovaRange, IoasMapError<U, DomainError<D>>> {
        let failed = |kind, region| IoasMapError { kind, mapped: 0, region };
        if let Err(kind) = self.room_for_another(prot) {
            return Err(failed(kind, region));
        }
        let attachment = match Attachment::hold(region, prot.contains(Prot::WRITE)) {
            Ok(attachment) => attachment,
            Err((error, region)) => {
                return Err(failed(IoasError::Map(MapErrorKind::Attach(error)), region));
            }
        };
        let place = self.find_place(&**attachment.region(), range.clone(), placement);
        let mapped = Mapped { attachment, offset: range.start, prot };
        // SAFETY: nothing was mapped under this attachment.
        let unmapped = |mapped: Mapped<U>| unsafe { mapped.attachment.release() };
        let place = match place {
            Ok(place) => place,
            Err(kind) => return Err(failed(kind, unmapped(mapped))),
        };
        if let Err((kind, area)) = self.place(place, Area::mapped(mapped)) {
            return match area.kind {
                AreaKind::Mapped(mapped) => Err(failed(kind, unmapped(mapped))),
                // What comes back is what was given.
                AreaKind::Reserved { .. } | AreaKind::Poisoned => Ok(place),
            };
        }
        self.mappings = self.mappings.plus(1);
        match self.install_everywhere(place) {
            Ok(()) => Ok(place),
            Err(NotMapped { kind, mapped, breach }) => match self.take_back(place, breach) {
                Some(region) => Err(IoasMapError { kind: kind.into(), mapped, region }),
                // It was put there above.
                None => Ok(place),
            },
        }
    }

    /// Whether there may be another mapping, and whether it makes sense.
    fn room_for_another(&self, prot: Prot) -> Result<(), IoasError<DomainError<D>>> {
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            return Err(IoasError::Map(MapErrorKind::NoAccess));
        }
        if self.mappings >= self.entry_limit {
            return Err(IoasError::EntryLimit { limit: self.entry_limit });
        }
        Ok(())
    }

    /// Where the bytes of a region go. That an address is in use is found out later.
    fn find_place(
        &self,
        region: &U::Target,
        range: Range<u64>,
        placement: Placement<'_>,
    ) -> Result<IovaRange, IoasError<DomainError<D>>> {
        let window = region.window(range);
        let window = window.map_err(|error| IoasError::Map(MapErrorKind::Window(error)))?;
        let len = window.len();
        let allowed = match placement {
            Placement::At(iova) => {
                let wraps = TileError::Wraps { iova, len };
                let place = IovaRange::new(iova, len);
                return place.map_err(|_| IoasError::Map(MapErrorKind::Tiles(wraps)));
            }
            Placement::Anywhere => &[IovaRange::ALL],
            Placement::Within(ranges) => ranges,
        };
        let best = Alignment::best(&window, self.common_page_sizes());
        self.find_room(len, best, allowed)
    }

    /// The first room for `len` bytes in one of the ranges, at the best alignment or, if there is no
    /// such room, at the next best.
    pub(super) fn find_room(
        &self,
        len: u64,
        best: Alignment,
        allowed: &[IovaRange],
    ) -> Result<IovaRange, IoasError<DomainError<D>>> {
        let none = IoasError::NoRoom { len };
        let Some(aperture) = self.common_aperture() else {
            return Err(none);
        };
        let sizes = self.common_page_sizes();
        let mut alignment = Some(best);
        while let Some(this) = alignment {
            let room = allowed.iter().find_map(|allowed| {
                let within = allowed.intersection(&aperture)?;
                self.areas.fit(within, len, |gap| this.first_in(gap, len))
            });
            if let Some(place) = room.and_then(|iova| IovaRange::new(iova, len).ok()) {
                return Ok(place);
            }
            alignment = this.relaxed(sizes);
        }
        Err(none)
    }

    /// Maps the area at `range` in every domain, or in none.
    fn install_everywhere(&mut self, range: IovaRange) -> Result<(), NotMapped<DomainError<D>>> {
        let Self { areas, domains, .. } = self;
        let Some(mapped) = areas.find(range.first()).and_then(|(_, area)| area.memory()) else {
            return Ok(());
        };
        // SAFETY: the memory is attached for as long as it lies here; the addresses of the domains
        // are used by this address space, in which nothing else lies there.
        let install = |domain: &D| unsafe { install(&**domain, range, mapped) };
        let failure = domains.iter().find_map(|(id, domain)| Some((id, install(domain).err()?)));
        let Some((failed, mut failure)) = failure else {
            return Ok(());
        };
        for (_, domain) in domains.iter().take_while(|(id, _)| *id != failed) {
            // SAFETY: it was mapped in this domain.
            if let Err(breach) = unsafe { uninstall(&**domain, range, mapped) } {
                failure.kind = MapErrorKind::Breach(breach);
                failure.breach = true;
            }
        }
        Err(failure)
    }

    /// Takes an area that is mapped in no domain back, or poisons it after a breach; the region comes
    /// back.
    fn take_back(&mut self, range: IovaRange, breach: bool) -> Option<U> {
        if breach {
            let (_, area) = self.areas.find_mut(range.first())?;
            return area.poison();
        }
        let (_, area) = self.areas.remove(range.first())?;
        self.mappings = self.mappings.minus(1);
        match area.kind {
            // SAFETY: it is mapped in no domain.
            AreaKind::Mapped(mapped) => Some(unsafe { mapped.attachment.release() }),
            AreaKind::Reserved { .. } | AreaKind::Poisoned => None,
        }
    }
}
