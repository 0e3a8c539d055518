// SPDX-License-Identifier: MIT OR Apache-2.0
//! One page and one device: the smallest pinner and the smallest domain, which know of each other.

use core::pin::Pin;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::Arc;
use pinned_sgl::iommu::{Domain, IovaRange, Prot};
use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner, Umem, Unaccounted, UserRange};
use pinned_sgl::{Heap, PageRun, PageSize, PageSizes, Pfn, Tile, UserAddr};

/// What has happened to the page. Relaxed on purpose: whatever order is seen comes from the crate.
#[derive(Debug)]
pub(crate) struct Wire {
    /// How many tables and caches lead to the page.
    reach: AtomicUsize,
    pins: AtomicUsize,
    /// How often it was unpinned, and how often as dirty.
    unpinned: AtomicUsize,
    dirty: AtomicUsize,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let zero = || AtomicUsize::new(0);
        Self { reach: zero(), pins: zero(), unpinned: zero(), dirty: zero() }
    }

    /// The page was unpinned once, as dirty or not, and nothing is left.
    pub(crate) fn assert_done(&self, dirty: bool) {
        let get = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let seen = (get(&self.reach), get(&self.pins), get(&self.unpinned), get(&self.dirty));
        assert_eq!(seen, (0, 0, 1, usize::from(dirty)));
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Relaxed) != 0
    }
}

/// A region of the page. The list lives on the heap, which loom does not watch.
pub(crate) type Page = Umem<Arc<Wire>, &'static Unaccounted, Heap>;

pub(crate) fn pin(wire: &Arc<Wire>) -> Page {
    let range = UserRange::new(UserAddr::new(0x1000), 0x1000).unwrap();
    Umem::pin(wire.clone(), &Unaccounted, PinRequest::new(range, PinFlags::WRITE)).unwrap()
}

// SAFETY: there is no memory behind the page.
unsafe impl Pinner for Wire {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_, Self>) -> Result<(), ()> {
        self.pins.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the page that was asked for, with a pin.
        unsafe { batch.push(PageRun::ram(Pfn::new(7), 1).unwrap()) }.map_err(drop)
    }

    unsafe fn unpin(&self, _: UserAddr, _: PageRun, dirty: bool) {
        assert_eq!(self.reach.load(Ordering::Relaxed), 0, "a device can still reach the page");
        assert_eq!(self.pins.fetch_sub(1, Ordering::Relaxed), 1);
        self.unpinned.fetch_add(1, Ordering::Relaxed);
        self.dirty.fetch_add(usize::from(dirty), Ordering::Relaxed);
    }
}

// SAFETY: there is no device; the numbers are those of what was asked for.
unsafe impl Domain for Wire {
    type Error = ();
    type Gather = Stale;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), ()>) {
        assert!(self.is_pinned());
        self.reach.fetch_add(1, Ordering::Relaxed);
        (tile.len(), Ok(()))
    }

    unsafe fn unmap(&self, tile: Tile, mut gather: Pin<&mut Stale>) -> u64 {
        gather.0 += 1;
        tile.len()
    }

    fn flush(&self, mut gather: Pin<&mut Stale>) {
        // Gone from the cache, too, and not before.
        self.reach.fetch_sub(core::mem::take(&mut gather.0), Ordering::Relaxed);
    }
}

/// Entries that are gone from the table and not from the cache.
#[derive(Debug, Default)]
pub(crate) struct Stale(usize);
