// SPDX-License-Identifier: MIT OR Apache-2.0
//! `push_page_structs()`: a list of page structures is the list of their frames.

use super::{raw_domain::PAGE, Numbers};
use kernel::bindings::page;
use kernel::prelude::*;
use laws::storage::{store, Failing};
use pinned_sgl::{BuildError, MemoryKind, PageSize, Pfn, SglBuilder};

#[allow(improper_ctypes, reason = "struct page as bindgen sees it, which has members of no size")]
extern "C" {
    fn laws_page(pfn: u64) -> *mut page;
}

/// Frames that there are, behind the first one: 512 MiB, half of the memory of the machine or less.
const FRAMES: u64 = 1 << (29 - PAGE.shift());

/// The first frame that there is.
fn first_frame() -> u64 {
    // SAFETY: it takes any number.
    (0..).find(|pfn| !unsafe { laws_page(*pfn) }.is_null()).unwrap_or(0)
}

/// Frames in runs of up to `longest`, across borders of huge pages and back and forth, and their page
/// structures.
fn pages(
    numbers: &mut Numbers,
    count: usize,
    longest: u64,
) -> Result<(KVec<Pfn>, KVec<*mut page>)> {
    let (mut frames, mut pages) = (KVec::new(), KVec::new());
    let start = first_frame();
    while frames.len() < count {
        let first = start + numbers.next() % (FRAMES - longest);
        for pfn in first..=first + numbers.next() % longest {
            // SAFETY: it takes any number.
            let page = unsafe { laws_page(pfn) };
            check!(!page.is_null());
            frames.push(Pfn::new(pfn), GFP_KERNEL)?;
            pages.push(page, GFP_KERNEL)?;
        }
    }
    Ok((frames, pages))
}

/// In arrays of all lengths, whose borders are within runs and between them.
pub(crate) fn are_their_frames(cases: u32) -> Result {
    let mut numbers = Numbers(0x0123_4567_89ab_cdef);
    for case in 0..cases {
        let (frames, pages) = pages(&mut numbers, 3000, [1, 3, 40, 2000][case as usize % 4])?;
        let mut model = SglBuilder::new_in(PAGE, store())?;
        let mut builder = SglBuilder::new_in(PAGE, store())?;
        let mut rest = pages.as_slice();
        while !rest.is_empty() {
            let some = rest.len().min(1 + numbers.next() as usize % 700);
            // SAFETY: these are page structures.
            unsafe { builder.push_page_structs(&rest[..some])? };
            rest = &rest[some..];
        }
        model.push_pages(&frames, MemoryKind::Ram)?;
        check!(builder.finish()? == model.finish()?);
    }
    Ok(())
}

/// Where there is memory for one piece only, both take the same, and fail at the same page.
pub(crate) fn fail_as_their_frames(cases: u32) -> Result {
    let mut numbers = Numbers(0xfedc_ba98_7654_3210);
    for _ in 0..cases {
        let (frames, pages) = pages(&mut numbers, 3000, 3)?;
        let builder = || SglBuilder::new_in(PAGE, Failing::new(store(), 1).0);
        let (mut model, mut builder) = (builder()?, builder()?);
        let some = numbers.next() as usize % 100;
        model.push_pages(&frames[..some], MemoryKind::Ram)?;
        // SAFETY: these are page structures.
        unsafe { builder.push_page_structs(&pages[..some])? };
        let refused = model.push_pages(&frames[some..], MemoryKind::Ram);
        check!(refused.is_err());
        // SAFETY: as above.
        check!(unsafe { builder.push_page_structs(&pages[some..]) } == refused);
        check!(builder.runs().eq(model.runs()));
    }
    let mut large = SglBuilder::new_in(PageSize::SIZE_2M, store())?;
    // SAFETY: there are none.
    let refused = unsafe { large.push_page_structs(&[]) };
    let expected = PageSize::SIZE_2M;
    check!(refused == Err(BuildError::OtherPageSize { page: PAGE, expected }));
    Ok(())
}
