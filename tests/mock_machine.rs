// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of a mock machine together: what a device can reach must be pinned, whether or not it
//! goes there, and what breaks that is found at once.

use pinned_sgl::iommu::{Cuts, Domain, IovaRange, Mapping, Prot, RangeGather, ReadDomain};
use pinned_sgl::umem::{
    PinFlags, PinRequest, PinnedBatch, Pinner, RunSlot, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SglBuilder, Tile, UserAddr};
use pinned_sgl_mock::{
    Bus, Call, Iommu, Lie, Memory, Nic, Process, Violation, ViolationKind, Vma, Zone,
};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;

const P: u64 = 4096;
const BASE: u64 = 0x7f00_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const WRITE: PinFlags = PinFlags::WRITE;
const READ: PinFlags = PinFlags::empty();
/// The frame of the first page.
const FIRST: u64 = 0x1000;

fn user(page: u64) -> UserAddr {
    UserAddr::new(BASE + page * P)
}

fn pages(first: u64, count: u64) -> UserRange {
    UserRange::new(user(first), count * P).unwrap()
}

fn iovas(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// A machine with a process of 16 pages, whose frames are contiguous.
fn machine() -> (Memory, Arc<Process>) {
    on(Memory::with_frames(64))
}

fn on(memory: Memory) -> (Memory, Arc<Process>) {
    let process = Process::new(&memory);
    process.map(pages(0, 16), Vma::read_write()).unwrap();
    process.touch(pages(0, 16), true).unwrap();
    assert_eq!(process.frame_at(user(15)), Some(Pfn::new(FIRST + 15)));
    (memory, Arc::new(process))
}

/// Pins pages, without a value that unpins them when they should be.
fn pin(process: &Process, first: u64, count: u64, flags: PinFlags) {
    let mut slots: Vec<RunSlot> = vec![None; 16];
    let mut batch = PinnedBatch::new(process, pages(first, count), flags, &mut slots);
    while batch.left() != 0 {
        batch.fill().unwrap();
    }
    batch.accept(|_| Ok::<_, ()>(())).unwrap();
}

fn run(first: u64, count: u64) -> PageRun {
    PageRun::ram(Pfn::new(FIRST + first), count).unwrap()
}

fn unpin(process: &Process, first: u64, count: u64) {
    // SAFETY: a mock finds out what is wrong, and some of these tests are.
    unsafe { process.unpin(user(first), run(first, count), true) };
}

/// The tiles of contiguous memory.
fn tiles(sizes: PageSizes, iova: u64, phys: u64, len: u64) -> Vec<Tile> {
    let mut builder = SglBuilder::new(PageSize::new(1 << 10).unwrap()).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(phys >> 10), len >> 10).unwrap()).unwrap();
    let sgl = builder.finish().unwrap();
    let window = sgl.whole().unwrap();
    window.tiles(sizes, Iova::new(iova)).unwrap().collect()
}

/// Maps memory, without a value that holds its pins.
fn map(iommu: &Iommu, iova: u64, phys: u64, len: u64, prot: Prot) {
    for tile in tiles(iommu.page_sizes(), iova, phys, len) {
        // SAFETY: memory that exists in this test only.
        assert_eq!(unsafe { iommu.map(tile, prot) }, (tile.len(), Ok(())));
    }
}

fn map_pages(iommu: &Iommu, iova: u64, first: u64, count: u64) {
    map(iommu, iova, (FIRST + first) * P, count * P, RW);
}

fn unmap_into(iommu: &Iommu, iova: u64, len: u64, gather: &mut RangeGather) {
    // SAFETY: memory that exists in this test only.
    let bytes =
        unsafe { iommu.unmap_range(iovas(iova, len), std::iter::empty(), Pin::new(gather)) };
    assert_eq!(bytes, len);
}

fn unmap(iommu: &Iommu, iova: u64, len: u64) {
    let mut gather = RangeGather::default();
    unmap_into(iommu, iova, len, &mut gather);
    iommu.flush(Pin::new(&mut gather));
}

