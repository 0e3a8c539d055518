// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region that is split has two parts, each with its pages, their pins and their charge.
#![allow(missing_docs, reason = "tests")]

use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl::umem::{
    Account, Attachment, Holder, PinBatch, PinFlags, PinRequest, Pinner, SharedHolder, SplitError,
    Umem, UserRange,
};
use pinned_sgl::{
    AllocError, BuildError, Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, Pool,
    Storage, UserAddr,
};
use pinned_sgl_mock::{Memory, Process, Vma};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::{ops::Deref, sync::Arc};

const PAGE: u64 = 4096;
type Region = Umem<Arc<Process>, Arc<Account>, Heap>;

/// `pages` pages of a process, from byte `offset` of the first up to `short` before the end.
fn region(pages: u64, offset: u64, short: u64) -> (Memory, Arc<Process>, Arc<Account>, Region) {
    let memory = Memory::with_frames(64);
    let process = Arc::new(Process::new(&memory));
    let start = UserAddr::new(0x10_0000);
    process.map(UserRange::new(start, pages * PAGE).unwrap(), Vma::read_write()).unwrap();
    let len = pages * PAGE - offset - short;
    let range = UserRange::new(UserAddr::new(start.get() + offset), len).unwrap();
    let account = Arc::new(Account::new(pages));
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    let umem = Umem::pin(process.clone(), account.clone(), request).unwrap();
    (memory, process, account, umem)
}

#[test]
fn every_page_ends_in_one_part_and_is_given_back_with_it() {
    for (pages, offset, short) in [(2, 0, 0), (7, 0x123, 0), (9, 0xfff, 0xabc), (5, 1, 0)] {
        for cut in 1..pages {
            for tail_first in [false, true] {
                let (memory, process, account, umem) = region(pages, offset, short);
                let pattern: Vec<u8> = (0..umem.len()).map(|at| (at / 7) as u8).collect();
                umem.write(0, &pattern).unwrap();
                let (runs, len) = (umem.sgl().runs().collect::<Vec<_>>(), umem.len());
                let at = cut * PAGE - offset;
                let (head, tail) = umem.split_at(at).unwrap();
                assert_eq!((head.len(), tail.len()), (at, len - at));
                assert_eq!((head.sgl().page_count(), tail.sgl().page_count()), (cut, pages - cut));
                assert_eq!((head.charge().pages(), tail.charge().pages()), (cut, pages - cut));
                assert!(head.is_dirty() && tail.is_dirty());
                let frames = |runs: &[pinned_sgl::PageRun]| {
                    let pages =
                        runs.iter().flat_map(|run| (0..run.count()).map(|i| run.start().get() + i));
                    pages.collect::<Vec<_>>()
                };
                let both: Vec<_> = head.sgl().runs().chain(tail.sgl().runs()).collect();
                assert_eq!(frames(&both), frames(&runs));
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                let (low, high) = bytes.split_at_mut(usize::try_from(at).unwrap());
                head.read(0, low).unwrap();
                tail.read(0, high).unwrap();
                assert_eq!(bytes, pattern);
                assert_eq!((memory.pinned_pages(), account.charged()), (pages, pages));
                let (first, second, left) =
                    if tail_first { (tail, head, cut) } else { (head, tail, pages - cut) };
                drop(first);
                assert_eq!((memory.pinned_pages(), account.charged()), (left, left));
                drop(second);
                assert_eq!(account.charged(), 0);
                drop(process);
                memory.assert_no_leak();
                memory.witness().assert_clean();
            }
        }
    }
}

#[test]
fn a_block_is_unplugged_while_the_others_are_mapped() {
    let (memory, process, account, umem) = region(8, 0, 0);
    let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    let mut space = HeapIoas::new();
    space.attach(iommu.clone()).unwrap();
    let mut rest = umem;
    for block in 0..3 {
        let (head, tail) = rest.split_at(2 * PAGE).unwrap();
        let at = Placement::At(Iova::new(block * 2 * PAGE));
        space.map(at, Arc::new(head), Prot::READ | Prot::WRITE).unwrap();
        rest = tail;
    }
    space.unmap(pinned_sgl::iommu::IovaRange::new(Iova::new(2 * PAGE), 2 * PAGE).unwrap()).unwrap();
    assert_eq!((memory.pinned_pages(), account.charged()), (6, 6));
    let device = memory.device(iommu);
    assert!(device.write(Iova::new(2 * PAGE), b"x").is_err());
    device.write(Iova::new(5 * PAGE), b"still there").unwrap();
    let mut bytes = [0; 11];
    process.read(UserAddr::new(0x10_0000 + 5 * PAGE), &mut bytes).unwrap();
    assert_eq!(&bytes, b"still there");
}

