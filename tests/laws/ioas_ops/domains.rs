// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains that come and go.

use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{Domain, IoasError};
use std::sync::Arc;

impl World {
    pub(super) fn attach_to(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let domain = u.int_in_range(0..=1)?;
        let areas = self.spaces[space].areas.clone();
        let iommu = self.iommus[domain].clone();
        let (aperture, others) = (iommu.aperture(), self.common(space).1.unwrap());
        let refusal = if let Some(index) =
            self.spaces[space].domains.iter().position(|there| *there == domain)
        {
            Some(IoasError::Attached { id: self.ids[space][index] })
        } else if iommu.page_sizes().is_empty() {
            Some(IoasError::NoPageSizes)
        } else if aperture.intersection(&others).is_none() {
            Some(IoasError::NoCommonAperture { aperture, others })
        } else {
            None
        };
        let can = refusal.is_none() && areas.iter().all(|area| self.can_install(domain, *area));
        let (result, fired) = self.planned(|this| this.reals[space].attach(iommu));
        match result {
            Ok(id) => {
                assert!(can && !fired);
                self.ids[space].insert(0, id);
                self.spaces[space].domains.insert(0, domain);
                self.dirty[domain].tracks |= self.spaces[space].notes;
            }
            Err(error) => {
                assert!(!can || fired, "{error}");
                assert!(!matches!(error.error(), IoasError::Breach(_)));
                if let Some(refusal) = refusal {
                    assert_eq!(*error.error(), refusal);
                } else if matches!(error.error(), IoasError::Domain(_)) {
                    assert!(self.spaces[space].notes);
                } else {
                    // It was reported before anything was mapped.
                    self.dirty[domain].tracks |= self.spaces[space].notes;
                }
            }
        }
        Ok(())
    }

    pub(super) fn detach(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let Some(last) = self.ids[space].len().checked_sub(1) else {
            return Ok(());
        };
        let index = u.int_in_range(0..=last)?;
        let id = self.ids[space].remove(index);
        let domain = self.spaces[space].domains.remove(index);
        let (back, fired) = self.planned(|this| this.reals[space].detach(id).unwrap());
        assert!(Arc::ptr_eq(&back, &self.iommus[domain]));
        let it = &mut self.spaces[space];
        if it.notes {
            for (first, last) in &self.dirty[domain].written {
                let areas = it.areas.iter().filter(|area| area.is_mapped());
                for area in areas.filter(|area| area.overlaps(*first, *last)) {
                    let part = area.within(*first, *last);
                    it.kept.written.push((part.first, part.last));
                }
            }
            it.too_much |= fired;
        }
        self.forget_unmapped();
        Ok(())
    }
}