fn violation(kind: ViolationKind, call: Call, page: u64, iova: u64) -> Violation {
    let at = Violation::new(kind, call).page(Pfn::new(FIRST + page)).iova(Iova::new(iova));
    at.user(user(page))
}

const MAPPED: ViolationKind = ViolationKind::UnpinnedWhileMapped;
const UNFLUSHED: ViolationKind = ViolationKind::UnpinnedBeforeFlush;

#[test]
fn a_page_that_is_unpinned_while_it_is_mapped_is_found() {
    let (memory, process) = machine();
    let (one, two) = (memory.iommu(PageSizes::SIZE_4K), memory.iommu(PageSizes::SIZE_4K));
    pin(&process, 0, 4, WRITE);
    pin(&process, 1, 1, WRITE);
    map_pages(&one, 0x10_0000, 0, 4);
    map_pages(&two, 0x7000, 2, 1);
    // One of two pins: the page is pinned still.
    unpin(&process, 1, 1);
    memory.witness().assert_clean();
    // The last one; it was never accessed. Each way to it is reported, and each page.
    unpin(&process, 0, 4);
    let expected = [
        violation(MAPPED, Call::Unpin, 0, 0x10_0000),
        violation(MAPPED, Call::Unpin, 1, 0x10_1000),
        violation(MAPPED, Call::Unpin, 2, 0x10_2000),
        violation(MAPPED, Call::Unpin, 2, 0x7000),
        violation(MAPPED, Call::Unpin, 3, 0x10_3000),
    ];
    assert_eq!(memory.witness().take(), expected);
    unmap(&one, 0x10_0000, 4 * P);
    unmap(&two, 0x7000, P);
    // In the right order, nothing is reported.
    pin(&process, 0, 4, WRITE);
    map_pages(&one, 0x10_0000, 0, 4);
    unmap(&one, 0x10_0000, 4 * P);
    unpin(&process, 0, 4);
    drop((one, two));
    memory.witness().assert_clean();
}

/// The hardware may remember what it has never been asked for, also where it remembers nothing.
#[test]
fn a_page_that_is_unpinned_before_a_flush_is_found() {
    for entries in [0, 1 << 20] {
        let (memory, process) = machine();
        let config = Iommu::config(PageSizes::SIZE_4K | PageSizes::SIZE_16K);
        let iommu = config.tlb_entries(entries).memory(&memory).build();
        pin(&process, 0, 8, WRITE);
        map_pages(&iommu, 0x10_0000, 0, 8);
        let (mut first, mut second) = (RangeGather::default(), RangeGather::default());
        unmap_into(&iommu, 0x10_0000, 4 * P, &mut first);
        unmap_into(&iommu, 0x10_4000, 4 * P, &mut second);
        assert_eq!(iommu.tlb_len(), 0);
        // The flush of a part of an entry leaves what may be remembered of the rest.
        let mut part = RangeGather::default();
        part.add(iovas(0x10_0000, 4 * P - 1));
        iommu.flush(Pin::new(&mut part));
        iommu.flush(Pin::new(&mut second));
        unpin(&process, 1, 7);
        let seen = memory.witness().take();
        assert_eq!(seen, [violation(UNFLUSHED, Call::Unpin, 1, 0x10_1000)]);
        iommu.flush(Pin::new(&mut first));
        unpin(&process, 0, 1);
        drop(iommu);
        memory.witness().assert_clean();
    }
}

