// SPDX-License-Identifier: MIT OR Apache-2.0
//! A builder takes an array of page pointers, which is what the kernel's functions fill.

use super::ffi;
use super::pinner::PAGE;
use crate::addr::Pfn;
use crate::sgl::{BuildError, MemoryKind, PageRun, ProviderId, SglBuilder, Storage};
use kernel::bindings;

/// Where a run has fewer pages, others will, too: to look at them one by one is faster.
const SHORT: u64 = 16;
/// Pages that are looked at one by one, until the next run is tried.
const FRAMES: usize = 128;

impl<S: Storage> SglBuilder<S> {
    /// Adds the pages of an array of `struct page *`. O(pages), at the speed of reading the array
    /// where they are contiguous: pointers are compared, and no page structure but the first of a
    /// run is read.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with the index of the page, or of the first page of the run, that could not
    /// be taken, or because the list's pages are not the kernel's; nothing has changed then.
    ///
    /// # Safety
    ///
    /// Each of them points to a page structure.
    pub unsafe fn push_page_structs(
        &mut self,
        pages: &[*mut bindings::page],
    ) -> Result<(), BuildError> {
        if self.page_size() != PAGE {
            return Err(BuildError::OtherPageSize { page: PAGE, expected: self.page_size() });
        }
        self.all_or_nothing(|builder| {
            let (mut done, mut frames) = (0usize, [Pfn::new(0); FRAMES]);
            while let Some(rest) = pages.get(done..).filter(|rest| !rest.is_empty()) {
                // SAFETY: there is one page structure at least, as the caller says.
                let run = unsafe { first_run(rest) };
                let (pushed, count) = if run.kind() == MemoryKind::Ram && run.count() < SHORT {
                    // SAFETY: as above.
                    let frames = unsafe { frames_of(rest, &mut frames) };
                    (builder.push_pages(frames, MemoryKind::Ram), frames.len())
                } else {
                    // (A run has no more pages than the slice.)
                    (builder.push_run(run), usize::try_from(run.count()).unwrap_or(rest.len()))
                };
                pushed.map_err(|error| error.behind(done))?;
                done = done.wrapping_add(count);
            }
            Ok(())
        })
    }
}

/// Pages at the beginning that continue each other; the next ones may, too.
///
/// # Safety
///
/// There is at least one pointer, and each points to a page structure.
pub(super) unsafe fn first_run(pages: &[*mut bindings::page]) -> PageRun {
    let (mut pfn, mut provider) = (0, 0);
    // SAFETY: so says the caller; the other pointers are to locals.
    let count =
        unsafe { ffi::pinned_sgl_first_run(pages.as_ptr(), pages.len(), &mut pfn, &mut provider) };
    let kind = match provider {
        0 => MemoryKind::Ram,
        provider => MemoryKind::Device(ProviderId(provider)),
    };
    // Pages that there are have addresses, and one at least continues itself.
    PageRun::stored(pfn, count as u64, kind)
}

/// The frames of the pages at the beginning, as long as they are ordinary memory and there is room.
///
/// # Safety
///
/// Each points to a page structure.
unsafe fn frames_of<'a>(pages: &[*mut bindings::page], room: &'a mut [Pfn; FRAMES]) -> &'a [Pfn] {
    let most = pages.len().min(room.len());
    // SAFETY: so says the caller; there is room for as many numbers of frames, which is what a `Pfn`
    // is and nothing else.
    let count = unsafe { ffi::pinned_sgl_frames(pages.as_ptr(), most, room.as_mut_ptr().cast()) };
    room.get(..count).unwrap_or_default()
}
