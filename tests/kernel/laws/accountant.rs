// SPDX-License-Identifier: MIT OR Apache-2.0
//! `MmAccountant`: KUnit's threads are kernel threads, which have no limits that mean anything.

use kernel::prelude::*;
use pinned_sgl::kernel::{Counter, MmAccountant};

extern "C" {
    /// Lets this thread use an address space, until the test ends.
    fn kunit_attach_mm() -> i32;
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
    check!(current!().mm().is_some() && none() == [true; 3]);
    Ok(())
}