/// What was unmapped and mapped again is two ways to a page, each of which must go.
#[test]
fn a_flush_that_is_missing_is_not_made_good_by_mapping_again() {
    let (memory, process) = machine();
    let iommu = memory.iommu(PageSizes::SIZE_4K);
    pin(&process, 0, 2, WRITE);
    let mut late = RangeGather::default();
    for page in [0, 1, 0] {
        map_pages(&iommu, 0, page, 1);
        unmap_into(&iommu, 0, P, &mut late);
    }
    map_pages(&iommu, 0, 0, 1);
    unpin(&process, 0, 2);
    let expected = [violation(MAPPED, Call::Unpin, 0, 0), violation(UNFLUSHED, Call::Unpin, 1, 0)];
    assert_eq!(memory.witness().take(), expected);
    // A domain that is attached anew remembers nothing.
    iommu.forget_all();
    pin(&process, 0, 2, WRITE);
    unpin(&process, 1, 1);
    unmap(&iommu, 0, P);
    unpin(&process, 0, 1);
    memory.witness().assert_clean();
}

/// A part of an entry that was split, and pages of the machine larger than those of the IOMMU.
#[test]
fn every_byte_of_an_entry_counts() {
    let (memory, process) = machine();
    let sizes: PageSizes = "2K|4K|32K".parse().unwrap();
    let iommu = Iommu::config(sizes).cuts(Cuts::Anywhere).memory(&memory).build();
    pin(&process, 0, 16, WRITE);
    map_pages(&iommu, 0, 0, 16);
    assert_eq!(iommu.mapped_pages(), 2);
    // Half of page 5, and page 7.
    unmap(&iommu, 5 * P + P / 2, P / 2);
    unmap(&iommu, 7 * P, P);
    unpin(&process, 7, 1);
    memory.witness().assert_clean();
    unpin(&process, 4, 3);
    let seen = memory.witness().take();
    assert!(seen.iter().all(|seen| (seen.kind, seen.call) == (MAPPED, Call::Unpin)));
    let found: Vec<_> = seen.iter().map(|seen| seen.iova.unwrap().get()).collect();
    assert_eq!(found, [5 * P, 4 * P, 6 * P]);
    // An entry that was never split, of which one page goes.
    unpin(&process, 11, 1);
    assert_eq!(memory.witness().take(), [violation(MAPPED, Call::Unpin, 11, 11 * P)]);
    unmap(&iommu, 0, 5 * P + P / 2);
    unmap(&iommu, 6 * P, P);
    unmap(&iommu, 8 * P, 8 * P);
    unpin(&process, 0, 4);
    unpin(&process, 8, 3);
    unpin(&process, 12, 4);
    memory.witness().assert_clean();
    // Nothing leads to what is left of it when the domain is gone.
    pin(&process, 0, 16, WRITE);
    map_pages(&iommu, 0, 0, 16);
    unmap(&iommu, 5 * P, P);
    drop(iommu);
    let expected = violation(ViolationKind::StillMapped, Call::Drop, 0, 0);
    assert_eq!(memory.witness().take(), [expected]);
    unpin(&process, 0, 16);
    memory.witness().assert_clean();
}

#[test]
fn what_is_mapped_must_be_pinned() {
    let (memory, process) = machine();
    let iommu = memory.iommu(PageSizes::SIZE_4K);
    pin(&process, 0, 2, WRITE);
    map_pages(&iommu, 0, 0, 4);
    let expected = Violation::new(ViolationKind::MappedUnpinned, Call::Map);
    let expected = expected.page(Pfn::new(FIRST + 2)).iova(Iova::new(2 * P));
    // Page 2 has never been pinned.
    assert_eq!(memory.witness().take(), [expected]);
    // What is pinned later is found when it is unpinned.
    pin(&process, 3, 1, WRITE);
    unpin(&process, 3, 1);
    assert_eq!(memory.witness().take(), [violation(MAPPED, Call::Unpin, 3, 3 * P)]);
    unmap(&iommu, 0, 4 * P);
    // Addresses of no frame are not the memory's: a device's registers, for example.
    map(&iommu, 0, 0x4000_0000, 4 * P, RW);
    unmap(&iommu, 0, 4 * P);
    unpin(&process, 0, 2);
    memory.witness().assert_clean();
}

