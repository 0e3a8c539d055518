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

use super::error::PageError;
use super::pages::base_page_size;
use crate::addr::{Pfn, UserAddr};
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use std::{fs::File, io, os::unix::fs::FileExt};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;
const ENTRY_BYTES: usize = size_of::<u64>();
/// Entries read at a time: 8 KiB of them, a small part of any stack.
const BATCH: usize = 1024;

/// The page map of this process: the frame behind each page.
///
/// An answer holds as long as the page is pinned; the kernel may move any other page at any
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
    /// [`PageError::Hidden`] without the privilege to know frames, [`PageError::PageMap`] if there is
    /// no page map.
    pub fn open() -> Result<Self, PageError> {
        let page = base_page_size().map_err(|source| PageError::PageMap { offset: 0, source })?;
        let file = File::open("/proc/self/pagemap").map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => PageError::Hidden { offset: 0 },
            _ => PageError::PageMap { offset: 0, source },
        })?;
        let map = Self { file, page };
        let probe = core::hint::black_box(1u8);
        let here = UserAddr::new((&raw const probe).addr() as u64).align_down(page);
        match map.read(here, &mut [Pfn::default()]) {
            // A stack may have been swapped out; that says nothing about privilege.
            Ok(()) | Err(PageError::NotPresent { .. } | PageError::Swapped { .. }) => Ok(map),
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
    /// [`PageError`] with the offset of the first page that has no frame or none that may be
    /// known. Then the frames before it have been written.
    pub fn read(&self, start: UserAddr, frames: &mut [Pfn]) -> Result<(), PageError> {
        if !start.is_aligned(self.page) {
            return Err(PageError::Misaligned { addr: start, page: self.page });
        }
        let mut bytes = [0u8; BATCH * ENTRY_BYTES];
        let mut offset = 0u64;
        // A page number has at most 54 bits, as a page has at least 1 KiB.
        let mut position = start.get().shifted_down(self.page.shift()).times(8);
        for batch in frames.chunks_mut(BATCH) {
            let bytes = bytes.get_mut(..batch.len().times(ENTRY_BYTES)).unwrap_or_default();
            self.file
                .read_exact_at(bytes, position)
                .map_err(|source| PageError::PageMap { offset, source })?;
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
fn decode(entry: u64, offset: u64) -> Result<Pfn, PageError> {
    match entry & FRAME {
        _ if entry & PRESENT == 0 && entry & SWAPPED != 0 => Err(PageError::Swapped { offset }),
        _ if entry & PRESENT == 0 => Err(PageError::NotPresent { offset }),
        0 => Err(PageError::Hidden { offset }),
        frame => Ok(Pfn::new(frame)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_frame_or_an_error() {
        assert_eq!(decode(PRESENT | 0x1234, 0).unwrap(), Pfn::new(0x1234));
        // Soft-dirty, exclusive and file-backed flags are not part of the number.
        assert_eq!(decode(PRESENT | 0b111 << 55 | 1 << 61 | 7, 0).unwrap(), Pfn::new(7));
        assert!(matches!(decode(PRESENT, 5), Err(PageError::Hidden { offset: 5 })));
        assert!(matches!(decode(0, 6), Err(PageError::NotPresent { offset: 6 })));
        assert!(matches!(decode(SWAPPED | 0x99, 7), Err(PageError::Swapped { offset: 7 })));
    }
}
