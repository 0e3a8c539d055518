// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinned regions: pin, charge, hold, unpin.

mod access;
mod batch;
mod charge;
mod error;
mod holder;
#[cfg(feature = "std")]
mod parallel;
mod pin;
mod pinned;
mod pinner;
mod range;
mod region;

pub use access::{AccessError, AccessErrorKind, PageAccess, Place};
pub use batch::{PinBatch, Rejected, RunSlot};
pub use charge::{Account, Accountant, AccountingMode, Accounts, Charge, ChargeError, Unaccounted};
pub use error::{PinError, PinErrorKind};
pub use holder::{Holder, SharedHolder};
pub use pin::PinRequest;
pub use pinned::Umem;
pub use pinner::{PinFlags, Pinner};
pub use range::{RangeError, UserRange};
pub use region::{AttachError, Attachment, Region};

pub(crate) use access::{read, write};
