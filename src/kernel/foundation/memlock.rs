// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are counted against `RLIMIT_MEMLOCK`, in a counter of a process or its user.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)

use super::{ffi, kernel};
use core::ptr::{self, NonNull};
use kernel::{
    bindings,
    error::{code, to_result},
    mm::Mm,
    task::{CurrentTask, Task},
};

/// A `user_struct`, with a reference.
///
/// # Invariants
///
/// One of its references is ours.
pub struct User(NonNull<bindings::user_struct>);

// SAFETY: a `user_struct` is counted, and any thread may give its references back.
unsafe impl Send for User {}
// SAFETY: through a shared reference its counter is changed, which is atomic.
unsafe impl Sync for User {}

impl User {
    /// That of the running thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        // SAFETY: it may be called by any thread.
        // INVARIANT: it returns the user with a reference.
        NonNull::new(unsafe { ffi::memlock_current_user() }).map(Self)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: by the invariant there is a reference, and a value is dropped once.
        unsafe { bindings::free_uid(self.0.as_ptr()) };
    }
}

/// Whether this is a kernel thread, also while it uses the memory of a process.
#[must_use]
pub fn is_kernel_thread(task: &CurrentTask) -> bool {
    // SAFETY: the task is there as long as it is borrowed, and it changes this by itself only.
    let flags = unsafe { (*task.as_ptr()).flags };
    flags & bindings::PF_KTHREAD != 0
}

/// Whether the running thread may lock as much as it likes (`CAP_IPC_LOCK`).
#[must_use]
pub fn is_unlimited() -> bool {
    // SAFETY: it asks for the capabilities of the running thread, and may be called by any.
    unsafe { ffi::memlock_is_unlimited() }
}

/// Why pages were not charged.
#[derive(Clone, Copy)]
pub enum Refused {
    /// More than the limit.
    Limit {
        /// The pages that are counted already.
        charged: u64,
        /// The pages that may be.
        limit: u64,
    },
    /// The thread was killed while it waited for the `mmap_lock`.
    Killed,
}

/// Whose limit counts.
#[derive(Clone, Copy)]
pub enum Limit<'a> {
    /// None.
    None,
    /// That of this process.
    Of(&'a Task),
    /// That of the running thread's.
    OfCurrent,
}

/// A counter.
#[derive(Clone, Copy)]
pub enum Account<'a> {
    /// `mm->pinned_vm`.
    Pinned(&'a Mm),
    /// `mm->locked_vm`: waits for the `mmap_lock`.
    Locked(&'a Mm),
    /// `user->locked_vm`; `mm->pinned_vm` shows the pages, too.
    User(&'a Mm, &'a User),
}

impl Account<'_> {
    /// As C has it: the number of the counter, and what is counted in.
    fn raw(self) -> (u32, *mut bindings::mm_struct, *mut bindings::user_struct) {
        match self {
            Self::Pinned(mm) => (0, mm.as_raw(), ptr::null_mut()),
            Self::Locked(mm) => (1, mm.as_raw(), ptr::null_mut()),
            Self::User(mm, user) => (2, mm.as_raw(), user.0.as_ptr()),
        }
    }

    /// Counts `pages` more, within a limit.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing was counted.
    pub fn charge(self, pages: u64, limit: Limit<'_>) -> Result<(), Refused> {
        let task = match limit {
            Limit::None => ptr::null_mut(),
            Limit::Of(task) => task.as_ptr(),
            Limit::OfCurrent => Task::current_raw(),
        };
        let (counter, mm, user) = self.raw();
        let (mut charged, mut limit) = (0, 0);
        // SAFETY: `mm`, `user` and `task` are borrowed, or null where C does not look at them, or the running
        // thread's, which is there as long as it runs; the other pointers are to locals.
        let errno = unsafe {
            ffi::memlock_charge(counter, mm, user, task, pages, &mut charged, &mut limit)
        };
        to_result(errno).map_err(|error| match error {
            code::EINTR => Refused::Killed,
            _ => Refused::Limit { charged, limit },
        })
    }

    /// Counts `pages` less; a counter that has less becomes zero, and that is reported in the log.
    pub fn uncharge(self, pages: u64) {
        let (counter, mm, user) = self.raw();
        // SAFETY: `mm` and `user` are borrowed, or null where C does not look at them.
        unsafe { ffi::memlock_uncharge(counter, mm, user, pages) };
    }
}

/// Warns in the log of a caller that gives back what it does not have.
pub fn report_excess(pages: u64) {
    // SAFETY: a number.
    unsafe { ffi::memlock_report_excess(pages) };
}