#[test]
fn what_cannot_be_split_comes_back_as_it_was() {
    let (memory, _, account, umem) = region(4, 0x10, 0);
    let len = umem.len();
    let page = PageSize::SIZE_4K;
    let mut umem = umem;
    for (offset, expected) in [
        (0, SplitError::Outside { len }),
        (len, SplitError::Outside { len }),
        (u64::MAX, SplitError::Outside { len }),
        (PAGE, SplitError::InsidePage { page }),
        (PAGE - 0x11, SplitError::InsidePage { page }),
    ] {
        let refused = umem.split_at(offset).unwrap_err();
        assert_eq!(*refused.error(), expected, "{offset:#x}");
        umem = refused.into_value();
    }
    let umem = Arc::new(umem);
    drop(Attachment::new(umem.clone(), true).unwrap().leak());
    let refused = Arc::try_unwrap(umem).unwrap().split_at(PAGE - 0x10).unwrap_err();
    assert_eq!(*refused.error(), SplitError::Attached { attachments: 1 });
    assert_eq!(refused.to_string(), "attached devices: 1");
    drop(refused);
    // It was leaked on purpose, and not by the split.
    assert_eq!((memory.pinned_pages(), account.charged()), (4, 4));
}

#[test]
fn a_list_without_room_leaves_the_region_whole() {
    let memory = Memory::with_frames(1024);
    let process = Arc::new(Process::new(&memory));
    let range = UserRange::new(UserAddr::new(0x10_0000), 600 * PAGE).unwrap();
    process.map(range, Vma::read_write()).unwrap();
    // Every page is a run: they are touched from the last to the first.
    for page in (0..600).rev() {
        process.write(UserAddr::new(0x10_0000 + page * PAGE), &[1]).unwrap();
    }
    let (mut whole, mut slots) = ([[0; 512]; 4], [None; 16]);
    let request = PinRequest::new(range, PinFlags::WRITE);
    let account = Arc::new(Account::new(600));
    let pool = Pool::new(&mut whole);
    let umem = Umem::pin_in(process, account.clone(), pool, &mut slots, request).unwrap();
    assert_eq!(umem.sgl().run_count(), 600);
    let (mut none, mut enough) = ([[0; 512]; 0], [[0; 512]; 4]);
    let refused = umem.split_at_in(300 * PAGE, (Pool::new(&mut enough), Pool::new(&mut none)));
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused.error(), SplitError::List(BuildError::OutOfMemory { .. })),
        "{refused}"
    );
    assert_eq!(refused.into_value().sgl().run_count(), 600);
    assert_eq!((memory.pinned_pages(), account.charged()), (0, 0));
}

/// RAM up to the fourth page, and a BAR from there on.
#[derive(Default)]
struct RamAndBar {
    pins: AtomicU64,
}

// SAFETY: the frames exist in this test only, and are used for nothing else.
unsafe impl Pinner for RamAndBar {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        let page = batch.next().get() / PAGE;
        let (count, kind) = match 4u64.saturating_sub(page) {
            0 => (batch.left(), MemoryKind::Mmio),
            ram => (batch.left().min(ram), MemoryKind::Ram),
        };
        let run = PageRun::new(Pfn::new(0x8000 + page), count, kind).unwrap();
        // SAFETY: the frames are those of the user addresses, and nothing else uses them.
        unsafe { batch.push(run) }.map_err(drop)?;
        if kind == MemoryKind::Ram {
            self.pins.fetch_add(count, Relaxed);
        }
        Ok(())
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, _: bool) {
        assert_eq!((run.kind(), run.start().get()), (MemoryKind::Ram, 0x8000 + at.get() / PAGE));
        self.pins.fetch_sub(run.count(), Relaxed);
    }
}

