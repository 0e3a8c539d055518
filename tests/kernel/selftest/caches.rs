// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a `DmaList` does to the caches of the CPU, for a device that does not see them (see `caches.c`).

use crate::{
    device::{Tester, PAGE},
    Held,
};
use core::{ops::Range, ptr, slice};
use kernel::{
    device::{self, Bound},
    dma::{attrs::DMA_ATTR_SKIP_CPU_SYNC, DataDirection},
    error::to_result,
    ffi::c_int,
    prelude::*,
};
use pinned_sgl::{
    kernel::{Kmalloc, SgTable},
    sgl::Window,
    umem::Region,
};

#[repr(C)]
struct Bytes {
    phys: u64,
    len: u64,
}

extern "C" {
    fn selftest_caches_watch() -> c_int;
    fn selftest_caches_seen(for_cpu: bool, ranges: *mut *const Bytes) -> u32;
    fn selftest_caches_stop();
}

/// Whether what was written back for the device, or forgotten for the CPU, is `expected`, every byte of it once and no
/// other; or nothing.
fn was(for_cpu: bool, expected: Option<Window<'_, Kmalloc>>) -> Result {
    let mut ranges = ptr::null();
    // SAFETY: they are watched.
    let count = unsafe { selftest_caches_seen(for_cpu, &mut ranges) };
    // SAFETY: so many are there, until this task does something to the caches again.
    let ranges = unsafe { slice::from_raw_parts(ranges, count as usize) };
    let Some(window) = expected else {
        check!(ranges.is_empty());
        return Ok(());
    };
    let mut at = 0;
    for Bytes { phys, len } in ranges {
        let mut inside = 0;
        while inside < *len {
            check!(window.phys(at + inside).is_some_and(|there| there.get() == phys + inside));
            inside += PAGE - (phys + inside) % PAGE;
        }
        at += len;
    }
    check!(at == window.len());
    Ok(())
}

fn check_caches(
    device: &device::Device<Bound>,
    region: &Held,
    range: Range<u64>,
    direction: DataDirection,
) -> Result {
    let window = region.window(range.clone())?;
    // What the device does not write, the CPU need not read again.
    let for_cpu = (direction != DataDirection::ToDevice).then_some(window);

    let table = SgTable::new(device, region, range, direction, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: the device does no DMA.
    let list = unsafe { table.map() }?;
    was(false, Some(window))?;
    was(true, None)?;
    list.sync_for_cpu();
    was(false, None)?;
    was(true, for_cpu)?;
    list.sync_for_device();
    was(false, Some(window))?;
    was(true, None)?;
    let table = list.unmap();
    was(false, None)?;
    was(true, for_cpu)?;

    // The driver syncs by itself.
    // SAFETY: as above.
    let list = unsafe { table.map_with_attrs(DMA_ATTR_SKIP_CPU_SYNC) }?;
    was(false, None)?;
    list.sync_for_device();
    was(false, Some(window))?;
    list.sync_for_cpu();
    was(true, for_cpu)?;
    drop(list);
    was(false, None)?;
    was(true, None)
}

impl Tester {
    #[inline(never)]
    pub(crate) fn caches(&self, region: &Held) -> Result {
        use DataDirection::{Bidirectional, FromDevice, ToDevice};

        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let directions: &[_] = match region.is_writable() {
            true => &[ToDevice, FromDevice, Bidirectional],
            false => &[ToDevice],
        };
        // SAFETY: they are not watched yet: one call has the lock of what is held.
        to_result(unsafe { selftest_caches_watch() })?;
        let len = region.len().min(1024 * PAGE);
        // From ends that are those of a line of the cache: of parts of one there are copies.
        let result = directions.iter().try_for_each(|direction| {
            check_caches(device, region, 0..len, *direction)?;
            check_caches(device, region, PAGE - 256..len - 512, *direction)
        });
        // SAFETY: they are watched.
        unsafe { selftest_caches_stop() };
        result
    }
}
