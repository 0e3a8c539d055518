// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings and streams: what is mapped, and what is refused.

use super::super::machine::{self, IOVAS, PAGE};
use super::model::{Live, Real, Region, Slots};
use super::{user, World};
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{Domain, IovaRange, MapError, Mapping, Prot, Stream, StreamError};
use pinned_sgl::umem::{AttachError, PinFlags, PinRequest};
use pinned_sgl::Iova;
use pinned_sgl_mock::MapFault;

impl World {
    /// Whether the bytes can be mapped there, and nothing is in the way.
    fn can_map(&self, iommu: usize, iova: u64, frames: &[u64], from: u64, len: u64) -> bool {
        let domain = &self.iommus[iommu];
        let Ok(range) = IovaRange::new(Iova::new(iova), len) else {
            return false;
        };
        let free = self.lives.iter().filter(|live| live.iommu == iommu).all(|live| {
            let there = IovaRange::new(Iova::new(live.iova), live.len).unwrap();
            there.intersection(&range).is_none()
        });
        free && domain.aperture().covers(&range)
            && machine::fits(domain.page_sizes(), iova, frames, from, len)
    }

    fn some_place(&self, u: &mut Unstructured<'_>) -> Result<(usize, u64, Prot)> {
        let iommu = u.int_in_range(0..=1)?;
        let iova = self.first_iova.wrapping_add(machine::offset(u, IOVAS)?);
        Ok((iommu, iova, machine::prot(u)?))
    }

    pub(super) fn map(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(region) = self.some_handle(u)? else {
            return Ok(());
        };
        let (iommu, iova, prot) = self.some_place(u)?;
        let it = &self.regions[region];
        let range = machine::part(u, it.len)?;
        let len = range.end.saturating_sub(range.start);
        let inside = len != 0 && range.end <= it.len;
        let allowed = prot.intersects(Prot::READ | Prot::WRITE)
            && (it.writable || !prot.contains(Prot::WRITE));
        let from = it.page_offset + range.start;
        let fits = inside && self.can_map(iommu, iova, &it.frames, from, len);
        let umem = it.handle.clone().unwrap();
        let pending = self.plan.is_pending();
        let domain = self.iommus[iommu].clone();
        let mapped = Mapping::map_range(umem, range.clone(), domain, Iova::new(iova), prot);
        let fired = pending && !self.plan.is_pending();
        match mapped {
            Ok(mapping) => {
                assert!(allowed && fits && !fired);
                assert_eq!((mapping.len(), mapping.region_range()), (len, range.clone()));
                let it = &mut self.regions[region];
                it.maps += 1;
                it.dirty |= prot.contains(Prot::WRITE);
                let (real, offset) = (Real::Mapping(mapping), range.start);
                self.lives.push(Live { real, region, iommu, iova, offset, len, prot });
            }
            Err(error) => {
                assert!(!(allowed && fits) || fired, "{error}");
                match error.error() {
                    MapError::Domain { error: MapFault::Injected, .. } => assert!(fired),
                    MapError::NoAccess => assert!(!prot.intersects(Prot::READ | Prot::WRITE)),
                    MapError::Attach(AttachError::ReadOnly) => assert!(!allowed),
                    MapError::Window(_) => assert!(!inside),
                    MapError::Tiles(_)
                    | MapError::Aperture { .. }
                    | MapError::Domain { error: MapFault::Exists { .. }, .. } => assert!(!fits),
                    other => panic!("{other}"),
                }
            }
        }
        Ok(())
    }

    pub(super) fn stream(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (range, flags)) = (self.some_proc(u)?, self.some_request(u)?);
        let (iommu, iova, prot) = self.some_place(u)?;
        let payer = u.int_in_range(0..=1)?;
        let slots: Slots = vec![None; u.int_in_range(1..=3)?].into();
        let affordable = self.affords(payer, Self::pages_of(range).count() as u64);
        let allowed = prot.intersects(Prot::READ | Prot::WRITE)
            && (flags.contains(PinFlags::WRITE) || !prot.contains(Prot::WRITE));
        let pending = self.plan.is_pending();
        let (real, domain) = (self.procs[proc].real.clone(), self.iommus[iommu].clone());
        let stream = Stream::map(
            real,
            self.payers[payer].clone(),
            domain,
            slots,
            PinRequest::new(range, flags),
            Iova::new(iova),
            prot,
        );
        let fired = pending && !self.plan.is_pending();
        match stream {
            Ok(stream) => {
                assert!(affordable && allowed && !fired);
                let frame = |page| self.procs[proc].real.frame_at(user(page)).unwrap().get();
                let frames: Vec<u64> = Self::pages_of(range).map(frame).collect();
                let (from, len) = (range.start().get() % PAGE, range.len());
                assert!(self.can_map(iommu, iova, &frames, from, len));
                let cells = self.cells_of(proc, (range, flags), &frames);
                self.regions.push(Region {
                    cells,
                    frames,
                    page_offset: from,
                    len,
                    writable: flags.contains(PinFlags::WRITE),
                    payer,
                    handle: None,
                    maps: 1,
                    dirty: false,
                });
                let (real, region) = (Real::Stream(stream), self.regions.len() - 1);
                self.lives.push(Live { real, region, iommu, iova, offset: 0, len, prot });
            }
            Err(error) => match error.error() {
                StreamError::Pin(error) => {
                    self.check_pin_error(
                        proc,
                        (range, flags),
                        affordable,
                        (fired, false),
                        &error.kind,
                    );
                }
                StreamError::Map(MapError::Domain { error: MapFault::Injected, .. }) => {
                    assert!(fired);
                    self.procs[proc].interrupted = false;
                }
                StreamError::Map(MapError::Breach(breach)) => panic!("{breach}"),
                StreamError::Map(kind) => {
                    let before = matches!(
                        kind,
                        MapError::NoAccess
                            | MapError::Attach(_)
                            | MapError::Aperture { .. }
                            | MapError::Tiles(pinned_sgl::granule::TileError::Wraps { .. })
                    );
                    if !before {
                        self.procs[proc].interrupted = false;
                        let frame = |page| self.procs[proc].real.frame_at(user(page));
                        let frames: Option<Vec<u64>> = Self::pages_of(range)
                            .map(|page| frame(page).map(pinned_sgl::Pfn::get))
                            .collect();
                        // Nothing moves between the failure and this look.
                        if let Some(frames) = frames {
                            let (from, len) = (range.start().get() % PAGE, range.len());
                            assert!(!self.can_map(iommu, iova, &frames, from, len), "{kind}");
                        }
                    }
                }
                other => panic!("{other}"),
            },
        }
        Ok(())
    }

    pub(super) fn unmap(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let Live { real, region, .. } = self.lives.swap_remove(at);
        self.regions[region].maps -= 1;
        if u.arbitrary()? {
            match real {
                Real::Mapping(mapping) => drop(mapping.unmap().unwrap()),
                Real::Stream(stream) => drop(stream.unmap().unwrap()),
            }
        }
        Ok(())
    }
}
