// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinFault`]: why pages of a buffer could not be pinned.
#![forbid(unsafe_code)]

use super::pagemap::FrameError;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::umem::PinFlags;
use core::fmt;
use std::io;

/// Why pages of a [`Buffer`](super::Buffer) could not be pinned. Offsets and lengths are in bytes of
/// the buffer.
#[derive(Debug)]
#[non_exhaustive]
pub enum PinFault {
    /// This process may not use io_uring, or the kernel has none that can do this.
    NoIoUring {
        /// What the kernel said.
        source: io::Error,
    },
    /// The io_uring could not be set up.
    Ring {
        /// What the kernel said.
        source: io::Error,
    },
    /// More memory than `RLIMIT_MEMLOCK` allows would be pinned.
    MemlockLimit {
        /// What could not be pinned.
        offset: u64,
        /// How much of it.
        len: u64,
        /// The limit in bytes. All processes of a user share it.
        limit: u64,
    },
    /// The kernel did not pin for another reason.
    Pin {
        /// What could not be pinned.
        offset: u64,
        /// How much of it.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The frames are not known.
    Frames(FrameError),
    /// Pages are wanted that are no part of the buffer.
    NotInBuffer {
        /// The first of them.
        at: UserAddr,
    },
    /// The batch has no room for a run, or wants no page.
    NoRoom,
    /// Pins of this kind cannot be had here.
    Unsupported {
        /// The flags that cannot be honoured.
        flags: PinFlags,
    },
}

impl fmt::Display for PinFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoUring { source } => write!(
                f,
                "this process cannot use io_uring to pin memory ({source}): it needs Linux 5.19, \
                 the sysctl kernel.io_uring_disabled at 0, and no seccomp filter against it"
            ),
            Self::Ring { source } => write!(f, "cannot set up an io_uring: {source}"),
            Self::MemlockLimit { offset, len, limit } => write!(
                f,
                "no memory to pin {len:#x} bytes at offset {offset:#x}, most likely because of \
                 RLIMIT_MEMLOCK, {} KiB: raise it (ulimit -l), or give the process CAP_IPC_LOCK",
                limit.shifted_down(10)
            ),
            Self::Pin { offset, len, source } => {
                write!(f, "cannot pin {len:#x} bytes at offset {offset:#x}: {source}")
            }
            Self::Frames(error) => error.fmt(f),
            Self::NotInBuffer { at } => write!(f, "the page at {at:#x} is not in the buffer"),
            Self::NoRoom => f.write_str("the batch has no room for a run, or wants no page"),
            Self::Unsupported { flags } => {
                write!(f, "a buffer cannot be pinned with the flags {flags:?}")
            }
        }
    }
}

impl core::error::Error for PinFault {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::NoIoUring { source } | Self::Ring { source } | Self::Pin { source, .. } => {
                Some(source)
            }
            Self::Frames(error) => error.source(),
            _ => None,
        }
    }
}
