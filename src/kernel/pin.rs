// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`pin`], [`pin_current`]: what most drivers do with the parts of this module.
#![forbid(unsafe_code)]

use super::{
    accountant::{Counter, MmAccountant},
    kernel,
    kmalloc::Kmalloc,
    pinner::MmPinner,
};
use crate::umem::{
    AccountantHolder, PinFlags, PinRequest, Pinner as _, PinnerHolder, RunSlot, Umem, UserRange,
    FEW,
};
use core::ops::ControlFlow;
use kernel::{
    alloc::{Flags, KBox, KVec},
    error::{code, Error, Result},
    sync::Arc,
    task::CurrentTask,
};

/// Pinned memory of a process, as most drivers have it: charged to the process, and listed in memory from
/// `kmalloc()`. It outlives the process.
pub type UserMem = Umem<Arc<MmPinner>, Arc<MmAccountant>, Kmalloc>;

/// Pins memory of the calling process: `pin_current(current!(), range, PinFlags::LONGTERM, Counter::Pinned,
/// GFP_KERNEL_ACCOUNT)`. May sleep.
///
/// # Errors
///
/// `ESRCH` for a kernel thread; those of [`pin`].
pub fn pin_current(
    task: &CurrentTask,
    range: UserRange,
    pin_flags: PinFlags,
    counter: Counter,
    flags: Flags,
) -> Result<KBox<UserMem>> {
    let pinner = MmPinner::new(task.mm().ok_or(code::ESRCH)?, flags);
    let accountant = MmAccountant::new(task, counter).ok_or(code::ESRCH)?;
    let (pinner, accountant) = (Arc::new(pinner, flags)?, Arc::new(accountant, flags)?);
    let mem = pin(pinner, accountant, flags, PinRequest::new(range, pin_flags))?;
    Ok(KBox::new(mem, flags)?)
}

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
    let list = Kmalloc::new(flags);
    if request.range.page_count(pinner.page_size()) <= FEW.into() {
        let mut slots = [RunSlot::None; FEW as usize];
        return Ok(Umem::pin_in(pinner, accountant, list, &mut slots, request)?);
    }
    let mut slots = KVec::from_elem(RunSlot::None, SLOTS, flags)?;
    Ok(Umem::pin_in(pinner, accountant, list, &mut slots, request)?)
}
