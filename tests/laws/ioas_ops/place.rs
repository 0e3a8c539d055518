// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the model says of places: what fits there, and where there is room.

use super::super::machine;
use super::model::{inclusive, Kind, Vma};
use super::World;
use pinned_sgl::iommu::{Domain, IovaRange};
use pinned_sgl::PageSizes;

impl World {
    /// All that a domain translates.
    pub(super) fn occupied(&self, domain: usize) -> Vec<Vma> {
        let mut areas = vec![];
        for space in &self.spaces {
            if space.domains.contains(&domain) {
                areas.extend(space.areas.iter().copied().filter(Vma::is_mapped));
            }
        }
        areas
    }

    /// Whether an area can be mapped in a domain.
    pub(super) fn can_install(&self, domain: usize, area: Vma) -> bool {
        if !area.is_mapped() {
            return true;
        }
        let iommu = &self.iommus[domain];
        iommu.aperture().covers(&inclusive(area.first, area.last))
            && self.fits(iommu.page_sizes(), area)
            && self.occupied(domain).iter().all(|there| !there.overlaps(area.first, area.last))
    }

    /// Whether memory can be mapped there in pages of `sizes`.
    fn fits(&self, sizes: PageSizes, area: Vma) -> bool {
        let Kind::Mapped { region, offset, .. } = area.kind else { panic!("{area:?}") };
        let region = &self.regions[region];
        let (from, len) = (region.page_offset + offset, area.last - area.first + 1);
        machine::fits(sizes, area.first, &region.frames, from, len)
    }

    /// Whether an area can be mapped in every domain of a space.
    pub(super) fn can_place(&self, space: usize, area: Vma) -> bool {
        let it = &self.spaces[space];
        it.areas.iter().all(|there| !there.overlaps(area.first, area.last))
            && it.domains.iter().all(|domain| self.can_install(*domain, area))
            && (!it.domains.is_empty() || self.fits(it.granule.into(), area))
    }

    /// What every address that can be mapped is a multiple of, and the addresses of all domains.
    pub(super) fn common(&self, space: usize) -> (u64, Option<IovaRange>) {
        let domains = self.spaces[space].domains.iter().map(|domain| &self.iommus[*domain]);
        let smallest = domains.clone().filter_map(|domain| domain.page_sizes().smallest());
        let mut apertures = domains.map(|domain| domain.aperture());
        let aperture =
            apertures.try_fold(IovaRange::ALL, |all, aperture| all.intersection(&aperture));
        let smallest = smallest.max().unwrap_or(self.spaces[space].granule);
        (smallest.bytes(), aperture)
    }

    /// Whether there is room.
    pub(super) fn has_room(&self, space: usize, len: u64, allowed: &[IovaRange]) -> bool {
        let (smallest, aperture) = self.common(space);
        let Some(aperture) = aperture else {
            return false;
        };
        let within = allowed.iter().filter_map(|allowed| allowed.intersection(&aperture));
        let mut gaps = within.flat_map(|within| self.spaces[space].gaps(within));
        gaps.any(|(first, last)| {
            let first = first.max(1).checked_next_multiple_of(smallest);
            let end = first.and_then(|first| first.checked_add(len - 1));
            end.is_some_and(|end| end <= last)
        })
    }

    /// Whether all domains can map the memory somewhere.
    pub(super) fn can_map(&self, space: usize, kind: Kind, len: u64) -> bool {
        let somewhere = Vma { first: 0, last: len - 1, kind };
        let it = &self.spaces[space];
        let mut sizes = it.domains.iter().map(|domain| self.iommus[*domain].page_sizes());
        sizes.all(|sizes| self.fits(sizes, somewhere))
            && (!it.domains.is_empty() || self.fits(it.granule.into(), somewhere))
    }

    /// Whether a place is one that may be given.
    pub(super) fn check_place(&self, space: usize, place: IovaRange, allowed: &[IovaRange]) {
        let aperture = self.common(space).1.unwrap();
        assert!(place.first().get() != 0 && aperture.covers(&place));
        assert!(allowed.iter().any(|allowed| allowed.covers(&place)));
        assert!(self.spaces[space].in_range(place).is_empty());
    }
}
