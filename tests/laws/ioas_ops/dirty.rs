// SPDX-License-Identifier: MIT OR Apache-2.0
//! What devices have written: tracked, read and cleared.

use super::super::machine;
use super::model::{inclusive, Dirty, Vma};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{DirtyBitmap, DirtyDomain as _, Domain, IoasError, IovaRange, Prot};
use pinned_sgl::{Iova, PageSize};
use pinned_sgl_mock::{Device, MapFault, Mapped};

impl World {
    pub(super) fn track(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let on = !u.ratio(1, 4)?;
        let (result, fired) = self.planned(|this| this.reals[space].set_dirty_tracking(on));
        assert_eq!(result.is_err(), fired);
        if on && !self.spaces[space].notes {
            // A new session begins clean. One that could not may have forgotten what was noted before.
            let mapped: Vec<Vma> =
                self.spaces[space].areas.iter().copied().filter(Vma::is_mapped).collect();
            for domain in self.spaces[space].domains.clone() {
                for area in &mapped {
                    for entry in self.iommus[domain].mapped(inclusive(area.first, area.last)) {
                        assert!(fired || !entry.dirty);
                        if !entry.dirty {
                            let (first, last) =
                                (entry.range.first().get(), entry.range.last().get());
                            self.dirty[domain].subtract(first, last);
                        }
                    }
                }
            }
            if !fired {
                self.spaces[space].kept = Dirty::default();
                self.spaces[space].too_much = false;
            }
        }
        for domain in self.spaces[space].domains.clone() {
            if !fired {
                self.dirty[domain].tracks = on;
            } else if self.spaces.iter().filter(|it| it.domains.contains(&domain)).count() > 1 {
                // Another space knows nothing of what this one has tried.
                self.iommus[domain].set_dirty_tracking(self.dirty[domain].tracks).unwrap();
            } else {
                // The first start of a space, if it fails, stops what others have started.
                self.check_notes(domain, self.spaces[space].notes || !on);
            }
        }
        if !fired {
            self.spaces[space].notes = on;
        }
        Ok(())
    }

    /// A domain that was noting what devices write still does. One that was not may have begun to.
    fn check_notes(&mut self, domain: usize, must: bool) {
        let iommu = self.iommus[domain].clone();
        let written = |entry: &Mapped| !entry.dirty && entry.prot.contains(Prot::WRITE);
        let entry = iommu.mapped(IovaRange::ALL).into_iter().find(written);
        if let Some(entry) = entry.filter(|_| must && self.dirty[domain].tracks) {
            let first = entry.range.first();
            let mut byte = [0];
            self.memory.peek(entry.phys, &mut byte).unwrap();
            Device::new(iommu.clone(), self.memory.clone()).write(first, &byte).unwrap();
            assert!(iommu.lookup(first).unwrap().dirty);
            self.dirty[domain].written.push((first.get(), entry.range.last().get()));
        }
        iommu.set_dirty_tracking(self.dirty[domain].tracks).unwrap();
    }

    pub(super) fn read_dirty(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let (mut range, clear) = (self.some_range(u)?, u.arbitrary::<bool>()?);
        let known = self.dirty.iter().chain(self.spaces.iter().map(|space| &space.kept));
        let written: Vec<_> = known.flat_map(|dirty| dirty.written.clone()).collect();
        if !written.is_empty() && u.arbitrary()? {
            // A part of what was written.
            let (first, last) = *u.choose(&written)?;
            let from = first + machine::offset(u, last - first)?;
            range = inclusive(from, from + machine::offset(u, last - from)?);
        }
        let size = PageSize::from_shift(u.int_in_range(8..=13)?).unwrap();
        let mut words = vec![0; DirtyBitmap::words_for(range, size).min(1 << 6) as usize];
        let Ok(mut bitmap) = DirtyBitmap::new(&mut words, range, size) else {
            return Ok(());
        };
        let mut areas = self.spaces[space].in_range(range);
        areas.retain(Vma::is_mapped);
        let parts: Vec<Vma> =
            areas.iter().map(|area| area.within(range.first().get(), range.last().get())).collect();
        let domains = self.spaces[space].domains.clone();
        let (result, fired) = self.planned(|this| this.reals[space].read_dirty(&mut bitmap, clear));
        match result {
            Err(IoasError::Domain(MapFault::Injected)) => assert!(fired),
            Err(other) => panic!("{other}"),
            Ok(()) => assert!(!fired),
        }
        let written = |this: &Self, first: u64, last: u64| {
            domains.iter().any(|domain| this.dirty[*domain].has(first, last))
        };
        // Each page of the bitmap: set if a byte of it, which is mapped here, was written.
        let mut page = range.first().get() & !size.mask();
        loop {
            let (first, last) = (page, page | size.mask());
            let here = parts.iter().filter(|part| part.overlaps(first, last));
            let here = here.map(|part| part.within(first, last));
            let noted = here.clone().any(|here| written(self, here.first, here.last));
            // What is kept is reported whatever the domains do.
            let it = &self.spaces[space];
            let kept = here.clone().any(|here| it.kept.has(here.first, here.last));
            let is_set = bitmap.is_set(Iova::new(page.max(range.first().get())));
            assert!(is_set || !kept && (!noted || fired), "{page:#x} is lost");
            assert!(!is_set || kept || noted || it.too_much, "{page:#x} was not written");
            if last >= range.last().get() {
                break;
            }
            page = last + 1;
        }
        if clear {
            self.spaces[space].kept.subtract(range.first().get(), range.last().get());
        }
        // An entry that was reported, and lies whole in what was asked for, is clean now; but near the ends,
        // what a page of the largest size would hold may still be dirty. An entry that does not lie
        // whole in it is as it was.
        for domain in domains.iter().filter(|_| clear) {
            let largest = self.iommus[*domain].page_sizes().largest().map_or(0, PageSize::mask);
            for part in &parts {
                for entry in self.iommus[*domain].mapped(inclusive(part.first, part.last)) {
                    let (first, last) = (entry.range.first().get(), entry.range.last().get());
                    let whole = part.first <= first && last <= part.last;
                    let inside = part.first <= first & !largest && last | largest <= part.last;
                    // After a failure it may be clean, if it was reported.
                    let reported = bitmap.is_set(entry.range.first());
                    if whole && (!fired && inside || (!fired || reported) && !entry.dirty) {
                        self.dirty[*domain].subtract(first, last);
                    }
                }
            }
        }
        Ok(())
    }
}
