// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver of NVMe disks in user space: what is on a disk gets into memory of this process, which a
//! container of VFIO maps for the controller.
//!
//! ```text
//! cargo run --example vfio_nvme -- 0000:00:05.0     # a PCI device that vfio-pci has
//! ```
//!
//! The lists are written as in `examples/userspace_driver.rs`, which has a mock for a disk, and in
//! `examples/kernel/nvme/`.

#[path = "vfio/container.rs"]
mod container;

use container::Container;
use pinned_sgl::descriptor::{Extent, ListMemory, Prp, TransferLimits};
use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl::linux::{Buffer, ByUserAddr, Pages};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Heap, Iova, PageSize};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};
use std::{env, error::Error, io, sync::Arc, thread};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
type Memory = Arc<ByUserAddr>;
type Pinned = Arc<Umem<Memory, &'static Unaccounted, Heap>>;

const PAGE: u64 = 4096;
/// What is read at once, into the middle of a page.
const LEN: u64 = 16 * PAGE;
const INTO: u64 = 3 * PAGE + 0x204;

fn main() -> Outcome {
    let device = env::args().nth(1).ok_or("usage: vfio_nvme DEVICE, as 0000:00:05.0")?;
    let container = Arc::new(Container::open(&device)?);
    let mut space = HeapIoas::new();
    for gap in container.gaps()? {
        space.reserve(gap)?;
    }
    space.attach(container.clone())?;

    // Two rings for each of two queues, and a list page: five of the controller, in whole pages of a CPU, which has
    // up to 64 KiB. And what the disk writes.
    let (queues, queue_memory) = pin(16 * PAGE, Pages::Base)?;
    let (buffer, memory) = pin(1 << 20, Pages::Transparent)?;
    let both = Prot::READ | Prot::WRITE;
    let at = space.map(Placement::Anywhere, queues, both)?.first();
    let target = space.map(Placement::Anywhere, buffer, Prot::WRITE)?.first();
    let place = |base: Iova, offset| base.checked_add(offset).ok_or("beyond the last address");

    let mut nvme = Controller::enable(&container, queue_memory.clone(), at)?;
    nvme.create_queue()?;

    // The list of a command, as in the other examples.
    let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE.sector(512)?)?;
    let plan = prp.plan([Extent::new(place(target, INTO)?, LEN)?])?;
    let mut page = [[0; 8]; 512];
    let [prp1, prp2] = plan.write(&mut [ListMemory::new(place(at, 4 * PAGE)?, &mut page)])?;
    queue_memory.buffer().write(4 * PAGE, page.as_flattened())?;

    let sectors = u32::try_from(LEN / 512)?;
    nvme.run(1, command(0x02, 1, [prp1, prp2], [0, 0, sectors - 1]))?;
    nvme.disable()?;

    let mut bytes = vec![0; usize::try_from(LEN)? + 2];
    memory.buffer().read(INTO - 1, &mut bytes)?;
    let pages: Vec<u8> = bytes[1..].chunks_exact(4096).map(|page| page[4095]).collect();
    println!("the disk has written {pages:?}, and around it {} and {}", bytes[0], bytes[65537]);
    println!("unmapped {:#x} bytes", space.unmap_all());
    Ok(())
}

/// Memory of this process, for a device that may write it.
fn pin(len: u64, pages: Pages) -> Outcome<(Pinned, Memory)> {
    let memory = Arc::new(ByUserAddr::new(Buffer::new(len, pages)?));
    let request =
        PinRequest::new(memory.buffer().user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
    Ok((Arc::new(Umem::pin(memory.clone(), &Unaccounted, request)?), memory))
}

/// 64 bytes: the words behind the pointers depend on the operation.
fn command(opcode: u32, namespace: u32, prp: [u64; 2], words: [u32; 3]) -> [u8; 64] {
    let mut bytes = [0; 64];
    let head = [opcode, namespace].map(u32::to_le_bytes).concat();
    let [prp, words] = [prp.map(u64::to_le_bytes).concat(), words.map(u32::to_le_bytes).concat()];
    for (at, part) in [(0, head), (24, prp), (40, words)] {
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    bytes
}

/// A controller with rings of two entries: in the pages of its memory, each queue has one for commands, and one for
/// what became of them.
struct Controller<'a> {
    container: &'a Container,
    bar: u64,
    memory: Memory,
    /// Where the controller has the memory.
    at: u64,
    /// How many commands each queue has run.
    commands: [u64; 2],
}

impl<'a> Controller<'a> {
    fn enable(container: &'a Container, memory: Memory, at: Iova) -> Outcome<Self> {
        const CONFIGURATION: u32 = 7;
        let (bar, config) = (container.region(0)?, container.region(CONFIGURATION)?);
        // The device may master the bus, and answers in memory.
        container.device.write_all_at(&6u16.to_le_bytes(), config + 4)?;
        let this = Self { container, bar, memory, at: at.get(), commands: [0; 2] };
        this.disable()?;
        this.set(0x24, 1 << 16 | 1)?;
        for (register, page) in [(0x28, 0), (0x30, 1)] {
            let addr = this.at + page * PAGE;
            this.set(register, addr as u32)?;
            this.set(register + 4, (addr >> 32) as u32)?;
        }
        this.set(0x14, 4 << 20 | 6 << 16 | 1)?;
        this.wait("not enabled", || Ok(this.get(0x1c)? & 1 == 1))?;
        Ok(this)
    }

    fn disable(&self) -> Outcome {
        self.set(0x14, 0)?;
        self.wait("not disabled", || Ok(self.get(0x1c)? & 1 == 0))
    }

    /// The second queue, for reading and writing, without interrupts.
    fn create_queue(&mut self) -> Outcome {
        let [commands, ends] = [2, 3].map(|page| [self.at + page * PAGE, 0]);
        self.run(0, command(0x05, 0, ends, [1 << 16 | 1, 1, 0]))?;
        self.run(0, command(0x01, 0, commands, [1 << 16 | 1, 1 << 16 | 1, 0]))
    }

    /// Runs a command, and waits for its end.
    fn run(&mut self, queue: u64, command: [u8; 64]) -> Outcome {
        let count = self.commands.get_mut(usize::try_from(queue)?).ok_or("no such queue")?;
        let (slot, phase) = (*count % 2, 1 - (*count / 2 % 2));
        *count += 1;
        let next = u32::try_from(*count % 2)?;
        let (commands, ends) = (2 * queue * PAGE, (2 * queue + 1) * PAGE);
        self.memory.buffer().write(commands + slot * 64, &command)?;
        self.set(0x1000 + queue * 8, next)?;
        let status = || -> Outcome<u64> {
            let mut status = [0; 2];
            self.memory.buffer().read(ends + slot * 16 + 14, &mut status)?;
            Ok(u64::from(u16::from_le_bytes(status)))
        };
        self.wait("no answer", || Ok(status()? & 1 == phase))?;
        self.set(0x1000 + queue * 8 + 4, next)?;
        match status()? >> 1 {
            0 => Ok(()),
            status => Err(format!("the controller refuses: {status:#x}").into()),
        }
    }

    fn wait(&self, otherwise: &str, until: impl Fn() -> Outcome<bool>) -> Outcome {
        let start = Instant::now();
        while !until()? {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(otherwise.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn get(&self, register: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.container.device.read_exact_at(&mut bytes, self.bar + register)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set(&self, register: u64, value: u32) -> io::Result<()> {
        self.container.device.write_all_at(&value.to_le_bytes(), self.bar + register)
    }
}