#[test]
fn what_may_be_written_must_be_pinned_for_that() {
    let (memory, process) = machine();
    let (iommu, nic) = (memory.iommu(PageSizes::SIZE_4K), memory.nic());
    let kind = ViolationKind::WritablePinnedToRead;
    let phys = |page: u64| PhysAddr::new((FIRST + page) * P);
    pin(&process, 0, 4, READ);
    pin(&process, 2, 2, WRITE);
    map(&iommu, 0, FIRST * P, 4 * P, Prot::READ);
    let key =
        nic.register(Iova::new(0), 4 * P, PageSize::SIZE_4K, (0..4).map(phys), false).unwrap();
    memory.device(&iommu).read(Iova::new(0), &mut [0]).unwrap();
    nic.read(key, Iova::new(0), &mut [0]).unwrap();
    map_pages(&iommu, 0x10_2000, 2, 2);
    memory.device(&iommu).write(Iova::new(0x10_2000), &[1]).unwrap();
    memory.witness().assert_clean();

    map_pages(&iommu, 0x20_0000, 1, 2);
    assert_eq!(memory.witness().take(), [violation(kind, Call::Map, 1, 0x20_0000)]);
    let write =
        nic.register(Iova::new(8), P, PageSize::SIZE_4K, [phys(0), phys(1)].into_iter(), true);
    assert_eq!(memory.witness().take(), [violation(kind, Call::Register, 0, 8)]);
    Bus::write(&memory, phys(1), &[1]).unwrap();
    let seen = memory.witness().take()[0];
    assert_eq!((seen.kind, seen.call, seen.user), (kind, Call::Write, Some(user(1))));
    // It is the pin that counts, not the page: the next one may write.
    nic.invalidate(key).unwrap();
    nic.invalidate(write.unwrap()).unwrap();
    unmap(&iommu, 0, 4 * P);
    unmap(&iommu, 0x10_2000, 2 * P);
    unmap(&iommu, 0x20_0000, 2 * P);
    unpin(&process, 0, 4);
    unpin(&process, 2, 2);
    pin(&process, 0, 4, WRITE);
    map_pages(&iommu, 0, 0, 4);
    unmap(&iommu, 0, 4 * P);
    unpin(&process, 0, 4);
    memory.witness().assert_clean();
}

#[test]
fn what_a_card_has_registered_must_stay_pinned() {
    let (memory, process) = machine();
    let nic = memory.nic();
    let block = |page: u64| PhysAddr::new((FIRST + page) * P);
    let blocks = |pages: [u64; 2]| pages.into_iter().map(block);
    let size = PageSize::SIZE_16K;
    pin(&process, 1, 5, WRITE);
    // Two blocks of four pages, of which the region has five: 1, 2, 3, 4, and a byte of 5.
    let register = |first: u64| nic.register(Iova::new(first), 4 * P, size, blocks([0, 4]), true);
    let key = register(P + 1).unwrap();
    // Another one, of the same memory at the same address.
    let other = register(P + 1).unwrap();
    memory.witness().assert_clean();
    nic.invalidate(key).unwrap();
    // The pages beside it are not the region's.
    pin(&process, 0, 1, WRITE);
    pin(&process, 6, 2, WRITE);
    unpin(&process, 0, 1);
    unpin(&process, 6, 2);
    memory.witness().assert_clean();
    unpin(&process, 4, 2);
    unpin(&process, 1, 1);
    let expected =
        [violation(MAPPED, Call::Unpin, 4, 4 * P), violation(MAPPED, Call::Unpin, 1, P + 1)];
    assert_eq!(memory.witness().take(), expected);
    nic.invalidate(other).unwrap();
    unpin(&process, 2, 2);
    memory.witness().assert_clean();
    // Nothing of it is pinned.
    let key = register(P).unwrap();
    let expected = violation(ViolationKind::MappedUnpinned, Call::Register, 1, P);
    assert_eq!(memory.witness().take(), [expected]);
    drop(nic);
    let expected = violation(ViolationKind::StillMapped, Call::Drop, 1, P);
    assert_eq!(memory.witness().take(), [expected]);
    // A card that is gone reaches nothing.
    pin(&process, 1, 1, WRITE);
    unpin(&process, 1, 1);
    let nic = memory.nic();
    assert!(nic.invalidate(key).is_err());
    let seen = memory.witness().take();
    assert_eq!((seen.len(), seen[0].call), (1, Call::Invalidate));
    assert!(matches!(seen[0].kind, ViolationKind::BadCall { .. }));
}

