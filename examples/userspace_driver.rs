// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver in user space, in small: it lets a disk that speaks a little NVMe fill a buffer.
//!
//! ```text
//! cargo run --example userspace_driver       # as root: frame numbers are hidden from others
//! ```
//!
//! Queue and buffer are really pinned memory of this process. Disk and IOMMU are mocks: a driver of real
//! hardware has a `Domain` over VFIO in their place, as `examples/vfio_container.rs` does.

use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
use pinned_sgl::linux::{Buffer, Pages};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Heap, Iova, PageSizes};
use pinned_sgl_mock::{Bus, Device, Iommu, RegionBus};
use std::{error::Error, sync::Arc};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
type Pinned = Arc<Umem<Box<Buffer>, &'static Unaccounted, Heap>>;

const PAGE: u64 = 4096;
/// Where the queue has the list of pages of a command.
const LIST: u64 = PAGE;
/// A command: the first page of the buffer, the list of the others, and how many bytes.
const WORDS: usize = 3;

fn main() -> Outcome {
    let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
    let mut space = HeapIoas::new();
    space.attach(iommu.clone())?;

    // The disk reads the queue, and writes the buffer.
    let (queue, buffer) = (pin(2 * PAGE, Pages::Base)?, pin(1 << 20, Pages::Transparent)?);
    let at = space.map(Placement::Anywhere, queue.clone(), Prot::READ)?;
    let target = space.map(Placement::Anywhere, buffer.clone(), Prot::READ | Prot::WRITE)?;

    // The driver: 64 KiB, whose pages are contiguous for the disk, wherever they are in memory.
    let wanted = IovaRange::new(target.first(), 64 << 10)?;
    let mut pages = (0..16).map(|page| wanted.first().get() + page * PAGE);
    let first = pages.next().ok_or("a buffer without pages")?;
    queue.write(LIST, &pages.flat_map(u64::to_le_bytes).collect::<Vec<_>>())?;
    let command = [first, at.first().get() + LIST, 64 << 10];
    queue.write(0, &command.map(u64::to_le_bytes).concat())?;

    // The doorbell.
    let mut bus = RegionBus::new();
    bus.push(queue);
    bus.push(buffer.clone());
    execute(&Device::new(iommu, &bus), at.first())?;

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

/// What the disk does: it fetches a command, then writes its number to each page.
fn execute<B: Bus>(disk: &Device<Arc<Iommu>, B>, queue: Iova) -> Outcome {
    let mut words = [0; WORDS * 8];
    disk.read(queue, &mut words)?;
    let [first, list, bytes] = [0, 8, 16].map(|at| word(&words[at..]));
    for page in 0..bytes / PAGE {
        let mut entry = first.to_le_bytes();
        if page > 0 {
            disk.read(Iova::new(list + (page - 1) * 8), &mut entry)?;
        }
        disk.write(Iova::new(word(&entry)), &[page as u8; PAGE as usize])?;
    }
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
