// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of a guest, as `vm-memory` has it, pinned where it is and mapped at the guest's addresses.
//!
//! ```text
//! cargo run --example guest_memory           # as root: frame numbers are hidden from others
//! ```
//!
//! The IOMMU is a mock; a virtual machine monitor puts a `Domain` of its own in its place.

use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl::linux::{Buffer, Pages};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Iova, PageSizes};
use pinned_sgl_mock::{Device, Iommu, RegionBus};
use std::{error::Error, ptr::NonNull, sync::Arc};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
};

fn main() -> Result<(), Box<dyn Error>> {
    // Two regions, with the hole for devices between them.
    let (low, high) = (GuestAddress(0), GuestAddress(1 << 32));
    let guest = GuestMemoryMmap::<()>::from_ranges(&[(low, 16 << 20), (high, 48 << 20)])?;
    guest.write_slice(b"from the guest", GuestAddress(0x1ffe))?;

    let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
    let mut space = HeapIoas::new();
    space.attach(iommu.clone())?;
    let mut bus = RegionBus::new();
    for region in guest.iter() {
        let start = NonNull::new(region.as_ptr()).ok_or("a region at address zero")?;
        // SAFETY: "the memory is mapped, readable and writable, and stays what it is, as long as the value
        // exists": `guest` is dropped last, as it was made first, and nothing discards a part of it. "For
        // ever if pins are held": no value is leaked. "No reference to it exists, and what other code reads
        // and writes is atomic or volatile": so are the accesses of `vm-memory`.
        let buffer = unsafe { Buffer::from_raw_parts(start, region.len(), Pages::Base) }?;
        let request = PinRequest::new(buffer.user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
        let umem = Arc::new(Umem::pin(Box::new(buffer), &Unaccounted, request)?);
        let at = Placement::At(Iova::new(region.start_addr().0));
        let mapped = space.map(at, umem.clone(), Prot::READ | Prot::WRITE)?;
        println!("{mapped}: {} pages in {} runs", umem.sgl().page_count(), umem.sgl().run_count());
        bus.push(umem);
    }

    // A device that knows the guest's addresses sees what the guest wrote, and the guest what it writes.
    let device = Device::new(iommu, &bus);
    let mut bytes = [0; 14];
    device.read(Iova::new(0x1ffe), &mut bytes)?;
    println!("the device reads {:?}", String::from_utf8_lossy(&bytes));
    device.write(Iova::new((1 << 32) + 0x5000), b"from a device")?;
    let mut bytes = [0; 13];
    guest.read_slice(&mut bytes, GuestAddress((1 << 32) + 0x5000))?;
    println!("the guest reads {:?}", String::from_utf8_lossy(&bytes));

    // Unmapped and unpinned before the guest's memory goes.
    drop(device);
    drop(bus);
    println!("unmapped {:#x} bytes", space.unmap_all());
    Ok(())
}