#[test]
fn a_domain_that_is_dropped_must_be_empty_and_flushed() {
    let (memory, process) = machine();
    let mut late = RangeGather::default();
    for (maps, unmaps, flushes) in
        [(4, 4, true), (4, 4, false), (4, 2, true), (4, 1, false), (0, 0, false)]
    {
        let iommu = memory.iommu(PageSizes::SIZE_4K);
        if maps != 0 {
            pin(&process, 0, 4, WRITE);
            map_pages(&iommu, 0x10_0000, 0, 4);
            unmap_into(&iommu, 0x10_0000, unmaps * P, &mut late);
        }
        if flushes {
            iommu.flush(Pin::new(&mut late));
        }
        memory.witness().assert_clean();
        drop(iommu);
        let mut expected = Vec::new();
        if unmaps < maps {
            let (kind, at) = (ViolationKind::StillMapped, 0x10_0000 + unmaps * P);
            expected.push(violation(kind, Call::Drop, unmaps, at));
        }
        if maps != 0 && !flushes {
            expected.push(violation(ViolationKind::NotFlushed, Call::Drop, 0, 0x10_0000));
        }
        assert_eq!(memory.witness().take(), expected);
        // Nothing is reached through what is gone.
        if maps != 0 {
            unpin(&process, 0, 4);
        }
        memory.witness().assert_clean();
    }
    // One that belongs to no machine reports to its own witness.
    let iommu = Iommu::new(PageSizes::SIZE_4K);
    let witness = iommu.witness().clone();
    map_pages(&iommu, 0, 0, 1);
    unmap_into(&iommu, 0, P, &mut late);
    drop(iommu);
    let expected = Violation::new(ViolationKind::NotFlushed, Call::Drop).iova(Iova::new(0));
    assert_eq!(witness.take(), [expected]);
}

/// Violations of one IOMMU say which memory it is about, as far as there is one.
#[test]
fn an_iommu_says_which_page_it_is_about() {
    let (memory, process) = machine();
    let config = Iommu::config(PageSizes::SIZE_4K | PageSizes::SIZE_16K).strict_overlap(true);
    let iommu = config.aperture(iovas(0, 1 << 30)).memory(&memory).build();
    pin(&process, 0, 8, WRITE);
    map_pages(&iommu, 0, 0, 8);
    let tile = tiles(PageSizes::SIZE_4K, P, 0, P)[0];
    // SAFETY: memory that exists in this test only.
    assert!(unsafe { iommu.map(tile, RW) }.1.is_err());
    let over = violation(ViolationKind::MapOverMap, Call::Map, 1, P);
    let mut gather = RangeGather::default();
    let mut unmap = |first, len| {
        let range = iovas(first, len);
        // SAFETY: memory that exists in this test only.
        unsafe { iommu.unmap_range(range, std::iter::empty(), Pin::new(&mut gather)) }
    };
    assert_eq!(unmap(P, P), 0);
    assert_eq!(unmap(0, 5 * P), 8 * P);
    assert_eq!(unmap(P, P), 0);
    let cut = |page| violation(ViolationKind::UnmapCuts, Call::Unmap, page, page * P);
    let hole = Violation::new(ViolationKind::UnmapOfNothing, Call::Unmap).iova(Iova::new(P));
    assert_eq!(memory.witness().take(), [over, cut(1), cut(5), hole]);
    // What was never there may be flushed, too.
    gather.add(iovas(1 << 30, P));
    iommu.flush(Pin::new(&mut gather));
    unpin(&process, 0, 8);
    drop(iommu);
    memory.witness().assert_clean();
}

