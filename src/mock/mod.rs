// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mock kit: memory, processes, IOMMUs and devices that catch every mistake.
//!
//! ```text
//!  Process ── Pinner ──► Umem ──► Mapping, Ioas ── Domain ──► Iommu
//!     │                                                         │
//!     └────────────► Memory ◄────── Bus ────── Device ──────────┘
//!                       │                        │
//!                       └──────► Witness ◄───────┘        Plan: which call fails
//! ```
//!
//! | part | is |
//! |---|---|
//! | [`Memory`] | physical frames with zones, folios, pins, dirty bits and contents |
//! | [`Process`] | an address space: huge pages, holes, copy on write, fork, swap; a [`Pinner`] |
//! | [`Iommu`] | a domain with a real table of several levels and an IOTLB that goes stale |
//! | [`Device`] | reads and writes memory through an [`Iommu`] |
//! | [`Nic`] | reads and writes memory through blocks that it was told, as an RDMA NIC does |
//! | [`RegionBus`] | lets the two reach real pinned memory of this process |
//! | [`Plan`] | lets the n-th call that may fail do so |
//! | [`Witness`] | remembers what must never happen: see [`Violation`] |
//!
//! A whole test, with a mistake that is caught:
//!
//! ```
//! use pinned_sgl::iommu::{Mapping, Prot};
//! use pinned_sgl::mock::{Area, Bus, Device, Iommu, Memory, Process, Violation};
//! use pinned_sgl::umem::{PinFlags, PinRequest, Region, Umem, Unaccounted, UserRange};
//! use pinned_sgl::{Iova, PageSizes, UserAddr};
//! use std::sync::Arc;
//!
//! // A machine of 4 MiB, a process in it, and 64 KiB of its memory.
//! let memory = Memory::with_frames(1024);
//! let process = Arc::new(Process::new(&memory));
//! let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
//! process.map(range, Area::read_write())?;
//!
//! // Pinned, and shown to a device at IOVA 0x8000_0000.
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Arc::new(Umem::pin(process.clone(), &Unaccounted, request)?);
//! let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
//! let (iova, prot) = (Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
//! let mapping = Mapping::map(umem.clone(), iommu.clone(), iova, prot)?;
//!
//! // What the device writes, the process reads.
//! let device = Device::new(iommu.clone(), memory.clone());
//! device.write(Iova::new(0x8000_1234), b"hello")?;
//! let mut bytes = [0; 5];
//! process.read(UserAddr::new(0x10_1234), &mut bytes)?;
//! assert_eq!(&bytes, b"hello");
//!
//! // Unmapped, flushed, unpinned, in this order, and nothing went wrong on the way.
//! drop((mapping, umem));
//! assert_eq!(memory.pinned_pages(), 0);
//! memory.witness().assert_clean();
//!
//! // A page that was unpinned too early would be caught.
//! let umem = Umem::pin(process, &Unaccounted, request)?;
//! let phys = umem.sgl().whole()?.phys(0).expect("it has bytes");
//! drop(umem);
//! assert!(Bus::write(&memory, phys, b"late").is_err());
//! assert!(matches!(memory.witness().take()[0], Violation::DmaToUnpinned { write: true, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Pinner`]: crate::umem::Pinner

mod bus;
mod failing;
mod failing_slab;
mod iommu;
mod memory;
mod plan;
mod region_bus;
mod witness;

pub use bus::{Bus, BusError, BusErrorReason};
pub use failing::{FailingAccountant, FailingStorage};
pub use failing_slab::FailingSlab;
pub use iommu::{
    Device, DmaFault, Iommu, IommuConfig, IommuStats, Key, Lie, MapFault, Mapped, Nic, NicError,
    NicFault,
};
pub use memory::{
    Area, Fragmentation, MapError, Memory, MemoryBuilder, MemoryError, PinFault, Process, Zone,
};
pub use plan::{Failure, Plan, Step};
pub use region_bus::RegionBus;
pub use witness::{Violation, Witness};
