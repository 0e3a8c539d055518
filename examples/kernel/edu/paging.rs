// SPDX-License-Identifier: MIT OR Apache-2.0
//! At addresses of the driver's choice: memory is mapped in an IOMMU domain that the driver fills by
//! itself. The device sees two contiguous regions, however the pages lie in memory. Once they are
//! unmapped, the device tries once more: the IOMMU refuses it.

use crate::{
    engine::{transfers, Transfer},
    job::{Job, Memory},
};
use core::{iter, ops::Range};
use kernel::{
    device::{Bound, Device},
    prelude::*,
    sync::Arc,
};
use pinned_sgl::{
    iommu::{Mapping, Prot},
    kernel::{PagingDomain, UserMem},
    Iova,
};

/// Where the device sees the two regions: its addresses have 28 bits. (What is reserved lies elsewhere: interrupts at
/// 0xfee0_0000 on x86, at 0x0800_0000 on Arm. [`PagingDomain::reserved`] returns it.)
const FROM: Iova = Iova::new(0x0400_0000);
const TO: Iova = Iova::new(0x0c00_0000);
const LONGEST: u64 = 0x0400_0000;

/// The job to copy the bytes `range` of one region to the same place of another.
pub(crate) fn job(
    device: &Device<Bound>,
    from: KBox<UserMem>,
    to: KBox<UserMem>,
    range: Range<u64>,
) -> Result<Job> {
    if from.len() > LONGEST || to.len() > LONGEST {
        return Err(EINVAL);
    }
    // The device is in this domain until the end of the job, and in that of the DMA API else:
    // it can be in one only, and what the DMA API maps meanwhile would lead nowhere.
    let domain = Arc::new(PagingDomain::attach(device, GFP_KERNEL_ACCOUNT)?, GFP_KERNEL_ACCOUNT)?;

    // Map: the device may read the one and write the other, and nothing else.
    let source = Mapping::map(from, domain.clone(), FROM, Prot::READ)?;
    let destination = Mapping::map(to, domain.clone(), TO, Prot::WRITE)?;
    pr_info!("paging: {:?} to {:?}\n", source, destination);
    let at = |iova: Iova| iter::once(iova.get() + range.start..iova.get() + range.end);
    let copy = transfers(at(FROM), at(TO))?;

    // The device does not know that it fails then: the IOMMU does.
    let mut again = KVec::new();
    again.push(Transfer::new(FROM.get(), 64, false)?, GFP_KERNEL_ACCOUNT)?;
    again.push(Transfer::new(TO.get(), 64, true)?, GFP_KERNEL_ACCOUNT)?;

    // As long as the driver is bound, and not as long as this call. Dropping them unmaps them. (In whatever order
    // all this is dropped, no page is unpinned that the device can reach, even if it has not finished: the IOMMU
    // stops it.)
    let _domain = Some(PagingDomain::devres(&domain)?);
    let memory = Memory::Paging(source.into_devres()?, destination.into_devres()?);
    Ok(Job { memory: Some(memory), _domain, copy, again, next: 0 })
}
