// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MmAccountant`]: counts pages against `RLIMIT_MEMLOCK`, in one of the counters of a process or its user. An
//! `Mm` itself: as RDMA counts them.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)
#![forbid(unsafe_code)]

use super::foundation::memlock;
use super::kernel;
use crate::sync::{update, AtomicUsize, Relaxed};
use crate::umem::{Accountant, ChargeError};
use core::fmt;
use kernel::{
    mm::Mm,
    sync::aref::ARef,
    task::{CurrentTask, Task},
};

/// Which counter is used, of those against which Linux holds `RLIMIT_MEMLOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `mm->pinned_vm`, as RDMA has it: shown as `VmPin`.
    Pinned,
    /// `mm->locked_vm`, as vfio has it: shown as `VmLck`, shared with `mlock()`.
    Locked,
    /// `user->locked_vm`, as `io_uring` and `AF_XDP` have it, and iommufd unless it stands in for vfio: all
    /// processes of a user share it. As in iommufd, the limit also counts for processes with `CAP_IPC_LOCK`, and
    /// `mm->pinned_vm` shows the pages. A kernel in which nothing is counted like that charges nothing.
    User,
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
    user: memlock::User,
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
        if memlock::is_kernel_thread(task) {
            return None;
        }
        let mm: &Mm = task.mm()?;
        let unlimited = counter != Counter::User && memlock::is_unlimited();
        Some(Self {
            mm: mm.into(),
            user: memlock::User::current()?,
            limited: (!unlimited).then(|| task.group_leader().into()),
            counter,
            charged: AtomicUsize::new(0),
        })
    }

    fn account(&self) -> memlock::Account<'_> {
        match self.counter {
            Counter::Pinned => memlock::Account::Pinned(&self.mm),
            Counter::Locked => memlock::Account::Locked(&self.mm),
            Counter::User => memlock::Account::User(&self.mm, &self.user),
        }
    }
}

/// Charges `pages`, as the crate says why not.
fn charge(
    account: memlock::Account<'_>,
    pages: u64,
    limit: memlock::Limit<'_>,
) -> Result<(), ChargeError> {
    account.charge(pages, limit).map_err(|refused| match refused {
        memlock::Refused::Killed => ChargeError::Killed,
        memlock::Refused::Limit { charged, limit } => ChargeError::Limit { pages, charged, limit },
    })
}

impl Accountant for MmAccountant {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let limit =
            self.limited.as_ref().map_or(memlock::Limit::None, |task| memlock::Limit::Of(task));
        charge(self.account(), pages, limit)?;
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
            memlock::report_excess(more);
        }
        self.account().uncharge(pages.min(charged));
    }
}

/// Counts in `mm->pinned_vm`, against the `RLIMIT_MEMLOCK` of the thread that charges; without a limit, if that
/// has `CAP_IPC_LOCK`, which is asked for where the limit would be exceeded. It remembers nothing: what may be given
/// back, only a [`Charge`](crate::umem::Charge) knows.
impl Accountant for Mm {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let account = memlock::Account::Pinned(self);
        charge(account, pages, memlock::Limit::OfCurrent).or_else(|error| {
            if memlock::is_unlimited() {
                return charge(account, pages, memlock::Limit::None);
            }
            Err(error)
        })
    }

    fn uncharge(&self, pages: u64) {
        memlock::Account::Pinned(self).uncharge(pages);
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
