// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping and splitting: what goes, and where a mapping can be cut.

use super::super::machine;
use super::model::{Space, Vma};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{Cuts, Domain, IoasError, IovaRange};
use pinned_sgl::Iova;

impl World {
    /// What was written where nothing is mapped any more belongs to no mapping.
    pub(super) fn forget_unmapped(&mut self) {
        for domain in 0..self.dirty.len() {
            let occupied = self.occupied(domain);
            let written = std::mem::take(&mut self.dirty[domain].written);
            for (first, last) in written {
                for area in occupied.iter().filter(|area| area.overlaps(first, last)) {
                    let here = area.within(first, last);
                    self.dirty[domain].written.push((here.first, here.last));
                }
            }
        }
    }

    fn removed(&mut self, space: usize, range: IovaRange) -> u64 {
        self.spaces[space].kept.subtract(range.first().get(), range.last().get());
        let gone: Vec<Vma> =
            self.spaces[space].in_range(range).into_iter().filter(Vma::is_mapped).collect();
        self.spaces[space].areas.retain(|area| !gone.contains(area));
        self.forget_unmapped();
        gone.iter().map(|area| area.last - area.first + 1).sum()
    }

    pub(super) fn unmap(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let mut there = self.spaces[space].in_range(range);
        there.retain(Vma::is_mapped);
        let cut = |area: &Vma| area.first < range.first().get() || area.last > range.last().get();
        match self.reals[space].unmap(range) {
            Ok(bytes) => {
                assert!(!there.is_empty() && !there.iter().any(cut));
                assert_eq!(bytes, self.removed(space, range));
            }
            Err(IoasError::NotMapped { .. }) => assert!(there.is_empty()),
            Err(IoasError::CutsMapping { edge, mapping }) => {
                let area = self.spaces[space].mapped_at(edge.get()).unwrap();
                assert_eq!((area.first, area.last), (mapping.first().get(), mapping.last().get()));
                assert!(cut(&area));
            }
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    /// Whether a mapping may be cut before an address: in all domains, which may split an entry.
    fn may_cut(&self, space: usize, iova: u64, may_split: bool) -> bool {
        let inside = self.spaces[space].mapped_at(iova).filter(|area| area.first != iova);
        let mut domains = self.spaces[space].domains.iter();
        let may_cut = |domain: &usize| machine::may_cut(&self.iommus[*domain], iova, may_split);
        let granule = self.spaces[space].granule;
        inside.is_none()
            || domains.len() == 0 && Iova::new(iova).is_aligned(granule)
            || domains.len() > 0 && domains.all(may_cut)
    }

    fn is_cut(&self, space: usize, iova: u64) -> bool {
        self.spaces[space].mapped_at(iova).is_none_or(|area| area.first == iova)
    }

    /// Whether a domain of the space may have split entries, which the list does not know.
    fn has_split(&self, space: usize) -> bool {
        let mut domains = self.spaces[space].domains.iter();
        domains.any(|domain| self.iommus[*domain].cuts() == Cuts::Anywhere)
    }

    fn check_entry(&self, space: usize, edge: Iova, entry: IovaRange, may_split: bool) {
        assert!(!self.may_cut(space, edge.get(), may_split) || !may_split && self.has_split(space));
        assert!(entry.first() < edge && edge <= entry.last());
        let area = self.spaces[space].mapped_at(edge.get()).unwrap();
        assert!(area.first <= entry.first().get() && entry.last().get() <= area.last);
        for end in [Some(entry.first()), entry.last().checked_add(1)].into_iter().flatten() {
            assert!(self.may_cut(space, end.get(), may_split), "{entry} at {edge}");
        }
    }

    fn check_indivisible(&self, space: usize, edge: Iova, mapping: IovaRange) {
        let mut domains = self.spaces[space].domains.iter();
        assert!(domains.any(|domain| self.iommus[*domain].cuts() == Cuts::Never));
        let area = self.spaces[space].mapped_at(edge.get()).unwrap();
        assert_eq!((area.first, area.last), (mapping.first().get(), mapping.last().get()));
        assert!(mapping.first() < edge);
    }

    pub(super) fn split(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let iova = self.some_iova(u)?;
        let is_mapped = self.spaces[space].mapped_at(iova).is_some();
        let limited = self.spaces[space].mappings() >= self.spaces[space].limit;
        let is_cut = self.is_cut(space, iova);
        let legal = is_mapped && (is_cut || self.may_cut(space, iova, false) && !limited);
        let (result, fired) = self.planned(|this| this.reals[space].split(Iova::new(iova)));
        match result {
            Ok(()) => {
                assert!(legal && !fired);
                self.spaces[space].cut(iova);
            }
            Err(IoasError::NotMapped { .. }) => assert!(!is_mapped),
            Err(IoasError::CutsEntry { edge, entry }) => {
                self.check_entry(space, edge, entry, false);
            }
            Err(IoasError::CutsMapping { edge, mapping }) => {
                self.check_indivisible(space, edge, mapping);
            }
            Err(IoasError::MappingLimit { .. }) => assert!(limited && !is_cut),
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    pub(super) fn unmap_cutting(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let edges: Vec<u64> = [Some(range.first()), range.last().checked_add(1)]
            .into_iter()
            .flatten()
            .map(Iova::get)
            .collect();
        let legal = edges.iter().all(|edge| self.may_cut(space, *edge, true));
        // Only where one becomes two there is one more afterwards.
        let inside = self.spaces[space]
            .mapped_at(range.first().get())
            .is_some_and(|area| area.first < range.first().get() && range.last().get() < area.last);
        let limited = inside && self.spaces[space].mappings() >= self.spaces[space].limit;
        let is_mapped = self.spaces[space].in_range(range).iter().any(Vma::is_mapped);
        let (result, fired) = self.planned(|this| this.reals[space].unmap_cutting(range));
        match result {
            Ok(bytes) => {
                assert!(legal && is_mapped && !fired && !limited);
                for edge in edges {
                    self.spaces[space].cut(edge);
                }
                assert_eq!(bytes, self.removed(space, range));
            }
            Err(IoasError::NotMapped { .. }) => assert!(legal && !is_mapped),
            Err(IoasError::CutsEntry { edge, entry }) => self.check_entry(space, edge, entry, true),
            Err(IoasError::CutsMapping { edge, mapping }) => {
                self.check_indivisible(space, edge, mapping);
            }
            Err(IoasError::MappingLimit { .. }) => assert!(limited),
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    pub(super) fn unmap_all(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let all = self.removed(space, IovaRange::ALL);
        if u.arbitrary()? {
            assert_eq!(self.reals[space].unmap_all(), all);
        } else {
            let granule = self.spaces[space].granule;
            self.reals[space] = self.new_space(granule);
            self.ids[space].clear();
            self.reservations[space].clear();
            self.spaces[space] = Space::new(granule);
        }
        Ok(())
    }
}
