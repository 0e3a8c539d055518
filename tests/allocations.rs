// SPDX-License-Identifier: MIT OR Apache-2.0
//! What small regions and mappings allocate: as little as can be.
#![allow(missing_docs, reason = "a test")]
#![cfg(not(miri))]

use pinned_sgl::iommu::{Domain, HeapIoas, IovaRange, Placement, Prot, RangeGather};
use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner, Umem, Unaccounted, UserRange};
use pinned_sgl::{Heap, Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, Tile, UserAddr};
use std::alloc::{GlobalAlloc, Layout, System};
use std::{cell::Cell, convert::Infallible, pin::Pin};

/// The system's allocator; counts what each thread asks it for.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ASKED.with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: all is handed on to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` returns, and how often it asked for memory.
fn counted<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = ASKED.with(Cell::get);
    let result = f();
    (result, ASKED.with(Cell::get) - before)
}

/// A process of memory that there is not: the frame of a page has its number.
struct Numbers;

// SAFETY: no device exists that could reach the frames.
unsafe impl Pinner for Numbers {
    type Error = Infallible;

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Infallible> {
        let run = PageRun::new(Pfn::new(batch.next().get() >> 12), batch.left(), Ram).unwrap();
        // SAFETY: as above.
        unsafe { batch.push(run) }.unwrap();
        Ok(())
    }

    unsafe fn unpin(&self, _: UserAddr, _: PageRun, _: bool) {}
}

/// An IOMMU behind which there is no device.
struct Nothing;

// SAFETY: no device exists that could reach anything.
unsafe impl Domain for Nothing {
    type Error = Infallible;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), Infallible>) {
        (tile.len(), Ok(()))
    }

    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut RangeGather>) -> u64 {
        tile.len()
    }

    fn flush(&self, _: Pin<&mut RangeGather>) {}
}

type Region = Box<Umem<&'static Numbers, &'static Unaccounted, Heap>>;

fn pin(page: u64, pages: u64) -> Umem<&'static Numbers, &'static Unaccounted, Heap> {
    let range = UserRange::new(UserAddr::new(page << 12), pages << 12).unwrap();
    Umem::pin(&Numbers, &Unaccounted, PinRequest::new(range, PinFlags::WRITE)).unwrap()
}

/// A region of one run asks for no memory: its list lies in it, and so does the batch of a small one on
/// the stack.
#[test]
fn a_region_of_one_run() {
    for (pages, most) in [(1, 0), (8, 0), (9, 1), (1 << 20, 1)] {
        let (region, asked) = counted(|| pin(1, pages));
        assert_eq!((asked, region.sgl().run_count()), (most, 1), "{pages} pages");
        assert_eq!(counted(|| drop(region)).1, 0);
    }
}

/// A mapping takes a place in a piece of memory that has many: as many are allocated as it takes pages for
/// all, and the tables that find them. What was unmapped leaves its place to others.
#[test]
fn many_mappings_of_a_page() {
    const MANY: u64 = 10_000;
    let mut space = HeapIoas::<Region, &Nothing>::new();
    space.attach(&Nothing).unwrap();
    let regions: Vec<_> = (0..2 * MANY).map(|page| Box::new(pin(page, 1))).collect();
    let mut regions = regions.into_iter();
    let mut map = |space: &mut HeapIoas<Region, &'static Nothing>, place: u64| {
        let at = Placement::At(Iova::new(place << 13));
        space.map(at, regions.next().unwrap(), Prot::READ).unwrap();
    };
    // In order, which fills two thirds of a node: 23 places of a quarter of a page; and 128 of a page for values.
    let ((), asked) = counted(|| (0..MANY).for_each(|place| map(&mut space, place)));
    assert!(asked <= (MANY / (4 * 23) + MANY / 128) as usize * 11 / 10 + 16, "{asked} for {MANY}");
    let ((), asked) = counted(|| {
        for place in 0..MANY {
            let range = IovaRange::new(Iova::new(place << 13), 4096).unwrap();
            assert_eq!(space.unmap(range), Ok(4096));
            map(&mut space, place);
        }
    });
    assert_eq!(asked, 0);
    let (bytes, asked) = counted(|| space.unmap_all());
    assert_eq!((bytes, asked), (MANY << 12, 0));
}
