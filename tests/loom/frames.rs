// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Frames`]: a few pages that can be pinned, as small as a model checker likes them.

use crate::threads::cell::UnsafeCell;
use crate::threads::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::threads::sync::Arc as Shared;
use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner, Umem, Unaccounted, UserRange};
use pinned_sgl::{Heap, PageRun, PageSize, Pfn, PhysAddr, UserAddr};
use pinned_sgl_mock::{Bus, BusError};
use std::sync::Arc;

/// What a page holds while it is pinned, unless a device has written something else.
pub(crate) const OURS: u8 = 7;
/// What it holds when it was unpinned: it has another owner then.
const GONE: u8 = 0xdd;

const PAGE: u64 = 4096;

pub(crate) type Region = Umem<Arc<Frames>, &'static Unaccounted, Heap>;

/// Pages that belong to a process: page `n` of it is frame `n`.
///
/// Using a page is a plain access of memory, and counting its pins orders nothing: a thread that uses it
/// while it is unpinned, with nothing in between that puts the two in order, is found out.
pub(crate) struct Frames {
    pages: Vec<Page>,
}

struct Page {
    pins: AtomicUsize,
    unpins: AtomicUsize,
    dirty: AtomicBool,
    byte: UnsafeCell<u8>,
}

// SAFETY: the cell is the subject of the models: the checker reports every race on it.
unsafe impl Sync for Frames {}

impl Frames {
    pub(crate) fn new(pages: usize) -> Arc<Self> {
        let page = || Page {
            pins: AtomicUsize::new(0),
            unpins: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
            byte: UnsafeCell::new(OURS),
        };
        Arc::new(Self { pages: std::iter::repeat_with(page).take(pages).collect() })
    }

    /// Pins `count` pages from page `first` on.
    pub(crate) fn pin(self: &Arc<Self>, first: u64, count: u64) -> Shared<Region> {
        let request = PinRequest::new(range(first, count), PinFlags::WRITE);
        Shared::new(Umem::pin(self.clone(), &Unaccounted, request).unwrap())
    }

    /// What a page holds, for threads that may know.
    pub(crate) fn byte(&self, page: usize) -> u8 {
        // SAFETY: the checker reports a race, if there is one.
        self.pages[page].byte.with(|byte| unsafe { *byte })
    }

    /// Writes to a page.
    pub(crate) fn set_byte(&self, page: usize, value: u8) {
        // SAFETY: as above.
        self.pages[page].byte.with_mut(|byte| unsafe { *byte = value });
    }

    /// How often a page was unpinned, and whether it was marked dirty then.
    pub(crate) fn unpinned(&self, page: usize) -> (usize, bool) {
        let page = &self.pages[page];
        (page.unpins.load(Relaxed), page.dirty.load(Relaxed))
    }
}

/// Pages of the process.
pub(crate) fn range(first: u64, count: u64) -> UserRange {
    UserRange::new(UserAddr::new(first * PAGE), count * PAGE).unwrap()
}

fn index(pfn: u64) -> usize {
    usize::try_from(pfn).unwrap()
}

// SAFETY: page `n` is frame `n`, for ever; a page that was unpinned too early is what the models are
// to find.
unsafe impl Pinner for Frames {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        let (first, count) = (batch.next().get() / PAGE, batch.left());
        for pfn in first..first + count {
            self.pages[index(pfn)].pins.fetch_add(1, Relaxed);
        }
        let run = PageRun::ram(Pfn::new(first), count).unwrap();
        // SAFETY: the frames of these pages, each with a pin.
        unsafe { batch.push(run) }.map_err(|_| ())
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, dirty: bool) {
        // A model that has failed has nothing to say any more.
        if std::thread::panicking() {
            return;
        }
        for pfn in run.start().get()..run.end().get() {
            let page = &self.pages[index(pfn)];
            assert_ne!(page.pins.fetch_sub(1, Relaxed), 0, "unpinned twice");
            page.unpins.fetch_add(1, Relaxed);
            if dirty {
                page.dirty.store(true, Relaxed);
            }
            self.set_byte(index(pfn), GONE);
        }
    }
}

/// How a device reaches the pages: the first byte of each.
impl Bus for Frames {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        bytes.fill(self.byte(index(phys.get() / PAGE)));
        Ok(())
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        self.set_byte(index(phys.get() / PAGE), bytes[0]);
        Ok(())
    }
}
