// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver for QEMU's `edu` device, which can do one thing: copy up to 4 KiB between memory and a
//! buffer of its own, by DMA.
//!
//! The driver lets a program copy its own memory with it. What the program gives it is pinned,
//! charged, and mapped for the device, in one of two ways; the device copies, and interrupts; the thread of the
//! interrupt unmaps, unpins and gives back, whatever has become of the program. A
//! program writes a [`Request`] to the file of its choice in `/sys/kernel/debug/edu/`:
//!
//! | file | what chooses the addresses of the device | |
//! |---|---|---|
//! | `copy_dma` | the DMA API, as for most drivers | `dma_api.rs` |
//! | `copy` | the driver, in an IOMMU domain of its own | `paging.rs` |
//!
//! A device is in one domain at a time: this one is in that of the DMA API, and is taken out of it
//! as long as a job of `copy` lasts. So neither way has to know of the other; they take turns (`job.rs`).

mod dma_api;
mod engine;
mod job;
mod paging;

use core::{mem, ops::Range, ptr};
use engine::Engine;
use job::{Interrupt, Job, Jobs};
use kernel::{
    bindings,
    debugfs::{Scope, ScopedDir},
    device::{self, Bound, Core},
    dma::{Device as _, DmaMask},
    irq::{Flags, IrqRequest, ThreadedRegistration},
    pci::{self, IrqType, IrqTypes, IrqVectorRegistration},
    prelude::*,
    sync::{aref::ARef, Arc},
    transmute::FromBytes,
    uaccess::UserSliceReader,
};
use pinned_sgl::{
    kernel::{pin_current, Counter, UserMem},
    umem::{PinFlags, UserRange},
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

/// What maps the memory that was pinned.
type Way = fn(&device::Device<Bound>, KBox<UserMem>, KBox<UserMem>, Range<u64>) -> Result<Job>;

/// A message, where the hardware maps those. Where software does, in the domain in which the device is when they are
/// allocated (see [`PagingDomain`](pinned_sgl::kernel::PagingDomain)), a device that changes its domain meanwhile has
/// a line.
const INTERRUPT: IrqType = if cfg!(CONFIG_X86) { IrqType::Msi } else { IrqType::Intx };

/// What the files need.
struct Files {
    device: ARef<pci::Device>,
    jobs: Arc<Jobs>,
}

impl Files {
    fn write(&self, way: Way, reader: &mut UserSliceReader) -> Result {
        let request = reader.read::<Request>()?;
        let end = request.offset.checked_add(request.count).ok_or(EINVAL)?;
        if request.count == 0 || end > request.len {
            return Err(EINVAL);
        }
        let device: &device::Device = (*self.device).as_ref();
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device = unsafe { device.as_bound() };
        // Pin: the pages of the calling process, counted in its `pinned_vm`, against its limit, listed in a few bytes
        // each.
        let pin = |start, flags| {
            let range = UserRange::new(UserAddr::new(start), request.len)?;
            let flags = flags | PinFlags::LONGTERM;
            pin_current(current!(), range, flags, Counter::Pinned, GFP_KERNEL_ACCOUNT)
        };
        // Before its turn comes: to fault pages in may take as long as a program likes.
        let from = pin(request.from, PinFlags::empty())?;
        let to = pin(request.to, PinFlags::WRITE)?;
        pr_info!("from {:?} to {:?}\n", from, to);
        self.jobs.run(|| way(device, from, to, request.offset..end))
    }

    fn make<'data, 'dir>(&'data self, dir: &'dir ScopedDir<'data, 'dir>) {
        dir.write_only_callback_file(c"copy_dma", self, &|files: &Files, reader: &mut _| {
            files.write(dma_api::job, reader)
        });
        dir.write_only_callback_file(c"copy", self, &|files: &Files, reader: &mut _| {
            files.write(paging::job, reader)
        });
    }
}

/// What is there as long as the driver is bound. It is dropped in this order.
#[pin_data]
struct Edu<'bound> {
    #[pin]
    files: Scope<Files>,
    #[pin]
    irq: ThreadedRegistration<'bound, Interrupt>,
    vectors: IrqVectorRegistration<'bound>,
    jobs: Arc<Jobs>,
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
    type Data<'bound> = Edu<'bound>;

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

            let jobs = Arc::pin_init(Jobs::new(Engine::new(pdev)?), GFP_KERNEL)?;
            let vectors = pdev.alloc_irq_vectors(1, 1, IrqTypes::default().with(INTERRUPT))?;
            let request = vectors.index(0)?.into();
            // SAFETY: what is borrowed is the device, which is bound as long. The vectors stay as long as the
            // registration, which is dropped before them.
            let request = unsafe { mem::transmute::<IrqRequest<'_>, IrqRequest<'bound>>(request) };
            let (interrupt, files) =
                (Interrupt(jobs.clone()), Files { device: pdev.into(), jobs: jobs.clone() });
            Ok(try_pin_init!(Edu {
                jobs,
                vectors,
                // SAFETY: the registration is part of the driver's data, which are dropped.
                irq <- unsafe {
                    ThreadedRegistration::new(request, Flags::ONESHOT, c"edu", Ok(interrupt))
                },
                files <- Scope::dir(files, c"edu", Files::make),
            }))
        })
    }

    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, edu: Pin<&Edu<'bound>>) {
        let has_ended = edu.jobs.stop();
        // Whatever the device still does, it reaches no memory from here on.
        // SAFETY: a device is a transparent wrapper of this structure, and its driver is bound.
        unsafe { bindings::pci_clear_master(ptr::from_ref(pdev).cast_mut().cast()) };
        if !has_ended {
            dev_warn!(pdev, "a transfer has not ended\n");
            edu.jobs.abandon();
        }
    }
}

kernel::module_pci_driver! {
    type: Driver,
    name: "edu",
    authors: ["The authors of pinned-sgl"],
    description: "Copies memory with QEMU's edu device",
    license: "Dual MIT/GPL",
}
