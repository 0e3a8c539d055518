// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver in user space, in small: it lets an NVMe disk fill a buffer.
//!
//! ```text
//! cargo run --example userspace_driver       # as root: frame numbers are hidden from others
//! ```
//!
//! List and buffer are really pinned memory of this process. Disk and IOMMU are mocks: `examples/vfio_nvme.rs` has a
//! real controller in their place, and a `Domain` over VFIO; in a kernel, `examples/kernel/nvme/` is a whole driver.

use pinned_sgl::descriptor::{Extent, ListMemory, Prp, TransferLimits};
use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl::linux::{Buffer, Pages};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Heap, PageSize, PageSizes};
use pinned_sgl_mock::{DataPointer, Device, Iommu, Nvme, RegionBus};
use std::{error::Error, sync::Arc};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
type Pinned = Arc<Umem<Box<Buffer>, &'static Unaccounted, Heap>>;

fn main() -> Outcome {
    let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
    let mut space = HeapIoas::new();
    space.attach(iommu.clone())?;

    // The disk reads the list, and writes the buffer.
    let (list, buffer) = (pin(4096, Pages::Base)?, pin(1 << 20, Pages::Transparent)?);
    let at = space.map(Placement::Anywhere, list.clone(), Prot::READ)?;
    let target = space.map(Placement::Anywhere, buffer.clone(), Prot::READ | Prot::WRITE)?;

    // The driver: 64 KiB, whose pages are contiguous for the disk, wherever they are in memory.
    let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE.sector(512)?)?;
    let plan = prp.plan([Extent::new(target.first(), 64 << 10)?])?;
    let mut page = [[0; 8]; 512];
    let command = plan.write(&mut [ListMemory::new(at.first(), &mut page)])?;
    list.write(0, page.as_flattened())?;

    // The doorbell: each page of what is on the disk has its number in it.
    let mut bus = RegionBus::new();
    bus.push(list);
    bus.push(buffer.clone());
    let disk = Nvme::new(Device::new(iommu, &bus), PageSize::SIZE_4K);
    let sectors: Vec<u8> = (0..16).flat_map(|page| [page; 4096]).collect();
    disk.send(DataPointer::Prp(command), &sectors)?;

    let mut last = [0; 4];
    buffer.read((64 << 10) - 4, &mut last)?;
    println!("the disk has written {last:?} at the end of page 15");
    assert_eq!(last, [15; 4]);
    println!("unmapped {:#x} bytes", space.unmap_all());
    Ok(())
}

/// Memory of this process, pinned for a device that may write it.
fn pin(len: u64, pages: Pages) -> Outcome<Pinned> {
    let buffer = Box::new(Buffer::new(len, pages)?);
    let request = PinRequest::new(buffer.user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
    Ok(Arc::new(Umem::pin(buffer, &Unaccounted, request)?))
}
