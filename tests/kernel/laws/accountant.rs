// SPDX-License-Identifier: MIT OR Apache-2.0
//! `MmAccountant`: KUnit's threads are kernel threads, which have no limits that mean anything.

use kernel::{bindings, ffi::c_void, prelude::*};
use pinned_sgl::kernel::{Counter, MmAccountant};

extern "C" {
    /// Lets this thread use an address space of its own.
    fn kunit_attach_mm() -> i32;
    fn kthread_unuse_mm(mm: *mut c_void);
}

/// Not even while it uses the memory of a process.
pub(crate) fn none_in_a_kernel_thread() -> Result {
    let none = || {
        [Counter::Pinned, Counter::Locked, Counter::User]
            .map(|counter| MmAccountant::new(current!(), counter).is_none())
    };
    check!(current!().mm().is_none() && none() == [true; 3]);
    // SAFETY: this is the thread of a test.
    kernel::error::to_result(unsafe { kunit_attach_mm() })?;
    // SAFETY: it is the running one.
    let mm = unsafe { (*current!().as_ptr()).mm };
    let counted = current!().mm().is_none() || none() != [true; 3];
    // KUnit lets go of it when the thread ends, but not of the reference that the thread has to use it.
    // SAFETY: this thread uses it, and has the only reference of a user.
    unsafe {
        kthread_unuse_mm(mm.cast());
        bindings::mmput(mm);
    }
    check!(!counted);
    Ok(())
}
