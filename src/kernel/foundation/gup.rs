// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of user space that are pinned for devices: `pin_user_pages_fast()` and its sisters.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Reference: <https://docs.kernel.org/core-api/pin_user_pages.html>

use super::{ffi, kernel};
use core::mem;
use kernel::{
    bindings,
    error::{code, Error, Result},
    ffi::c_uint,
    mm::Mm,
};

/// Pages of which each continues the one before.
#[derive(Clone, Copy)]
pub struct Run {
    /// The first frame.
    pub pfn: u64,
    /// How many pages there are.
    pub count: usize,
    /// The address of the `struct dev_pagemap` that provides them; 0 for ordinary memory.
    pub provider: u64,
}

/// Pages with a pin each. Dropping it unpins them.
///
/// # Invariants
///
/// Each of `pages` points to the structure of a page with a pin that is ours.
pub struct PinnedPages<'a> {
    pages: &'a mut [*mut bindings::page],
}

impl<'a> PinnedPages<'a> {
    /// Pins pages of `mm` from `start` on, with flags of `FOLL_*`: as many as `pages` has room for at most, at least
    /// one. May sleep.
    ///
    /// # Errors
    ///
    /// That of GUP; `ESRCH` if it is another process, which has exited; `EINTR` if the calling thread is killed.
    pub fn pin(
        mm: &Mm,
        start: usize,
        flags: c_uint,
        pages: &'a mut [*mut bindings::page],
    ) -> Result<Self> {
        // SAFETY: `mm` is held by the caller, and there is room for as many pointers.
        let pinned =
            unsafe { ffi::gup_pin(mm.as_raw(), start, pages.len(), flags, pages.as_mut_ptr()) };
        let count = match usize::try_from(pinned) {
            // GUP answers 0 to a caller that it does not understand.
            Ok(0) => return Err(code::EINVAL),
            Ok(count) => count,
            Err(_) => return Err(i32::try_from(pinned).map_or(code::EINVAL, Error::from_errno)),
        };
        // INVARIANT: GUP has pinned these pages, for this call.
        Ok(Self { pages: pages.get_mut(..count).ok_or(code::EINVAL)? })
    }

    /// Takes them over.
    ///
    /// # Safety
    ///
    /// Each of `pages` points to the structure of a page that was pinned once, and is taken over
    /// with its pin.
    #[must_use]
    pub const unsafe fn new(pages: &'a mut [*mut bindings::page]) -> Self {
        // INVARIANT: as the caller promises.
        Self { pages }
    }

    /// How many are left.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether all were taken.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The first pages that continue each other.
    #[inline]
    #[must_use]
    pub fn first_run(&self) -> Option<Run> {
        if self.pages.is_empty() {
            return None;
        }
        // SAFETY: "there is at least one pointer": it is not empty; "each points to a page structure":
        // by the invariant.
        Some(unsafe { first_run(self.pages) })
    }

    /// The frames of the pages behind the first one, as [`singles`] finds them: how many.
    #[inline]
    pub fn singles(&self, room: &mut [u64]) -> usize {
        if self.pages.is_empty() {
            return 0;
        }
        // SAFETY: "there is at least one pointer": it is not empty; "each points to a page structure":
        // by the invariant.
        unsafe { singles(self.pages, room) }
    }

    /// The first `count` pages have another owner from now on.
    #[inline]
    pub fn forget(&mut self, count: usize) {
        // INVARIANT: those that are left are some of those that there were.
        self.pages = mem::take(&mut self.pages).get_mut(count..).unwrap_or_default();
    }
}

impl Drop for PinnedPages<'_> {
    fn drop(&mut self) {
        if !self.pages.is_empty() {
            // SAFETY: by the invariant these are page structures with pins that are ours; nothing was shown
            // the pages, and `self` is dropped once.
            unsafe { bindings::unpin_user_pages(self.pages.as_mut_ptr(), self.pages.len()) };
        }
    }
}

/// Pages at the beginning that continue each other; the next ones may, too.
///
/// # Safety
///
/// There is at least one pointer, and each points to a page structure.
#[inline]
pub unsafe fn first_run(pages: &[*mut bindings::page]) -> Run {
    let (mut pfn, mut provider) = (0, 0);
    // SAFETY: "there is at least one pointer, and each points to a page structure": as the caller
    // promises; the other pointers are to locals.
    let count = unsafe { ffi::gup_first_run(pages.as_ptr(), pages.len(), &mut pfn, &mut provider) };
    Run { pfn, count, provider }
}

/// Finds the frames of pages behind the first one, as long as none continues the one before, and all
/// are ordinary memory; returns how many.
///
/// # Safety
///
/// There is at least one pointer, and each points to a page structure.
#[inline]
pub unsafe fn singles(pages: &[*mut bindings::page], room: &mut [u64]) -> usize {
    let most = room.len().min(pages.len().saturating_sub(1));
    // SAFETY: "there is at least one pointer, and each points to a page structure": as the caller
    // promises; there are `most` behind the first one, and there is room for as many numbers.
    unsafe { ffi::gup_singles(pages.as_ptr(), most, room.as_mut_ptr()) }
}

/// Unpins the pages of a run: `unpin_user_page_range_dirty_lock()`. May sleep.
///
/// # Safety
///
/// Each of them has a pin of the caller's that nothing relies on any more.
#[inline]
pub unsafe fn unpin_run(pfn: u64, count: u64, dirty: bool) {
    // SAFETY: as the caller promises: so they are pages with structures.
    unsafe { ffi::gup_unpin_run(pfn, count, dirty) };
}

/// Copies from pages. Rust makes no reference to what a device may change.
///
/// # Safety
///
/// They have page structures, and are there as long as the call takes.
pub unsafe fn copy_from(phys: u64, bytes: &mut [u8]) {
    // SAFETY: as the caller promises, so that they can be mapped; there is room for as many bytes.
    unsafe { ffi::gup_copy_from(phys, bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Copies to pages. Rust makes no reference to what a device may change.
///
/// # Safety
///
/// They have page structures, are there as long as the call takes, and may be written.
pub unsafe fn copy_to(phys: u64, bytes: &[u8]) {
    // SAFETY: as the caller promises, so that they can be mapped; there are as many bytes.
    unsafe { ffi::gup_copy_to(phys, bytes.as_ptr().cast(), bytes.len()) };
}

/// Warns in the log of pins that stay for ever.
pub fn report_leak(user: u64, pfn: u64, count: u64) {
    // SAFETY: numbers only.
    unsafe { ffi::gup_report_leak(user, pfn, count) };
}
