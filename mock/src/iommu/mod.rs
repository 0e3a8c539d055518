// SPDX-License-Identifier: MIT OR Apache-2.0
//! An IOMMU, and the devices that reach memory through it or by themselves.
//!
//! ```text
//!  Device ──► IOTLB ──► table ──► Bus        an IOTLB is stale until it is flushed
//!  Nic    ──► blocks of a key ──► Bus        translates by itself
//! ```

mod config;
mod device;
mod lie;
mod nic;
mod table;
mod tlb;
mod unit;

pub use config::IommuConfig;
pub use device::{Device, DmaFault};
pub use lie::Lie;
pub use nic::{Key, Nic, NicError, NicFault};
pub use unit::{Iommu, IommuStats, MapFault, Mapped};
