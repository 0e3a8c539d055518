// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of what is mapped as long as the driver is bound, and dropped by nothing: it is unmapped when the driver is
//! unbound, and the device is where it was.

use crate::device::Tester;
use kernel::{
    device::{self, Bound},
    dma::DataDirection,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use pinned_sgl::{
    iommu::{Mapping, Prot},
    kernel::{
        pin_current, Counter, DevresDmaList, DevresDomain, DevresMapping, PagingDomain, SgTable,
    },
    umem::{PinFlags, UserRange},
    Iova, UserAddr,
};

/// Where the memory is, which outlives the driver's own data.
static KEPT: Atomic<usize> = Atomic::new(0);

/// What is mapped, one way or the other.
enum Kept {
    List(DevresDmaList),
    Mapping(DevresMapping, DevresDomain),
}

impl Tester {
    /// Keeps memory mapped: by the DMA API, or in a domain.
    #[inline(never)]
    pub(crate) fn keep(&self, at: u64, len: u64, in_a_domain: bool) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let range = UserRange::new(UserAddr::new(at), len)?;
        let (flags, counter) = (PinFlags::LONGTERM, Counter::Pinned);
        let region = pin_current(current!(), range, flags, counter, GFP_KERNEL_ACCOUNT)?;
        let kept = if in_a_domain {
            let domain = Arc::new(PagingDomain::attach(device, GFP_KERNEL_ACCOUNT)?, GFP_KERNEL)?;
            let mapping = Mapping::map(region, domain.clone(), Iova::new(1 << 30), Prot::READ)?;
            Kept::Mapping(mapping.into_devres()?, PagingDomain::devres(&domain)?)
        } else {
            let direction = DataDirection::ToDevice;
            let table = SgTable::new(device, region, 0..len, direction, GFP_KERNEL_ACCOUNT)?;
            // SAFETY: the device does no DMA.
            Kept::List(unsafe { table.map() }?.into_devres()?)
        };
        check!(is_there(&kept));
        KEPT.store(KBox::into_raw(KBox::new(kept, GFP_KERNEL)?) as usize, Relaxed);
        Ok(())
    }
}

fn is_there(kept: &Kept) -> bool {
    match kept {
        Kept::List(list) => list.try_access().is_some_and(|list| list.iter().count() > 0),
        Kept::Mapping(mapping, domain) => {
            mapping.try_access_with(|_| ()).is_some() && domain.try_access_with(|_| ()).is_some()
        }
    }
}

/// After the driver was unbound: there is nothing behind it any more.
#[inline(never)]
pub(crate) fn let_go() -> Result {
    let kept = KEPT.xchg(0, Relaxed) as *mut Kept;
    check!(!kept.is_null());
    // SAFETY: it was made of a box, and is taken once.
    check!(!is_there(&*unsafe { KBox::from_raw(kept) }));
    Ok(())
}
