// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mock kit: memory, processes, IOMMUs and devices that catch every mistake.

mod bus;
mod plan;
mod witness;

pub use bus::{Bus, BusError, BusErrorReason};
pub use plan::{Failure, Plan, Step};
pub use witness::{Violation, Witness};
