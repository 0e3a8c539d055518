// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping in an [`Ioas`]: at an address, or wherever there is room.

use super::area::{Area, AreaKind, Mapped};
use super::error::IoasError;
use super::placement::{Alignment, Placement};
use super::space::Ioas;
use super::store::IoasStore;
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::granule::TileError;
use crate::iommu::domain::{Domain as _, DomainHolder};
use crate::iommu::entries::check_prot;
use crate::iommu::error::{Breach, MapError};
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::sgl::Segment;
use crate::umem::{Attachment, Region as _, RegionExt as _, RegionHolder};
use core::ops::Range;

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Maps a whole region in every domain, and returns where. O(log n + tiles).
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// let fixed = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ)?;
    /// let windows = [IovaRange::new(Iova::new(0x10_0000), 0x1_0000)?];
    /// let chosen = space.map(Placement::Within(&windows), umem.clone(), Prot::READ)?;
    /// assert!(windows[0].covers(&chosen));
    /// assert!(space.map(Placement::At(fixed.first()), umem, Prot::READ).is_err()); // in use
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError`], with the region; nothing has changed then, unless it is a [`Breach`](IoasError::Breach).
    /// The region stays pinned and charged as long as the error [holds](Failed) it.
    pub fn map(
        &mut self,
        placement: Placement<'_>,
        region: U,
        prot: Prot,
    ) -> Result<IovaRange, Failed<IoasError<D::Error>, U>> {
        let len = region.len();
        self.map_range(placement, region, 0..len, prot)
    }

    /// Maps the bytes `range` of a region in every domain, and returns where. O(log n + tiles), and
    /// O(runs) to find the best place, if there is a choice.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// let (at, part) = (Placement::At(Iova::new(0x8000)), 0x1000..0x3000);
    /// let place = space.map_range(at, umem.clone(), part, Prot::READ)?;
    /// assert_eq!(space.translate(place.first()), umem.whole()?.phys(0x1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError`], with the region; nothing has changed then, unless it is a [`Breach`](IoasError::Breach).
    /// The region stays pinned and charged as long as the error [holds](Failed) it.
    pub fn map_range(
        &mut self,
        placement: Placement<'_>,
        region: U,
        range: Range<u64>,
        prot: Prot,
    ) -> Result<IovaRange, Failed<IoasError<D::Error>, U>> {
        if let Err(error) = self.room_for_another(prot) {
            return Err(Failed::new(error, region));
        }
        let attachment =
            Attachment::hold(region, D::Target::ADDRESS_KIND, prot.contains_all(Prot::WRITE))
                .map_err(|refused| {
                    refused.map_error(|error| IoasError::Map(MapError::Attach(error)))
                })?;
        let claimed = self.find_place(&**attachment.region(), range.clone(), placement);
        let claimed = claimed.and_then(|place| Ok((place, self.claim(place)?)));
        let (place, key) = match claimed {
            Ok(claimed) => claimed,
            // SAFETY: "the device cannot reach the memory any more": nothing was mapped under this
            // attachment.
            Err(error) => return Err(Failed::new(error, unsafe { attachment.release() })),
        };
        let mapped = Mapped { attachment, offset: range.start, prot };
        // If this unwinds, the place stays poisoned, and the attachment is leaked.
        let error = match self.install_everywhere(place, &mapped) {
            Ok(()) => match self.areas.get_mut(key) {
                Some(area) => {
                    area.kind = AreaKind::Mapped(mapped);
                    return Ok(place);
                }
                // It was claimed above. If it is not there, nothing would unmap the memory.
                None => MapError::Breach(Breach::new(place)),
            },
            Err(error) => error,
        };
        let region = if error.is_breach() {
            mapped.attachment.leak()
        } else {
            self.areas.remove(place.first());
            self.mappings = self.mappings.minus(1);
            // SAFETY: "the device cannot reach the memory any more, through no cache of translations
            // either": what was mapped in any domain has been unmapped and flushed.
            unsafe { mapped.attachment.release() }
        };
        Err(Failed::new(error.into(), region))
    }

    /// Claims a range. It is poisoned until something is mapped there.
    fn claim(&mut self, place: IovaRange) -> Result<u32, IoasError<D::Error>> {
        let key = self.place(place, Area::poisoned()).map_err(|(error, _)| error)?;
        self.mappings = self.mappings.plus(1);
        Ok(key)
    }

    /// Whether there may be another mapping, and whether it makes sense.
    fn room_for_another(&self, prot: Prot) -> Result<(), IoasError<D::Error>> {
        check_prot(prot).map_err(IoasError::Map)?;
        if self.mappings >= self.mapping_limit {
            return Err(IoasError::MappingLimit { limit: self.mapping_limit });
        }
        Ok(())
    }

    /// Where the bytes of a region go. That an address is in use is found out later.
    fn find_place(
        &self,
        region: &U::Target,
        range: Range<u64>,
        placement: Placement<'_>,
    ) -> Result<IovaRange, IoasError<D::Error>> {
        let window = region.window(range);
        let window = window.map_err(|error| IoasError::Map(MapError::Window(error)))?;
        let len = window.len();
        let allowed = match placement {
            Placement::At(iova) => {
                let wraps = TileError::Wraps { iova, len };
                let place = IovaRange::new(iova, len);
                return place.map_err(|_| IoasError::Map(MapError::Tiles(wraps)));
            }
            Placement::Anywhere => &[IovaRange::ALL],
            Placement::Within(ranges) => ranges,
        };
        self.find_room(len, window.iter(), allowed)
    }

    /// The first room for `len` bytes of memory in one of the ranges, at the best alignment or, if there
    /// is no such room, at the next best.
    pub(super) fn find_room(
        &self,
        len: u64,
        runs: impl Iterator<Item = Segment>,
        allowed: &[IovaRange],
    ) -> Result<IovaRange, IoasError<D::Error>> {
        let none = IoasError::NoRoom { len };
        let Some(aperture) = self.domains.common_aperture() else {
            return Err(none);
        };
        let sizes = self.domains.placement_sizes(self.granule);
        let mut alignment = Some(Alignment::best(runs, sizes));
        while let Some(this) = alignment {
            let room = allowed.iter().find_map(|allowed| {
                let within = allowed.intersection(&aperture)?;
                self.areas.gaps(within, len).find_map(|gap| this.first_in(gap, len))
            });
            if let Some(place) = room.and_then(|iova| IovaRange::new(iova, len).ok()) {
                return Ok(place);
            }
            alignment = this.relaxed(sizes);
        }
        Err(none)
    }
}
