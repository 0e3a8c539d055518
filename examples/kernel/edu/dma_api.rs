// SPDX-License-Identifier: MIT OR Apache-2.0
//! By the DMA API, as most drivers do: it chooses the addresses, and needs no IOMMU.

use crate::engine::Engine;
use core::{mem, ops::Range};
use kernel::{
    device::{Bound, Device},
    dma::DataDirection,
    prelude::*,
};
use pinned_sgl::{
    kernel::{DmaList, SgTable},
    umem::Region,
};

/// Copies the bytes `range` of one region to the same place of another.
pub(crate) fn copy<U: Region>(
    device: &Device<Bound>,
    engine: &Engine<'_>,
    from: &U,
    to: &U,
    range: Range<u64>,
) -> Result {
    // Tables for these bytes only, cut into segments that the device takes.
    let source = SgTable::new(device, from, range.clone(), DataDirection::ToDevice)?;
    let destination = SgTable::new(device, to, range, DataDirection::FromDevice)?;

    // SAFETY: only `engine` starts the device, and it is idle when the list is dropped: it is now,
    // and if it is not after the copy, the list is forgotten. Only `paging` takes the device out of
    // the domain of the DMA API, and only while it holds the one engine that we hold now.
    let source = unsafe { source.map() }?;
    // SAFETY: as above.
    let destination = unsafe { destination.map() }?;
    pr_info!("DMA API: {:?} to {:?}\n", source, destination);
    let copied = engine.copy(addresses(&source), addresses(&destination));

    if engine.is_busy() {
        // Nothing stops it: the memory stays mapped and pinned for good.
        mem::forget((source, destination));
        return Err(ETIMEDOUT);
    }
    // Dropping the lists unmaps them. From then on the CPU sees what the device has written.
    copied
}

fn addresses<'a, U: Region>(list: &'a DmaList<'_, &U>) -> impl Iterator<Item = Range<u64>> + 'a {
    list.iter().map(|segment| {
        let first = segment.addr.get();
        first..first + u64::from(segment.len)
    })
}