/// A device that goes there says at which address, too.
#[test]
fn an_access_says_where_it_went() {
    let (memory, process) = machine();
    let iommu = memory.iommu(PageSizes::SIZE_4K);
    pin(&process, 0, 2, WRITE);
    map_pages(&iommu, 0x7000, 0, 2);
    let device = memory.device(&iommu);
    unpin(&process, 1, 1);
    assert_eq!(memory.witness().take().len(), 1);
    assert!(device.write(Iova::new(0x7ffe), b"late").is_err());
    let kind = ViolationKind::DmaToUnpinned;
    assert_eq!(memory.witness().take(), [violation(kind, Call::Write, 1, 0x8000)]);
    unmap(&iommu, 0x7000, 2 * P);
    unpin(&process, 0, 1);
    memory.witness().assert_clean();
}

fn umem(process: &Arc<Process>) -> Umem<Arc<Process>, &'static Unaccounted, pinned_sgl::Heap> {
    let request = PinRequest::new(pages(0, 4), WRITE | PinFlags::LONGTERM);
    Umem::pin(process.clone(), &Unaccounted, request).unwrap()
}

/// Lies that no honest caller can see through.
#[test]
fn a_domain_that_pretends_is_caught_by_the_memory() {
    for (lie, kind) in [(Lie::PretendsToUnmap, MAPPED), (Lie::PretendsToFlush, UNFLUSHED)] {
        let (memory, process) = machine();
        let iommu = memory.iommu(PageSizes::SIZE_4K);
        let mapping = Mapping::map(umem(&process).into(), &iommu, Iova::new(0), RW);
        let mapping: Mapping<Arc<_>, &Iommu> = mapping.unwrap();
        // SAFETY: memory that exists in this test only.
        unsafe { iommu.lie(lie) };
        assert!(iommu.is_lie_pending());
        assert!(mapping.unmap().is_ok() && !iommu.is_lie_pending());
        let seen = memory.witness().take();
        let expected = (0..4).map(|page| violation(kind, Call::Unpin, page, page * P));
        assert!(seen.into_iter().eq(expected), "{lie:?}");
        std::mem::forget(iommu);
    }
}

/// A lie is kept until there is something to lie about.
#[test]
fn a_lie_is_made_or_pending() {
    let iommu = Iommu::new(PageSizes::SIZE_4K);
    let lie = |lie| {
        // SAFETY: memory that exists in this test only.
        unsafe { iommu.lie(lie) };
    };
    let tile = tiles(PageSizes::SIZE_4K, 0, 0, P)[0];
    // SAFETY: memory that exists in this test only.
    let map = || unsafe { iommu.map(tile, RW) };
    map_pages(&iommu, 0, 0, 1);
    // Something is in the way, which is the truth.
    lie(Lie::MapsMore);
    assert_eq!(map().0, 0);
    assert!(iommu.is_lie_pending());
    unmap(&iommu, 0, P);
    assert_eq!(map(), (2 * P, Ok(())));
    assert!(!iommu.is_lie_pending());
    unmap(&iommu, 0, P);
    lie(Lie::UnmapsLess);
    let mut gather = RangeGather::default();
    let hole = iovas(0, P);
    // SAFETY: as above.
    let bytes = unsafe { iommu.unmap_range(hole, std::iter::empty(), Pin::new(&mut gather)) };
    assert!(bytes == 0 && iommu.is_lie_pending());
    assert_eq!(iommu.witness().take()[0].kind, ViolationKind::UnmapOfNothing);
    lie(Lie::ReadsElsewhere);
    assert!(iommu.read(Iova::new(0)).is_none() && iommu.is_lie_pending());
    assert_eq!(map(), (P, Ok(())));
    assert_eq!(iommu.read(Iova::new(0)).unwrap().phys, PhysAddr::new(P));
    assert!(!iommu.is_lie_pending());
    unmap(&iommu, 0, P);
}

