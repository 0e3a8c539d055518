// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinError`]: why a buffer is not pinned, and the buffer.
#![forbid(unsafe_code)]

use super::buffer::Buffer;
use super::pagemap::FrameError;
use crate::sgl::{AllocError, BuildError};
use core::fmt;
use std::io;

/// A buffer could not be pinned; nothing of it is pinned any more.
///
/// The buffer comes back: see [`PinError::into_buffer`].
#[derive(Debug)]
pub struct PinError {
    pub(super) kind: PinErrorKind,
    pub(super) pinned: u64,
    pub(super) buffer: Buffer,
}

impl PinError {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &PinErrorKind {
        &self.kind
    }

    /// How many bytes were pinned before it went wrong. They have been unpinned.
    #[must_use]
    pub const fn pinned(&self) -> u64 {
        self.pinned
    }

    /// The buffer, mapped and not pinned.
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PinErrorKind::Cancelled => write!(f, "cancelled with {:#x} bytes pinned", self.pinned),
            ref kind => kind.fmt(f),
        }
    }
}

impl core::error::Error for PinError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Why a buffer could not be pinned. Offsets and lengths are in bytes of the buffer.
#[derive(Debug)]
#[non_exhaustive]
pub enum PinErrorKind {
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
    /// The buffer needs more slots than a ring has.
    TooLarge {
        /// The bytes of the part that one thread was to pin.
        len: u64,
        /// The bytes that one thread can pin.
        limit: u64,
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
    /// The list could not be built.
    Build {
        /// The first page of those that could not be taken.
        offset: u64,
        /// Why.
        source: BuildError,
    },
    /// There was no memory left for the last runs of the list.
    OutOfMemory(AllocError),
    /// A thread could not be started.
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller's progress function said to stop.
    Cancelled,
}

impl fmt::Display for PinErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoUring { source } => write!(
                f,
                "this process cannot use io_uring to pin memory ({source}): it needs Linux 5.19, \
                 the sysctl kernel.io_uring_disabled at 0, and no seccomp filter against it"
            ),
            Self::Ring { source } => write!(f, "cannot set up an io_uring: {source}"),
            Self::TooLarge { len, limit } => {
                write!(f, "{len:#x} bytes are more than the {limit:#x} that one thread can pin")
            }
            Self::MemlockLimit { offset, len, limit } => write!(
                f,
                "no memory to pin {len:#x} bytes at offset {offset:#x}, most likely because of \
                 RLIMIT_MEMLOCK, {} KiB: raise it (ulimit -l), or give the process CAP_IPC_LOCK",
                limit.wrapping_shr(10)
            ),
            Self::Pin { offset, len, source } => {
                write!(f, "cannot pin {len:#x} bytes at offset {offset:#x}: {source}")
            }
            Self::Frames(error) => error.fmt(f),
            Self::Build { offset, source } => {
                write!(f, "cannot list the pages from offset {offset:#x} on: {source}")
            }
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Thread { source } => write!(f, "cannot start a thread: {source}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl core::error::Error for PinErrorKind {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::NoIoUring { source }
            | Self::Ring { source }
            | Self::Pin { source, .. }
            | Self::Thread { source } => Some(source),
            Self::Frames(error) => error.source(),
            Self::Build { source, .. } => Some(source),
            _ => None,
        }
    }
}
