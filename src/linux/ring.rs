// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ring`]: pins memory as the fixed buffers of an io_uring, and unpins it when dropped.
//!
//! No request ever goes through the ring. It is there because its buffer table is the one place
//! where a plain process can have memory pinned for long, and can have it unpinned at a moment of
//! its choosing: `IORING_UNREGISTER_BUFFERS` unpins before it returns, while closing a ring unpins
//! some time later, from a work queue.

use super::error::PinErrorKind;
use core::{fmt, ptr::NonNull};
use io_uring::IoUring;
use std::{fs, io};

/// The largest buffer that the kernel registers.
pub(super) const MAX_SLOT_BYTES: u64 = 1 << 30;
/// The most buffers that one ring can have.
pub(super) const MAX_SLOTS: u32 = 1 << 14;

/// A ring whose buffer table holds pins; dropping it gives them all back.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring with an empty table of `slots` buffers.
    pub(super) fn new(slots: u32) -> Result<Self, PinErrorKind> {
        let ring = IoUring::new(1).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS) => PinErrorKind::NoIoUring { source },
            _ => PinErrorKind::Ring { source },
        })?;
        let table = ring.submitter().register_buffers_sparse(slots);
        table.map_err(|source| match source.raw_os_error() {
            // A kernel that knows io_uring but not this operation.
            Some(libc::EINVAL) => PinErrorKind::NoIoUring { source },
            _ => PinErrorKind::Ring { source },
        })?;
        Ok(Self { ring })
    }

    /// Faults in and pins `len` bytes from `start` on, in the empty slot `slot` of the table.
    ///
    /// # Safety
    ///
    /// The bytes must be mapped, readable and writable, until the ring is dropped, and must not be
    /// borrowed: the kernel may write to what is registered.
    pub(super) unsafe fn pin(
        &mut self,
        slot: u32,
        start: NonNull<u8>,
        len: usize,
    ) -> io::Result<()> {
        let bytes = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len };
        // SAFETY: the caller promises that the bytes stay mapped until this ring is dropped, which
        // is when they are unregistered.
        unsafe { self.ring.submitter().register_buffers_update(slot, &[bytes], None) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // There are no requests to wait for, so a signal is all that can come between. Should the
        // kernel fail in another way, it unpins when the ring is closed, which is next: then not
        // before this returns, but soon. The memory may be unmapped meanwhile, as the pins hold it.
        while let Err(error) = self.ring.submitter().unregister_buffers() {
            if error.kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// Why `len` bytes at `offset` of a buffer were not pinned.
pub(super) fn why(offset: u64, len: u64, source: io::Error) -> PinErrorKind {
    if source.raw_os_error() == Some(libc::ENOMEM) {
        if let Some(limit) = memlock_limit().filter(|_| is_limited()) {
            return PinErrorKind::MemlockLimit { offset, len, limit };
        }
    }
    PinErrorKind::Pin { offset, len, source }
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