/// The call that is to blame panics when it is done; a thread that panics already goes on.
#[test]
fn a_culprit_panics_if_asked_to() {
    let memory = Memory::builder().zone(Zone::Normal, FIRST..FIRST + 64).panic_on_violation();
    let (memory, process) = on(memory.build().unwrap());
    let iommu = memory.iommu(PageSizes::SIZE_4K);
    pin(&process, 0, 4, WRITE);
    map_pages(&iommu, 0, 0, 4);
    let message = |panicked: Result<(), Box<dyn std::any::Any + Send>>| {
        *panicked.unwrap_err().downcast::<String>().unwrap()
    };
    let caught = catch_unwind(AssertUnwindSafe(|| unpin(&process, 0, 2)));
    let expected = "unpin: a page was unpinned while a device could reach it through what is \
                    mapped (user address 0x7f0000000000, page 0x1000, IOVA 0x0)";
    assert_eq!(message(caught), expected);
    // It has done all it was to do.
    assert_eq!((memory.pinned_pages(), memory.witness().take().len()), (2, 2));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        struct OnDrop<F: FnMut()>(F);
        impl<F: FnMut()> Drop for OnDrop<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        let _late = OnDrop(|| unpin(&process, 2, 1));
        unpin(&process, 7, 1);
    }));
    assert!(
        message(caught).starts_with("unpin: a page was unpinned that is not pinned (page 0x1007)")
    );
    assert_eq!(memory.witness().take().len(), 2);
    memory.witness().panic_on_violation(false);
    unpin(&process, 3, 1);
    assert_eq!(memory.witness().take().len(), 1);
    memory.witness().panic_on_violation(true);
    unmap(&iommu, 0, 4 * P);
    // Silent where all is well.
    let umem = Arc::new(umem(&process));
    drop(Mapping::map(umem, &iommu, Iova::new(0), RW).unwrap());
    drop(iommu);
    memory.witness().assert_clean();
}

/// Four threads, in the right order, at the same pages: nothing is reported.
#[test]
fn threads_that_keep_the_order_are_left_alone() {
    let (memory, process) = machine();
    let (iommu, nic) = (memory.iommu(PageSizes::SIZE_4K), memory.nic());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (process, iommu, nic): (_, &Iommu, &Nic<Memory>) = (&process, &iommu, &nic);
            scope.spawn(move || {
                for round in 0..200 {
                    let (first, at) = (round % 5, thread << 20);
                    pin(process, first, 4, WRITE);
                    map_pages(iommu, at, first, 4);
                    let blocks = (first..first + 4).map(|page| PhysAddr::new((FIRST + page) * P));
                    let key = nic.register(Iova::new(at), 4 * P, PageSize::SIZE_4K, blocks, true);
                    unmap(iommu, at, 4 * P);
                    nic.invalidate(key.unwrap()).unwrap();
                    unpin(process, first, 4);
                }
            });
        }
    });
    drop((iommu, nic));
    memory.assert_no_leak();
    memory.witness().assert_clean();
}