#[test]
fn a_part_is_charged_for_its_pages_that_have_pins() {
    for cut in 1..10 {
        let (pinner, account) = (RamAndBar::default(), Account::new(10));
        let range = UserRange::new(UserAddr::new(0), 10 * PAGE).unwrap();
        let umem = Umem::pin(&pinner, &account, PinRequest::new(range, PinFlags::WRITE)).unwrap();
        let (head, tail) = umem.split_at(cut * PAGE).unwrap();
        let ram = cut.min(4);
        assert_eq!((head.charge().pages(), tail.charge().pages()), (ram, 4 - ram));
        drop(head);
        assert_eq!((pinner.pins.load(Relaxed), account.charged()), (4 - ram, 4 - ram));
        drop(tail);
        assert_eq!((pinner.pins.load(Relaxed), account.charged()), (0, 0));
    }
}

/// Panics once, when it is touched while the flag is set.
struct Armed<T>(T, Arc<AtomicBool>);

impl<T> Armed<T> {
    fn touch(&self) {
        assert!(!self.1.swap(false, Relaxed), "foreign code panics");
    }
}

impl<T> Deref for Armed<Arc<T>> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Armed<Arc<T>> {
    fn clone(&self) -> Self {
        self.touch();
        Self(self.0.clone(), self.1.clone())
    }
}

// SAFETY: "the same value each time .. lives at least as long": it is an `Arc`.
unsafe impl<T> Holder for Armed<Arc<T>> {}

// SAFETY: "a clone leads to the value that the original leads to": clones of an `Arc` do.
unsafe impl<T> SharedHolder for Armed<Arc<T>> {}

/// A heap whose end panics.
struct ArmedHeap(Armed<Heap>);

impl Drop for ArmedHeap {
    fn drop(&mut self) {
        self.0.touch();
    }
}

// SAFETY: all is done by a storage.
unsafe impl Storage for ArmedHeap {
    const PIECE_BYTES: usize = Heap::PIECE_BYTES;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.0 .0.grow(bytes)
    }

    fn shrink(&mut self) {
        self.0 .0.shrink();
    }

    fn pieces(&self) -> usize {
        self.0 .0.pieces()
    }

    fn piece(&self, index: usize) -> &[u8] {
        self.0 .0.piece(index)
    }

    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.0 .0.piece_mut(index)
    }

    fn footprint(&self) -> usize {
        self.0 .0.footprint()
    }
}

#[test]
#[expect(clippy::result_large_err, reason = "the region comes back")]
fn foreign_code_that_unwinds_leaves_no_pin_and_no_charge() {
    for armed in 0..3 {
        let memory = Memory::with_frames(64);
        let process = Arc::new(Process::new(&memory));
        let range = UserRange::new(UserAddr::new(0x10_0000), 8 * PAGE).unwrap();
        process.map(range, Vma::read_write()).unwrap();
        let account = Arc::new(Account::new(8));
        let fuses: [Arc<AtomicBool>; 3] = Default::default();
        let pinner = Armed(process.clone(), fuses[0].clone());
        let accountant = Armed(account.clone(), fuses[1].clone());
        let heap = |fuse| ArmedHeap(Armed(Heap::new(), fuse));
        let (mut slots, request) = ([None; 16], PinRequest::new(range, PinFlags::WRITE));
        let whole = heap(fuses[2].clone());
        let umem = Umem::pin_in(pinner, accountant, whole, &mut slots, request).ok().unwrap();
        let lists = (heap(Arc::default()), heap(Arc::default()));
        fuses[armed].store(true, Relaxed);
        let split = catch_unwind(AssertUnwindSafe(|| umem.split_at_in(3 * PAGE, lists)));
        assert!(split.is_err(), "{armed}");
        assert_eq!((memory.pinned_pages(), account.charged()), (0, 0), "{armed}");
        drop(process);
        memory.assert_no_leak();
        memory.witness().assert_clean();
    }
}

/// That its pages were written to would be forgotten: such a region comes back, as one of several runs does.
#[test]
fn only_a_clean_region_of_one_run_is_taken_apart() {
    let (memory, process, account, umem) = region(4, 0, 0);
    umem.write(0, b"written").unwrap();
    let umem = umem.into_run().unwrap_err();
    assert!(umem.is_dirty());
    drop(umem);

    let range = UserRange::new(UserAddr::new(0x10_0000), 4 * PAGE).unwrap();
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    let umem = Umem::pin(process, account.clone(), request).unwrap();
    let (process, charge, run) = umem.into_run().unwrap();
    assert_eq!((run.count(), charge.pages(), account.charged()), (4, 4, 4));
    // SAFETY: the pins are ours, and no device was shown the pages.
    unsafe { process.unpin(range.start(), run, false) };
    drop(charge);
    assert_eq!(account.charged(), 0);
    memory.assert_no_leak();
}
