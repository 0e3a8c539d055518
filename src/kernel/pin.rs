// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`pin`]: what most drivers do with the parts of this module.
#![forbid(unsafe_code)]

use super::{kernel, kmalloc::Kmalloc};
use crate::umem::{AccountantHolder, PinRequest, PinnerHolder, RunSlot, Umem};
use core::ops::ControlFlow;
use kernel::{
    alloc::{Flags, KVec},
    error::{Error, Result},
};

/// Runs of a batch: a page of memory.
const SLOTS: usize = 128;

/// Pins a region, in batches of a page of memory; the list and the batch are allocated with `flags`.
/// [`Umem::pin_in`] does the same with memory of the caller's, and gives the pinner back if it fails.
///
/// # Errors
///
/// That of the pinner, or `ENOMEM`: nothing is pinned or charged then.
pub fn pin<P, A, F>(
    pinner: P,
    accountant: A,
    flags: Flags,
    request: PinRequest<F>,
) -> Result<Umem<P, A, Kmalloc>>
where
    P: PinnerHolder<Error: Into<Error>>,
    A: AccountantHolder,
    F: FnMut(u64) -> ControlFlow<()>,
{
    let mut slots = KVec::from_elem(RunSlot::None, SLOTS, flags)?;
    Ok(Umem::pin_in(pinner, accountant, Kmalloc::new(flags), &mut slots, request)?)
}
