// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages devices have written, of all domains together.

use super::super::bitmap::DirtyBitmap;
use super::super::domain::{DirtyDomain, Domain};
use super::super::range::IovaRange;
use super::super::slab::Slab;
use super::super::tree::Node;
use super::area::Area;
use super::domains::DomainLink;
use super::error::IoasError;
use super::space::{DomainError, Ioas};
use crate::umem::{Holder, Region};
use core::pin::pin;

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: Holder<Target: Region>,
    D: Holder<Target: DirtyDomain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// Starts or stops noting, in every domain that is attached. One that is attached later must be
    /// told by the caller.
    ///
    /// # Errors
    ///
    /// [`IoasError::Domain`] if one of them fails; the others are set to what they were told last.
    pub fn set_dirty_tracking(&mut self, on: bool) -> Result<(), IoasError<DomainError<D>>> {
        let mut domains = self.domains.iter();
        let failure =
            domains.find_map(|(id, domain)| Some((id, domain.set_dirty_tracking(on).err()?)));
        let Some((failed, error)) = failure else {
            self.dirty_tracking = on;
            return Ok(());
        };
        // What they were told last; but where stopping has failed, they note, whoever told them so.
        let before = self.dirty_tracking || !on;
        for (_, domain) in self.domains.iter().take_while(|(id, _)| *id != failed) {
            // It could do that a moment ago; where it cannot now, it notes too much, or nothing.
            let _ = domain.set_dirty_tracking(before);
        }
        Err(IoasError::Domain(error))
    }

    /// Sets the bits of all pages of the bitmap's range that a device has written; forgets that it
    /// has if `clear`. O(log n + pages).
    ///
    /// A page of the bitmap may be smaller or larger than one of the IOMMU, and the range may begin
    /// and end anywhere. Where an end lies inside a page of the IOMMU, that page is told and stays
    /// dirty: what the bitmap does not show is not lost.
    ///
    /// # Errors
    ///
    /// [`IoasError::Domain`] if a domain fails: the bitmap holds what was told before.
    pub fn read_dirty(
        &self,
        bitmap: &mut DirtyBitmap<'_>,
        clear: bool,
    ) -> Result<(), IoasError<DomainError<D>>> {
        let range = bitmap.range();
        for (_, domain) in self.domains.iter() {
            // The pages that lie in the range whole; and the two that may not.
            let whole = self.whole_entries(domain, range);
            let mut gather = pin!(<D::Target as Domain>::Gather::default());
            let mut read = |bitmap: &mut DirtyBitmap<'_>, part, clear| {
                domain.read_dirty(part, clear, gather.as_mut(), |written| bitmap.set(written))
            };
            let mut outcome = Ok(());
            for mapping in self.mappings(range) {
                let Some(part) = mapping.range().intersection(&range) else {
                    continue;
                };
                let inner = whole.filter(|_| clear).and_then(|whole| whole.intersection(&part));
                let before = before(part, inner);
                let behind = inner.and_then(|inner| {
                    IovaRange::inclusive(inner.last().checked_add(1)?, part.last()).ok()
                });
                for (part, clear) in [(before, false), (inner, true), (behind, false)] {
                    if let (Some(part), Ok(())) = (part, &outcome) {
                        outcome = read(bitmap, part, clear);
                    }
                }
            }
            // What was cleared must be noted again from now on, also if the rest failed.
            domain.flush(gather);
            outcome.map_err(IoasError::Domain)?;
        }
        Ok(())
    }

    /// `range` without the page table entries of `domain` that lie across its ends.
    fn whole_entries(&self, domain: &D, range: IovaRange) -> Option<IovaRange> {
        let domain = core::iter::once(domain);
        let first = match self.entry_across(domain.clone(), range.first(), false) {
            Some(entry) => entry.last().checked_add(1)?,
            None => range.first(),
        };
        let behind = range.last().checked_add(1);
        let last = match behind.and_then(|behind| self.entry_across(domain, behind, false)) {
            Some(entry) => entry.first().checked_sub(1)?,
            None => range.last(),
        };
        IovaRange::inclusive(first, last).ok()
    }
}

/// What of `part` lies before `inner`; all of it, if there is no inner part.
fn before(part: IovaRange, inner: Option<IovaRange>) -> Option<IovaRange> {
    match inner {
        None => Some(part),
        Some(inner) => IovaRange::inclusive(part.first(), inner.first().checked_sub(1)?).ok(),
    }
}
