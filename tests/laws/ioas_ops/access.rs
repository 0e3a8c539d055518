// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes: what the CPU and devices read and write, and which of them fail.

use super::super::machine::{self, PAGE};
use super::model::{inclusive, Kind, Vma};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::Prot;
use pinned_sgl::umem::AccessError;
use pinned_sgl::Iova;
use pinned_sgl_mock::{Device, DmaFault};

impl World {
    /// The byte of memory that lies at an address of an area.
    pub(super) fn byte(&self, area: Vma, iova: u64) -> (u64, usize) {
        let Kind::Mapped { region, offset, .. } = area.kind else { panic!("{area:?}") };
        let region = &self.regions[region];
        let at = region.page_offset + offset + (iova - area.first);
        (region.frames[(at / PAGE) as usize], (at % PAGE) as usize)
    }

    pub(super) fn allows(area: Vma, needs: Prot) -> bool {
        matches!(area.kind, Kind::Mapped { prot, .. } if prot.contains(needs))
    }

    /// Bytes were read or written there: compares them, or keeps them.
    fn transfer(&mut self, places: &[(u64, usize)], bytes: &[u8], write: bool) {
        for ((frame, at), byte) in places.iter().zip(bytes) {
            let known = &mut self.bytes.get_mut(frame).unwrap()[*at];
            if write {
                *known = *byte;
            }
            assert_eq!(known, byte);
        }
    }

    pub(super) fn cpu(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let (first, write, mut bytes) =
            (self.some_iova(u)?, u.arbitrary::<bool>()?, machine::data(u)?);
        let iova = Iova::new(first);
        let done = if write {
            self.reals[space].write(iova, &bytes)
        } else {
            self.reals[space].read(iova, &mut bytes)
        };
        let needs = if write { Prot::WRITE } else { Prot::READ };
        // Byte for byte, up to the first that is not there.
        let mut places = vec![];
        let expected = (0..bytes.len() as u64).try_for_each(|distance| {
            let Some(at) = first.checked_add(distance) else {
                return Err(AccessError::Wraps { at: Iova::new(u64::MAX) });
            };
            let mapped = self.spaces[space].mapped_at(at);
            let iova = Iova::new(at);
            match mapped {
                None => Err(AccessError::NotMapped { at: iova }),
                Some(area) if !Self::allows(area, needs) => {
                    Err(AccessError::NotPermitted { at: iova })
                }
                Some(area) => {
                    places.push(self.byte(area, at));
                    Ok(())
                }
            }
        });
        assert_eq!(done, expected);
        if expected.is_ok() {
            if write && self.spaces[space].notes {
                let last = first + (bytes.len() as u64 - 1);
                self.spaces[space].kept.written.push((first, last));
            }
            self.transfer(&places, &bytes, write);
        }
        Ok(())
    }

    pub(super) fn device(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (mut domain, mut first) = (u.int_in_range(0..=1)?, self.some_iova(u)?);
        if self.occupied(domain).is_empty() {
            domain = 1 - domain;
        }
        let areas = self.occupied(domain);
        if !areas.is_empty() && !u.ratio(1, 4)? {
            let area = u.choose(&areas)?;
            first = area.first + machine::offset(u, area.last - area.first)?;
        }
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        let Some(last) = first.checked_add(bytes.len() as u64 - 1) else {
            return Ok(());
        };
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let occupied = self.occupied(domain);
        let (mut places, mut fault) = (vec![], None);
        for at in first..=last {
            let area = occupied.iter().find(|area| area.has(at));
            let iova = Iova::new(at);
            match area {
                Some(area) if Self::allows(*area, needs) => places.push(self.byte(*area, at)),
                Some(_) => fault = Some(DmaFault::NotPermitted { iova, write }),
                None => fault = Some(DmaFault::NotMapped { iova }),
            }
            if fault.is_some() {
                break;
            }
        }
        let iommu = &self.iommus[domain];
        if write && self.dirty[domain].tracks && !places.is_empty() {
            let reached = inclusive(first, first + (places.len() as u64 - 1));
            for entry in iommu.mapped(reached) {
                let (from, to) = (entry.range.first().get(), entry.range.last().get());
                self.dirty[domain].subtract(from, to);
                self.dirty[domain].written.push((from, to));
            }
        }
        let device = Device::new(iommu.clone(), self.memory.clone());
        let done = if write {
            device.write(Iova::new(first), &bytes)
        } else {
            device.read(Iova::new(first), &mut bytes)
        };
        assert_eq!(done.err(), fault);
        self.transfer(&places, &bytes, write);
        Ok(())
    }
}
