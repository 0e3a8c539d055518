// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Lists`]: memory for what does not fit in a command, and how it is written.

use crate::command::Data;
use core::{array, slice};
use kernel::{
    device::{Bound, Device},
    dma::Coherent,
    prelude::*,
};
use pinned_sgl::descriptor::{DeviceAddr, Extent, ListMemory, NvmeSgl, Prp};

/// The most bytes that a command of this driver has.
pub(crate) const LONGEST: u64 = 4 << 20;
/// As many pages of memory have as many bytes; a list page that is not the last one leads to the next by its last
/// entry.
const PAGES: usize = 5;
/// The bytes of a page of the controller.
pub(crate) const PAGE: usize = 4096;

/// How the memory of a command is described.
pub(crate) enum Format {
    Prp(Prp),
    Sgl(NvmeSgl),
}

/// List pages, which the controller reads as long as a command runs.
pub(crate) struct Lists(Coherent<[[u8; PAGE]]>);

impl Lists {
    pub(crate) fn new(device: &Device<Bound>) -> Result<Self> {
        Ok(Self(Coherent::zeroed_slice(device, PAGES, GFP_KERNEL)?))
    }

    pub(crate) fn memory(&self) -> &Coherent<[[u8; PAGE]]> {
        &self.0
    }

    /// Describes what the device sees as `extents`; returns what the command says. No command runs.
    pub(crate) fn write<A: DeviceAddr>(
        &mut self,
        format: &Format,
        extents: impl IntoIterator<Item = Extent<A>, IntoIter: Clone>,
        addr: fn(u64) -> A,
    ) -> Result<Data> {
        Ok(match format {
            Format::Prp(prp) => Data::Prp(prp.plan(extents)?.write(&mut self.pages(addr))?),
            Format::Sgl(sgl) => Data::Sgl(sgl.plan(extents)?.write(&mut self.pages(addr))?),
        })
    }

    /// The pages, in slots of `N` bytes, and where the device has them.
    fn pages<A, const N: usize>(&mut self, addr: fn(u64) -> A) -> [ListMemory<'_, A, N>; PAGES] {
        let (first, memory) = (self.0.dma_address(), self.0.as_mut_ptr().cast::<[u8; N]>());
        array::from_fn(|page| {
            // SAFETY: so many slots are a page, and it is the memory of this page alone; by `&mut` nothing else
            // reads or writes it, and the device does not: no command runs.
            let slots =
                unsafe { slice::from_raw_parts_mut(memory.add(page * (PAGE / N)), PAGE / N) };
            ListMemory::new(addr(first + (page * PAGE) as u64), slots)
        })
    }
}
