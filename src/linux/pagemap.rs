// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageMap`]: the frames behind the pages of this process.
//!
//! `/proc/self/pagemap` has 64 bits for each virtual page:
//!
//! ```text
//!  63       62       61 .. 55   54 .. 0
//!  present  swapped             frame number; 0 for readers without CAP_SYS_ADMIN
//! ```
#![forbid(unsafe_code)]

use super::pages::base_page_size;
use crate::addr::{Pfn, UserAddr};
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use core::fmt;
use std::{fs::File, io, os::unix::fs::FileExt};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;
const ENTRY_BYTES: usize = size_of::<u64>();
/// Entries read at a time: 8 KiB of them, a small part of any stack.
const BATCH: usize = 1024;

/// The page map of this process: the frame behind each page.
///
/// An answer holds for as long as the page is pinned; the kernel may move any other page at any
/// time.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    page: PageSize,
}

impl PageMap {
    /// Opens the page map, and asks for a page that is certainly there to see if it shows frames.
    ///
    /// # Errors
    ///
    /// [`FrameError::Hidden`] without the privilege to know frames, [`FrameError::Io`] if there is
    /// no page map.
    pub fn open() -> Result<Self, FrameError> {
        let page = base_page_size().map_err(|source| FrameError::Io { offset: 0, source })?;
        let file = File::open("/proc/self/pagemap").map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => FrameError::Hidden { offset: 0 },
            _ => FrameError::Io { offset: 0, source },
        })?;
        let map = Self { file, page };
        let probe = core::hint::black_box(1u8);
        let here = UserAddr::new((&raw const probe).addr() as u64).align_down(page);
        match map.read(here, &mut [Pfn::default()]) {
            // A stack may have been swapped out; that says nothing about privilege.
            Ok(()) | Err(FrameError::NotPresent { .. } | FrameError::Swapped { .. }) => Ok(map),
            Err(error) => Err(error),
        }
    }

    /// The size of a page: one entry of the map.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page
    }

    /// Reads the frames behind `frames.len()` pages, from the page at `start` on.
    ///
    /// O(pages); 1024 of them per system call.
    ///
    /// # Errors
    ///
    /// [`FrameError`] with the offset of the first page that has no frame or none that may be
    /// known. Then the frames before it have been written.
    pub fn read(&self, start: UserAddr, frames: &mut [Pfn]) -> Result<(), FrameError> {
        if !start.is_aligned(self.page) {
            return Err(FrameError::Misaligned { addr: start, page: self.page });
        }
        let mut bytes = [0u8; BATCH * ENTRY_BYTES];
        let mut offset = 0u64;
        // A page number has at most 54 bits, as a page has at least 1 KiB.
        let mut position = start.get().shifted_down(self.page.shift()).times(8);
        for batch in frames.chunks_mut(BATCH) {
            let bytes = bytes.get_mut(..batch.len().times(ENTRY_BYTES)).unwrap_or_default();
            self.file
                .read_exact_at(bytes, position)
                .map_err(|source| FrameError::Io { offset, source })?;
            for (frame, entry) in batch.iter_mut().zip(bytes.chunks_exact(ENTRY_BYTES)) {
                let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
                *frame = decode(entry, offset)?;
                offset = offset.plus(self.page.bytes());
            }
            position = position.plus(bytes.len() as u64);
        }
        Ok(())
    }
}

#[inline]
fn decode(entry: u64, offset: u64) -> Result<Pfn, FrameError> {
    match entry & FRAME {
        _ if entry & PRESENT == 0 && entry & SWAPPED != 0 => Err(FrameError::Swapped { offset }),
        _ if entry & PRESENT == 0 => Err(FrameError::NotPresent { offset }),
        0 => Err(FrameError::Hidden { offset }),
        frame => Ok(Pfn::new(frame)),
    }
}

/// Why the frames of some pages are not known.
///
/// `offset` is the distance in bytes of the page from the first one that was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum FrameError {
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
    Io {
        /// The page from which on it could not be read.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

impl FrameError {
    /// The distance of the page from the first one that was asked for.
    pub(super) const fn offset(&self) -> u64 {
        match self {
            Self::Hidden { offset }
            | Self::NotPresent { offset }
            | Self::Swapped { offset }
            | Self::Io { offset, .. } => *offset,
            Self::Misaligned { .. } => 0,
        }
    }

    /// The same error, seen from a start that lies `distance` bytes before.
    pub(super) fn further(mut self, distance: u64) -> Self {
        match &mut self {
            Self::Hidden { offset }
            | Self::NotPresent { offset }
            | Self::Swapped { offset }
            | Self::Io { offset, .. } => *offset = offset.saturating_add(distance),
            Self::Misaligned { .. } => {}
        }
        self
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
            Self::Io { offset, source } => {
                write!(f, "cannot read /proc/self/pagemap at offset {offset:#x}: {source}")
            }
        }
    }
}

impl core::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_frame_or_an_error() {
        assert_eq!(decode(PRESENT | 0x1234, 0).unwrap(), Pfn::new(0x1234));
        // Soft-dirty, exclusive and file-backed flags are no part of the number.
        assert_eq!(decode(PRESENT | 0b111 << 55 | 1 << 61 | 7, 0).unwrap(), Pfn::new(7));
        assert!(matches!(decode(PRESENT, 5), Err(FrameError::Hidden { offset: 5 })));
        assert!(matches!(decode(0, 6), Err(FrameError::NotPresent { offset: 6 })));
        assert!(matches!(decode(SWAPPED | 0x99, 7), Err(FrameError::Swapped { offset: 7 })));
    }
}
