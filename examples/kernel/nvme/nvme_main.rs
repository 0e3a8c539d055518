// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver for NVMe disks, by which a program moves bytes between its own memory and the disk.
//!
//! What the program gives it is pinned, charged, and mapped for the controller; the lists that the controller reads
//! are written by [`pinned_sgl::descriptor`]; a command is submitted, and its end is an interrupt, whose thread unmaps,
//! unpins and gives back, whatever has become of the program. It writes a [`Request`] to the file of its choice in
//! `/sys/kernel/debug/`, in the folder of the device:
//!
//! | file | what chooses the addresses of the device | |
//! |---|---|---|
//! | `dma_api` | the DMA API, as for most drivers | `dma_api.rs` |
//! | `paging` | the driver, in an IOMMU domain of its own | `paging.rs` |
//! | `identity` | is read: what the controller says of itself and of its disk | `identity.rs` |

mod command;
mod dma_api;
mod identity;
mod job;
mod lists;
mod paging;
mod queue;
mod registers;

use command::Command;
use core::{mem, ptr};
use identity::Identity;
use job::{Interrupt, Jobs, Transfer, Way};
use kernel::{
    bindings,
    debugfs::{Scope, ScopedDir},
    device::{self, Core},
    dma::{DataDirection, Device as _, DmaMask},
    irq::{Flags, IrqRequest, ThreadedRegistration},
    pci::{self, IrqType, IrqTypes, IrqVectorRegistration},
    prelude::*,
    sync::{aref::ARef, Arc},
    transmute::FromBytes,
    uaccess::UserSliceReader,
};
use lists::{Format, Lists};
use pinned_sgl::{
    kernel::{pin_current, Counter, PAGE_SIZE},
    umem::{PinFlags, UserRange},
    UserAddr,
};
use queue::Queue;
use registers::Registers;

/// What a program asks for: `len` bytes of its memory at `addr`, to the disk or from there, from the sector `lba` on.
#[repr(C)]
struct Request {
    addr: u64,
    len: u64,
    lba: u64,
    flags: u64,
}

// SAFETY: numbers, any of which will do.
unsafe impl FromBytes for Request {}

/// To the disk, and not from there.
const WRITE: u64 = 1;
/// By a scatter-gather list, and not by PRPs.
const SGL: u64 = 2;
/// The controller is given the command once more when the memory is unmapped, which the IOMMU refuses. Only in a domain
/// of the driver's, which is flushed at once; and only to memory: to the disk it would write what is not there.
const AGAIN: u64 = 4;

/// A message, where the hardware maps those. Where software does, in the domain in which the device is when they are
/// allocated (see [`PagingDomain`](pinned_sgl::kernel::PagingDomain)), a device that changes its domain meanwhile has
/// a line.
const INTERRUPT: IrqType = if cfg!(CONFIG_X86) { IrqType::MsiX } else { IrqType::Intx };

/// What the files need.
struct Files {
    device: ARef<pci::Device>,
    identity: Identity,
    jobs: Arc<Jobs>,
}

impl Files {
    fn write(&self, way: Way, reader: &mut UserSliceReader) -> Result {
        let Request { addr, len, lba, flags } = reader.read::<Request>()?;
        let (writes, again) = (flags & WRITE != 0, flags & AGAIN != 0);
        if flags & !(WRITE | SGL | AGAIN) != 0 || writes && again {
            return Err(EINVAL);
        }
        let count = self.identity.sectors(lba, len)?;
        let format = match flags & SGL {
            0 => Format::Prp(self.identity.prp()?),
            _ => Format::Sgl(self.identity.sgl()?),
        };
        let device: &device::Device = (*self.device).as_ref();
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device = unsafe { device.as_bound() };
        // Whole pages are pinned, and mapped where the driver chooses the addresses: of bytes around those that are
        // asked for, the controller knows nothing.
        let bytes = UserRange::new(UserAddr::new(addr), len)?;
        let pages = UserRange::new(
            bytes.first_page(PAGE_SIZE),
            bytes.page_count(PAGE_SIZE) * PAGE_SIZE.bytes(),
        )?;
        let offset = bytes.page_offset(PAGE_SIZE);
        let (access, direction) = match writes {
            true => (PinFlags::empty(), DataDirection::ToDevice),
            false => (PinFlags::WRITE, DataDirection::FromDevice),
        };
        // Before its turn comes: to fault pages in may take as long as a program likes.
        let (task, flags) = (current!(), access | PinFlags::LONGTERM);
        let mem = pin_current(task, pages, flags, Counter::Pinned, GFP_KERNEL_ACCOUNT)?;
        let (range, command) = (offset..offset + len, Command::transfer(writes, lba, count));
        let transfer = Transfer { device, mem, range, direction, format, command, again };
        self.jobs.run(|queue, lists| way(transfer, queue, lists))
    }

