// SPDX-License-Identifier: MIT OR Apache-2.0
//! At addresses of the driver's choice: memory is mapped in an IOMMU domain that the driver fills by
//! itself. The device sees two contiguous regions, however the pages lie in memory. Then all is
//! undone, and the driver tries once more: the IOMMU refuses the device.

use crate::engine::Engine;
use core::{mem, ops::Range};
use kernel::{
    device::{Bound, Device},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Mapping, Prot},
    kernel::PagingDomain,
    umem::Region,
    Iova,
};

/// Where the device sees the two regions: its addresses have 28 bits.
const FROM: Iova = Iova::new(0x0400_0000);
const TO: Iova = Iova::new(0x0800_0000);
const LONGEST: u64 = 0x0400_0000;

/// Copies the bytes `range` of one region to the same place of another.
pub(crate) fn copy<U: Region>(
    device: &Device<Bound>,
    engine: &Engine<'_>,
    from: &U,
    to: &U,
    range: Range<u64>,
) -> Result {
    if from.len() > LONGEST || to.len() > LONGEST {
        return Err(EINVAL);
    }
    // The device is in this domain until the end of this function, and in that of the DMA API else:
    // it can be in one only, and what the DMA API maps meanwhile would lead nowhere.
    let domain = PagingDomain::attach(device)?;
    let copied = copy_in(&domain, engine, from, to, range);
    if engine.is_busy() {
        // Nothing is mapped here any more, but nothing is known of the other domain: the device
        // stays in this one, and is blocked for good when the driver is unbound.
        mem::forget(domain);
        return Err(ETIMEDOUT);
    }
    copied
}

fn copy_in<U: Region>(
    domain: &PagingDomain<'_>,
    engine: &Engine<'_>,
    from: &U,
    to: &U,
    range: Range<u64>,
) -> Result {
    // Map: the device may read the one and write the other, and nothing else.
    let source = Mapping::map(from, domain, FROM, Prot::READ)?;
    let destination = Mapping::map(to, domain, TO, Prot::WRITE)?;
    pr_info!("{} bytes at {} and at {}\n", from.len(), source.iova(), destination.iova());
    let at = |iova: Iova| iova.get() + range.start..iova.get() + range.end;
    engine.copy([at(FROM)].into_iter(), [at(TO)].into_iter())?;

    // Unmap. (Dropping a mapping does the same; in whatever order all this is dropped, no page is
    // unpinned that the device can reach, even if it has not finished: the IOMMU stops it.)
    destination.unmap()?;
    source.unmap()?;
    // The device tries again, elsewhere. It does not know that it fails: the IOMMU does.
    pr_info!("unmapped; the device tries once more\n");
    engine.read(FROM.get(), 64)?;
    engine.write(TO.get(), 64)
}
