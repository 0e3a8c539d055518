// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ring`]: pins memory as the fixed buffers of an io_uring.
//!
//! No request ever goes through the ring. It is there because its buffer table is the one place
//! where a plain process can have memory pinned for long, and can have it unpinned at a moment of
//! its choosing:
//!
//! ```text
//!  table  │ 0 │ 1 │ 2 │ 3 │ …        Linux 5.19 on        Linux 6.13 on
//!  pin(1) ──────┘                    before it returns    before it returns
//!  unpin(1): slot 1 is empty         soon                 before it returns
//!  clear(): the table is gone        before it returns    before it returns
//!  the ring is closed                soon                 soon
//! ```
//!
//! So the thread that empties the last slot [clears](Ring::clear) the table, too.

use super::error::PageError;
use core::{fmt, ptr, ptr::NonNull};
use io_uring::IoUring;
use std::{fs, io};

/// The largest buffer that the kernel registers.
pub(super) const MAX_SLOT_BYTES: u64 = 1 << 30;

/// A ring whose buffer table holds pins; dropping it gives them all back.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring without a table.
    pub(super) fn new() -> Result<Self, PageError> {
        let ring = IoUring::new(1).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS) => PageError::NoIoUring { source },
            _ => PageError::Ring { source },
        })?;
        Ok(Self { ring })
    }

    /// Gives a ring that has no table one of `slots` empty slots.
    pub(super) fn set_table(&self, slots: u16) -> Result<(), PageError> {
        let table = self.ring.submitter().register_buffers_sparse(slots.into());
        table.map_err(|source| match source.raw_os_error() {
            // A kernel that knows io_uring but not this operation.
            Some(libc::EINVAL) => PageError::NoIoUring { source },
            _ => PageError::Ring { source },
        })
    }

    /// Faults in and pins `len` bytes from `start` on, in the empty slot `slot` of the table.
    ///
    /// # Safety
    ///
    /// Until the slot is emptied or the ring dropped, the bytes must be mapped, readable and
    /// writable, and must not be borrowed: the kernel may write to what is registered.
    pub(super) unsafe fn pin(&self, slot: u16, start: NonNull<u8>, len: usize) -> io::Result<()> {
        let bytes = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len };
        // SAFETY: the caller promises that the bytes stay mapped until they are unregistered.
        unsafe { self.ring.submitter().register_buffers_update(slot.into(), &[bytes], None) }
    }

    /// Empties the slot `slot`.
    ///
    /// Kernels before 6.13 note down what is to be unpinned, and may have no memory for the note:
    /// then the slot stays as it is until the table is cleared.
    pub(super) fn unpin(&self, slot: u16) -> io::Result<()> {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: no bytes are registered here.
        unsafe { self.ring.submitter().register_buffers_update(slot.into(), &[nothing], None) }
    }

    /// Empties all slots and takes the table away.
    pub(super) fn clear(&self) {
        // There are no requests to wait for, so a signal is all that can come between. Should the
        // kernel fail in another way (that there is no table is one), what is left is unpinned when
        // the ring is closed. The memory may be unmapped meanwhile, as the pins hold it.
        while let Err(error) = self.ring.submitter().unregister_buffers() {
            if error.kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// Why `len` bytes at `offset` of a buffer were not pinned.
pub(super) fn why(offset: u64, len: u64, source: io::Error) -> PageError {
    if source.raw_os_error() == Some(libc::ENOMEM) {
        if let Some(limit) = memlock_limit().filter(|_| is_limited()) {
            return PageError::MemlockLimit { offset, len, limit };
        }
    }
    PageError::Pin { offset, len, source }
}

/// The soft limit of memory that may be locked, in bytes; `None` if there is none.
fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole `rlimit64` that is ours to be written.
    let failed = unsafe { libc::getrlimit64(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0;
    (!failed && limit.rlim_cur != libc::RLIM64_INFINITY).then_some(limit.rlim_cur)
}

/// Whether the limit holds for this thread: unless it has `CAP_IPC_LOCK`, and has it in the initial
/// user namespace. The kernel asks for it there, and `root` of a container does not have it.
fn is_limited() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let capable = fs::read_to_string("/proc/thread-self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        effective.is_some_and(|effective| effective & CAP_IPC_LOCK != 0)
    });
    let initial = fs::read_to_string("/proc/thread-self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
    !(capable && initial)
}
