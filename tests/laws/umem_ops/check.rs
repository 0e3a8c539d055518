// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model is what is, after every step and in the end.

use super::super::machine::{self, PAGE, STEP};
use super::model::Real;
use super::{user, World, PAGES, ZEROS};
use pinned_sgl::{Iova, PhysAddr};
use pinned_sgl_mock::{PinFault, Zone};

impl World {
    /// The model is what is.
    pub(super) fn check(&self) {
        self.memory.witness().assert_clean();
        let alive = || self.regions.iter().filter(|region| region.is_alive());
        let pages: usize = alive().map(|region| region.cells.len()).sum();
        assert_eq!(self.memory.pinned_pages(), pages as u64);
        for (index, payer) in self.payers.iter().enumerate() {
            let own = alive().filter(|region| region.payer == index);
            let charged: usize = own.map(|region| region.cells.len()).sum();
            assert_eq!(payer.inner().charged(), charged as u64);
        }
        let mut pins = vec![0; self.cells.len()];
        let mut bytes = vec![0; PAGE as usize];
        let mut holds = |frame: u64, cell: usize| {
            self.memory.peek(PhysAddr::new(frame * PAGE), &mut bytes).unwrap();
            bytes == self.cells[cell]
        };
        for region in alive() {
            for (cell, frame) in region.cells.iter().zip(&region.frames) {
                pins[*cell] += 1;
                assert!(holds(*frame, *cell), "what a device sees in {frame:#x}");
            }
            if let Some(umem) = &region.handle {
                assert_eq!(umem.attachments(), region.maps);
                assert!(umem.is_dirty() || !region.dirty);
            }
        }
        for proc in &self.procs {
            for (number, page) in proc.pages.iter().enumerate() {
                let frame = proc.real.frame_at(user(number)).map(pinned_sgl::Pfn::get);
                let Some(page) = page else {
                    assert_eq!(frame, None);
                    continue;
                };
                if let Some(frame) = frame {
                    assert!(holds(frame, page.cell), "page {number}");
                }
                let is_zeros = page.cell == ZEROS && frame != Some(self.zero_frame);
                let expected = if is_zeros { 0 } else { pins[page.cell] };
                assert_eq!(proc.real.pins_at(user(number)), expected, "page {number}");
            }
        }
        for (index, iommu) in self.iommus.iter().enumerate() {
            let lives = || self.lives.iter().filter(|live| live.iommu == index);
            let bytes: u64 = lives().map(|live| live.len).sum();
            assert_eq!(iommu.mapped_bytes(), bytes.into());
            for live in lives() {
                let region = &self.regions[live.region];
                for at in (0..live.len).step_by(STEP as usize) {
                    let iova = Iova::new(live.iova + at);
                    let expected =
                        machine::phys(&region.frames, region.page_offset + live.offset + at);
                    let entry = iommu.lookup(iova).unwrap();
                    let phys = entry.phys.get() + (iova.get() - entry.range.first().get());
                    assert_eq!((phys, entry.prot), (expected, live.prot));
                    let translated = match &live.real {
                        Real::Mapping(mapping) => mapping.translate(iova),
                        Real::Stream(stream) => stream.translate(iova),
                    };
                    assert_eq!(translated, Some(PhysAddr::new(expected)));
                }
            }
        }
    }

    /// Everything goes, and nothing is left.
    pub(super) fn end(mut self) {
        self.plan.succeed();
        for proc in 0..self.procs.len() {
            for page in 0..PAGES {
                let mut bytes = vec![0; PAGE as usize];
                let there = self.procs[proc].pages[page];
                match self.procs[proc].real.read(user(page), &mut bytes) {
                    Ok(()) => assert!(bytes == self.cells[there.unwrap().cell]),
                    Err(fault) => {
                        assert!(there.is_none() || matches!(fault, PinFault::NoMemory(_)))
                    }
                }
            }
        }
        self.regions.iter_mut().for_each(|region| region.handle = None);
        self.lives.clear();
        self.iommus.clear();
        assert_eq!(self.memory.pinned_pages(), 0);
        assert!(self.payers.iter().all(|payer| payer.inner().charged() == 0));
        self.procs.clear();
        // All but the frame of zeros.
        let free = self.memory.free_frames(Zone::Normal) + self.memory.free_frames(Zone::Movable);
        assert_eq!(free, self.frames - 1);
        self.memory.witness().assert_clean();
    }
}
