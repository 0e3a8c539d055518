// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pages`]: what a buffer is made of, and what the kernel says about its huge pages.

use crate::exact::Exact as _;
use crate::page_size::PageSize;
use std::{format, fs, io, string::String};

/// What kind of pages a [`Buffer`](super::Buffer) is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pages {
    /// Base pages and nothing else (`MADV_NOHUGEPAGE`).
    Base,
    /// Transparent huge pages (`MADV_HUGEPAGE`), from a start that is aligned for them.
    ///
    /// A wish: where the kernel has no huge page at hand, it gives base pages.
    Transparent,
    /// Huge pages of this size from the pool that an administrator has reserved (`MAP_HUGETLB`). Each machine has
    /// sizes of its own: 2 MiB and 1 GiB on x86-64, 2 MiB and 512 MiB on arm64 with pages of 64 KiB.
    Huge(PageSize),
}

impl Pages {
    /// The size of the reserved huge pages; `None` if there are none involved.
    #[must_use]
    pub const fn huge_page_size(self) -> Option<PageSize> {
        match self {
            Self::Huge(size) => Some(size),
            Self::Base | Self::Transparent => None,
        }
    }
}

/// The size of a base page of this machine.
pub(super) fn base_page_size() -> io::Result<PageSize> {
    // SAFETY: sysconf() takes no pointer and can be called at any time.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes)
        .ok()
        .and_then(PageSize::new)
        .ok_or_else(|| io::Error::other("the kernel does not report the size of a page"))
}

/// The size of a transparent huge page, if the kernel has any.
pub(super) fn transparent_page_size() -> Option<PageSize> {
    PageSize::new(read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")?)
}

/// The pool of reserved huge pages of one size.
pub(super) struct Pool {
    /// Pages in the pool, in use or not.
    pub(super) total: u64,
    /// Pages that a new buffer could have.
    pub(super) available: u64,
}

impl Pool {
    /// What the kernel says about its huge pages of `size`; `None` if it has no such size.
    pub(super) fn of(size: PageSize) -> Option<Self> {
        let number = |name: &str| read_number(&format!("{}/{name}", Self::directory(size)));
        let free = number("free_hugepages")?;
        // Promised to buffers that have not touched them yet.
        let promised = number("resv_hugepages").unwrap_or(0);
        Some(Self { total: number("nr_hugepages")?, available: free.saturating_sub(promised) })
    }

    pub(super) fn directory(size: PageSize) -> String {
        format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes().shifted_down(10))
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
