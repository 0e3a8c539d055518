// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping in an [`Ioas`]: whole mappings, as in the second version of vfio's type1 interface; and
//! cutting a mapping in two beforehand, for the first.

use super::super::domain::Domain;
use super::super::edges::Edges;
use super::super::entries::MapErrorKind;
use super::super::prot::Prot;
use super::super::range::IovaRange;
use super::super::slab::Slab;
use super::super::tree::Node;
use super::area::{Area, AreaKind, Mapped};
use super::domains::DomainLink;
use super::error::IoasError;
use super::space::{DomainError, Ioas};
use crate::addr::Iova;
use crate::umem::{Attachment, Holder, Region, SharedHolder};

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: Holder<Target: Region>,
    D: Holder<Target: Domain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// Unmaps all mappings in `range`, in every domain, with one flush for each; tells how many bytes
    /// they had. Gaps do not matter. O(log n) for each mapping, plus what the domains take.
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`] if nothing is mapped there, [`IoasError::CutsMapping`] if a mapping
    /// lies across an edge of the range, [`IoasError::Poisoned`] if something there cannot be
    /// unmapped; nothing has changed then. [`IoasError::Breach`] if a domain broke its contract:
    /// everything else in the range is unmapped.
    pub fn unmap(&mut self, range: IovaRange) -> Result<u64, IoasError<DomainError<D>>> {
        let mut found = false;
        for (mapping, area) in self.areas.overlapping(range) {
            if area.is_reserved() {
                continue;
            }
            if area.is_poisoned() {
                return Err(IoasError::Poisoned { range: mapping });
            }
            for edge in [range.first(), range.last()] {
                let at_end = if edge == range.first() { mapping.first() } else { mapping.last() };
                if mapping.contains(edge) && edge != at_end {
                    return Err(IoasError::CutsMapping { edge, mapping });
                }
            }
            found = true;
        }
        if !found {
            return Err(IoasError::NotMapped { iova: range.first() });
        }
        let removed = self.remove_everywhere(range);
        let bytes = self.let_go(range);
        removed.map(|()| bytes).map_err(IoasError::Breach)
    }

    /// Unmaps everything, in every domain, with one flush for each; tells how many bytes there were.
    /// What a domain does not unmap, against its contract, stays poisoned.
    pub fn unmap_all(&mut self) -> u64 {
        let _ = self.remove_everywhere(IovaRange::ALL);
        self.let_go(IovaRange::ALL)
    }

    /// Lets go of all memory in `range`, which is mapped nowhere any more.
    fn let_go(&mut self, range: IovaRange) -> u64 {
        let mut bytes = 0u64;
        let mut next = Some(range.first());
        while let Some((there, area)) = next.and_then(|next| self.areas.first_from(next)) {
            if there.first() > range.last() {
                break;
            }
            next = there.last().checked_add(1);
            if area.memory().is_none() {
                continue;
            }
            if let Some((_, Area { kind: AreaKind::Mapped(mapped) })) =
                self.areas.remove(there.first())
            {
                self.mappings = self.mappings.wrapping_sub(1);
                bytes = bytes.saturating_add(there.len().unwrap_or(u64::MAX));
                // SAFETY: it was unmapped and flushed in every domain; otherwise it is poisoned.
                drop(unsafe { mapped.attachment.release() });
            }
        }
        bytes
    }

    /// The nearest places around `iova` at which its mapping may be cut, as addresses: those that are
    /// edges of page table entries in every domain that cannot split. `None` if nothing is mapped.
    fn entry_around(&self, iova: Iova) -> Option<IovaRange> {
        let mapping = self.mapping_at(iova)?;
        let window = mapping.mapped.window(mapping.range)?;
        let start = mapping.range.first();
        let offset = iova.checked_offset_from(start)?;
        let mut around = Edges { below: offset, above: offset };
        // The entries of two domains may overlap each other; where they are of powers of two, one
        // lies in the other, so this ends after a step or two.
        loop {
            let mut wider = around;
            for (_, domain) in self.domains.iter() {
                let sizes = match domain.page_sizes() {
                    sizes if domain.can_split() => sizes.smallest().map(Into::into)?,
                    sizes => sizes,
                };
                let below = Edges::around(&window, sizes, start, wider.below).below;
                let above = Edges::around(&window, sizes, start, wider.above).above;
                wider = Edges { below, above };
            }
            if wider == around {
                break;
            }
            around = wider;
        }
        let first = start.checked_add(around.below)?;
        let last = start.checked_add(around.above.checked_sub(1)?)?;
        Some(IovaRange::inclusive(first, last).unwrap_or(IovaRange::new(iova, 1).ok()?))
    }

    /// Whether a mapping may be cut right before `iova`, where something is mapped; if not, the page
    /// table entry that is in the way.
    pub(super) fn check_edge(&self, iova: Iova) -> Result<(), IovaRange> {
        let inside = self.mapping_at(iova).filter(|mapping| mapping.range.first() != iova);
        match inside.and_then(|_| self.entry_around(iova)) {
            Some(entry) if entry.first() < iova && iova <= entry.last() => Err(entry),
            _ => Ok(()),
        }
    }

    /// Cuts the mapping of `iova` in two right before it; nothing is unmapped. Where a mapping begins
    /// there already, nothing changes. O(log n).
    ///
    /// # Errors
    ///
    /// [`IoasError::NotMapped`]; [`IoasError::CutsEntry`] with the nearest legal edges;
    /// [`IoasError::EntryLimit`] or [`IoasError::OutOfMemory`]. Nothing has changed then.
    pub fn split(&mut self, iova: Iova) -> Result<(), IoasError<DomainError<D>>>
    where
        U: SharedHolder,
    {
        let Some(mapping) = self.mapping_at(iova) else {
            return Err(IoasError::NotMapped { iova });
        };
        let (range, prot) = (mapping.range, mapping.prot());
        if range.first() == iova {
            return Ok(());
        }
        self.check_edge(iova).map_err(|entry| IoasError::CutsEntry { edge: iova, entry })?;
        if self.mappings >= self.entry_limit {
            return Err(IoasError::EntryLimit { limit: self.entry_limit });
        }
        let offset = mapping.offset().wrapping_add(iova.get().wrapping_sub(range.first().get()));
        let writable = prot.contains(Prot::WRITE);
        let attachment = Attachment::hold(mapping.region().clone(), writable)
            .map_err(|(error, _)| IoasError::Map(MapErrorKind::Attach(error)))?;
        let tail = Mapped { attachment, offset, prot };
        let (Some(key), Some(last), Ok(tail_range)) = (
            self.areas.key_of(iova),
            iova.checked_sub(1),
            IovaRange::inclusive(iova, range.last()),
        ) else {
            return Err(IoasError::NotMapped { iova });
        };
        self.areas.set_last(key, last);
        match self.place(tail_range, Area::mapped(tail)) {
            Ok(_) => {
                self.mappings = self.mappings.wrapping_add(1);
                Ok(())
            }
            Err((kind, area)) => {
                self.areas.set_last(key, range.last());
                if let AreaKind::Mapped(tail) = area.kind {
                    // SAFETY: the entries are those of the area that has just grown back.
                    drop(unsafe { tail.attachment.release() });
                }
                Err(kind)
            }
        }
    }

    /// As [`unmap`](Self::unmap), but where a mapping lies across an edge of the range, it is cut
    /// there: what the first version of vfio's type1 interface allows.
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split) and [`unmap`](Self::unmap). Unless it is a breach, everything that
    /// was mapped is still mapped; a mapping may have been cut.
    pub fn unmap_cutting(&mut self, range: IovaRange) -> Result<u64, IoasError<DomainError<D>>>
    where
        U: SharedHolder,
    {
        let behind = range.last().checked_add(1);
        // Both edges first: nothing is cut unless both can be.
        for edge in [Some(range.first()), behind].into_iter().flatten() {
            self.check_edge(edge).map_err(|entry| IoasError::CutsEntry { edge, entry })?;
        }
        for edge in [Some(range.first()), behind].into_iter().flatten() {
            if self.mapping_at(edge).is_some() {
                self.split(edge)?;
            }
        }
        self.unmap(range)
    }
}
