// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinned regions: pin, charge, hold, unpin.

mod access;
mod batch;
mod charge;
mod holder;
mod pinner;
mod range;
mod region;

pub use access::{PageAccess, Place};
pub use batch::{PinBatch, Rejected, RunSlot};
pub use charge::{Account, Accountant, AccountingMode, Accounts, Charge, ChargeError, Unaccounted};
pub use holder::{Holder, SharedHolder};
pub use pinner::{PinFlags, Pinner};
pub use range::{RangeError, UserRange};
pub use region::{AttachError, Attachment, Region};
