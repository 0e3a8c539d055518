// SPDX-License-Identifier: MIT OR Apache-2.0
//! By the DMA API, as most drivers do: it chooses the addresses, and needs no IOMMU.

use crate::{
    engine::transfers,
    job::{Job, Memory},
};
use core::ops::Range;
use kernel::{
    device::{Bound, Device},
    dma::DataDirection,
    prelude::*,
};
use pinned_sgl::kernel::{DmaList, SgTable, UserMem};

/// The job to copy the bytes `range` of one region to the same place of another.
pub(crate) fn job(
    device: &Device<Bound>,
    from: KBox<UserMem>,
    to: KBox<UserMem>,
    range: Range<u64>,
) -> Result<Job> {
    use DataDirection::{FromDevice, ToDevice};

    // Tables for these bytes only, cut into segments that the device takes.
    let source = SgTable::new(device, from, range.clone(), ToDevice, GFP_KERNEL_ACCOUNT)?;
    let destination = SgTable::new(device, to, range, FromDevice, GFP_KERNEL_ACCOUNT)?;

    // SAFETY: the lists are dropped by `Jobs`, after the last transfer of the job has ended, or after the device
    // was stopped; or here, before anything was started. Only jobs take the device out of the domain of the DMA
    // API, and there is one at a time.
    let source = unsafe { source.map() }?;
    // SAFETY: as above.
    let destination = unsafe { destination.map() }?;
    pr_info!("DMA API: {:?} to {:?}\n", source, destination);
    let copy = transfers(addresses(&source), addresses(&destination))?;

    // As long as the driver is bound, and not as long as this call. Dropping them unmaps them: from then on the CPU
    // sees what the device has written.
    let memory = Memory::DmaApi(source.into_devres()?, destination.into_devres()?);
    Ok(Job { memory: Some(memory), _domain: None, copy, again: KVec::new(), next: 0 })
}

fn addresses<'a>(list: &'a DmaList<'_>) -> impl Iterator<Item = Range<u64>> + 'a {
    list.iter().map(|entry| entry.dma_address()..entry.dma_address() + entry.dma_len())
}
