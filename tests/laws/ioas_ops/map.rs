// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping: a part of a region, and what another address space has.

use super::super::machine::{self, PAGE};
use super::model::{inclusive, Kind, Vma};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{IoasError, IovaRange, MapError, Placement, Prot};
use pinned_sgl::umem::AttachError;
use pinned_sgl::Iova;
use pinned_sgl_mock::MapFault;

/// At an address, or in these ranges.
fn placement(at: Option<u64>, allowed: &[IovaRange]) -> Placement<'_> {
    match at {
        Some(at) => Placement::At(Iova::new(at)),
        None if allowed == [IovaRange::ALL] => Placement::Anywhere,
        None => Placement::Within(allowed),
    }
}

impl World {
    pub(super) fn map(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let Some(region) = self.some_region(u)? else {
            return Ok(());
        };
        let (bytes, prot) = (machine::part(u, self.regions[region].len)?, machine::prot(u)?);
        let len = bytes.end.saturating_sub(bytes.start);
        let inside = len != 0 && bytes.end <= self.regions[region].len;
        let may = prot.intersects(Prot::READ | Prot::WRITE);
        let writable = self.regions[region].writable || !prot.contains(Prot::WRITE);
        let limited = self.spaces[space].mappings() >= self.spaces[space].limit;
        let legal = inside && may && writable && !limited;
        let handle = self.regions[region].handle.clone().unwrap();
        let area = |first: u64| {
            let last = first.checked_add(len.checked_sub(1)?)?;
            Some(Vma { first, last, kind: Kind::Mapped { region, offset: bytes.start, prot } })
        };
        let (at, allowed) = match u.int_in_range(0..=5)? {
            0 => (None, vec![IovaRange::ALL]),
            1 => (None, self.some_allowed(u)?),
            2 if inside => {
                // Where large pages fit.
                let first = self.regions[region].page_offset + bytes.start;
                let phys = machine::phys(&self.regions[region].frames, first);
                (Some(self.some_iova(u)? & !0x1fff | phys & 0x1fff), vec![])
            }
            3 | 4 => (Some(self.some_iova(u)? & !(PAGE - 1)), vec![]),
            _ => (Some(self.some_iova(u)?), vec![]),
        };
        let (result, fired) = self.planned(|this| {
            this.reals[space].map_range(placement(at, &allowed), handle, bytes.clone(), prot)
        });
        match result {
            Ok(place) => {
                assert!(legal && !fired);
                match at {
                    Some(at) => assert_eq!(place.first().get(), at),
                    None => self.check_place(space, place, &allowed),
                }
                let area = area(place.first().get()).unwrap();
                assert_eq!(area.last, place.last().get());
                assert!(self.can_place(space, area));
                self.spaces[space].areas.push(area);
            }
            Err(error) => {
                if let Some(at) = at {
                    let can = inside && area(at).is_some_and(|area| self.can_place(space, area));
                    assert!(!(legal && can) || fired, "{error}");
                }
                let there = at
                    .and_then(area)
                    .map(|area| self.spaces[space].in_range(inclusive(area.first, area.last)));
                let there = there.and_then(|there| there.first().copied());
                let overlaps = there.is_some();
                match error.error() {
                    IoasError::Map(MapError::NoAccess) => assert!(!may),
                    IoasError::MappingLimit { .. } => assert!(limited),
                    IoasError::Map(MapError::Attach(AttachError::ReadOnly)) => {
                        assert!(!writable);
                    }
                    IoasError::Map(MapError::Window(_)) => assert!(!inside),
                    IoasError::NoRoom { .. } => {
                        assert!(at.is_none() && !self.has_room(space, len, &allowed));
                    }
                    IoasError::Overlap { existing: range } | IoasError::Reserved { range } => {
                        let there = there.unwrap();
                        let reserved = matches!(error.error(), IoasError::Reserved { .. });
                        assert_eq!(there.is_mapped(), !reserved);
                        let whole = inclusive(there.first, there.last);
                        assert!(if reserved { whole.covers(range) } else { whole == *range });
                    }
                    IoasError::OutOfMemory => assert!(fired),
                    IoasError::Map(MapError::Domain { error: MapFault::Injected, .. }) => {
                        assert!(fired)
                    }
                    IoasError::Map(MapError::Tiles(_)) => {
                        let kind = Kind::Mapped { region, offset: bytes.start, prot };
                        assert!(!overlaps && (at.is_some() || !self.can_map(space, kind, len)));
                    }
                    IoasError::Map(MapError::Aperture { .. }) => {
                        assert!(!overlaps && at.is_some());
                    }
                    // Where a place was found, another space may have mapped something.
                    IoasError::Map(MapError::Domain { error: MapFault::Exists { .. }, .. }) => {
                        assert!(!overlaps);
                    }
                    other => panic!("{other}"),
                }
            }
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        if self.spaces.len() < 2 {
            return Ok(());
        }
        let (from, prot) = (self.some_range(u)?, machine::prot(u)?);
        let hole = self.spaces[1 - space].first_hole(from);
        let Some(len) = from.len() else {
            return Ok(());
        };
        let (at, allowed) = match u.int_in_range(0..=2)? {
            0 => (None, vec![IovaRange::ALL]),
            1 => (None, self.some_allowed(u)?),
            _ => (Some(self.some_iova(u)?), vec![]),
        };
        let (result, fired) = self.planned(|this| {
            let (first, second) = this.reals.split_at_mut(1);
            let (to, source) =
                if space == 0 { (&mut first[0], &second[0]) } else { (&mut second[0], &first[0]) };
            to.copy_from(source, from, placement(at, &allowed), prot)
        });
        let before = self.spaces[space].clone();
        // Each of them in turn, as far as it goes; all of them are taken back if one cannot.
        let can = |this: &mut Self, first: u64| {
            let (source, mut can) = (this.spaces[1 - space].in_range(from), true);
            for area in source {
                let part = area.within(from.first().get(), from.last().get());
                let Kind::Mapped { region, offset, .. } = part.kind else { panic!("{part:?}") };
                let at = |iova: u64| first.checked_add(iova - from.first().get());
                let (Some(first), Some(last)) = (at(part.first), at(part.last)) else {
                    return false;
                };
                let copied = Vma { first, last, kind: Kind::Mapped { region, offset, prot } };
                let it = &this.spaces[space];
                can &= it.mappings() < it.limit
                    && prot.intersects(Prot::READ | Prot::WRITE)
                    && (this.regions[region].writable || !prot.contains(Prot::WRITE))
                    && this.can_place(space, copied);
                this.spaces[space].areas.push(copied);
            }
            can
        };
        match result {
            Ok(place) => {
                assert!(hole.is_none() && !fired);
                assert_eq!(place.len(), Some(len));
                match at {
                    Some(at) => assert_eq!(place.first().get(), at),
                    None => self.check_place(space, place, &allowed),
                }
                assert!(can(self, place.first().get()));
            }
            Err(IoasError::NotMapped { iova }) => assert_eq!(hole, Some(iova.get())),
            Err(IoasError::NoRoom { .. }) => {
                assert!(at.is_none() && !self.has_room(space, len, &allowed));
            }
            Err(other) => {
                assert!(hole.is_none());
                assert!(!matches!(other, IoasError::Breach(_)));
                if let Some(at) = at {
                    assert!(!can(self, at) || fired, "{other}");
                } else if matches!(other, IoasError::Map(MapError::Tiles(_))) {
                    let areas = self.spaces[1 - space].in_range(from);
                    assert!(areas.iter().any(|area| {
                        let part = area.within(from.first().get(), from.last().get());
                        !self.can_map(space, part.kind, part.last - part.first + 1)
                    }));
                }
                self.spaces[space] = before;
            }
        }
        Ok(())
    }
}
