// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container of VFIO as a domain: its map call takes user addresses, and pins by itself.
//!
//! ```text
//! cargo run --example vfio_container -- 0000:00:04.0     # a PCI device that vfio-pci has
//! ```
//!
//! The address space is the same as on any other domain. If the device is QEMU's `edu`, it copies
//! between two places of the memory.

#[path = "vfio/container.rs"]
mod container;

use container::Container;
use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
use pinned_sgl::linux::{Buffer, ByUserAddr, Pages};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::Iova;
use std::error::Error;
use std::fs::read_to_string;
use std::os::unix::fs::FileExt as _;
use std::{env, io, sync::Arc, thread, time::Duration};

/// Memory that the kernel has locked for this process, and so charged.
fn locked() -> io::Result<String> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    Ok(line.unwrap_or("").trim().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = env::args().nth(1).ok_or("usage: vfio_container DEVICE, as 0000:00:04.0")?;
    let container = Arc::new(Container::open(&device)?);
    let mut space = HeapIoas::new();
    for gap in container.gaps()? {
        space.reserve(gap)?;
    }
    space.attach(container.clone())?;

    let memory = Arc::new(ByUserAddr::new(Buffer::new(4 << 20, Pages::Transparent)?));
    let request =
        PinRequest::new(memory.buffer().user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
    let umem = Arc::new(Umem::pin(memory.clone(), &Unaccounted, request)?);
    let at = Placement::At(Iova::new(0x40_0000));
    let mapped = space.map(at, umem, Prot::READ | Prot::WRITE)?;
    println!("mapped {} by one call; the kernel has locked {}", mapped, locked()?);

    // The kernel unmaps what it mapped as one, or nothing.
    let part = IovaRange::new(mapped.first(), 0x1000)?;
    let refused = space.unmap(part).err().ok_or("a part was unmapped")?;
    println!("a part alone: {refused}");

    memory.buffer().write(0x1ffe, b"from the CPU")?;
    if copies(&container, mapped.first().get() + 0x1ffe, mapped.first().get() + 0x3a_0003)? {
        let mut bytes = [0; 12];
        memory.buffer().read(0x3a_0003, &mut bytes)?;
        println!("the device has copied {:?}", String::from_utf8_lossy(&bytes));
    }

    space.unmap(mapped)?;
    println!("unmapped; the kernel has locked {}", locked()?);
    Ok(())
}

/// Lets QEMU's `edu` copy 12 bytes through the buffer that it has inside; false for another device.
fn copies(container: &Container, from: u64, to: u64) -> Result<bool, Box<dyn Error>> {
    const CONFIGURATION: u32 = 7;
    let (file, config, bar) =
        (&container.device, container.region(CONFIGURATION)?, container.region(0)?);
    let mut id = [0; 4];
    file.read_exact_at(&mut id, config)?;
    if u32::from_le_bytes(id) != 0x11e8_1234 {
        return Ok(false);
    }
    // The device may master the bus, and answers in memory.
    file.write_all_at(&6u16.to_le_bytes(), config + 4)?;
    const INSIDE: u64 = 0x4_0000;
    const COMMAND: u64 = 0x98;
    for (source, destination, command) in [(from, INSIDE, 1), (INSIDE, to, 3)] {
        for (register, value) in
            [(0x80, source), (0x88, destination), (0x90, 12), (COMMAND, command)]
        {
            file.write_all_at(&value.to_le_bytes(), bar + register)?;
        }
        let mut busy = [1; 8];
        while u64::from_le_bytes(busy) & 1 != 0 {
            thread::sleep(Duration::from_millis(10));
            file.read_exact_at(&mut busy, bar + COMMAND)?;
        }
    }
    Ok(true)
}