    fn make<'data, 'dir>(&'data self, dir: &'dir ScopedDir<'data, 'dir>) {
        dir.write_only_callback_file(c"dma_api", self, &|files: &Files, reader: &mut _| {
            files.write(dma_api::job, reader)
        });
        dir.write_only_callback_file(c"paging", self, &|files: &Files, reader: &mut _| {
            files.write(paging::job, reader)
        });
        dir.read_only_file(c"identity", &self.identity);
    }
}

/// What is there as long as the driver is bound. It is dropped in this order.
#[pin_data]
struct Nvme<'bound> {
    #[pin]
    files: Scope<Files>,
    #[pin]
    irq: ThreadedRegistration<'bound, Interrupt>,
    jobs: Arc<Jobs>,
    vectors: IrqVectorRegistration<'bound>,
}

struct Driver;

kernel::pci_device_table!(
    TABLE,
    <Driver as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_class(pci::Class::STORAGE_EXPRESS.as_raw(), 0xff_ffff), ())]
);

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Nvme<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            pdev.enable_device_mem()?;
            // What the DMA API has to know of the device: which addresses it reaches, how much it takes at once, and,
            // where bytes are copied for it, that they keep their place in a page of the controller.
            // SAFETY: nothing is mapped for the device yet: there are no files.
            unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
            // SAFETY: as above.
            unsafe { pdev.dma_set_max_seg_size(lists::LONGEST as u32) };
            let device: &device::Device<device::Bound> = pdev.as_ref();
            let raw: *mut bindings::device = ptr::from_ref(device).cast_mut().cast();
            // SAFETY: as above; a device on the PCI bus has these parameters.
            unsafe { (*(*raw).dma_parms).min_align_mask = lists::PAGE as u32 - 1 };
            pdev.set_master();

            // Dropped in the other order: the controller is disabled before its memory is freed.
            let (mut admin, queue) = (Queue::new(device, 0)?, Queue::new(device, 1)?);
            let lists = Lists::new(device)?;
            let registers = Registers::new(pdev)?;
            registers.enable(&admin)?;
            // SAFETY: a bound device.
            let most = unsafe { bindings::dma_max_mapping_size(raw) } as u64;
            let identity = Identity::read(device, &registers, &mut admin, most)?;

            let vectors = pdev.alloc_irq_vectors(1, 1, IrqTypes::default().with(INTERRUPT))?;
            admin.run(&registers, Command::create_completion_queue(&queue))?;
            admin.run(&registers, Command::create_submission_queue(&queue))?;
            let request = vectors.index(0)?.into();
            // SAFETY: what is borrowed is the device, which is bound as long. The vectors stay as long as the
            // registration, which is dropped before them.
            let request = unsafe { mem::transmute::<IrqRequest<'_>, IrqRequest<'bound>>(request) };
            let jobs = Arc::pin_init(Jobs::new(registers, admin, queue, lists), GFP_KERNEL)?;
            let interrupt = Interrupt(jobs.clone());
            let files = Files { device: pdev.into(), identity, jobs: jobs.clone() };
            Ok(try_pin_init!(Nvme {
                jobs,
                vectors,
                // SAFETY: the registration is part of the driver's data, which are dropped.
                irq <- unsafe {
                    ThreadedRegistration::new(request, Flags::ONESHOT, c"nvme_sgl", Ok(interrupt))
                },
                files <- Scope::dir(files, device.name(), Files::make),
            }))
        })
    }

    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, nvme: Pin<&Nvme<'bound>>) {
        if nvme.jobs.stop().is_err() {
            dev_warn!(pdev, "the controller does not stop\n");
        }
        // Whatever the device still does, it reaches no memory from here on.
        // SAFETY: a device is a transparent wrapper of this structure, and its driver is bound.
        unsafe { bindings::pci_clear_master(ptr::from_ref(pdev).cast_mut().cast()) };
        nvme.jobs.abandon();
    }
}

kernel::module_pci_driver! {
    type: Driver,
    name: "nvme_sgl",
    authors: ["The authors of pinned-sgl"],
    description: "Moves memory of programs to and from NVMe disks",
    license: "Dual MIT/GPL",
}
