// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mock kit: memory, processes, IOMMUs and devices that catch every mistake.

mod area;
mod bus;
mod config;
mod contents;
mod device;
mod dma;
mod failing;
mod failing_slab;
mod fault;
mod folios;
mod fragmentation;
pub(crate) mod frame;
mod iommu;
mod lie;
mod memory;
mod nic;
mod page_table;
mod pin;
mod plan;
mod process;
mod sparse;
mod table;
mod tlb;
mod witness;
mod zone;

#[cfg(all(test, loom))]
mod models;

pub use area::Area;
pub use bus::{Bus, BusError, BusErrorReason};
pub use config::IommuConfig;
pub use device::{Device, DmaFault};
pub use failing::{FailingAccountant, FailingStorage};
pub use failing_slab::FailingSlab;
pub use fault::PinFault;
pub use fragmentation::Fragmentation;
pub use iommu::{Iommu, IommuStats, MapFault, Mapped};
pub use lie::Lie;
pub use memory::{Memory, MemoryBuilder, MemoryError};
pub use nic::{Key, Nic, NicError, NicFault};
pub use plan::{Failure, Plan, Step};
pub use process::{MapError, Process};
pub use witness::{Violation, Witness};
pub use zone::Zone;
