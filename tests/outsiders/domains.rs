// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains: of two threads, that never cut, and that lie.

use super::rig::{bytes, iova, iovas, Pinned, Rig, P, RW, WRITE_LONG};
use super::{assert_held, scattered, Space, AT};
use pinned_sgl::iommu::{
    CutError, Cuts, DirtyBitmap, Domain, Entry, IoasError, IovaRange, MapError, Mapping, Placement,
    Prot, RangeGather, ReadDomain, Readback, Remains, Stream, StreamError,
};
use pinned_sgl::umem::PinRequest;
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr, Tile};
use pinned_sgl_mock::{Fragmentation, Iommu, MapFault, Vma};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};

/// A domain that keeps its contract to the letter, and does no more: a cell for each page, which is
/// taken or left page by page, while others may come in between.
struct Letter([AtomicU64; 8]);

#[derive(Debug)]
struct Taken;

impl Letter {
    fn cell(&self, tile: &Tile, page: u64) -> &AtomicU64 {
        &self.0[((tile.iova.get() >> 12) + page) as usize]
    }
}

// SAFETY: nothing translates through it. A cell that is taken is refused, by one atomic operation; what is
// reported was taken by this call.
unsafe impl Domain for Letter {
    type Error = Taken;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }
    fn aperture(&self) -> IovaRange {
        iovas(0, 8 * P)
    }
    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), Taken>) {
        for page in 0..tile.count {
            let phys = tile.phys.get() + page * P;
            let cell = self.cell(&tile, page);
            std::thread::yield_now();
            if cell.compare_exchange(0, phys, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return (page * P, Err(Taken));
            }
        }
        (tile.len(), Ok(()))
    }
    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut RangeGather>) -> u64 {
        let taken = (0..tile.count).take_while(|page| {
            std::thread::yield_now();
            self.cell(&tile, *page).swap(0, Ordering::SeqCst) == tile.phys.get() + page * P
        });
        taken.count() as u64 * P
    }
    fn flush(&self, _: Pin<&mut RangeGather>) {}
}

/// Two threads want the same addresses of one domain: one gets them, all of them, and the other one's
/// failure takes nothing of it away.
fn race<D: Domain<Error: std::fmt::Debug> + Sync>(domain: &D, check: impl Fn(&Pinned)) {
    let rig = scattered(16);
    let regions = [rig.pin(bytes(0, 8 * P)), rig.pin(bytes(8 * P, 8 * P))];
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let barrier = Barrier::new(2);
        let map = |umem| {
            barrier.wait();
            Mapping::map(umem, domain, iova(0), RW).ok()
        };
        let (one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(|| map(&*regions[1]));
            (map(&*regions[0]), other.join().unwrap())
        });
        let won = match (&one, &two) {
            (Some(_), None) => &regions[0],
            (None, Some(_)) => &regions[1],
            _ => panic!("{one:?} {two:?}"),
        };
        check(won);
        assert_eq!(won.attachments(), 1);
        let won = one.or(two).unwrap();
        // It can be cut, and goes whole.
        let (head, tail) = won.split_at(3 * P).unwrap();
        assert!(tail.unmap().is_ok() && head.unmap().is_ok());
    }
    assert_eq!(regions.map(|umem| umem.attachments()), [0, 0]);
    rig.assert_idle();
}

#[test]
fn of_two_threads_one_wins_in_a_mock() {
    let iommu = Iommu::config(PageSizes::SIZE_4K).strict_overlap(false).build();
    race(&iommu, |won| {
        let frames: Vec<_> = won.whole().unwrap().pages().collect();
        let there = iommu.mapped(IovaRange::ALL);
        let there: Vec<_> = there.iter().map(|entry| entry.phys.pfn(PageSize::SIZE_4K)).collect();
        assert_eq!(there, frames);
    });
    assert_eq!(iommu.mapped_pages(), 0);
    iommu.witness().assert_clean();
}

#[test]
fn of_two_threads_one_wins_by_the_letter() {
    let letter = Letter([const { AtomicU64::new(0) }; 8]);
    race(&letter, |won| {
        let frames = won.whole().unwrap().pages().map(|pfn| pfn.get() << 12);
        assert!(frames.eq(letter.0.iter().map(|cell| cell.load(Ordering::SeqCst))));
    });
    assert!(letter.0.iter().all(|cell| cell.load(Ordering::SeqCst) == 0));
}

