// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver for QEMU's `edu` device, which can do one thing: copy up to 4 KiB between memory and a
//! buffer of its own, by DMA.
//!
//! The driver lets a program copy its own memory with it. What the program gives it is pinned,
//! charged, and mapped at addresses of the driver's choice in an IOMMU domain of its own; the device
//! sees two contiguous regions, however the pages lie in memory. Then all is undone, and the driver
//! tries once more: the IOMMU refuses the device.
//!
//! A program writes a [`Request`] to `/sys/kernel/debug/edu/copy`.

use kernel::{
    debugfs::{Scope, ScopedDir},
    device::{self, Bound, Core},
    io::{poll::read_poll_timeout, Io},
    new_mutex, pci,
    prelude::*,
    sync::{aref::ARef, Mutex},
    time::Delta,
    transmute::FromBytes,
    uaccess::UserSliceReader,
};
use pinned_sgl::{
    iommu::{Mapping, Prot},
    kernel::{Counter, MmAccountant, MmPinner, PagingDomain},
    umem::{PinFlags, PinRequest, UserRange},
    Iova, UserAddr,
};

/// What a program asks for: `count` bytes at `offset` of one region to the same place of another.
/// Both regions have `len` bytes, whole pages.
#[repr(C)]
struct Request {
    from: u64,
    to: u64,
    len: u64,
    offset: u64,
    count: u64,
}

// SAFETY: numbers, any of which will do.
unsafe impl FromBytes for Request {}

/// Where the device sees the two regions: its addresses have 28 bits.
const FROM: Iova = Iova::new(0x0400_0000);
const TO: Iova = Iova::new(0x0800_0000);
const LONGEST: u64 = 0x0400_0000;

mod regs {
    pub(super) const SOURCE: usize = 0x80;
    pub(super) const DESTINATION: usize = 0x88;
    pub(super) const COUNT: usize = 0x90;
    pub(super) const COMMAND: usize = 0x98;
    pub(super) const END: usize = 0xa0;

    /// Starts; is set until the transfer is complete.
    pub(super) const START: u32 = 1;
    /// From the buffer to memory, and not the other way.
    pub(super) const TO_MEMORY: u32 = 2;
}

/// The address of the device's buffer, as it counts, and its length.
const BUFFER: u32 = 0x4_0000;
const BUFFER_LEN: u64 = 4096;

type Bar<'a> = pci::Bar<'a, { regs::END }>;

#[pin_data]
struct Edu {
    device: ARef<pci::Device>,
    /// There is one buffer.
    #[pin]
    buffer: Mutex<()>,
}

/// One transfer, to the end.
fn transfer(bar: &Bar<'_>, iova: Iova, count: u64, direction: u32) -> Result {
    let (iova, count) = (u32::try_from(iova.get())?, u32::try_from(count)?);
    let (source, destination) =
        if direction == regs::TO_MEMORY { (BUFFER, iova) } else { (iova, BUFFER) };
    bar.write32(source, regs::SOURCE);
    bar.write32(destination, regs::DESTINATION);
    bar.write32(count, regs::COUNT);
    bar.write32(regs::START | direction, regs::COMMAND);
    read_poll_timeout(
        || Ok(bar.read32(regs::COMMAND)),
        |command| command & regs::START == 0,
        Delta::from_millis(5),
        Delta::from_secs(5),
    )?;
    Ok(())
}

/// Copies from one mapping to the other, through the buffer.
fn copy(bar: &Bar<'_>, request: &Request) -> Result {
    let mut done = 0;
    while done < request.count {
        let at = request.offset.checked_add(done).ok_or(EINVAL)?;
        let some = (request.count - done).min(BUFFER_LEN);
        transfer(bar, FROM.checked_add(at).ok_or(EINVAL)?, some, 0)?;
        transfer(bar, TO.checked_add(at).ok_or(EINVAL)?, some, regs::TO_MEMORY)?;
        done += some;
    }
    Ok(())
}

fn run(device: &device::Device<Bound>, request: &Request) -> Result {
    let end = request.offset.checked_add(request.count).ok_or(EINVAL)?;
    if request.len > LONGEST || end > request.len {
        return Err(EINVAL);
    }
    let pdev: &pci::Device<Bound> = device.try_into()?;
    let bar = pdev.iomap_region_sized::<{ regs::END }>(0, c"edu")?;

    // Pin: the pages of the calling process, counted in its `pinned_vm`, listed in a few bytes each.
    let task = current!();
    let mm = task.mm().ok_or(ESRCH)?;
    let pinner = MmPinner::new(mm);
    let accountant = MmAccountant::new(mm, Counter::Pinned);
    let pin = |start, flags| {
        let range = UserRange::new(UserAddr::new(start), request.len)?;
        let request = PinRequest::new(range, flags | PinFlags::LONGTERM);
        pinned_sgl::kernel::pin(&pinner, &accountant, GFP_KERNEL_ACCOUNT, request)
    };
    let from = pin(request.from, PinFlags::empty())?;
    let to = pin(request.to, PinFlags::WRITE)?;

    // Map: the device may read the one and write the other, and nothing else.
    let domain = PagingDomain::attach(device)?;
    let source = Mapping::map(&from, &domain, FROM, Prot::READ)?;
    let destination = Mapping::map(&to, &domain, TO, Prot::WRITE)?;
    pr_info!("{:?} at {}, {:?} at {}\n", from, source.iova(), to, destination.iova());
    copy(&bar, request)?;

    // Unmap. (Dropping a mapping does the same; in whatever order all this is dropped, no page is
    // unpinned that the device can reach.)
    destination.unmap()?;
    source.unmap()?;
    // The device tries again, elsewhere. It does not know that it fails: the IOMMU does.
    pr_info!("unmapped; the device tries once more\n");
    transfer(&bar, FROM, 64, 0)?;
    transfer(&bar, TO, 64, regs::TO_MEMORY)
}

fn write(edu: &Edu, reader: &mut UserSliceReader) -> Result {
    let request = reader.read::<Request>()?;
    let _buffer = edu.buffer.lock();
    let device: &device::Device = edu.device.as_ref();
    // SAFETY: the file is removed before the driver is unbound, which waits for this call.
    let device = unsafe { device.as_bound() };
    run(device, &request)
}

fn files<'data, 'dir>(edu: &'data Edu, dir: &'dir ScopedDir<'data, 'dir>) {
    dir.write_only_callback_file(c"copy", edu, &write);
}

struct Driver;

kernel::pci_device_table!(
    TABLE,
    <Driver as pci::Driver>::IdInfo,
    // The kernel has no name for QEMU's vendor number: any device of no class, and `probe` looks.
    [(pci::DeviceId::from_class(0x00_ff00, 0xff_ffff), ())]
);

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Scope<Edu>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            if (pdev.vendor_id().as_raw(), pdev.device_id()) != (0x1234, 0x11e8) {
                return Err(ENODEV);
            }
            pdev.enable_device_mem()?;
            pdev.set_master();
            let edu = try_pin_init!(Edu { device: pdev.into(), buffer <- new_mutex!(()) });
            Ok(Scope::dir(edu, c"edu", files))
        })
    }
}

kernel::module_pci_driver! {
    type: Driver,
    name: "edu",
    authors: ["The authors of pinned-sgl"],
    description: "Copies memory with QEMU's edu device",
    license: "Dual MIT/GPL",
}
