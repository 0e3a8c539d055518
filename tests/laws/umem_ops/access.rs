// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that are reached through a mapping, or through the region itself.

use super::super::machine::{self, IOVAS, PAGE};
use super::World;
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::Prot;
use pinned_sgl::Iova;
use pinned_sgl_mock::{Device, DmaFault};

impl World {
    /// What a device finds at an address: the mapping, and the offset in it.
    fn at_iova(&self, iommu: usize, iova: u64) -> Option<(usize, u64)> {
        self.lives.iter().enumerate().find_map(|(at, live)| {
            let offset = iova.checked_sub(live.iova).filter(|offset| *offset < live.len)?;
            (live.iommu == iommu).then_some((at, offset))
        })
    }

    pub(super) fn device(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut iommu = u.int_in_range(0..=1)?;
        let mut iova = self.first_iova.wrapping_add(machine::offset(u, IOVAS)?);
        if let Some(at) = self.some_live(u)?.filter(|_| iova % 4 != 3) {
            // Near a mapping, as often as not in it.
            iommu = self.lives[at].iommu;
            iova = self.lives[at].iova.wrapping_add(u64::from(u.arbitrary::<u16>()?) % 0x1800);
        }
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        if iova.checked_add(bytes.len() as u64).is_none() {
            return Ok(());
        }
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let mut reached = vec![];
        let mut fault = None;
        for at in iova..iova + bytes.len() as u64 {
            let found = self.at_iova(iommu, at);
            let Some((live, offset)) = found else {
                fault = Some(DmaFault::NotMapped { iova: Iova::new(at) });
                break;
            };
            let live = &self.lives[live];
            if !live.prot.contains(needs) {
                fault = Some(DmaFault::NotPermitted { iova: Iova::new(at), write });
                break;
            }
            let region = &self.regions[live.region];
            let byte = region.page_offset + live.offset + offset;
            reached.push((region.cells[(byte / PAGE) as usize], (byte % PAGE) as usize));
        }
        let device = Device::new(self.iommus[iommu].clone(), self.memory.clone());
        let done = if write {
            device.write(Iova::new(iova), &bytes)
        } else {
            device.read(Iova::new(iova), &mut bytes)
        };
        assert_eq!(done.err(), fault);
        for ((cell, at), byte) in reached.into_iter().zip(bytes) {
            if write {
                self.cells[cell][at] = byte;
            } else {
                assert_eq!(self.cells[cell][at], byte);
            }
        }
        Ok(())
    }

    /// Reads or writes through the region itself.
    pub(super) fn access(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_handle(u)? else {
            return Ok(());
        };
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        let region = &mut self.regions[at];
        let umem = region.handle.clone().unwrap();
        if u.ratio(1, 8)? {
            umem.mark_dirty();
            region.dirty = true;
        }
        let offset = u.int_in_range(0..=region.len)?;
        let inside = offset + bytes.len() as u64 <= region.len;
        let done = if write { umem.write(offset, &bytes) } else { umem.read(offset, &mut bytes) };
        assert_eq!(done.is_ok(), inside && (region.writable || !write), "{done:?}");
        if done.is_err() {
            return Ok(());
        }
        region.dirty |= write;
        for (index, byte) in bytes.into_iter().enumerate() {
            let at = region.page_offset + offset + index as u64;
            let cell = region.cells[(at / PAGE) as usize];
            if write {
                self.cells[cell][(at % PAGE) as usize] = byte;
            } else {
                assert_eq!(self.cells[cell][(at % PAGE) as usize], byte);
            }
        }
        Ok(())
    }
}
