// SPDX-License-Identifier: MIT OR Apache-2.0
//! By the DMA API, as most drivers do: it chooses the addresses, and needs no IOMMU.

use crate::{
    job::{Job, Memory, Transfer},
    lists::Lists,
    queue::Queue,
};
use kernel::prelude::*;
use pinned_sgl::{kernel::SgTable, DmaAddr};

pub(crate) fn job(transfer: Transfer<'_>, _: &Queue, lists: &mut Lists) -> Result<Job> {
    let Transfer { device, mem, range, direction, format, command, again } = transfer;
    // Nothing but the driver keeps the device from memory that is unmapped, until an IOMMU is flushed, if there is one.
    if again {
        return Err(EINVAL);
    }
    // A table for these bytes only, cut into segments that the device takes.
    let table = SgTable::new(device, mem, range, direction, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: the list is dropped by `Jobs`, after the command has ended, or after the device was stopped; or here,
    // before there was a command. Only jobs take the device out of the domain of the DMA API, and there is one at a
    // time.
    let list = unsafe { table.map() }?;
    let data = lists.write(&format, list.extents(), DmaAddr::new)?;
    // As long as the driver is bound, and not as long as this call. Dropping it unmaps it: from then on the CPU sees
    // what the device has written.
    let memory = Memory::DmaApi(list.into_devres()?);
    Ok(Job { memory: Some(memory), _domain: None, command: command.with(data), again })
}