/// A domain that never cuts is never asked to: by mappings, address spaces, streams, copies, or on the
/// way back from a failure.
#[test]
fn a_domain_that_never_cuts() {
    let rig = Rig::new(Fragmentation::Alternate);
    // Huge pages in the middle, so that a window is several calls.
    rig.buffer(0, 3, Vma::read_write());
    rig.buffer(3, 13, Vma::read_write());
    rig.buffer(16, 32, Vma::read_write().huge(4));
    let iommu = Arc::new(rig.config("4K|64K").cuts(Cuts::Never).build());
    let umem = rig.pin(bytes(0, 48 * P));
    let map = || Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();

    let mut mapping = map();
    let len = mapping.len();
    for offset in [1, P, 16 * P, len - P, len - 1] {
        let edges = mapping.edges(offset);
        assert_eq!((edges.below, edges.above), (0, len));
        let error = mapping.split_at(offset).unwrap_err();
        assert_eq!(*error.error(), CutError::Indivisible);
        mapping = error.into_value();
        for range in [0..offset, offset..len, offset..offset + 1] {
            let error = mapping.unmap_range(range).unwrap_err();
            let kind = *error.error();
            assert!(matches!(kind, CutError::Indivisible | CutError::Outside { .. }));
            let Remains::Whole(whole) = error.into_value() else { panic!() };
            mapping = whole;
        }
    }
    for offset in [0, len, u64::MAX] {
        assert!(mapping.edges(offset).is_exact());
        let error = mapping.split_at(offset).unwrap_err();
        assert_eq!(*error.error(), CutError::Outside { len });
        mapping = error.into_value();
    }
    let (None, None) = mapping.unmap_range(0..len).unwrap() else { panic!() };
    assert_eq!(iommu.mapped_pages(), 0);

    let (mut space, mut source) = (Space::new(), Space::new());
    source.map(Placement::At(iova(0)), umem.clone(), RW).unwrap();
    // Cut in a space that has no domain, and so far nothing was mapped by one call.
    source.split(iova(5 * P)).unwrap();
    source.attach(iommu.clone()).unwrap();
    assert!(matches!(source.split(iova(7 * P)), Err(IoasError::CutsMapping { .. })));
    assert_eq!(source.unmap_cutting(iovas(0, 5 * P)), Ok(5 * P));
    let other = Arc::new(rig.config("4K|64K").cuts(Cuts::Never).build());
    space.attach(other.clone()).unwrap();
    // A part of a mapping is a mapping of its own elsewhere.
    let place = Placement::At(iova(AT + 9 * P));
    space.copy_from(&source, iovas(9 * P, 30 * P), place, RW).unwrap();
    for (first, pages) in [(9, 29), (10, 29), (20, 1), (0, 10), (38, 5)] {
        let part = iovas(AT + first * P, pages * P);
        assert!(matches!(space.unmap_cutting(part), Err(IoasError::CutsMapping { .. })));
        assert!(matches!(space.unmap(part), Err(IoasError::CutsMapping { .. })));
    }
    let mut dirty = [0; 1];
    let mut bitmap =
        DirtyBitmap::new(&mut dirty, iovas(AT + 10 * P + 1, 20 * P), PageSize::SIZE_4K).unwrap();
    space.set_dirty_tracking(true).unwrap();
    rig.device(&other).write(iova(AT + 17 * P), b"dirt").unwrap();
    space.read_dirty(&mut bitmap, true).unwrap();
    assert!(bitmap.is_set(iova(AT + 17 * P)));
    assert_eq!(space.unmap(iovas(AT, 48 * P)), Ok(30 * P));
    drop((space, source));

    // Every call fails once, on every way.
    for n in 0..60 {
        for way in 0..3 {
            rig.plan.fail_at(n);
            match way {
                0 => drop(Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW)),
                1 => {
                    let mut space = Space::new();
                    let _ = space.attach(iommu.clone());
                    let _ = space.attach(other.clone());
                    let _ = space.map(Placement::Anywhere, umem.clone(), RW);
                }
                _ => {
                    let request = PinRequest::new(bytes(0, 48 * P), WRITE_LONG);
                    let (process, account) = (rig.process.clone(), rig.account.clone());
                    let slots = vec![None; 1 + n as usize % 3];
                    drop(Stream::map(
                        process,
                        account,
                        iommu.clone(),
                        slots,
                        request,
                        iova(AT),
                        RW,
                    ));
                }
            }
            rig.plan.succeed();
            assert_eq!((iommu.mapped_pages(), other.mapped_pages()), (0, 0), "{n} {way}");
            assert_eq!(umem.attachments(), 0, "{n} {way}");
            rig.witness.assert_clean();
        }
    }
    drop(umem);
    rig.assert_idle();
}

