// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same memory in another address space: nothing is pinned twice.

use super::super::domain::Domain;
use super::super::entries::MapErrorKind;
use super::super::prot::Prot;
use super::super::range::IovaRange;
use super::super::tree::Node;
use super::area::Area;
use super::domains::DomainLink;
use super::error::IoasError;
use super::placement::Placement;
use super::space::{DomainError, Ioas};
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::granule::TileError;
use crate::sgl::Segment;
use crate::store::Slab;
use crate::umem::{Holder, Region, SharedHolder};

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: SharedHolder<Target: Region>,
    D: Holder<Target: Domain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// Maps here what `source` has mapped in `range`, and returns where. There may be no gap in it; its
    /// edges may lie inside mappings. Each mapping stays one; none is pinned again. Where there is a
    /// choice, the place is the one that [`map`](Self::map) would choose for this memory.
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`] with the first address at which `source` has nothing, or as
    /// [`map`](Self::map). Nothing has changed then, unless it is a breach: of the domain that could not
    /// map, or of one that did not unmap what had been copied.
    pub fn copy_from<E, L, K>(
        &mut self,
        source: &Ioas<U, E, L, K>,
        range: IovaRange,
        placement: Placement<'_>,
        prot: Prot,
    ) -> Result<IovaRange, IoasError<DomainError<D>>>
    where
        E: Holder<Target: Domain>,
        L: Slab<Node<Area<U>>>,
        K: Slab<DomainLink<E>>,
    {
        source.check_mapped(range).map_err(|iova| IoasError::NotMapped { iova })?;
        let len = range.len().ok_or(IoasError::NoRoom { len: u64::MAX })?;
        let place = match placement {
            Placement::At(iova) => {
                let wraps = MapErrorKind::Tiles(TileError::Wraps { iova, len });
                IovaRange::new(iova, len).map_err(|_| IoasError::Map(wraps))?
            }
            Placement::Anywhere => self.find_room(len, source.runs(range), &[IovaRange::ALL])?,
            Placement::Within(allowed) => self.find_room(len, source.runs(range), allowed)?,
        };
        let there = |iova: Iova| {
            // In the range, so the sum is in the place.
            let distance = iova.get().minus(range.first().get());
            Iova::new(place.first().get().plus(distance))
        };
        for mapping in source.mappings(range) {
            let Some(part) = mapping.range.intersection(&range) else {
                continue;
            };
            let skipped = part.first().get().minus(mapping.range.first().get());
            let from = mapping.offset().plus(skipped);
            let bytes = from..from.plus(part.len().unwrap_or(0));
            let at = Placement::At(there(part.first()));
            let mapped = self.map_range(at, mapping.region().clone(), bytes, prot);
            if let Err(error) = mapped {
                // What was copied before this mapping, if there is any.
                let last = there(part.first()).checked_sub(1);
                let done = last.and_then(|last| IovaRange::inclusive(place.first(), last).ok());
                return Err(match done.map(|done| self.unmap(done)) {
                    Some(Err(breach)) => breach,
                    Some(Ok(_)) | None => error.kind,
                });
            }
        }
        Ok(place)
    }
}

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: Holder<Target: Region>,
    D: Holder<Target: Domain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// The memory that is mapped in `range`, run by run.
    fn runs(&self, range: IovaRange) -> impl Iterator<Item = Segment> + '_ {
        let parts = self.mappings(range).filter_map(move |mapping| {
            mapping.mapped.part(mapping.range, mapping.range.intersection(&range)?)
        });
        parts.flatten()
    }

    /// Whether memory is mapped at every address of `range`; the first at which none is, if not.
    pub(super) fn check_mapped(&self, range: IovaRange) -> Result<(), Iova> {
        let mut next = Some(range.first());
        while let Some(iova) = next.filter(|next| *next <= range.last()) {
            let mapping = self.mapping_at(iova).ok_or(iova)?;
            next = mapping.range.last().checked_add(1);
        }
        Ok(())
    }
}
