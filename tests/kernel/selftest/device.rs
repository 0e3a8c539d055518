// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of a real domain: what is mapped is read back out of the page table of the IOMMU. The
//! device behind it is QEMU's `pci-testdev`, which does no DMA.

use crate::{races, Held};
use kernel::{
    bindings,
    device::{self, Bound},
    error::to_result,
    ffi::c_int,
    new_mutex, page,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Mutex,
    },
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, MapError, Mapping, Placement, Prot, ReadDomain, Readback},
    kernel::{Gather, KmallocIoas, PagingDomain},
    sgl::Window,
    umem::Region,
    Iova, Storage,
};

pub(crate) const COMMAND_FILE: &CStr = c"command";

/// A page of the CPU. Those of an IOMMU may be smaller.
pub(crate) const PAGE: u64 = page::PAGE_SIZE as u64;

/// Where a domain is that is never dropped: so that kmemleak knows of it.
static FORGOTTEN: Atomic<usize> = Atomic::new(0);

#[pin_data]
pub(crate) struct Tester {
    pub(crate) device: ARef<device::Device>,
    #[pin]
    pub(crate) held: Mutex<Option<Held>>,
}

/// The smallest page of the domain.
pub(crate) fn granule(domain: &impl Domain) -> Result<u64> {
    Ok(domain.page_sizes().smallest().ok_or(EIO)?.bytes())
}

/// Whether the domain maps exactly `window` at `iova`, and nothing beside it.
pub(crate) fn is_mapped<D: ReadDomain, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
) -> Result {
    let range = IovaRange::new(iova, window.len())?;
    check!(Readback::new(domain, range).eq(window.iter()));
    let behind = iova.checked_add(window.len()).ok_or(EINVAL)?;
    check!(domain.read(behind).is_none());
    check!(iova.checked_sub(granule(domain)?).is_none_or(|before| domain.read(before).is_none()));
    Ok(())
}

/// Nothing is mapped there: in any page, or in one of several where there are very many.
pub(crate) fn is_empty(domain: &impl ReadDomain, iova: Iova, len: u64) -> Result {
    let granule = granule(domain)?;
    let (mut at, step) = (0, granule * (len / granule / 20_000).max(1));
    while at < len {
        check!(domain.read(iova.checked_add(at).ok_or(EINVAL)?).is_none());
        at += step;
    }
    Ok(())
}

/// Does something while no allocation of this thread is made to fail. (To put a device back into
/// the domain of the DMA API takes memory, and Linux warns, loudly, if there is none.)
fn without_faults(act: impl FnOnce()) {
    // SAFETY: the field of the running thread, which nothing else changes while it runs in here.
    let nth = unsafe { &raw mut (*kernel::bindings::get_current()).fail_nth };
    // SAFETY: as above.
    let left = unsafe { nth.replace(0) };
    act();
    // SAFETY: as above.
    unsafe { nth.write(left) };
}

/// Nothing else claims the device while its driver is bound, whose domain it is in.
fn is_ours(device: &device::Device<Bound>) -> Result {
    let mut other = 0;
    let device = core::ptr::from_ref(device).cast_mut().cast();
    // SAFETY: the device is there, and its driver bound; a pointer is but a number here.
    let claimed =
        unsafe { bindings::iommu_device_claim_dma_owner(device, (&raw mut other).cast()) };
    check!(to_result(claimed) == Err(EPERM));
    Ok(())
}

/// The same for a driver that manages DMA by itself: see `managed.c`.
#[inline(never)]
pub(crate) fn managed_by_its_driver() -> Result {
    extern "C" {
        fn selftest_managed() -> c_int;
    }
    // SAFETY: it may be called by any thread; it registers a driver of its own, and takes it back.
    to_result(unsafe { selftest_managed() })
}

