// SPDX-License-Identifier: MIT OR Apache-2.0
//! At addresses of the driver's choice: memory is mapped in an IOMMU domain that the driver fills by itself. The
//! device sees one contiguous region, however the pages lie in memory; and its queue and its lists where it had them
//! before.

use crate::{
    job::{Job, Memory, Transfer},
    lists::Lists,
    queue::Queue,
};
use kernel::{dma::DataDirection, prelude::*, sync::Arc};
use pinned_sgl::{
    descriptor::Extent,
    iommu::{Mapping, Prot},
    kernel::PagingDomain,
    Iova,
};

/// Where the device sees the memory: above all that the DMA API gives it.
const AT: Iova = Iova::new(1 << 36);

pub(crate) fn job(transfer: Transfer<'_>, queue: &Queue, lists: &mut Lists) -> Result<Job> {
    let Transfer { device, mem, range, direction, format, command, again } = transfer;
    // The device is in this domain until the end of the job, and in that of the DMA API else. No command runs now.
    let domain = Arc::new(PagingDomain::attach(device, GFP_KERNEL_ACCOUNT)?, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: the queue and the lists were allocated for this device; they are freed with `Jobs`, and what is left of
    // a job, its domain as well, is dropped before.
    unsafe {
        domain.map_coherent(queue.commands())?;
        domain.map_coherent(queue.completions())?;
        domain.map_coherent(lists.memory())?;
    }
    // The device may do with the memory what the command says, and nothing else.
    let prot = match direction {
        DataDirection::ToDevice => Prot::READ,
        _ => Prot::WRITE,
    };
    let mapping = Mapping::map(mem, domain.clone(), AT, prot)?;
    let first = AT.checked_add(range.start).ok_or(EINVAL)?;
    let extent = Extent::new(first, range.end - range.start)?;
    let data = lists.write(&format, [extent], Iova::new)?;
    // As long as the driver is bound, and not as long as this call. Dropping them unmaps them.
    let _domain = Some(PagingDomain::devres(&domain)?);
    let memory = Memory::Paging(mapping.into_devres()?);
    Ok(Job { memory: Some(memory), _domain, command: command.with(data), again })
}
