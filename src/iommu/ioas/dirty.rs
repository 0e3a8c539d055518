// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages devices have written, of all domains together.

use super::super::bitmap::DirtyBitmap;
use super::super::domain::{DirtyDomain, Domain};
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
    /// [`IoasError::Domain`] if one of them fails; the others are as before then.
    pub fn set_dirty_tracking(&self, on: bool) -> Result<(), IoasError<DomainError<D>>> {
        for ((_, domain), index) in self.domains.iter().zip(0usize..) {
            if let Err(error) = domain.set_dirty_tracking(on) {
                for (_, domain) in self.domains.iter().take(index) {
                    // It has just done the opposite; if it fails now, it notes too much or nothing.
                    let _ = domain.set_dirty_tracking(!on);
                }
                return Err(IoasError::Domain(error));
            }
        }
        Ok(())
    }

    /// Sets the bits of all pages of the bitmap's range that a device has written; forgets that it
    /// has if `clear`. O(log n + pages).
    ///
    /// A page of the bitmap may be smaller or larger than one of the IOMMU. To clear, the ends of the
    /// range may not lie inside a page of the IOMMU: what the bitmap does not show would be lost.
    ///
    /// # Errors
    ///
    /// [`IoasError::CutsEntry`]; nothing has changed then. [`IoasError::Domain`] if a domain fails:
    /// the bitmap holds what was told before.
    pub fn read_dirty(
        &self,
        bitmap: &mut DirtyBitmap<'_>,
        clear: bool,
    ) -> Result<(), IoasError<DomainError<D>>> {
        let range = bitmap.range();
        if clear {
            for edge in [Some(range.first()), range.last().checked_add(1)].into_iter().flatten() {
                self.check_edge(edge).map_err(|entry| IoasError::CutsEntry { edge, entry })?;
            }
        }
        for (_, domain) in self.domains.iter() {
            let mut gather = pin!(<D::Target as Domain>::Gather::default());
            let mut outcome = Ok(());
            for mapping in self.mappings(range) {
                let Some(part) = mapping.range.intersection(&range) else {
                    continue;
                };
                outcome = domain.read_dirty(part, clear, gather.as_mut(), |written| {
                    bitmap.set(written);
                });
                if outcome.is_err() {
                    break;
                }
            }
            // What was cleared must be noted again from now on, also if the rest failed.
            domain.flush(gather);
            outcome.map_err(IoasError::Domain)?;
        }
        Ok(())
    }
}
