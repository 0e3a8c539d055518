// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each page is unpinned once, by its address, and what has no pins is left out.
#![allow(missing_docs, reason = "tests")]

use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner, Umem, Unaccounted, UserRange};
use pinned_sgl::{MemoryKind, PageRun, PageSize, Pfn, UserAddr};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Runs of one to three pages, with a BAR between some, and which pages have a pin.
struct Stripes {
    pinned: Mutex<BTreeSet<u64>>,
}

impl Stripes {
    /// The run in which a user page lies: its first page, how many there are, and what they are.
    fn run(page: u64) -> (u64, u64, MemoryKind) {
        let (five, at) = (page / 5 * 5, page % 5);
        match at {
            0 if page % 35 == 0 => (page, 1, MemoryKind::Mmio),
            0 => (page, 1, MemoryKind::Ram),
            1..4 => (five + 1, 3, MemoryKind::Ram),
            _ => (page, 1, MemoryKind::Ram),
        }
    }

    /// No two runs continue each other.
    fn frame(page: u64) -> Pfn {
        Pfn::new(2 * Self::run(page).0 + page)
    }
}

// SAFETY: the frames exist in this test only, and are used for nothing else.
unsafe impl Pinner for Stripes {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        let page = batch.next().get() >> 12;
        let (first, count, kind) = Self::run(page);
        let count = (first + count - page).min(batch.left());
        let run = PageRun::new(Self::frame(page), count, kind).unwrap();
        // SAFETY: the frames are those of the user addresses, and nothing else uses them.
        unsafe { batch.push(run) }.map_err(drop)?;
        if kind == MemoryKind::Ram {
            self.pinned.lock().unwrap().extend(page..page + count);
        }
        Ok(())
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, _: bool) {
        for (page, frame) in (at.get() >> 12..).zip(run.start().get()..).take(run.count() as usize)
        {
            assert_eq!((Self::frame(page).get(), run.kind()), (frame, MemoryKind::Ram));
            assert!(self.pinned.lock().unwrap().remove(&page), "page {page} has no pin");
        }
    }
}

#[test]
fn each_page_is_unpinned_once() {
    for pages in (1..120).chain([1000]) {
        for first in [0, 1, 3, 34] {
            let pinner = Stripes { pinned: Mutex::default() };
            let range = UserRange::new(UserAddr::new(first << 12), pages << 12).unwrap();
            let request = PinRequest::new(range, PinFlags::WRITE);
            let umem = Umem::pin(&pinner, &Unaccounted, request).unwrap();
            let ram = |page: &u64| Stripes::run(*page).2 == MemoryKind::Ram;
            let expected: BTreeSet<_> = (first..first + pages).filter(ram).collect();
            assert_eq!(*pinner.pinned.lock().unwrap(), expected);
            drop(umem);
            assert_eq!(*pinner.pinned.lock().unwrap(), BTreeSet::new());
        }
    }
}
