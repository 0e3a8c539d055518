// SPDX-License-Identifier: MIT OR Apache-2.0
//! A builder takes an array of page pointers, which is what the kernel's functions fill.
//!
//! C header: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h)

use super::foundation::gup;
use super::kernel;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::{BuildError, MemoryKind, PageRun, ProviderId, SglBuilder};
use crate::store::Storage;
use kernel::bindings;

/// The pages of the kernel: what is pinned.
pub const PAGE_SIZE: PageSize = match PageSize::new(bindings::PAGE_SIZE as u64) {
    Some(page) => page,
    None => PageSize::SIZE_4K,
};

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
    /// Each of them points to a page structure. (The builder does not hold the pages: see
    /// [`PinnedPages`](crate::kernel::PinnedPages) for pages that are pinned.)
    pub unsafe fn push_page_structs(
        &mut self,
        pages: &[*mut bindings::page],
    ) -> Result<(), BuildError> {
        if self.page_size() != PAGE_SIZE {
            return Err(BuildError::OtherPageSize { page: PAGE_SIZE, expected: self.page_size() });
        }
        self.all_or_nothing(|builder| {
            let mut rest = pages;
            while !rest.is_empty() {
                let index = pages.len().minus(rest.len());
                // SAFETY: "there is at least one pointer": `rest` is not empty; "each points to a page
                // structure": as the caller promises of `pages`, of which it is a part.
                let found = unsafe { gup::first_run(rest) };
                let run = page_run(found);
                builder.push_run(run).map_err(|error| error.behind(index))?;
                let mut count = found.count;
                if run.kind() == MemoryKind::Ram && count == 1 {
                    // SAFETY: "there is at least one pointer": `rest` is not empty; "each points to a page
                    // structure": as the caller promises of `pages`, of which it is a part.
                    count =
                        builder.push_singles(|room| unsafe { gup::singles(rest, room) }).plus(1);
                }
                rest = rest.get(count..).unwrap_or_default();
            }
            Ok(())
        })
    }
}

/// What GUP has found.
pub(super) fn page_run(run: gup::Run) -> PageRun {
    let kind = match run.provider {
        0 => MemoryKind::Ram,
        provider => MemoryKind::Device(ProviderId(provider)),
    };
    // Pages that there are have addresses, and one at least continues itself.
    PageRun::stored(run.pfn, run.count as u64, kind)
}
