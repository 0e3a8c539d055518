// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting mappings: where that can be done, and what is left.

use super::super::machine;
use super::model::{Live, Mapped, Parts, Real};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{CutError, Cuts, Domain, Remains};
use pinned_sgl::Iova;

impl World {
    /// Takes a mapping out of the list, and what its parts have in common; a stream stays there.
    fn take_mapping(&mut self, at: usize) -> Option<(Mapped, Parts)> {
        let live = self.lives.swap_remove(at);
        let Live { region, iommu, iova, offset, prot, .. } = live;
        match live.real {
            Real::Mapping(mapping) => Some((mapping, Parts { region, iommu, iova, offset, prot })),
            Real::Stream(_) => {
                self.lives.push(live);
                None
            }
        }
    }

    /// Whether a live mapping may be cut at an offset; its ends count.
    fn may_cut(&self, at: usize, offset: u64) -> bool {
        let Live { iommu, iova, len, .. } = &self.lives[at];
        offset == 0
            || offset == *len
            || (offset < *len && machine::may_cut(&self.iommus[*iommu], iova + offset, true))
    }

    fn check_cut_error(
        &self,
        iommu: usize,
        iova: u64,
        len: u64,
        offsets: [u64; 2],
        kind: CutError,
    ) {
        match kind {
            CutError::InsideEntry { edges } => {
                let domain = &self.iommus[iommu];
                let inside = |offset: &u64| edges.below <= *offset && *offset < edges.above;
                let offset = offsets.into_iter().find(inside).unwrap();
                if domain.cuts() != Cuts::Anywhere {
                    let entry = domain.lookup(Iova::new(iova + offset)).unwrap().range;
                    assert_eq!(entry.first().get(), iova + edges.below);
                    assert_eq!(entry.last().get(), iova + (edges.above - 1));
                }
            }
            CutError::Outside { len: reported } => {
                assert_eq!(reported, len);
                let [start, end] = offsets;
                assert!(start >= end || end > len || start == 0 || end >= len);
            }
            CutError::Indivisible => {
                assert_eq!(self.iommus[iommu].cuts(), Cuts::Never);
            }
            other => panic!("{other}"),
        }
    }

    pub(super) fn split(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let (len, iommu, iova) = (self.lives[at].len, self.lives[at].iommu, self.lives[at].iova);
        let offset = machine::offset(u, len)?;
        let legal = offset != 0 && offset < len && self.may_cut(at, offset);
        let region = self.lives[at].region;
        let Some((mapping, parts)) = self.take_mapping(at) else {
            return Ok(());
        };
        match mapping.split_at(offset) {
            Ok((head, tail)) => {
                assert!(legal);
                assert_eq!((head.len(), tail.len()), (offset, len - offset));
                self.regions[region].maps += 1;
                self.lives.push(parts.live(head, 0, offset));
                self.lives.push(parts.live(tail, offset, len - offset));
            }
            Err(error) => {
                assert!(!legal, "{error}");
                self.check_cut_error(iommu, iova, len, [offset, offset], *error.error());
                self.lives.push(parts.live(error.into_value(), 0, len));
            }
        }
        Ok(())
    }

    pub(super) fn unmap_range(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let (len, iommu, iova) = (self.lives[at].len, self.lives[at].iommu, self.lives[at].iova);
        let range = machine::part(u, len)?;
        let legal = range.start < range.end
            && range.end <= len
            && self.may_cut(at, range.start)
            && self.may_cut(at, range.end);
        let region = self.lives[at].region;
        let Some((mapping, parts)) = self.take_mapping(at) else {
            return Ok(());
        };
        match mapping.unmap_range(range.clone()) {
            Ok((head, tail)) => {
                assert!(legal);
                assert_eq!((head.is_some(), tail.is_some()), (range.start != 0, range.end != len));
                self.regions[region].maps += usize::from(head.is_some());
                self.regions[region].maps += usize::from(tail.is_some());
                self.regions[region].maps -= 1;
                let head = head.map(|head| parts.live(head, 0, range.start));
                self.lives.extend(head);
                let tail = tail.map(|tail| parts.live(tail, range.end, len - range.end));
                self.lives.extend(tail);
            }
            Err(error) => {
                assert!(!legal, "{error}");
                self.check_cut_error(iommu, iova, len, [range.start, range.end], *error.error());
                let Remains::Whole(mapping) = error.into_value() else { panic!() };
                self.lives.push(parts.live(mapping, 0, len));
            }
        }
        Ok(())
    }
}
