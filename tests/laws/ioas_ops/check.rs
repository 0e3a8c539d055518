// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model is what is, after every step and in the end.

use super::super::machine::{PAGE, STEP};
use super::model::{Kind, Space, Vma};
use super::{Real, World};
use pinned_sgl::iommu::IovaRange;
use pinned_sgl::{Iova, PhysAddr};
use std::sync::Arc;

impl World {
    /// The model is what is.
    pub(super) fn check(&self) {
        self.memory.witness().assert_clean();
        let uses = |index: usize, area: &Vma| matches!(area.kind, Kind::Mapped { region, .. } if region == index);
        let mut pages = 0;
        for (index, region) in self.regions.iter().enumerate() {
            let areas = self.spaces.iter().flat_map(|space| &space.areas);
            let maps = areas.filter(|area| uses(index, area)).count();
            if let Some(umem) = &region.handle {
                assert_eq!(umem.attachments(), maps);
            }
            if region.handle.is_some() || maps != 0 {
                pages += region.frames.len() as u64;
            }
        }
        assert_eq!(self.memory.pinned_pages(), pages);
        assert_eq!(self.payer.inner().charged(), pages);
        for (index, (real, space)) in self.reals.iter().zip(&self.spaces).enumerate() {
            self.check_space(real, space);
            let (smallest, aperture) = self.common(index);
            let free = real.free_ranges().map(|range| (range.first().get(), range.last().get()));
            assert!(free.eq(aperture.map_or(vec![], |within| space.gaps(within))));
            assert_eq!(real.alignment().bytes(), smallest);
        }
        for domain in 0..self.iommus.len() {
            self.check_domain(domain);
        }
    }

    fn check_space(&self, real: &Real, space: &Space) {
        assert_eq!((real.len(), real.is_empty()), (space.mappings(), space.mappings() == 0));
        let mut found: Vec<Vma> = real
            .mappings(IovaRange::ALL)
            .map(|mapping| {
                let address = Arc::as_ptr(mapping.region());
                // The latest one: an older one at the same address has ended.
                let region = self.regions.iter().rposition(|it| it.address == address).unwrap();
                let (offset, prot) = (mapping.offset(), mapping.prot());
                let (first, last) = (mapping.range().first().get(), mapping.range().last().get());
                Vma { first, last, kind: Kind::Mapped { region, offset, prot } }
            })
            .collect();
        found.extend(real.reserved().map(|reserved| Vma {
            first: reserved.first().get(),
            last: reserved.last().get(),
            kind: Kind::Reserved,
        }));
        found.sort_by_key(|area| area.first);
        assert_eq!(found, space.in_range(IovaRange::ALL));
        for area in found {
            let middle = area.first + (area.last - area.first) / 2 / STEP * STEP;
            let around = [area.first.wrapping_sub(1), area.last.wrapping_add(1)];
            for iova in [area.first, middle, area.last].into_iter().chain(around) {
                let expected = space.mapped_at(iova).map(|area| {
                    let (frame, at) = self.byte(area, iova);
                    PhysAddr::new(frame * PAGE + at as u64)
                });
                assert_eq!(real.translate(Iova::new(iova)), expected, "{iova:#x}");
            }
        }
    }

    fn check_domain(&self, domain: usize) {
        let (iommu, occupied) = (&self.iommus[domain], self.occupied(domain));
        let bytes: u64 = occupied.iter().map(|area| area.last - area.first + 1).sum();
        assert_eq!(iommu.mapped_bytes(), bytes.into());
        for entry in iommu.mapped(IovaRange::ALL) {
            let (first, last) = (entry.range.first().get(), entry.range.last().get());
            for iova in [first, first + (last - first) / 2, last] {
                let area = *occupied.iter().find(|area| area.has(iova)).unwrap();
                let (frame, at) = self.byte(area, iova);
                assert_eq!(frame * PAGE + at as u64, entry.phys.get() + (iova - first));
                assert!(Self::allows(area, entry.prot));
            }
            let known = &self.dirty[domain].written;
            let dirty = known.iter().any(|(from, to)| *from <= last && first <= *to);
            assert_eq!(entry.dirty, dirty, "{first:#x}");
        }
    }

    /// Everything goes, and nothing is left.
    pub(super) fn end(mut self) {
        self.plan.succeed();
        for (frame, bytes) in &self.bytes {
            let mut there = vec![0; PAGE as usize];
            self.memory.peek(PhysAddr::new(frame * PAGE), &mut there).unwrap();
            assert!(there == *bytes);
        }
        self.reals.clear();
        self.regions.clear();
        assert!(self.iommus.iter().all(|iommu| iommu.mapped_bytes() == 0));
        self.iommus.clear();
        assert_eq!(self.memory.pinned_pages(), 0);
        assert_eq!(self.payer.inner().charged(), 0);
        self.memory.witness().assert_clean();
    }
}