/// Random maps, unmaps, flushes, pins and unpins, right and wrong ones, against tables of bytes.
#[test]
fn finds_what_the_oracle_finds() {
    /// What the oracle counts in.
    const K: u64 = 1 << 10;
    let mut found = 0;
    for (seed, sizes) in ["1K|4K|16K", "4K", "1K|2K|64K", "2K|8K"].iter().enumerate() {
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        let (memory, process) = machine();
        let sizes: PageSizes = sizes.parse().unwrap();
        let small = sizes.smallest().unwrap().bytes();
        let iommu = Iommu::config(sizes).cuts(Cuts::Anywhere).memory(&memory).build();
        let mut pins = [0u32; 16];
        let mut mapped: BTreeMap<u64, u64> = BTreeMap::new();
        let mut unflushed: Vec<(u64, u64)> = Vec::new();
        let mut gather = RangeGather::default();
        let page_of = |phys: u64| usize::try_from(phys / P - FIRST).unwrap();
        for _ in 0..3000 {
            match rng.u8(0..10) {
                0..=2 => {
                    let first = rng.u64(0..16);
                    let count = rng.u64(1..=(16 - first).min(6));
                    pin(&process, first, count, WRITE);
                    (first..first + count).for_each(|page| pins[page as usize] += 1);
                    assert!(memory.witness().is_clean());
                }
                3 | 4 => {
                    let len = rng.u64(1..=16 * P / small) * small;
                    let phys = rng.u64(0..=(16 * P - len) / small) * small + FIRST * P;
                    let iova = rng.u64(0..64 * P / small) * small;
                    if mapped.range(iova..iova + len).next().is_some() {
                        continue;
                    }
                    map(&iommu, iova, phys, len, RW);
                    let all = (0..len).step_by(K as usize);
                    mapped.extend(all.clone().map(|at| (iova + at, phys + at)));
                    let wrong = all.clone().any(|at| pins[page_of(phys + at)] == 0);
                    let seen = memory.witness().take();
                    assert!(seen.iter().all(|seen| seen.kind == ViolationKind::MappedUnpinned));
                    assert_eq!(!seen.is_empty(), wrong);
                }
                5 | 6 => {
                    let Some((&first, _)) = mapped.range(rng.u64(0..64 * P)..).next() else {
                        continue;
                    };
                    let first = first / small * small;
                    let most = rng.u64(1..20) * small;
                    let mut len = 0;
                    while len < most && mapped.contains_key(&(first + len)) {
                        len += small;
                    }
                    unmap_into(&iommu, first, len, &mut gather);
                    for at in (first..first + len).step_by(K as usize) {
                        unflushed.push((at, mapped.remove(&at).unwrap()));
                    }
                    assert!(memory.witness().is_clean());
                }
                7 => {
                    iommu.flush(Pin::new(&mut gather));
                    unflushed.clear();
                }
                _ => {
                    let first = rng.u64(0..16);
                    let count = (first..16).take(4).take_while(|at| pins[*at as usize] > 0).count();
                    if count == 0 {
                        continue;
                    }
                    let last = first as usize + count;
                    pins[first as usize..last].iter_mut().for_each(|pins| *pins -= 1);
                    unpin(&process, first, count as u64);
                    let gone = |phys: &u64| {
                        let page = page_of(*phys);
                        (first as usize..last).contains(&page) && pins[page] == 0
                    };
                    let seen = memory.witness().take();
                    let any = |kind| seen.iter().any(|seen| seen.kind == kind);
                    let wrong = mapped.values().any(gone);
                    assert_eq!(any(MAPPED), wrong);
                    let late: Vec<_> = unflushed.iter().filter(|(_, to)| gone(to)).collect();
                    // What is mapped as it was before is reported as mapped.
                    let only = late.iter().any(|(at, to)| mapped.get(at) != Some(to));
                    assert!(any(UNFLUSHED) || !only);
                    assert!(!any(UNFLUSHED) || !late.is_empty());
                    for seen in seen {
                        let (at, to) = (seen.iova.unwrap().get(), seen.pfn.unwrap().get() * P);
                        let leads =
                            |(from, phys): (&u64, &u64)| at / K * K == *from && phys / P * P == to;
                        let known = mapped.iter().any(leads);
                        assert!(known || unflushed.iter().any(|(from, to)| leads((from, to))));
                        found += 1;
                    }
                }
            }
        }
        iommu.flush(Pin::new(&mut gather));
        let left: Vec<_> = iommu.mapped(IovaRange::ALL);
        left.iter()
            .for_each(|left| unmap(&iommu, left.range.first().get(), left.range.len().unwrap()));
        drop(iommu);
        for page in 0..16 {
            (0..pins[page as usize]).for_each(|_| unpin(&process, page, 1));
        }
        memory.assert_no_leak();
        memory.witness().assert_clean();
    }
    assert!(found > 300, "{found}");
}
