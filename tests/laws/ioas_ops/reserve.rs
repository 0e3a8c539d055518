// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that nothing may be mapped at.

use super::model::{inclusive, Kind, Vma};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::IoasError;

impl World {
    pub(super) fn reserve(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let mut taken = self.spaces[space].in_range(range);
        taken.retain(Vma::is_mapped);
        let (result, fired) = self.planned(|this| this.reals[space].reserve(range));
        match result {
            Ok(reservation) => {
                assert!(taken.is_empty() && !fired);
                assert_eq!(reservation.range(), range);
                self.reservations[space].push(reservation);
                self.lay_reservations(space);
            }
            Err(IoasError::Overlap { existing }) => {
                assert_eq!(inclusive(taken[0].first, taken[0].last), existing);
            }
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    /// What is reserved is what the reservations have, and nothing else.
    fn lay_reservations(&mut self, space: usize) {
        let mut ranges: Vec<_> = self.reservations[space]
            .iter()
            .map(|it| (it.range().first().get(), it.range().last().get()))
            .collect();
        ranges.sort_unstable();
        let areas = &mut self.spaces[space].areas;
        areas.retain(Vma::is_mapped);
        let mut last: Option<Vma> = None;
        for (from, to) in ranges {
            match &mut last {
                Some(area) if from <= area.last.saturating_add(1) => area.last = area.last.max(to),
                other => {
                    areas.extend(*other);
                    *other = Some(Vma { first: from, last: to, kind: Kind::Reserved });
                }
            }
        }
        areas.extend(last);
    }

    pub(super) fn unreserve(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let owner = u.int_in_range(0..=self.spaces.len() - 1)?;
        let Some(last) = self.reservations[owner].len().checked_sub(1) else {
            return Ok(());
        };
        let index = u.int_in_range(0..=last)?;
        let range = self.reservations[owner][index].range();
        if owner != space && self.reservations[space].iter().any(|it| it.range() == range) {
            return Ok(());
        }
        let reservation = self.reservations[owner].swap_remove(index);
        match self.reals[space].unreserve(reservation) {
            Ok(()) => assert_eq!(owner, space),
            Err(reservation) => {
                assert!(owner != space);
                self.reservations[owner].push(reservation);
            }
        }
        self.lay_reservations(space);
        Ok(())
    }
}
