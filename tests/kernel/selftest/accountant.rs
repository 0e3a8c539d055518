// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `MmAccountant`: whose limit counts, and what is given back.

use crate::thread::Thread;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc, Completion,
    },
    time::{delay::fsleep, Delta},
};
use pinned_sgl::{
    kernel::{Counter, MmAccountant},
    umem::{Accountant, ChargeError},
};

/// A kernel thread charges so many pages to the calling process, and gives them back.
#[inline(never)]
pub(crate) fn charge_in_a_kernel_thread(pages: u64, counter: Counter) -> Result {
    let accountant = MmAccountant::new(current!(), counter).ok_or(ESRCH)?;
    let charged = Arc::new(Atomic::new(false), GFP_KERNEL)?;
    let seen = charged.clone();
    Thread::start(move || {
        if accountant.charge(pages).is_ok() {
            accountant.uncharge(pages);
            seen.store(true, Relaxed);
        }
    })?
    .join();
    if charged.load(Relaxed) {
        Ok(())
    } else {
        Err(ENOMEM)
    }
}

/// Where the counter of the calling process is.
fn counter_of_current(counter: Counter) -> *mut u64 {
    // SAFETY: the structures of the running thread, which are there while it runs.
    unsafe {
        let current = kernel::bindings::get_current();
        let mm = &raw mut (*(*current).mm).__bindgen_anon_1;
        match counter {
            Counter::Pinned => (&raw mut (*mm).pinned_vm.counter).cast(),
            Counter::Locked => (&raw mut (*mm).locked_vm).cast(),
            Counter::User => (&raw mut (*(*(*current).cred).user).locked_vm.counter).cast(),
        }
    }
}

/// What was not charged here is not taken from what others have charged.
#[inline(never)]
pub(crate) fn gives_back_what_it_has(counter: Counter) -> Result {
    let task = current!();
    let at = counter_of_current(counter);
    // SAFETY: it is a counter of the running thread, and nothing else charges it.
    let counts = || unsafe { at.read_volatile() };
    let before = counts();
    let mine = MmAccountant::new(task, counter).ok_or(ESRCH)?;
    let others = MmAccountant::new(task, counter).ok_or(ESRCH)?;
    mine.charge(3)?;
    others.charge(5)?;
    check!(counts() == before + 8);
    mine.uncharge(7);
    check!(counts() == before + 5);
    mine.uncharge(u64::MAX);
    check!(counts() == before + 5);
    others.uncharge(5);
    check!(counts() == before);
    Ok(())
}

/// Where others have taken what is not theirs, nothing is left, and not less than nothing.
#[inline(never)]
pub(crate) fn never_below_zero(counter: Counter) -> Result {
    let at = counter_of_current(counter);
    let accountant = MmAccountant::new(current!(), counter).ok_or(ESRCH)?;
    accountant.charge(5)?;
    // SAFETY: it is a counter of the running thread, and nothing else charges it.
    let left = unsafe {
        let before = at.replace(2) - 5;
        accountant.uncharge(5);
        at.replace(before)
    };
    check!(left == 0);
    Ok(())
}

/// Charges while another thread holds the lock of the address space for some seconds, and keeps the process alive.
#[inline(never)]
pub(crate) fn waits_for_the_lock(counter: Counter) -> Result {
    let task = current!();
    let accountant = MmAccountant::new(task, counter).ok_or(ESRCH)?;
    let mm = ARef::from(task.mm().ok_or(ESRCH)?);
    let locked = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
    let is_locked = locked.clone();
    let _not_waited_for = Thread::start(move || {
        let _guard = mm.mmap_read_lock();
        is_locked.complete_all();
        fsleep(Delta::from_secs(8));
    })?;
    locked.wait_for_completion();
    match accountant.charge(1) {
        Err(ChargeError::Killed) => {
            pr_info!("killed, and charged nothing\n");
            Err(EINTR)
        }
        result => result.map(|()| accountant.uncharge(1)).map_err(Error::from),
    }
}
