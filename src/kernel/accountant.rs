// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MmAccountant`]: counts pages against `RLIMIT_MEMLOCK`, in one of the two counters of a process.

use super::{ffi, kernel};
use crate::sync::{AtomicUsize, Ordering};
use crate::umem::{Accountant, ChargeError};
use core::{fmt, ptr};
use kernel::{
    bindings::PF_KTHREAD,
    mm::Mm,
    sync::aref::ARef,
    task::{CurrentTask, Task},
};

/// Which counter of an `mm_struct` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `pinned_vm`, as RDMA and iommufd have it: shown as `VmPin`.
    Pinned,
    /// `locked_vm`, as vfio has it: shown as `VmLck`, shared with `mlock()`.
    Locked,
}

/// Counts pages in the `mm_struct` of a process, against the `RLIMIT_MEMLOCK` that this process has,
/// whichever thread charges: a kernel thread, too, pins what the process may. If the process had
/// `CAP_IPC_LOCK` when the accountant was made, pages are counted without a limit.
///
/// It holds the `mm_struct` (`mmgrab()`) and the `task_struct`, so that the pages can be given back
/// after the process has exited. Charging and giving back may sleep where the counter is `locked_vm`.
pub struct MmAccountant {
    mm: ARef<Mm>,
    /// The process whose limit counts; none if it has no limit.
    limited: Option<ARef<Task>>,
    counter: Counter,
    /// What was charged here: `mm` counts what others have charged, too, and that is not ours to give
    /// back.
    charged: AtomicUsize,
}

impl MmAccountant {
    /// Counts in the calling process: `MmAccountant::new(current!(), Counter::Pinned)`.
    ///
    /// `None` for a kernel thread, also while it uses the memory of a process: its
    /// limits mean nothing.
    #[must_use]
    pub fn new(task: &CurrentTask, counter: Counter) -> Option<Self> {
        // SAFETY: the task is there as long as it is borrowed, and it changes this by itself only.
        let flags = unsafe { (*task.as_ptr()).flags };
        if flags & PF_KTHREAD != 0 {
            return None;
        }
        let mm: &Mm = task.mm()?;
        // SAFETY: it asks for the capabilities of the running thread, and may be called by any.
        let unlimited = unsafe { ffi::pinned_sgl_is_unlimited() };
        let limited = (!unlimited).then(|| task.group_leader().into());
        Some(Self { mm: mm.into(), limited, counter, charged: AtomicUsize::new(0) })
    }
}

impl Accountant for MmAccountant {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let (mut charged, mut limit) = (0, 0);
        let charge = match self.counter {
            Counter::Pinned => ffi::pinned_sgl_charge_pinned,
            Counter::Locked => ffi::pinned_sgl_charge_locked,
        };
        let task = self.limited.as_ref().map_or(ptr::null_mut(), |task| task.as_ptr());
        // SAFETY: `mm` and `task` are held by `self`, or `task` is null, which means no limit; the other
        // pointers are to locals.
        if !unsafe { charge(self.mm.as_raw(), task, pages, &mut charged, &mut limit) } {
            return Err(ChargeError::new(pages, charged, limit));
        }
        // A machine has not more pages than a word counts, and `mm` has counted them.
        let pages = usize::try_from(pages).unwrap_or(usize::MAX);
        self.charged.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    /// Counts `pages` less, down to what others have charged; more than that is reported in the log.
    fn uncharge(&self, pages: u64) {
        let wanted = usize::try_from(pages).unwrap_or(usize::MAX);
        let less = |charged: usize| Some(charged.saturating_sub(wanted));
        let charged = self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let charged = charged.unwrap_or_else(|charged| charged) as u64;
        if let Some(more @ 1..) = pages.checked_sub(charged) {
            // SAFETY: a number.
            unsafe { ffi::pinned_sgl_not_charged(more) };
        }
        let uncharge = match self.counter {
            Counter::Pinned => ffi::pinned_sgl_uncharge_pinned,
            Counter::Locked => ffi::pinned_sgl_uncharge_locked,
        };
        // SAFETY: `mm` is held by `self`.
        unsafe { uncharge(self.mm.as_raw(), pages.min(charged)) };
    }
}

impl fmt::Debug for MmAccountant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmAccountant")
            .field("counter", &self.counter)
            .field("limited", &self.limited.is_some())
            .field("charged", &self.charged)
            .finish_non_exhaustive()
    }
}
