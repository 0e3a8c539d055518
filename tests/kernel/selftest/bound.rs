// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `DmaList::into_devres`: a list that nothing drops is unmapped when the driver is unbound.

use crate::device::Tester;
use kernel::{
    device::{self, Bound},
    dma::DataDirection,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};
use pinned_sgl::{
    kernel::{pin_current, Counter, DevresDmaList, SgTable},
    umem::{PinFlags, UserRange},
    UserAddr,
};

/// Where the list is, which outlives the driver's own data.
static KEPT: Atomic<usize> = Atomic::new(0);

impl Tester {
    #[inline(never)]
    pub(crate) fn keep(&self, at: u64, len: u64) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let range = UserRange::new(UserAddr::new(at), len)?;
        let (flags, counter) = (PinFlags::LONGTERM, Counter::Pinned);
        let region = pin_current(current!(), range, flags, counter, GFP_KERNEL_ACCOUNT)?;
        let direction = DataDirection::ToDevice;
        let table = SgTable::new(device, region, 0..len, direction, GFP_KERNEL_ACCOUNT)?;
        // SAFETY: the device does no DMA.
        let list = unsafe { table.map() }?.into_devres()?;
        check!(list.try_access().is_some_and(|list| list.iter().count() > 0));
        KEPT.store(KBox::into_raw(KBox::new(list, GFP_KERNEL)?) as usize, Relaxed);
        Ok(())
    }
}

/// After the driver was unbound: there is nothing behind it any more.
#[inline(never)]
pub(crate) fn let_go() -> Result {
    let list = KEPT.xchg(0, Relaxed) as *mut DevresDmaList;
    check!(!list.is_null());
    // SAFETY: it was made of a box, and is taken once.
    let list = unsafe { KBox::from_raw(list) };
    check!(list.try_access().is_none());
    Ok(())
}
