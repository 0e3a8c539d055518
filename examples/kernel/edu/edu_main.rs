// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver for QEMU's `edu` device, which can do one thing: copy up to 4 KiB between memory and a
//! buffer of its own, by DMA.
//!
//! The driver lets a program copy its own memory with it. What the program gives it is pinned,
//! charged, mapped for the device, copied, and unmapped and unpinned again, in one of two ways. A
//! program writes a [`Request`] to the file of its choice in `/sys/kernel/debug/edu/`:
//!
//! | file | what chooses the addresses of the device | |
//! |---|---|---|
//! | `copy_dma` | the DMA API, as for most drivers | `dma_api.rs` |
//! | `copy` | the driver, in an IOMMU domain of its own | `paging.rs` |
//!
//! A device is in one domain at a time: this one is in that of the DMA API, and is taken out of it
//! as long as a call of `copy` lasts. So neither way has to know of the other; they take turns.

mod dma_api;
mod engine;
mod paging;

use engine::Engine;
use kernel::{
    debugfs::{Scope, ScopedDir},
    device::{self, Bound, Core},
    dma::{Device as _, DmaMask},
    new_mutex, pci,
    prelude::*,
    sync::{aref::ARef, Mutex},
    transmute::FromBytes,
    uaccess::UserSliceReader,
};
use pinned_sgl::{
    kernel::{Counter, MmAccountant, MmPinner},
    umem::{PinFlags, PinRequest, UserRange},
    UserAddr,
};

/// What a program asks for: `count` bytes at `offset` of one region to the same place of another.
/// Both regions have `len` bytes: whole pages, for `copy`.
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

/// What chooses the addresses.
enum Way {
    DmaApi,
    Paging,
}

#[pin_data]
struct Edu {
    device: ARef<pci::Device>,
    /// There is one engine, and one domain at a time.
    #[pin]
    turn: Mutex<()>,
}

fn run(device: &device::Device<Bound>, way: Way, request: &Request) -> Result {
    let end = request.offset.checked_add(request.count).ok_or(EINVAL)?;
    if request.count == 0 || end > request.len {
        return Err(EINVAL);
    }
    let engine = Engine::new(device.try_into()?)?;

    // Pin: the pages of the calling process, counted in its `pinned_vm`, against its limit, listed in a few bytes each.
    let task = current!();
    let mm = task.mm().ok_or(ESRCH)?;
    let pinner = MmPinner::new(mm);
    let accountant = MmAccountant::new(task, Counter::Pinned).ok_or(ESRCH)?;
    let pin = |start, flags| {
        let range = UserRange::new(UserAddr::new(start), request.len)?;
        let request = PinRequest::new(range, flags | PinFlags::LONGTERM);
        pinned_sgl::kernel::pin(&pinner, &accountant, GFP_KERNEL_ACCOUNT, request)
    };
    let from = pin(request.from, PinFlags::empty())?;
    let to = pin(request.to, PinFlags::WRITE)?;
    pr_info!("from {:?} to {:?}\n", from, to);

    let range = request.offset..end;
    match way {
        Way::DmaApi => dma_api::copy(device, &engine, &from, &to, range),
        Way::Paging => paging::copy(device, &engine, &from, &to, range),
    }
    // Both regions are unpinned here: no device is attached to them any more.
}

fn write(edu: &Edu, way: Way, reader: &mut UserSliceReader) -> Result {
    let request = reader.read::<Request>()?;
    let _turn = edu.turn.lock();
    let device: &device::Device = edu.device.as_ref();
    // SAFETY: the file is removed before the driver is unbound, which waits for this call.
    let device = unsafe { device.as_bound() };
    run(device, way, &request)
}

fn files<'data, 'dir>(edu: &'data Edu, dir: &'dir ScopedDir<'data, 'dir>) {
    dir.write_only_callback_file(c"copy_dma", edu, &|edu: &Edu, reader: &mut UserSliceReader| {
        write(edu, Way::DmaApi, reader)
    });
    dir.write_only_callback_file(c"copy", edu, &|edu: &Edu, reader: &mut UserSliceReader| {
        write(edu, Way::Paging, reader)
    });
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
            // What the DMA API has to know of the device: which addresses it reaches, and how much
            // it takes at once.
            // SAFETY: nothing is mapped for the device yet: there are no files.
            unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<{ engine::ADDRESS_BITS }>())? };
            // SAFETY: as above.
            unsafe { pdev.dma_set_max_seg_size(engine::BUFFER_LEN) };
            pdev.set_master();
            let edu = try_pin_init!(Edu { device: pdev.into(), turn <- new_mutex!(()) });
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
