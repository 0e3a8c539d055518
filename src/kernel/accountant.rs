// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MmAccountant`]: counts pages against `RLIMIT_MEMLOCK`, in one of the counters of a process or its user. An
//! `Mm` itself: as RDMA counts them.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)

use super::{ffi, kernel};
use crate::sync::{update, AtomicUsize, Relaxed};
use crate::umem::{Accountant, ChargeError};
use core::{
    fmt,
    ptr::{self, NonNull},
};
use kernel::{
    bindings::{self, PF_KTHREAD},
    error::{code, to_result},
    mm::Mm,
    sync::aref::ARef,
    task::{CurrentTask, Task},
};

/// Which counter is used, of those against which Linux holds `RLIMIT_MEMLOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// `mm->pinned_vm`, as RDMA has it: shown as `VmPin`.
    Pinned,
    /// `mm->locked_vm`, as vfio has it: shown as `VmLck`, shared with `mlock()`.
    Locked,
    /// `user->locked_vm`, as `io_uring` and `AF_XDP` have it, and iommufd unless it stands in for vfio: all
    /// processes of a user share it. As in iommufd, the limit also counts for processes with `CAP_IPC_LOCK`, and
    /// `mm->pinned_vm` shows the pages.
    User,
}

/// A `user_struct`, with a reference.
///
/// # Invariants
///
/// One of its references is ours.
struct User(NonNull<bindings::user_struct>);

// SAFETY: a `user_struct` is counted, and any thread may give its references back.
unsafe impl Send for User {}
// SAFETY: through a shared reference its counter is changed, which is atomic.
unsafe impl Sync for User {}

impl User {
    /// That of the running thread.
    fn current() -> Option<Self> {
        // SAFETY: it may be called by any thread.
        // INVARIANT: it returns the user with a reference.
        NonNull::new(unsafe { ffi::pinned_sgl_current_user() }).map(Self)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: by the invariant there is a reference, and a value is dropped once.
        unsafe { bindings::free_uid(self.0.as_ptr()) };
    }
}

/// Counts pages for a process, against the `RLIMIT_MEMLOCK` that this process has, whichever thread charges:
/// a kernel thread, too, pins what the process may. The process, its user and its privileges are those of the
/// moment when the accountant is made: with `CAP_IPC_LOCK` pages are counted without a limit, except by
/// [`Counter::User`].
///
/// It holds the `mm_struct` (`mmgrab()`), the `task_struct` and the `user_struct`, so that the pages can be given
/// back after the process has exited. Where the counter is `mm->locked_vm`, charging and giving back may sleep;
/// a thread that is killed while it waits to charge stops waiting.
pub struct MmAccountant {
    mm: ARef<Mm>,
    user: User,
    /// The process whose limit counts; none if it has no limit.
    limited: Option<ARef<Task>>,
    counter: Counter,
    /// What was charged here: the counter has what others have charged, too, and that is not ours to give
    /// back.
    charged: AtomicUsize,
}

impl MmAccountant {
    /// Counts for the calling process: `MmAccountant::new(current!(), Counter::Pinned)`.
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
        let unlimited = counter != Counter::User && unsafe { ffi::pinned_sgl_is_unlimited() };
        Some(Self {
            mm: mm.into(),
            user: User::current()?,
            limited: (!unlimited).then(|| task.group_leader().into()),
            counter,
            charged: AtomicUsize::new(0),
        })
    }
}

impl Accountant for MmAccountant {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let task = self.limited.as_ref().map_or(ptr::null_mut(), |task| task.as_ptr());
        // SAFETY: "`user` and `task` are held": by `self`, or `task` is null.
        unsafe { charge(self.counter, &self.mm, self.user.0.as_ptr(), task, pages) }?;
        // A machine has not more pages than a word counts, and `mm` has counted them.
        let pages = usize::try_from(pages).unwrap_or(usize::MAX);
        self.charged.fetch_add(pages, Relaxed);
        Ok(())
    }

    /// Counts `pages` less, down to what others have charged; more than that is reported in the log, and so is
    /// a counter that has less than was charged here, which becomes zero then.
    fn uncharge(&self, pages: u64) {
        let wanted = usize::try_from(pages).unwrap_or(usize::MAX);
        let less = |charged: usize| Some(charged.saturating_sub(wanted));
        let charged = update(&self.charged, less);
        let charged = charged.unwrap_or_else(|charged| charged) as u64;
        if let Some(more @ 1..) = pages.checked_sub(charged) {
            // SAFETY: a number.
            unsafe { ffi::pinned_sgl_not_charged(more) };
        }
        let (mm, user) = (self.mm.as_raw(), self.user.0.as_ptr());
        // SAFETY: `mm` and `user` are held by `self`.
        unsafe { ffi::pinned_sgl_uncharge(self.counter as u32, mm, user, pages.min(charged)) };
    }
}

/// Charges `pages` in a counter of `mm` or `user`, within the limit of `task`, or none if it is null.
///
/// # Safety
///
/// `user` and `task` are held meanwhile, or null: the user only for another counter than [`Counter::User`].
unsafe fn charge(
    counter: Counter,
    mm: &Mm,
    user: *mut bindings::user_struct,
    task: *mut bindings::task_struct,
    pages: u64,
) -> Result<(), ChargeError> {
    let (mut charged, mut limit) = (0, 0);
    // SAFETY: `mm` is borrowed; `user` and `task` are held, or null where C does not look at them, as the caller
    // promises; the other pointers are to locals.
    let errno = unsafe {
        let (charged, limit) = (&mut charged, &mut limit);
        ffi::pinned_sgl_charge(counter as u32, mm.as_raw(), user, task, pages, charged, limit)
    };
    to_result(errno).map_err(|error| match error {
        code::EINTR => ChargeError::Killed,
        _ => ChargeError::Limit { pages, charged, limit },
    })
}

/// Counts in `mm->pinned_vm`, against the `RLIMIT_MEMLOCK` of the thread that charges; without a limit, if that
/// has `CAP_IPC_LOCK`, which is asked for where the limit would be exceeded. It remembers nothing: what may be given
/// back, only a [`Charge`](crate::umem::Charge) knows.
impl Accountant for Mm {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let charge_within = |task| {
            // SAFETY: "`task` is held meanwhile, or null": the running thread is there as long as it runs; no
            // user is looked at.
            unsafe { charge(Counter::Pinned, self, ptr::null_mut(), task, pages) }
        };
        charge_within(Task::current_raw()).or_else(|error| {
            // SAFETY: it asks for the capabilities of the running thread, and may be called by any.
            if unsafe { ffi::pinned_sgl_is_unlimited() } {
                return charge_within(ptr::null_mut());
            }
            Err(error)
        })
    }

    fn uncharge(&self, pages: u64) {
        let (counter, user) = (Counter::Pinned as u32, ptr::null_mut());
        // SAFETY: `mm` is borrowed; no user is looked at by this counter.
        unsafe { ffi::pinned_sgl_uncharge(counter, self.as_raw(), user, pages) };
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
