// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `SgTable` and `DmaList`: what the DMA API has mapped is read back out of the page table
//! of the IOMMU, which is that of the domain of the DMA API here.

use crate::{
    contexts,
    device::{Tester, PAGE},
    Held,
};
use kernel::{
    bindings,
    device::{self, Bound},
    dma::{
        attrs::{DMA_ATTR_MMIO, DMA_ATTR_NO_WARN, DMA_ATTR_SKIP_CPU_SYNC},
        DataDirection,
    },
    prelude::*,
};
use pinned_sgl::{
    granule::SegmentLimits,
    kernel::{DmaList, Kmalloc, SgTable},
    sgl::Window,
    umem::{AttachError, Region},
    MemoryKind, PageRun, Sgl, SglBuilder, UserAddr,
};

fn raw(device: &device::Device<Bound>) -> *mut bindings::device {
    core::ptr::from_ref(device).cast_mut().cast()
}

/// Where an address of the device leads, by the domain of the DMA API; zero is nowhere.
fn phys(device: &device::Device<Bound>, addr: u64) -> u64 {
    // SAFETY: the device is there, and stays in the domain of the DMA API during the test.
    unsafe { bindings::iommu_iova_to_phys(bindings::iommu_get_domain_for_dev(raw(device)), addr) }
}

/// Sets what the DMA API lets the device take, and returns what it took before.
fn set_limits(device: &device::Device<Bound>, len: u32, mask: usize) -> Result<(u32, usize)> {
    // SAFETY: the device is there, and PCI has given it parameters; nothing is mapped while they change.
    let parms = unsafe { (*raw(device)).dma_parms.as_mut() }.ok_or(ENODEV)?;
    let before = (parms.max_segment_size, parms.segment_boundary_mask);
    (parms.max_segment_size, parms.segment_boundary_mask) = (len, mask);
    Ok(before)
}

/// Whether the list is `window`, in segments that the device takes.
fn is_mapped(
    device: &device::Device<Bound>,
    list: &DmaList<'_, &Held>,
    window: Window<'_, Kmalloc>,
    (max_len, mask): (u32, u64),
) -> Result {
    let mut at = 0;
    for entry in list.iter() {
        let (first, len) = (entry.dma_address(), entry.dma_len());
        check!(len > 0 && len <= max_len.into());
        check!((first ^ (first + len - 1)) & !mask == 0);
        // Every page of it, from its first byte to its last.
        let mut inside = 0;
        while inside < len {
            let there = window.phys(at + inside).ok_or(EIO)?;
            check!(phys(device, first + inside) == there.get());
            inside += PAGE - there.get() % PAGE;
        }
        let last = window.phys(at + len - 1).ok_or(EIO)?;
        check!(phys(device, first + len - 1) == last.get());
        at += len;
    }
    check!(at == window.len());
    Ok(())
}

/// Makes a table, maps it twice, and looks at each step.
fn map_and_unmap(
    device: &device::Device<Bound>,
    region: &Held,
    range: core::ops::Range<u64>,
    direction: DataDirection,
    limits: (u32, usize),
) -> Result {
    let window = region.window(range.clone())?;
    let own = SegmentLimits::NONE.max_len(limits.0.into())?;
    let own = own.boundary((limits.1 as u64).checked_add(1).ok_or(EINVAL)?)?;

    let table = SgTable::new(device, region, range, direction, GFP_KERNEL_ACCOUNT)?;
    check!(u64::from(table.entries()) == window.segment_count(&own));
    check!(region.attachments() == 1);
    // SAFETY: the device does no DMA.
    let list = unsafe { table.map() }?;
    is_mapped(device, &list, window, (limits.0, limits.1 as u64))?;
    list.sync_for_cpu();
    list.sync_for_device();
    let (first, last) = (list.iter().next().ok_or(EIO)?, list.iter().last().ok_or(EIO)?);
    let (first, last) = (first.dma_address(), last.dma_address());

    // The region is held until the end, and nothing is mapped from then on.
    let table = list.unmap();
    check!(region.attachments() == 1);
    check!(phys(device, first) == 0 && phys(device, last) == 0);
    // SAFETY: as above.
    let refused = unsafe { table.map_with_attrs(DMA_ATTR_MMIO) };
    let (error, table) = refused.err().ok_or(EIO)?.into_parts();
    check!(error == EINVAL);
    // SAFETY: as above.
    let list = unsafe { table.map_with_attrs(DMA_ATTR_SKIP_CPU_SYNC | DMA_ATTR_NO_WARN) }?;
    list.sync_for_device();
    is_mapped(device, &list, window, (limits.0, limits.1 as u64))?;
    let first = list.iter().next().ok_or(EIO)?.dma_address();
    list.sync_for_cpu();
    drop(list);
    check!(phys(device, first) == 0);
    check!(region.attachments() == 0);
    Ok(())
}