/// What a domain that breaks its contract reports, or reads.
#[derive(Clone, Copy, Debug)]
enum Untrue {
    Maps(u64, bool),
    Unmaps(u64),
    Reads(Option<(u64, u64)>),
}

struct Liar(Arc<Iommu>, Mutex<Option<Untrue>>);

// SAFETY: none: it lies. The memory exists in this test only.
unsafe impl Domain for Liar {
    type Error = MapFault;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: the caller keeps the memory for the mock, too.
        let done = unsafe { self.0.map(tile, prot) };
        match *self.1.lock().unwrap() {
            Some(Untrue::Maps(bytes, true)) => (bytes, Ok(())),
            Some(Untrue::Maps(bytes, false)) => (bytes, Err(MapFault::Injected)),
            _ => done,
        }
    }
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: the caller promises it of the same tile.
        let done = unsafe { self.0.unmap(tile, gather) };
        match *self.1.lock().unwrap() {
            Some(Untrue::Unmaps(bytes)) => bytes,
            _ => done,
        }
    }
    fn flush(&self, gather: Pin<&mut RangeGather>) {
        self.0.flush(gather);
    }
}

// SAFETY: none: it lies.
unsafe impl ReadDomain for Liar {
    fn read(&self, iova: Iova) -> Option<Entry> {
        match *self.1.lock().unwrap() {
            Some(Untrue::Reads(entry)) => {
                entry.map(|(phys, len)| Entry::new(PhysAddr::new(phys), len))
            }
            _ => self.0.read(iova),
        }
    }
}

/// Numbers that cannot be are a breach, wherever they come from; and what a device may reach is leaked.
#[test]
fn numbers_that_a_domain_cannot_mean() {
    let maps = [0, 1, P - 1, P + 1, 2 * P, 1 << 63, u64::MAX];
    let maps = maps.into_iter().flat_map(|bytes| [(bytes, true), (bytes, false)]);
    // Failing with no byte, or with all of a tile, is not a lie.
    let maps = maps.filter(|lie| *lie != (0, false)).map(|(bytes, ok)| Untrue::Maps(bytes, ok));
    let unmaps = [0, 1, P - 1, P + 1, 1 << 63, u64::MAX].map(Untrue::Unmaps);
    let reads = [
        None,
        Some((0, 0)),
        Some((u64::MAX, u64::MAX)),
        Some((u64::MAX, 2)),
        Some((u64::MAX - 4094, P)),
        Some((1 << 63, 0)),
    ];
    for lie in maps.chain(unmaps).chain(reads.map(Untrue::Reads)) {
        let rig = scattered(8);
        let liar = Arc::new(Liar(rig.iommu("4K"), Mutex::new(None)));
        let set = |lie| *liar.1.lock().unwrap() = lie;
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let stream = || {
            let (process, account) = (rig.process.clone(), rig.account.clone());
            Stream::map(process, account, liar.clone(), [None; 3], request, iova(AT), RW)
        };
        if let Untrue::Maps(..) = lie {
            set(Some(lie));
            let error = stream().err().unwrap();
            let breach = matches!(error.error(), StreamError::Map(MapError::Breach(_)));
            assert!(breach, "{lie:?}: {error:?}");
        } else {
            let stream = stream().unwrap();
            set(Some(lie));
            let _ = (stream.translate(iova(AT)), stream.segments().take(9).count());
            assert!(stream.unmap().is_err(), "{lie:?}");
        }
        let read = Readback::new(&*liar, IovaRange::ALL).take(3);
        read.for_each(|segment| drop((segment.last(), format!("{segment:?}"))));
        assert_held(&rig.memory, &[&liar.0]);
        assert!(rig.memory.pinned_pages() > 0 && rig.account.charged() > 0, "{lie:?}");
        rig.process.exit();
        set(None);
        rig.witness.assert_clean();
    }
}
