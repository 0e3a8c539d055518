// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MmAccountant`]: counts pages against `RLIMIT_MEMLOCK`, in one of the two counters of a process.

use super::ffi;
use crate::umem::{Accountant, ChargeError};
use core::fmt;
use kernel::{
    mm::{Mm, MmWithUser},
    sync::aref::ARef,
};

/// Which counter of an `mm_struct` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `pinned_vm`, as RDMA and iommufd have it: shown as `VmPin`.
    Pinned,
    /// `locked_vm`, as vfio has it: shown as `VmLck`, shared with `mlock()`.
    Locked,
}

/// Counts pages in an `mm_struct`, against the `RLIMIT_MEMLOCK` of the calling thread, unless it has
/// `CAP_IPC_LOCK`: then it counts without a limit.
///
/// It holds the `mm_struct` (`mmgrab()`), so that the pages can be given back after the process has
/// exited. Charging and giving back may sleep where the counter is `locked_vm`.
pub struct MmAccountant {
    mm: ARef<Mm>,
    counter: Counter,
}

impl MmAccountant {
    /// Counts in the `mm_struct` of a process.
    #[must_use]
    pub fn new(mm: &MmWithUser, counter: Counter) -> Self {
        let mm: &Mm = mm;
        Self { mm: mm.into(), counter }
    }
}

impl Accountant for MmAccountant {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let (mut charged, mut limit) = (0, 0);
        let charge = match self.counter {
            Counter::Pinned => ffi::pinned_sgl_charge_pinned,
            Counter::Locked => ffi::pinned_sgl_charge_locked,
        };
        // SAFETY: `mm` is held by `self`; the other pointers are to locals.
        if unsafe { charge(self.mm.as_raw(), pages, &mut charged, &mut limit) } {
            Ok(())
        } else {
            Err(ChargeError::new(pages, charged, limit))
        }
    }

    fn uncharge(&self, pages: u64) {
        let uncharge = match self.counter {
            Counter::Pinned => ffi::pinned_sgl_uncharge_pinned,
            Counter::Locked => ffi::pinned_sgl_uncharge_locked,
        };
        // SAFETY: `mm` is held by `self`.
        unsafe { uncharge(self.mm.as_raw(), pages) };
    }
}

impl fmt::Debug for MmAccountant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmAccountant").field("counter", &self.counter).finish_non_exhaustive()
    }
}
