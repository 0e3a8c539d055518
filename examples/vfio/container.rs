// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Container`]: a container of VFIO as a domain. Its map call takes user addresses, and pins by itself.

use pinned_sgl::iommu::{Cuts, Domain, IovaRange, Prot};
use pinned_sgl::umem::AddressKind;
use pinned_sgl::{Iova, PageSize, PageSizes, Tile};
use std::error::Error;
use std::fs::{read_link, File, OpenOptions};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::{ffi::CString, io, mem, pin::Pin};

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
pub(crate) struct Container {
    container: File,
    pub(crate) device: File,
    /// What can be mapped, in ascending order.
    usable: Vec<IovaRange>,
    page: PageSize,
    _group: File,
}

impl Container {
    /// A container for the group of a PCI device.
    pub(crate) fn open(device: &str) -> Result<Self, Box<dyn Error>> {
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
    pub(crate) fn region(&self, index: u32) -> io::Result<u64> {
        let argsz = argsz::<RegionInfo>();
        let mut info = RegionInfo { argsz, index, ..RegionInfo::default() };
        // SAFETY: the call takes the address of this structure.
        unsafe {
            ioctl(&self.device, DEVICE_GET_REGION_INFO, (&raw mut info).expose_provenance())
        }?;
        Ok(info.offset)
    }

    /// What lies between the addresses that can be mapped.
    pub(crate) fn gaps(&self) -> Result<Vec<IovaRange>, Box<dyn Error>> {
        let gap = |(below, above): (&IovaRange, &IovaRange)| {
            let ends = below.last().checked_add(1).zip(above.first().checked_sub(1));
            let (first, last) = ends.ok_or("ranges that overlap")?;
            Ok(IovaRange::inclusive(first, last)?)
        };
        self.usable.iter().zip(self.usable.iter().skip(1)).map(gap).collect()
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