/// A list of memory that is said to have no page structures.
struct Mmio(Sgl<Kmalloc>);

impl Mmio {
    fn new(region: &Held) -> Result<Self> {
        let mut list = SglBuilder::new_in(region.sgl().page_size(), Kmalloc::new(GFP_KERNEL))?;
        for run in region.sgl().runs() {
            list.push_run(PageRun::new(run.start(), run.count(), MemoryKind::Mmio)?)?;
        }
        Ok(Self(list.finish()?))
    }
}

// SAFETY: nothing is attached, and no device is shown the memory. That page structures may not be looked for
// is the safe side.
unsafe impl Region for Mmio {
    type Storage = Kmalloc;

    fn sgl(&self) -> &Sgl<Kmalloc> {
        &self.0
    }

    fn page_offset(&self) -> u64 {
        0
    }

    fn len(&self) -> u64 {
        self.0.page_count() * self.0.page_size().bytes()
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn user_addr(&self) -> Option<UserAddr> {
        None
    }

    fn mark_dirty(&self) {}

    fn attach(&self, _: bool) -> Result<(), AttachError> {
        Ok(())
    }

    unsafe fn detach(&self) {}
}

impl Tester {
    #[inline(never)]
    pub(crate) fn dma(&self, region: Held) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        contexts::without_sleeping(device, &region)?;
        let len = region.len();
        // The addresses have 32 bits, and each segment begins in a page of its own.
        let (middle, some) = (len / 2, len.min(8 << 20));
        let (first, last) = (middle - some / 2, middle + some / 2);
        // As PCI has it; a page of 4 KiB, whatever the CPU has; more than most runs; no multiple of anything; a low boundary.
        let all = [
            (65536, 0xffff_ffff),
            (4096, 0xffff_ffff),
            (4 << 20, 0xffff_ffff),
            (20_992, 0xffff_ffff),
            (4 << 20, 0xffff),
        ];
        for limits in all {
            let before = set_limits(device, limits.0, limits.1)?;
            let result = [first..last, first + 100..last - 300, middle - 1..middle + 1]
                .into_iter()
                .try_for_each(|range| {
                    map_and_unmap(device, &region, range, DataDirection::ToDevice, limits)
                });
            set_limits(device, before.0, before.1)?;
            result?;
        }
        let limits = (65536, 0xffff_ffff);
        for direction in [DataDirection::FromDevice, DataDirection::Bidirectional] {
            let result = map_and_unmap(device, &region, 0..len, direction, limits);
            if region.is_writable() {
                result?;
            } else {
                check!(result == Err(EPERM));
            }
        }

        // Memory without page structures, whatever number its frames have.
        let mmio = Mmio::new(&region)?;
        let refused = SgTable::new(device, &mmio, 0..len, DataDirection::ToDevice, GFP_KERNEL);
        match refused.err().ok_or(EIO)?.into_error() {
            EINVAL => {}
            error => return Err(error),
        }

        // What cannot be: the region comes back.
        let mut region = region;
        for (range, direction) in [
            (0..0, DataDirection::ToDevice),
            (0..len + 1, DataDirection::ToDevice),
            (len..len + PAGE, DataDirection::ToDevice),
            (0..len, DataDirection::None),
        ] {
            let held = KBox::new(region, GFP_KERNEL)?;
            let refused = SgTable::new(device, held, range, direction, GFP_KERNEL);
            let (error, back) = refused.err().ok_or(EIO)?.into_parts();
            check!(error == EINVAL);
            region = KBox::into_inner(back);
            check!(region.attachments() == 0);
        }
        // By value, and back.
        let held = KBox::new(region, GFP_KERNEL)?;
        let table = SgTable::new(device, held, 0..len, DataDirection::ToDevice, GFP_KERNEL)?;
        // SAFETY: the device does no DMA.
        let list = unsafe { table.map() }?;
        let held = list.unmap().into_region();
        check!(held.attachments() == 0);
        // Longer than any borrow.
        let table = SgTable::new(device, held, 0..len, DataDirection::ToDevice, GFP_KERNEL)?;
        // SAFETY: the device does no DMA.
        let list = unsafe { table.map() }?.into_devres()?;
        let first = list.access(device)?.iter().next().ok_or(EIO)?.dma_address();
        check!(phys(device, first) != 0);
        drop(list);
        check!(phys(device, first) == 0);
        Ok(())
    }
}
