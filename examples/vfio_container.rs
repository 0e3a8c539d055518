// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container of VFIO as a domain: its map call takes user addresses, and pins by itself.
//!
//! ```text
//! cargo run --example vfio_container -- 0000:00:04.0     # a PCI device that vfio-pci has
//! ```
//!
//! The address space is the same as on any other domain. If the device is QEMU's `edu`, it copies
//! between two places of the memory.

use pinned_sgl::iommu::{Cuts, Domain, HeapIoas, IovaRange, Placement, Prot};
use pinned_sgl::linux::{Buffer, ByUserAddr, Pages};
use pinned_sgl::umem::{AddressKind, PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Iova, PageSize, PageSizes, Tile};
use std::error::Error;
use std::fs::{read_link, read_to_string, File, OpenOptions};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::{env, ffi::CString, io, mem, pin::Pin, sync::Arc, thread, time::Duration};

/// Of `linux/vfio.h`: the number of a call, `_IO(';', 100 + n)`.
const fn call(n: u64) -> u64 {
    0x3b00 + 100 + n
}
const SET_IOMMU: u64 = call(2);
const GROUP_SET_CONTAINER: u64 = call(4);
const GROUP_GET_DEVICE_FD: u64 = call(6);
const DEVICE_GET_REGION_INFO: u64 = call(8);
const IOMMU_GET_INFO: u64 = call(12);
const MAP_DMA: u64 = call(13);
const UNMAP_DMA: u64 = call(14);
const TYPE1V2_IOMMU: usize = 3;
const INFO_CAPS: u32 = 1 << 1;
const CAP_IOVA_RANGE: u32 = 1;

#[repr(C)]
struct MapDma {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

#[repr(C)]
struct UnmapDma {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

#[repr(C)]
#[derive(Default)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

/// The size of a structure, as each of them begins with it.
const fn argsz<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "tens of bytes")]
    let size = mem::size_of::<T>() as u32;
    size
}

/// # Safety
///
/// `argument` is what the call takes: a number, or the address of a structure of its size that is
/// valid for reads and writes.
unsafe fn ioctl(file: &File, call: u64, argument: usize) -> io::Result<i32> {
    // SAFETY: "the argument is what the call takes": by the caller's promise; the file is open.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), call, argument) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}

/// A container with one group in it.
struct Container {
    container: File,
    device: File,
    /// What can be mapped, in ascending order.
    usable: Vec<IovaRange>,
    page: PageSize,
    _group: File,
}

impl Container {
    /// A container for the group of a PCI device.
    fn open(device: &str) -> Result<Self, Box<dyn Error>> {
        let named = |path: &str, error: io::Error| format!("{path}: {error}");
        let open = |path: &str| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.map_err(|error| named(path, error))
        };
        let container = open("/dev/vfio/vfio")?;
        let link = format!("/sys/bus/pci/devices/{device}/iommu_group");
        let group = read_link(&link).map_err(|error| named(&link, error))?;
        let group = group.file_name().ok_or("the device is in no group")?;
        let group = open(&format!("/dev/vfio/{}", group.to_string_lossy()))?;
        let fd = container.as_raw_fd();
        let name = CString::new(device)?;
        // SAFETY: the calls take the address of a file descriptor, a number, and the address of a string.
        let device = unsafe {
            ioctl(&group, GROUP_SET_CONTAINER, (&raw const fd).addr())?;
            ioctl(&container, SET_IOMMU, TYPE1V2_IOMMU)?;
            File::from_raw_fd(ioctl(&group, GROUP_GET_DEVICE_FD, name.as_ptr().addr())?)
        };
        let (page, usable) = info(&container)?;
        Ok(Self { container, device, usable, page, _group: group })
    }

    /// Where a region of the device, as its configuration space, lies in the device's file.
    fn region(&self, index: u32) -> io::Result<u64> {
        let argsz = argsz::<RegionInfo>();
        let mut info = RegionInfo { argsz, index, ..RegionInfo::default() };
        // SAFETY: the call takes the address of this structure.
        unsafe {
            ioctl(&self.device, DEVICE_GET_REGION_INFO, (&raw mut info).expose_provenance())
        }?;
        Ok(info.offset)
    }
}