impl Tester {
    pub(crate) fn new(device: ARef<device::Device>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self { device, held <- new_mutex!(None) })
    }

    #[inline(never)]
    pub(crate) fn domain(&self, region: &Held) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let domain = PagingDomain::attach(device, GFP_KERNEL_ACCOUNT)?;
        let result = is_ours(device).and_then(|()| Self::check_domain(region, &domain));
        without_faults(|| drop(domain));
        result
    }

    /// Forgets a domain with the device in it, which stays there, and no other domain takes it.
    #[inline(never)]
    pub(crate) fn forget(&self) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        let domain = KBox::new(PagingDomain::attach(device, GFP_KERNEL_ACCOUNT)?, GFP_KERNEL)?;
        FORGOTTEN.store(KBox::into_raw(domain) as usize, Relaxed);
        check!(PagingDomain::attach(device, GFP_KERNEL_ACCOUNT).err() == Some(EBUSY));
        Ok(())
    }

    #[inline(never)]
    pub(crate) fn races(&self) -> Result {
        races::same_addresses(core::ptr::from_ref(&*self.device).cast_mut().cast())
    }

    fn check_domain(region: &Held, domain: &PagingDomain<'_>) -> Result {
        let granule = granule(domain)?;
        check!(
            granule <= PAGE
                && domain.page_sizes().largest().is_some_and(|size| size.bytes() > PAGE)
        );
        let window = region.whole()?;
        let (len, read) = (region.len(), Prot::READ);

        // At a start that fits large pages, at one that does not, and high up.
        for iova in [1u64 << 30, (1 << 30) + 3 * granule, 0x7f_ffe0_0000].map(Iova::new) {
            let mapping = Mapping::map(region, domain, iova, read)?;
            is_mapped(domain, &window, iova)?;
            check!(mapping.translate(iova) == domain.read(iova).map(|entry| entry.phys));
            // A second mapping in the middle of it is refused, and leaves it alone.
            let middle = iova.checked_add(len / 2 / granule * granule).ok_or(EINVAL)?;
            let refused = Mapping::map(region, domain, middle, read);
            check!(matches!(
                refused.as_ref().map_err(|refused| refused.error()),
                Err(MapError::Domain { .. })
            ));
            drop(refused);
            is_mapped(domain, &window, iova)?;
            drop(mapping);
            is_empty(domain, iova, len)?;
        }
        check!(region.attachments() == 0);

        // Cut where the page table can be cut: the middle goes, the ends stay.
        let iova = Iova::new(1 << 30);
        let mapping = Mapping::map(region, domain, iova, read)?;
        let (first, last) = (mapping.edges(len / 3).above, mapping.edges(len / 3 * 2).above);
        if first < last && last < len {
            let (head, tail) = mapping.unmap_range(first..last)?;
            is_mapped(domain, &region.window(0..first)?, iova)?;
            let behind = iova.checked_add(last).ok_or(EINVAL)?;
            is_mapped(domain, &region.window(last..len)?, behind)?;
            drop(tail);
            is_mapped(domain, &region.window(0..first)?, iova)?;
            drop(head);
        } else {
            drop(mapping);
        }
        is_empty(domain, iova, len)?;

        // What cannot be mapped: nothing is.
        let wrong =
            |result: Result<Mapping<&Held, &PagingDomain<'_>>, _>| result.err().map(Error::from);
        check!(wrong(Mapping::map(region, domain, Iova::new(granule / 2), read)) == Some(EINVAL));
        check!(wrong(Mapping::map(region, domain, iova, Prot::empty())) == Some(EINVAL));
        let beyond = domain.aperture().last().checked_sub(granule - 1).ok_or(EINVAL)?;
        check!(wrong(Mapping::map(region, domain, beyond, read)).is_some());
        if !region.is_writable() {
            check!(wrong(Mapping::map(region, domain, iova, Prot::WRITE)) == Some(EPERM));
        }
        check!(region.attachments() == 0);
        is_empty(domain, iova, len)?;

        // A gather that nothing was put in flushes nothing.
        domain.flush(core::pin::pin!(Gather::default()));
        Self::check_ioas(region, domain)
    }

    /// The same through an address space, which finds its mappings by itself.
    fn check_ioas(region: &Held, domain: &PagingDomain<'_>) -> Result {
        let mut ioas = KmallocIoas::new(GFP_KERNEL_ACCOUNT);
        let (len, window) = (region.len(), region.whole()?);
        // Where the device cannot go, nothing is mapped.
        for range in domain.reserved(GFP_KERNEL)? {
            kernel::pr_info_once!("reserved: {}\n", range);
            ioas.reserve(range)?;
            let there = Placement::At(range.first());
            let refused = ioas.map(there, region, Prot::READ).err().map(Error::from);
            check!(refused == Some(EEXIST));
        }
        let (before, behind) = (Iova::new(1 << 32), Iova::new((1 << 32) + len));

        // What is mapped before the domain comes is mapped in it when it comes.
        let first = ioas.map(Placement::At(before), region, Prot::READ)?;
        let id = ioas.attach(domain)?;
        is_mapped(domain, &window, before)?;
        let second = ioas.map(Placement::At(behind), region, Prot::READ)?;
        check!(ioas.len() == 2 && region.attachments() == 2);
        for iova in [before, behind] {
            check!(ioas.translate(iova) == domain.read(iova).map(|entry| entry.phys));
        }
        let again = ioas.map(Placement::At(behind), region, Prot::READ).err().map(Error::from);
        check!(again == Some(EEXIST));
        check!(ioas.unmap(first)? == len);
        is_mapped(domain, &window, behind)?;
        let anywhere = ioas.map(Placement::Anywhere, region, Prot::READ)?;
        is_mapped(domain, &window, anywhere.first())?;

        // By the CPU, at the device's addresses.
        let mut bytes = [0; 16];
        let mut same = [1; 16];
        region.read(len - 16, &mut bytes)?;
        let last = anywhere.last().checked_sub(15).ok_or(EINVAL)?;
        ioas.read(last, &mut same)?;
        check!(bytes == same);

        check!(ioas.unmap(second)? == len && ioas.unmap_all() == len);
        is_empty(domain, anywhere.first(), len)?;
        is_empty(domain, behind, len)?;
        ioas.detach(id)?;
        drop(ioas);
        check!(region.attachments() == 0);
        Ok(())
    }
}
