// SPDX-License-Identifier: MIT OR Apache-2.0
//! Emulated devices, which pin pages and copy bytes.

use crate::{container::State, domain::GroupPtr, ffi, memory::PAGE};
use kernel::{bindings, prelude::*};
use pinned_sgl::{
    iommu::{IovaRange, Prot},
    Iova,
};

impl State {
    /// Pins pages for an emulated device, and returns where they are.
    pub(crate) fn pin_pages(
        &mut self,
        raw: GroupPtr,
        iova: u64,
        prot: u32,
        pages: &mut [*mut bindings::page],
    ) -> Result {
        if !self.v2 {
            return Err(EACCES);
        }
        let addresses = each_page(iova, pages.len() as u64)?;
        if self.moving > 0 {
            kernel::do_once_lite! { kernel::warn_on!(true); }
            return Err(EBUSY);
        }
        if self.devices == 0 {
            return Err(EINVAL);
        }
        let charge = !self.is_paged();
        let mut done = 0u64;
        let mut outcome = Ok(());
        for (slot, at) in pages.iter_mut().zip(addresses) {
            match self.pin_page(at, prot, charge) {
                Ok(pinned) => *slot = pinned,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            done = done.saturating_add(1);
        }
        if outcome.is_err() {
            for at in each_page(iova, done)? {
                self.unpin_page(at, charge);
            }
            pages.fill(core::ptr::null_mut());
            return outcome;
        }
        if let Some(group) = self.groups.iter_mut().find(|group| group.raw == raw) {
            group.pins_what_it_writes = true;
        }
        Ok(())
    }

    fn pin_page(&mut self, at: u64, prot: u32, charge: bool) -> Result<*mut bindings::page> {
        let page = IovaRange::new(Iova::new(at), PAGE).map_err(|_| EOVERFLOW)?;
        if self.going.is_some_and(|going| going.intersection(&page).is_some()) {
            // As good as unmapped.
            return Err(EINVAL);
        }
        let dma = self.first_in(page).ok_or(EINVAL)?;
        if dma.prot.bits() & prot != prot {
            return Err(EPERM);
        }
        let (first, offset) = (dma.first(), at.checked_sub(dma.first()).ok_or(EINVAL)?);
        let (pfn, fresh) = dma.memory.pin_page(offset, charge)?;
        if let (Some(dma), true) = (self.dmas.get_mut(&first), fresh) {
            dma.written(offset, PAGE);
        }
        Ok(ffi::vfio_type1_page(pfn))
    }

    fn unpin_page(&self, at: u64, uncharge: bool) -> bool {
        let page = IovaRange::new(Iova::new(at), PAGE).ok();
        let found = page.and_then(|page| self.first_in(page));
        let Some(dma) = found else { return false };
        if let Some(offset) = at.checked_sub(dma.first()) {
            dma.memory.unpin_page(offset, uncharge);
        }
        true
    }

    /// Unpins pages of an emulated device.
    pub(crate) fn unpin_pages(&mut self, iova: u64, count: u64) {
        let uncharge = !self.is_paged();
        let known = each_page(iova, count)
            .is_ok_and(|mut pages| pages.all(|at| self.unpin_page(at, uncharge)));
        kernel::warn_on!(!known);
    }

    /// Copies bytes for an emulated device.
    ///
    /// # Safety
    ///
    /// There are `len` bytes at `data`.
    pub(crate) unsafe fn copy(
        &mut self,
        mut iova: u64,
        mut data: *mut u8,
        mut len: usize,
        write: bool,
    ) -> Result {
        if self.moving > 0 {
            kernel::do_once_lite! { kernel::warn_on!(true); }
            return Err(EBUSY);
        }
        while len > 0 {
            let dma = self.at(iova).ok_or(EINVAL)?;
            // As vfio has it: what a device may not read, it does not write either.
            if !dma.prot.contains_all(Prot::READ) || write && !dma.prot.contains_all(Prot::WRITE) {
                return Err(EPERM);
            }
            let (first, offset) = (dma.first(), iova.checked_sub(dma.first()).ok_or(EINVAL)?);
            let rest = dma.len().checked_sub(offset).ok_or(EINVAL)?;
            let some = usize::try_from(rest).unwrap_or(usize::MAX).min(len);
            dma.memory.copy(offset, data, some, write)?;
            if let (Some(dma), true) = (self.dmas.get_mut(&first), write) {
                dma.written(offset, some as u64);
            }
            // Behind the last address of all is nothing.
            iova = iova.checked_add(some as u64).unwrap_or(0);
            data = data.wrapping_add(some);
            len = len.saturating_sub(some);
        }
        Ok(())
    }
}

/// The addresses of pages that follow each other.
fn each_page(iova: u64, count: u64) -> Result<impl Iterator<Item = u64>> {
    let len = count.checked_mul(PAGE).ok_or(EOVERFLOW)?;
    iova.checked_add(len.saturating_sub(1)).ok_or(EOVERFLOW)?;
    Ok((0..count).filter_map(move |index| iova.checked_add(index.checked_mul(PAGE)?)))
}