/// The smallest page of a container, and the addresses that it can map.
fn info(container: &File) -> Result<(PageSize, Vec<IovaRange>), Box<dyn Error>> {
    const OLD: &str = "this kernel does not say which addresses can be mapped";
    let mut words = [0u64; 256];
    words[0] = mem::size_of_val(&words) as u64;
    // SAFETY: the call takes the address of a structure that begins with its size, and fills it.
    unsafe { ioctl(container, IOMMU_GET_INFO, words.as_mut_ptr().expose_provenance()) }?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let long = |at: u32| {
        let field = bytes.get(at as usize..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*field))
    };
    let int = |at: u32| {
        let field = bytes.get(at as usize..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*field))
    };
    // The structure: its size, flags, page sizes (8 bytes), the place of the first capability.
    let page = PageSize::new(1 << long(8).ok_or(OLD)?.trailing_zeros()).ok_or("no page size")?;
    let mut at = int(4).filter(|flags| flags & INFO_CAPS != 0).and(int(16)).ok_or(OLD)?;
    // A capability: its number and version, the place of the next one; then a count, and pairs.
    while at != 0 {
        if int(at).ok_or(OLD)? & 0xffff == CAP_IOVA_RANGE {
            let range = |index| {
                let at = at + 16 + 16 * index;
                let (first, last) = long(at).zip(long(at + 8)).ok_or(OLD)?;
                Ok(IovaRange::inclusive(Iova::new(first), Iova::new(last))?)
            };
            let ranges = (0..int(at + 8).ok_or(OLD)?).map(range);
            return Ok((page, ranges.collect::<Result<_, Box<dyn Error>>>()?));
        }
        at = int(at + 4).ok_or(OLD)?;
    }
    Err(OLD.into())
}

// SAFETY: the kernel keeps the contract:
// - "never replaces an entry that is there, and reports no byte that this call did not map": the call
//   fails with EEXIST where something is mapped, and maps all or nothing;
// - "the devices reach exactly the first `n` bytes of the tile": the kernel pins the user memory at the
//   address of the tile, which is one of this process, and maps it;
// - "exactly the entries of the first `n` bytes are gone": what is unmapped was mapped by one call, and
//   the call reports its bytes. The kernel has flushed when it returns, so `flush` has nothing to do;
// - "when a domain is dropped, no device reaches anything": its files are closed;
// - sizes, addresses and cuts are constants, and fields that are never written.
unsafe impl Domain for Container {
    type Error = io::Error;
    type Gather = ();

    const ADDRESS_KIND: AddressKind = AddressKind::User;

    fn page_sizes(&self) -> PageSizes {
        // The kernel chooses larger pages by itself; one size makes one call of each run.
        self.page.into()
    }

    fn aperture(&self) -> IovaRange {
        let ends = self.usable.first().zip(self.usable.last());
        ends.and_then(|(first, last)| IovaRange::inclusive(first.first(), last.last()).ok())
            .unwrap_or(IovaRange::ALL)
    }

    fn cuts(&self) -> Cuts {
        Cuts::Never
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, io::Result<()>) {
        let flags =
            u32::from(prot.contains(Prot::READ)) | u32::from(prot.contains(Prot::WRITE)) << 1;
        let (vaddr, iova, size) = (tile.user().get(), tile.iova.get(), tile.len());
        let mut map = MapDma { argsz: argsz::<MapDma>(), flags, vaddr, iova, size };
        // SAFETY: the call takes the address of this structure.
        match unsafe { ioctl(&self.container, MAP_DMA, (&raw mut map).expose_provenance()) } {
            Ok(_) => (size, Ok(())),
            Err(error) => (0, Err(error)),
        }
    }

    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut ()>) -> u64 {
        let (iova, size) = (tile.iova.get(), tile.len());
        let mut unmap = UnmapDma { argsz: argsz::<UnmapDma>(), flags: 0, iova, size };
        // SAFETY: the call takes the address of this structure.
        match unsafe { ioctl(&self.container, UNMAP_DMA, (&raw mut unmap).expose_provenance()) } {
            Ok(_) => unmap.size,
            Err(_) => 0,
        }
    }

    fn flush(&self, _: Pin<&mut ()>) {}
}

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
    for gap in container.usable.windows(2) {
        if let [below, above] = gap {
            let gap = below.last().checked_add(1).zip(above.first().checked_sub(1));
            let (first, last) = gap.ok_or("ranges that overlap")?;
            space.reserve(IovaRange::inclusive(first, last)?)?;
        }
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
