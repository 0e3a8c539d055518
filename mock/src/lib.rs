// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mock kit: a machine whose memory, processes, IOMMUs and devices catch every mistake.
//!
//! ```text
//!  Process ── Pinner ──► Umem ──► Mapping, Ioas ── Domain ──► Iommu
//!     │                                                         │
//!     └────────────► Memory ◄────── Bus ────── Device ──────────┘
//!                       │                        │
//!                       └──────► Witness ◄───────┘        Plan: which call fails
//! ```
//!
//! | part | is | made by |
//! |---|---|---|
//! | [`Memory`] | physical frames with zones, folios, pins, dirty bits and contents: the machine | [`Memory::builder`] |
//! | [`Process`] | an address space: huge pages, holes, copy on write, fork, swap; a [`Pinner`] | [`Process::new`] |
//! | [`Iommu`] | a domain with a real table of several levels and an IOTLB that goes stale | [`Memory::iommu`] |
//! | [`Device`] | reads and writes memory through an [`Iommu`] | [`Memory::device`] |
//! | [`Nic`] | reads and writes memory through blocks that were registered, as an RDMA NIC does | [`Memory::nic`] |
//! | [`Nvme`] | follows PRPs and scatter-gather lists through an [`Iommu`], as an NVMe controller does | [`Nvme::new`] |
//! | [`Plan`] | lets the n-th call that may fail do so | [`Memory::plan`] |
//! | [`Witness`] | remembers what must never happen: see [`Violation`] | [`Memory::witness`] |
//! | [`RegionBus`] | lets devices of no machine reach real pinned memory of this process | [`RegionBus::new`] |
//!
//! All parts of a machine have one plan and one witness. The memory knows what leads to each frame,
//! in every IOMMU and every card: so a mistake is found in the call that makes it, whether or not a
//! device ever goes there.
//!
//! | mistake | is found by | as |
//! |---|---|---|
//! | a page is unpinned while a device could reach it | `unpin` | [`UnpinnedWhileMapped`], or [`UnpinnedBeforeFlush`] |
//! | a page is unpinned that is not pinned | `unpin` | [`NotPinned`] |
//! | a page is unpinned under another address | `unpin` | [`UnpinnedElsewhere`] |
//! | what a device has written is not marked dirty | `unpin` | [`DirtyLost`] |
//! | a page is mapped or registered that is not pinned | `map`, `register` | [`MappedUnpinned`] |
//! | a page that is pinned to be read can be written, or is | `map`, `register`, `write` | [`WritablePinnedToRead`] |
//! | something is mapped over a mapping, where [that counts](IommuConfig::strict_overlap) | `map` | [`MapOverMap`] |
//! | something is unmapped that is not mapped, or cut | `unmap` | [`UnmapOfNothing`], [`UnmapCuts`] |
//! | a domain or a card is dropped with something mapped, or not flushed | `drop` | [`StillMapped`], [`NotFlushed`] |
//! | a device, or a kernel for one, accesses a page that is not pinned | `read`, `write` | [`DmaToUnpinned`], [`AccessToUnpinned`] |
//! | arguments that a contract rules out | each | [`BadCall`] |
//! | a page that stays pinned | [`Memory::check_leaks`] | [`Leak`] |
//!
//! Each [`Violation`] says the call, the user address, the page and the IOVA, as far as there are
//! any; with [`MemoryBuilder::panic_on_violation`] the call panics, and a backtrace shows where it was made.
//!
//! A whole test, with a mistake that is caught:
//!
//! ```
//! use pinned_sgl::iommu::{Mapping, Prot};
//! use pinned_sgl_mock::{Vma, Call, Memory, Process, ViolationKind};
//! use pinned_sgl::umem::{PinFlags, PinRequest, Region, Umem, Unaccounted, UserRange};
//! use pinned_sgl::{Iova, PageSize, PageSizes, UserAddr};
//! use std::sync::Arc;
//!
//! // A machine of 4 MiB, a process in it, and 64 KiB of its memory.
//! let memory = Memory::with_frames(1024);
//! let process = Arc::new(Process::new(&memory));
//! let range = UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?;
//! process.map(range, Vma::read_write())?;
//!
//! // Pinned, and shown to a device at IOVA 0x8000_0000.
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Arc::new(Umem::pin(process.clone(), &Unaccounted, request)?);
//! let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
//! let (iova, prot) = (Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
//! let mapping = Mapping::map(umem.clone(), iommu.clone(), iova, prot)?;
//!
//! // What the device writes, the process reads.
//! let device = memory.device(iommu);
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
//! // A page that is unpinned too early is caught there and then.
//! let umem = Umem::pin(process, &Unaccounted, request)?;
//! let (nic, block) = (memory.nic(), umem.sgl().whole()?.phys(0).expect("it has bytes"));
//! let key = nic.register(iova, 0x1000, PageSize::SIZE_4K, [block].into_iter(), true)?;
//! drop(umem);
//! let seen = memory.witness().take()[0];
//! assert_eq!((seen.kind, seen.call), (ViolationKind::UnpinnedWhileMapped, Call::Unpin));
//! assert_eq!((seen.user, seen.iova), (Some(range.start()), Some(iova)));
//! # nic.invalidate(key)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`UnpinnedWhileMapped`]: ViolationKind::UnpinnedWhileMapped
//! [`UnpinnedBeforeFlush`]: ViolationKind::UnpinnedBeforeFlush
//! [`NotPinned`]: ViolationKind::NotPinned
//! [`UnpinnedElsewhere`]: ViolationKind::UnpinnedElsewhere
//! [`DirtyLost`]: ViolationKind::DirtyLost
//! [`MappedUnpinned`]: ViolationKind::MappedUnpinned
//! [`WritablePinnedToRead`]: ViolationKind::WritablePinnedToRead
//! [`MapOverMap`]: ViolationKind::MapOverMap
//! [`UnmapOfNothing`]: ViolationKind::UnmapOfNothing
//! [`UnmapCuts`]: ViolationKind::UnmapCuts
//! [`StillMapped`]: ViolationKind::StillMapped
//! [`NotFlushed`]: ViolationKind::NotFlushed
//! [`DmaToUnpinned`]: ViolationKind::DmaToUnpinned
//! [`AccessToUnpinned`]: ViolationKind::AccessToUnpinned
//! [`BadCall`]: ViolationKind::BadCall
//! [`Leak`]: ViolationKind::Leak
//! [`Pinner`]: pinned_sgl::umem::Pinner
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::integer_division,
        clippy::float_arithmetic,
        reason = "what a test passes is checked; arithmetic panics if the kit itself is wrong"
    )
)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bus;
mod failing;
mod failing_slab;
mod iommu;
mod memory;
mod nvme;
mod plan;
mod region_bus;
mod sync;
mod witness;

pub use bus::{Bus, BusError};
pub use failing::{FailingAccountant, FailingStorage};
pub use failing_slab::FailingSlab;
pub use iommu::{
    Device, DmaFault, Iommu, IommuConfig, IommuStats, Key, Lie, MapFault, Mapped, Nic, NicError,
    NicFault,
};
pub use memory::{
    Fragmentation, Memory, MemoryBuilder, MemoryError, PinFault, PinnedMemory, Process, Vma,
    VmaError, Zone,
};
pub use nvme::{DataPointer, Entry, Nvme, NvmeFault};
pub use plan::{Failure, Plan, Step};
pub use region_bus::RegionBus;
pub use witness::{Call, Violation, ViolationKind, Witness};
