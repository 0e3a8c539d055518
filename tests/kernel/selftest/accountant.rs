// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `MmAccountant`: whose limit counts, and what is given back.

use crate::thread::Thread;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use pinned_sgl::{
    kernel::{Counter, MmAccountant},
    umem::Accountant,
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

/// What was not charged here is not taken from what others have charged.
#[inline(never)]
pub(crate) fn gives_back_what_it_has(counter: Counter) -> Result {
    let task = current!();
    let mm = task.mm().ok_or(ESRCH)?.as_raw();
    // SAFETY: it is the address space of the running thread, and nothing else charges it.
    let counts = || unsafe {
        let mm = &(*mm).__bindgen_anon_1;
        match counter {
            Counter::Pinned => mm.pinned_vm.counter as u64,
            Counter::Locked => mm.locked_vm as u64,
        }
    };
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
