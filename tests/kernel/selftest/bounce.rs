// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of what a `DmaList` does for devices that do not see what the CPU sees. Here the DMA API copies for each of
//! them (`swiotlb=force`), so that the test can stand in for the device: an address is that of the copy.

use crate::{
    device::{Tester, PAGE},
    Held,
};
use kernel::{
    device::{self, Bound},
    dma::{attrs::DMA_ATTR_SKIP_CPU_SYNC, DataDirection},
    ffi::c_void,
    prelude::*,
};
use pinned_sgl::{
    kernel::{DmaList, SgTable},
    umem::Region,
};

extern "C" {
    fn rust_helper_gup_copy_from(phys: u64, to: *mut c_void, len: usize);
    fn rust_helper_gup_copy_to(phys: u64, from: *const c_void, len: usize);
}

/// Bytes at the beginning, where the copy of the first segment is.
const SOME: usize = 100;

/// What the device sees at the beginning.
fn seen(list: &DmaList<'_, &Held>) -> Result<[u8; SOME]> {
    let first = list.iter().next().ok_or(EIO)?.dma_address();
    let mut bytes = [0; SOME];
    // SAFETY: it is memory that the DMA API has for this device, as long as the list is mapped.
    unsafe { rust_helper_gup_copy_from(first, bytes.as_mut_ptr().cast(), SOME) };
    Ok(bytes)
}

/// The device writes at the beginning.
fn write(list: &DmaList<'_, &Held>, byte: u8) -> Result {
    let first = list.iter().next().ok_or(EIO)?.dma_address();
    // SAFETY: as above.
    unsafe { rust_helper_gup_copy_to(first, [byte; SOME].as_ptr().cast(), SOME) };
    Ok(())
}

/// What the CPU sees there.
fn read(region: &Held) -> Result<[u8; SOME]> {
    let mut bytes = [0; SOME];
    region.read(0, &mut bytes)?;
    Ok(bytes)
}

impl Tester {
    #[inline(never)]
    pub(crate) fn bounce(&self, region: &Held) -> Result {
        use DataDirection::{Bidirectional, ToDevice};

        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let len = region.len().min(64 * PAGE);
        let before = read(region)?;

        let table = SgTable::new(device, region, 0..len, ToDevice, GFP_KERNEL_ACCOUNT)?;
        // SAFETY: the device does no DMA.
        let list = unsafe { table.map() }?;
        let first = list.iter().next().ok_or(EIO)?.dma_address();
        check!(region.whole()?.phys(0).is_some_and(|phys| phys.get() != first));
        check!(seen(&list)? == before);
        drop(list);
        if !region.is_writable() {
            return Ok(());
        }

        // Each sees what the other has written when it is synced, and not before.
        let table = SgTable::new(device, region, 0..len, Bidirectional, GFP_KERNEL_ACCOUNT)?;
        // SAFETY: as above.
        let list = unsafe { table.map() }?;
        write(&list, 1)?;
        check!(read(region)? == before);
        list.sync_for_cpu();
        check!(read(region)? == [1; SOME]);
        region.write(0, &[2; SOME])?;
        check!(seen(&list)? == [1; SOME]);
        list.sync_for_device();
        check!(seen(&list)? == [2; SOME]);

        // Unmapping syncs, and with this attribute it does not.
        write(&list, 3)?;
        let table = list.unmap();
        check!(read(region)? == [3; SOME]);
        // SAFETY: as above.
        let list = unsafe { table.map_with_attrs(DMA_ATTR_SKIP_CPU_SYNC) }?;
        write(&list, 4)?;
        drop(list);
        check!(read(region)? == [3; SOME]);
        Ok(())
    }
}
