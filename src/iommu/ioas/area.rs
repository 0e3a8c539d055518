// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Area`]: what lies at a range of addresses.

use super::error::IoasError;
use crate::addr::{Iova, PhysAddr};
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::sgl::Window;
use crate::umem::{Attachment, Region, RegionExt as _, RegionHolder};
use core::{fmt, ops::Range};

/// What lies at a range of addresses of an [`Ioas`](super::Ioas).
pub struct Area<U: RegionHolder> {
    pub(super) kind: AreaKind<U>,
}

pub(super) enum AreaKind<U: RegionHolder> {
    /// Memory, mapped in every domain.
    Mapped(Mapped<U>),
    /// Not to be used: a part of one reservation or of several.
    Reserved,
    /// A reservation, and the next one; kept beside the tree, where its parts are.
    Reservation { range: IovaRange, next: u32 },
    /// It is not known what a device reaches here: memory is being mapped, or a domain broke its
    /// contract or did not come back from a call.
    Poisoned,
}

/// Memory that is mapped: the attachment stands for the entries in all domains.
pub(super) struct Mapped<U: RegionHolder> {
    pub(super) attachment: Attachment<U>,
    pub(super) offset: u64,
    pub(super) prot: Prot,
}

impl<U: RegionHolder> Area<U> {
    pub(super) const fn mapped(mapped: Mapped<U>) -> Self {
        Self { kind: AreaKind::Mapped(mapped) }
    }

    pub(super) const fn poisoned() -> Self {
        Self { kind: AreaKind::Poisoned }
    }

    pub(super) const fn reserved() -> Self {
        Self { kind: AreaKind::Reserved }
    }

    pub(super) const fn reservation(range: IovaRange, next: u32) -> Self {
        Self { kind: AreaKind::Reservation { range, next } }
    }

    /// The memory, if there is any.
    pub(super) const fn memory(&self) -> Option<&Mapped<U>> {
        match &self.kind {
            AreaKind::Mapped(mapped) => Some(mapped),
            AreaKind::Reserved | AreaKind::Reservation { .. } | AreaKind::Poisoned => None,
        }
    }

    /// Gives the memory up: its pins are leaked, and its addresses are not used again. The region,
    /// if there was one, is attached for ever.
    pub(super) fn poison(&mut self) -> Option<U> {
        match core::mem::replace(&mut self.kind, AreaKind::Poisoned) {
            AreaKind::Mapped(mapped) => Some(mapped.attachment.leak()),
            AreaKind::Reserved | AreaKind::Reservation { .. } | AreaKind::Poisoned => None,
        }
    }

    /// Why nothing else can be at `range`, where the area lies.
    pub(super) const fn in_the_way<E>(&self, range: IovaRange) -> IoasError<E> {
        match self.kind {
            AreaKind::Mapped(_) => IoasError::Overlap { existing: range },
            AreaKind::Reserved | AreaKind::Reservation { .. } => IoasError::Reserved { range },
            AreaKind::Poisoned => IoasError::Poisoned { range },
        }
    }

    pub(super) const fn is_reserved(&self) -> bool {
        matches!(self.kind, AreaKind::Reserved)
    }

    pub(super) const fn is_poisoned(&self) -> bool {
        matches!(self.kind, AreaKind::Poisoned)
    }
}

impl<U: RegionHolder> Mapped<U> {
    /// The bytes of an area at `range`, as a window of the list.
    pub(super) fn window(
        &self,
        range: IovaRange,
    ) -> Option<Window<'_, <U::Target as Region>::Storage>> {
        self.part(range, range)
    }

    /// The bytes at `part` of an area at `range`, as a window of the list.
    pub(super) fn part(
        &self,
        range: IovaRange,
        part: IovaRange,
    ) -> Option<Window<'_, <U::Target as Region>::Storage>> {
        self.attachment.region().window(self.bytes(range, part)?).ok()
    }

    /// The bytes of the region that an area at `range` has at `part`.
    pub(super) fn bytes(&self, range: IovaRange, part: IovaRange) -> Option<Range<u64>> {
        let skipped = part.first().checked_offset_from(range.first())?;
        let start = self.offset.checked_add(skipped)?;
        Some(start..start.checked_add(part.len()?)?)
    }
}

impl<U: RegionHolder> fmt::Debug for Area<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            AreaKind::Mapped(Mapped { offset, prot, .. }) => {
                write!(f, "Mapped(from byte {offset:#x}, {prot:?})")
            }
            AreaKind::Reserved | AreaKind::Reservation { .. } => f.write_str("Reserved"),
            AreaKind::Poisoned => f.write_str("Poisoned"),
        }
    }
}

/// A mapping of an [`Ioas`](super::Ioas), to look at.
pub struct MappingRef<'a, U: RegionHolder> {
    pub(super) range: IovaRange,
    pub(super) mapped: &'a Mapped<U>,
}

impl<'a, U: RegionHolder> MappingRef<'a, U> {
    /// The addresses that are mapped.
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.range
    }

    /// What the devices may do.
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.mapped.prot
    }

    /// The region.
    #[must_use]
    pub const fn region(&self) -> &'a U {
        self.mapped.attachment.region()
    }

    /// Where the mapping begins in the region, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.mapped.offset
    }

    /// Where an address leads in memory; `None` if it is not of this mapping. O(log runs).
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let skipped = iova.checked_offset_from(self.range.first())?;
        let offset = self.mapped.offset.checked_add(skipped)?;
        let region = self.region().whole().ok().filter(|_| self.range.contains(iova))?;
        region.phys(offset)
    }
}

impl<U: RegionHolder> Clone for MappingRef<'_, U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U: RegionHolder> Copy for MappingRef<'_, U> {}

impl<U: RegionHolder> fmt::Debug for MappingRef<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappingRef")
            .field("range", &self.range)
            .field("offset", &self.mapped.offset)
            .field("prot", &self.mapped.prot)
            .finish_non_exhaustive()
    }
}
