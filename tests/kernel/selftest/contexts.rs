// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the crate may be called: see the table in its documentation. The kernel reports whatever could sleep where
//! nothing may.

use crate::{device::PAGE, Held};
use kernel::{
    device::{self, Bound},
    dma::DataDirection,
    interrupt::local_interrupt_disable,
    new_spinlock,
    prelude::*,
};
use pinned_sgl::{
    kernel::{Counter, Kmalloc, MmAccountant, SgTable},
    umem::{Accountant, Region},
    SglBuilder,
};

/// All that may be done in a hard interrupt, here under a spinlock and without interrupts.
#[inline(never)]
pub(crate) fn without_sleeping(device: &device::Device<Bound>, region: &Held) -> Result {
    let page_size = region.sgl().page_size();
    let table = SgTable::new(device, region, 0..region.len(), DataDirection::ToDevice, GFP_KERNEL)?;
    let of_mm = MmAccountant::new(current!(), Counter::Pinned).ok_or(ESRCH)?;
    let of_user = MmAccountant::new(current!(), Counter::User).ok_or(ESRCH)?;
    let (mut builder, mut bytes) =
        (SglBuilder::new_in(page_size, Kmalloc::new(GFP_ATOMIC))?, [0; 100]);

    let lock = KBox::pin_init(new_spinlock!(()), GFP_KERNEL)?;
    let guard = lock.lock();
    let no_interrupts = local_interrupt_disable();
    let result = (|| {
        let pages = region.whole()?.pages().count() as u64;
        for run in region.sgl().runs() {
            builder.push_run(run)?;
        }
        check!(builder.page_count() == pages);
        region.read(PAGE - 50, &mut bytes)?;
        if region.is_writable() {
            region.write(PAGE - 50, &bytes)?;
        }
        for accountant in [&of_mm, &of_user] {
            accountant.charge(1)?;
            accountant.uncharge(1);
        }
        // SAFETY: the device does no DMA.
        let list = unsafe { table.map() }?;
        check!(list.iter().count() > 0);
        list.sync_for_cpu();
        list.sync_for_device();
        Ok(list.unmap())
    })();
    drop(no_interrupts);
    drop(guard);
    result.map(|_| ())
}
