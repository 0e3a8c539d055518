// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists that devices read: where memory lies, in the format of a controller.
//!
//! | format | for | written by |
//! |---|---|---|
//! | [`Prp`] | NVMe: two pointers, or chained pages of them | [`PrpPlan::write`], or page by page a [`PrpWriter`] |
//! | [`NvmeSgl`] | NVMe: blocks of any length, in chained segments | [`NvmeSglPlan::write`] |
//! | [`PageArray`] | the translation tables of RDMA NICs | [`PageArray::write`] |
//! | [`Pairs`] | `ibv_sge`, `iovec`, `phys_vec`, virtqueues | [`PairsPlan::write`], [`PairsPlan::write_chain`] |
//!
//! What is to be described comes as [`Extent`]s: bytes that are contiguous for the device. The segments of a
//! [`Window`](crate::Window) are extents of physical addresses; behind an IOMMU a whole mapping is one extent, at
//! its IOVA; and what the DMA API of a kernel has mapped has addresses of its own. A list is of one of them, and so
//! is the memory in which it lies: the types do not mix. Extents that touch are one.
//!
//! ```text
//!  Window ─► segments ─┐                ┌─► how much room
//!  Mapping ─► IOVA ────┼─► plan ────────┤
//!  DmaList ─► segments ┘   all checked  └─► write into ListMemory ─► what the command says
//! ```
//!
//! A plan has checked all that can be checked of the memory: alignment, reach, length. It says how much room is
//! needed. Writing checks the room that it is given, and only then writes, nothing outside of it. Nothing is
//! allocated.
//!
//! What a device cannot take where it lies, it refuses in these; [`Bounce`] says beforehand which bytes those are, to
//! be copied to memory that it reaches.
//!
//! # Sources
//!
//! NVM Express Base Specification 2.0: PRP entries, PRP lists, SGL descriptors. Virtio 1.2: split virtqueues. Linux:
//! `nvme_pci_setup_data_prp()`, `nvme_pci_setup_data_sgl()`, `struct phys_vec`.
#![forbid(unsafe_code)]

mod bounce;
mod error;
mod extent;
mod limits;
mod list;
mod nvme_sgl;
mod page_array;
mod pairs;
mod prp;

pub use bounce::{Bounce, BouncePlan, Part};
pub use error::DescriptorError;
pub use extent::{DeviceAddr, Extent};
pub use limits::TransferLimits;
pub use list::{ListMemory, Slot};
pub use nvme_sgl::{NvmeSgl, NvmeSglPlan};
pub use page_array::PageArray;
pub use pairs::{Pairs, PairsPlan, Shape};
pub use prp::{Prp, PrpPlan, PrpWriter};
