// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageError`]: why pages of this process cannot be pinned, found or copied.
#![forbid(unsafe_code)]

use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::umem::PinFlags;
use core::{error::Error, fmt};
use std::io;

/// Why pages of this process, of a [`Buffer`](super::Buffer) mostly, cannot be pinned, found or copied.
///
/// Offsets and lengths are in bytes: of the buffer, or from the first page that a
/// [`PageMap`](super::PageMap) was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum PageError {
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
    /// Pins of this kind cannot be had here.
    Unsupported {
        /// The flags that cannot be honoured.
        flags: PinFlags,
    },
    /// The batch has no room for a run, or wants no page.
    NoRoom,
    /// The batch is of a pinner whose addresses are others: one that forwards does not say so.
    AddressKind,
    /// The pages are held more often than can be counted, as where regions are forgotten again and again.
    TooManyPins,
    /// The kernel does not show frames to this process, which lacks `CAP_SYS_ADMIN`.
    Hidden {
        /// The page.
        offset: u64,
    },
    /// There is no page: nothing is mapped, or what is mapped was never touched.
    NotPresent {
        /// The page.
        offset: u64,
    },
    /// The page is in swap, not in memory.
    Swapped {
        /// The page.
        offset: u64,
    },
    /// The address is not the start of a page.
    Misaligned {
        /// The address.
        addr: UserAddr,
        /// The size of a page.
        page: PageSize,
    },
    /// The page map could not be opened or read.
    PageMap {
        /// The page from which on it could not be read.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The page or the byte is not part of the buffer.
    NotInBuffer {
        /// The first such address.
        at: UserAddr,
    },
    /// The bytes reach beyond the buffer.
    Beyond {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        len: u64,
        /// The bytes of the buffer.
        available: u64,
    },
    /// The bytes belong to no process, so they are not in a buffer of this one.
    NoUserAddress,
}

impl PageError {
    /// How far the page whose frame is not known lies from the first one that was asked for.
    pub(super) fn offset(&self) -> u64 {
        match self {
            Self::Hidden { offset }
            | Self::NotPresent { offset }
            | Self::Swapped { offset }
            | Self::PageMap { offset, .. } => *offset,
            _ => 0,
        }
    }

    /// The same error, seen from a start that lies `distance` bytes before.
    pub(super) fn further(mut self, distance: u64) -> Self {
        if let Self::Hidden { offset }
        | Self::NotPresent { offset }
        | Self::Swapped { offset }
        | Self::PageMap { offset, .. } = &mut self
        {
            *offset = offset.saturating_add(distance);
        }
        self
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoUring { .. } => f.write_str(
                "this process cannot use io_uring to pin memory: it needs Linux 5.19, the sysctl \
                 kernel.io_uring_disabled at 0, and no seccomp filter against it",
            ),
            Self::Ring { .. } => f.write_str("cannot set up an io_uring"),
            Self::MemlockLimit { offset, len, limit } => write!(
                f,
                "no memory to pin {len:#x} bytes at offset {offset:#x}, most likely because of \
                 RLIMIT_MEMLOCK, {} KiB: raise it (ulimit -l), or give the process CAP_IPC_LOCK",
                limit.shifted_down(10)
            ),
            Self::Pin { offset, len, .. } => {
                write!(f, "cannot pin {len:#x} bytes at offset {offset:#x}")
            }
            Self::Unsupported { flags } => {
                write!(f, "a buffer cannot be pinned with the flags {flags:?}")
            }
            Self::NoRoom => f.write_str("the batch has no room for a run, or wants no page"),
            Self::AddressKind => {
                f.write_str("the batch is of a pinner with addresses of another kind")
            }
            Self::TooManyPins => f.write_str("the pages are held more often than can be counted"),
            Self::Hidden { offset } => write!(
                f,
                "the kernel hides the frame of the page at offset {offset:#x}: \
                 this process lacks CAP_SYS_ADMIN"
            ),
            Self::NotPresent { offset } => {
                write!(f, "there is no page at offset {offset:#x}: it was never touched")
            }
            Self::Swapped { offset } => {
                write!(f, "the page at offset {offset:#x} is in swap, not in memory")
            }
            Self::Misaligned { addr, page } => {
                write!(f, "{addr} is not the start of a page of {page}")
            }
            Self::PageMap { offset, .. } => {
                write!(f, "cannot read /proc/self/pagemap at offset {offset:#x}")
            }
            Self::NotInBuffer { at } => write!(f, "the address {at:#x} is not in the buffer"),
            Self::Beyond { offset, len, available } => write!(
                f,
                "{len:#x} bytes at offset {offset:#x} reach beyond the buffer of {available:#x}"
            ),
            Self::NoUserAddress => f.write_str("the bytes have no address in this process"),
        }
    }
}

impl Error for PageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoIoUring { source }
            | Self::Ring { source }
            | Self::Pin { source, .. }
            | Self::PageMap { source, .. } => Some(source),
            _ => None,
        }
    }
}
