// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions, end to end: what a peer reads and writes by key is what the process has.

use pinned_sgl::granule::TileError;
use pinned_sgl::iommu::{IovaRange, Mapping, Prot};
use pinned_sgl::rdma::{Access, BlockLayout, BlockTable, MemoryRegion, RegisterError};
use pinned_sgl::umem::{
    Account, AttachError, PinFlags, PinRequest, Region, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{
    Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, Sgl, SglBuilder, UserAddr,
};
use pinned_sgl_mock::{
    Bus, Call, FailingAccountant, FailingStorage, Fragmentation, Memory, NicError, NicFault, Plan,
    Process, RegionBus, Step, Violation, ViolationKind, Vma,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

const RW: PinFlags = PinFlags::WRITE.union(PinFlags::LONGTERM);
const ALL: Access = Access::LOCAL_WRITE.union(Access::REMOTE_WRITE).union(Access::REMOTE_READ);
const P: u64 = 4096;

type Pinned = Umem<Arc<Process>, &'static Unaccounted, Heap>;

fn user(start: u64, len: u64) -> UserRange {
    UserRange::new(UserAddr::new(start), len).unwrap()
}

fn sizes(text: &str) -> PageSizes {
    text.parse().unwrap()
}

/// A process with 1 MiB of memory at 1 MiB, which holds bytes that say where they lie.
fn process(memory: &Memory, area: Vma) -> Arc<Process> {
    let process = Arc::new(Process::new(memory));
    process.map(user(0x10_0000, 0x10_0000), area).unwrap();
    // An interpreter has not the time for all of it: the rest holds zeros.
    let filled = if cfg!(miri) { 0x1000 } else { 0x10_0000u32 };
    let bytes: Vec<u8> = (0..filled).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    process.write(UserAddr::new(0x10_0000), &bytes).unwrap();
    process
}

fn pin(process: &Arc<Process>, range: UserRange, flags: PinFlags) -> Arc<Pinned> {
    let request = PinRequest::new(range, flags);
    Arc::new(Umem::pin(process.clone(), &Unaccounted, request).unwrap())
}

/// Peers and the process agree on every byte, wherever the region begins and however its memory lies.
#[test]
fn a_peer_reads_and_writes_what_the_process_has() {
    let mut rng = fastrand::Rng::with_seed(7);
    let areas = [Vma::read_write(), Vma::read_write().huge(4), Vma::read_write().huge(8)];
    for (round, area) in areas.into_iter().cycle().take(30).enumerate() {
        let fragmentation = if round % 2 == 0 {
            Fragmentation::None
        } else {
            Fragmentation::Seeded { seed: round as u64, run_order: 2 }
        };
        let memory = Memory::builder()
            .zone(pinned_sgl_mock::Zone::Normal, 0x1000..0x1800)
            .fragmentation(fragmentation)
            .build()
            .unwrap();
        let process = process(&memory, area);
        let start = 0x10_0000 + rng.u64(0..0x8_0000);
        let len = rng.u64(1..0x8_0000);
        let umem = pin(&process, user(start, len), RW);
        let nic = Arc::new(memory.nic().with_page_sizes(sizes("4K|16K|64K|1M")));
        // Any address will do that lies in its page as the memory does.
        let iova = Iova::new(rng.u64(0..1 << 40) * P + start % P);
        let region = MemoryRegion::register(umem.clone(), nic.clone(), iova, ALL).unwrap();
        assert_eq!((region.iova(), region.len(), region.region_range()), (iova, len, 0..len));
        assert_eq!(region.block_count(), nic.blocks() as u64);
        let best = umem.whole().unwrap().best_page_size(sizes("4K|16K|64K|1M"), iova).unwrap();
        assert_eq!(Some(region.page_size()), best.map(|best| best.page_size()));

        let mut all = vec![0; len as usize];
        nic.read(region.key(), iova, &mut all).unwrap();
        let mut expected = vec![0; len as usize];
        process.read(UserAddr::new(start), &mut expected).unwrap();
        assert!(all == expected, "round {round}");
        for _ in 0..20 {
            let at = rng.u64(0..len);
            let bytes: Vec<u8> =
                (0..rng.u64(0..=(len - at).min(0x5000))).map(|_| rng.u8(..)).collect();
            let there = iova.checked_add(at).unwrap();
            nic.write(region.key(), there, &bytes).unwrap();
            let mut back = vec![0; bytes.len()];
            process.read(UserAddr::new(start + at), &mut back).unwrap();
            assert_eq!(back, bytes);
        }
        // Not one byte beside it.
        for (at, count) in [(len, 1), (len - 1, 2), (0, len + 1)] {
            let there = iova.checked_add(at).unwrap();
            let out = Err(NicFault::OutOfBounds { iova: there });
            assert_eq!(nic.read(region.key(), there, &mut vec![0; count as usize]), out);
            assert_eq!(nic.write(region.key(), there, &vec![0; count as usize]), out);
        }
        if let Some(before) = iova.checked_sub(1) {
            let out = Err(NicFault::OutOfBounds { iova: before });
            assert_eq!(nic.read(region.key(), before, &mut [0; 2]), out);
        }

        let key = region.key();
        let (umem_back, nic_back) = region.deregister().unwrap();
        assert!(Arc::ptr_eq(&umem, &umem_back) && Arc::ptr_eq(&nic, &nic_back));
        assert_eq!(nic.read(key, iova, &mut [0]), Err(NicFault::NoRegion { key }));
        assert!(umem.is_dirty() && umem.attachments() == 0);
        drop((umem, umem_back, nic, nic_back));
        memory.assert_no_leak();
        memory.witness().assert_clean();
    }
}

/// A list of frames without an owner, and a card that writes down what it is given.
struct Frames {
    sgl: Sgl<Heap>,
    offset: u64,
    len: u64,
    attached: AtomicUsize,
}

impl Frames {
    fn new(first: u64, pages: u64, offset: u64, len: u64) -> Self {
        let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
        builder.push_run(PageRun::new(Pfn::new(first), pages, MemoryKind::Ram).unwrap()).unwrap();
        let sgl = builder.finish().unwrap();
        Self { sgl, offset, len, attached: AtomicUsize::new(0) }
    }
}

// SAFETY: no device ever reaches the frames.
unsafe impl Region for Frames {
    type Storage = Heap;

    fn sgl(&self) -> &Sgl<Heap> {
        &self.sgl
    }

    fn page_offset(&self) -> u64 {
        self.offset
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn user_addr(&self) -> Option<UserAddr> {
        None
    }

    fn mark_dirty(&self) {}

    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        if writable {
            return Err(AttachError::ReadOnly);
        }
        self.attached.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn detach(&self) {
        self.attached.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Notebook {
    sizes: PageSizes,
    given: std::sync::Mutex<Option<(BlockLayout, Vec<PhysAddr>)>>,
}

// SAFETY: it reaches nothing.
unsafe impl BlockTable for Notebook {
    type Key = ();
    type Error = std::convert::Infallible;

    fn page_sizes(&self) -> PageSizes {
        self.sizes
    }

    unsafe fn register(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<(), Self::Error> {
        *self.given.lock().unwrap() = Some((layout, blocks.collect()));
        Ok(())
    }

    unsafe fn invalidate(&self, (): ()) -> Result<(), Self::Error> {
        *self.given.lock().unwrap() = None;
        Ok(())
    }
}

/// The rows that were run against `ib_umem_find_best_pgsz()` and the block iterator: what the card is
/// given.
#[test]
fn a_card_gets_what_linux_would_give_it() {
    type Row<'a> = (u64, u64, u64, u64, &'a str, u64, Option<(&'a str, &'a [u64])>);
    let four_blocks: &[u64] = &[0x40_0000, 0x41_0000, 0x42_0000, 0x43_0000];
    let pages: Vec<u64> = (0..64).map(|page| 0x40_0000 + page * P).collect();
    let rows: [Row<'_>; 8] = [
        (0x200, 4, 0, 0x4000, "4K|2M|1G", 0, Some(("2M", &[0x20_0000]))),
        (0x400, 64, 0, 0x4_0000, "4K|64K|256K", 0x40_0000, Some(("256K", &[0x40_0000]))),
        (0x400, 64, 0, 0x4_0000, "4K|64K|256K", 0x41_0000, Some(("64K", four_blocks))),
        (0x400, 64, 0, 0x4_0000, "4K|64K|256K", 0x40_1000, Some(("4K", &pages))),
        (0x413, 4, 0, 0x4000, "8K|2M", 0, None),
        (0x700, 1, 0x800, 0x400, "4K|2M", 0x7f_0800, Some(("4K", &[0x70_0000]))),
        (0x700, 1, 0x800, 0x400, "512|1K|2K|4K", 0x7f_0800, Some(("1K", &[0x70_0800]))),
        (0x700, 1, 0x800, 0x400, "4K", 0, None),
    ];
    for (pfn, count, offset, len, text, iova, expected) in rows {
        let frames = Frames::new(pfn, count, offset, len);
        let card = Notebook { sizes: sizes(text), given: Default::default() };
        let iova = Iova::new(iova);
        let done = MemoryRegion::register(&frames, &card, iova, Access::REMOTE_READ);
        match expected {
            Some((size, blocks)) => {
                let region = done.unwrap();
                let (layout, given) = card.given.lock().unwrap().clone().unwrap();
                assert_eq!(layout, region.layout());
                assert_eq!(layout.range, IovaRange::new(iova, len).unwrap());
                assert_eq!(layout.page_size, size.parse().unwrap(), "{iova}");
                assert_eq!(layout.access, Access::REMOTE_READ);
                assert!(given.iter().map(|block| block.get()).eq(blocks.iter().copied()));
                assert_eq!(region.block_count(), blocks.len() as u64);
                assert_eq!(frames.attached.load(Ordering::Relaxed), 1);
                drop(region);
                assert!(card.given.lock().unwrap().is_none());
            }
            None => {
                let kind = done.unwrap_err().into_error();
                let page_sizes = sizes(text);
                assert_eq!(kind, RegisterError::NoPageSize { iova, page_sizes });
            }
        }
        assert_eq!(frames.attached.load(Ordering::Relaxed), 0);
    }
    // The last byte has no address.
    let frames = Frames::new(0x700, 1, 0x800, 0x400);
    let card = Notebook { sizes: sizes("4K"), given: Default::default() };
    let iova = Iova::new(u64::MAX - 0x100);
    let error = MemoryRegion::register(&frames, &card, iova, Access::empty()).unwrap_err();
    let wraps = TileError::Wraps { iova, len: 0x400 };
    assert_eq!(error.into_error(), RegisterError::Blocks(wraps));
    // It has the last one there is.
    let iova = Iova::new(u64::MAX - 0x3ff);
    let small = Notebook { sizes: sizes("1K"), given: Default::default() };
    let region = MemoryRegion::register(&frames, &small, iova, Access::empty()).unwrap();
    assert_eq!((region.range().last(), region.block_count()), (Iova::new(u64::MAX), 1));
    // And a card without sizes takes nothing.
    let none = Notebook { sizes: PageSizes::empty(), given: Default::default() };
    let error = MemoryRegion::register(&frames, &none, iova, Access::empty()).unwrap_err();
    assert_eq!(*error.error(), RegisterError::Blocks(TileError::NoPageSizes));
}

/// One region, at a card and in an IOMMU at once, is pinned once and goes when both have let go.
#[test]
fn two_fronts_share_one_pin() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let umem = pin(&process, user(0x10_0000, 0x1_0000), RW);
    let (nic, iommu) = (memory.nic(), memory.iommu(sizes("4K|2M")));
    let access = ALL;
    let region = MemoryRegion::register(umem.clone(), &nic, Iova::new(0), access).unwrap();
    let (iova, prot) = (Iova::new(0x8000_0000), Prot::READ | Prot::WRITE);
    let mapping = Mapping::map(umem.clone(), &iommu, iova, prot).unwrap();
    // A part once more, for reading, under a key of its own.
    let part =
        MemoryRegion::register_range(umem.clone(), 0x1000..0x1234, &nic, Iova::new(0x7000), {
            Access::REMOTE_READ
        })
        .unwrap();
    assert_eq!((umem.attachments(), memory.pinned_pages()), (3, 16));
    assert!((0..16).all(|page| process.pins_at(UserAddr::new(0x10_0000 + page * P)) == 1));

    let device = memory.device(&iommu);
    nic.write(region.key(), Iova::new(0x1200), b"by key").unwrap();
    assert!(device.reads_as(Iova::new(0x8000_1200), b"by key").unwrap());
    device.write(Iova::new(0x8000_1100), b"by address").unwrap();
    let mut bytes = [0; 10];
    nic.read(part.key(), Iova::new(0x7100), &mut bytes).unwrap();
    assert_eq!(&bytes, b"by address");
    let denied = NicFault::NotPermitted { iova: Iova::new(0x7100) };
    assert_eq!(nic.write(part.key(), Iova::new(0x7100), b"x"), Err(denied));
    // A key for writing only does not read.
    let only =
        MemoryRegion::register(umem.clone(), &nic, Iova::new(0), Access::REMOTE_WRITE).unwrap();
    let denied = NicFault::NotPermitted { iova: Iova::new(0) };
    assert_eq!(nic.read(only.key(), Iova::new(0), &mut [0]), Err(denied));
    drop(only);

    drop(umem);
    drop(mapping);
    assert_eq!(memory.pinned_pages(), 16);
    drop(part);
    nic.write(region.key(), Iova::new(0xffff), b"!").unwrap();
    assert_eq!(memory.pinned_pages(), 16);
    drop(region);
    assert_eq!((memory.pinned_pages(), nic.regions()), (0, 0));
    drop(device);
    drop((iommu, nic));
    memory.assert_no_leak();
    memory.witness().assert_clean();
}

/// Invalidated first, unpinned then: also where everything is held by the memory region alone.
#[test]
fn dropping_invalidates_before_it_unpins() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let request = PinRequest::new(user(0x10_0000, 0x3000), RW);
    let umem = Box::new(Umem::pin(process, &Unaccounted, request).unwrap());
    let nic = memory.nic();
    // The card is dropped by the region, too: it would report a key that is left.
    let region = MemoryRegion::register(umem, Box::new(nic), Iova::new(0), ALL).unwrap();
    assert_eq!(memory.pinned_pages(), 3);
    assert!(format!("{region:?}").starts_with("MemoryRegion { key: Key(0), range: "));
    drop(region);
    memory.assert_no_leak();
    memory.witness().assert_clean();
}

/// What was pinned for reading is registered for reading.
#[test]
fn writers_are_refused_read_only_memory() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let umem = pin(&process, user(0x10_0000, 0x3000), PinFlags::LONGTERM);
    let nic = memory.nic();
    for access in [Access::LOCAL_WRITE, Access::REMOTE_WRITE, Access::REMOTE_ATOMIC] {
        let error = MemoryRegion::register(umem.clone(), &nic, Iova::new(0), access).unwrap_err();
        assert_eq!(*error.error(), RegisterError::Attach(AttachError::ReadOnly));
        assert_eq!(error.to_string(), "the memory was pinned for reading only");
    }
    let region = MemoryRegion::register(&*umem, &nic, Iova::new(0), Access::REMOTE_READ).unwrap();
    nic.read(region.key(), Iova::new(0x2fff), &mut [0]).unwrap();
    drop(region);
    assert!(!umem.is_dirty());
    // No such bytes.
    for range in [0..0x3001, 0x3000..0x3001, 1..1] {
        let (iova, access) = (Iova::new(0), Access::REMOTE_READ);
        let error = MemoryRegion::register_range(&*umem, range, &nic, iova, access).unwrap_err();
        assert!(matches!(error.error(), RegisterError::Window(_)), "{error}");
    }
    assert_eq!((umem.attachments(), nic.regions()), (0, 0));
}

/// Whichever call fails, everything comes back and nothing stays.
#[test]
fn every_failure_gives_everything_back() {
    let plan = Plan::new();
    let memory = Memory::builder()
        .zone(pinned_sgl_mock::Zone::Normal, 0x1000..0x1400)
        .fragmentation(Fragmentation::Alternate)
        .plan(plan.clone())
        .build()
        .unwrap();
    let process = process(&memory, Vma::read_write());
    let account = FailingAccountant::new(Account::new(256), plan.clone());
    let nic = memory.nic().with_plan(&plan);
    let mut failures = 0;
    for n in 0.. {
        plan.fail_at(n);
        let outcome = (|| -> Result<(), Box<dyn std::error::Error>> {
            let storage = FailingStorage::new(Heap::new(), plan.clone());
            let request = PinRequest::new(user(0x10_0123, 0x8_0000), RW);
            let umem = Umem::pin_in(&*process, &account, storage, &mut [None; 16], request)
                .map_err(|error| format!("{error:?}"))?;
            let (iova, access) = (Iova::new(0x123), ALL);
            let whole = MemoryRegion::register(&umem, &nic, iova, access);
            let whole = whole.map_err(|error| error.to_string())?;
            let part =
                MemoryRegion::register_range(&umem, 5..0x5005, &nic, Iova::new(0x128), access);
            match part {
                Ok(part) => drop(part),
                Err(error) => {
                    assert_eq!(
                        *error.error(),
                        RegisterError::Nic(NicFault::Register(NicError::Injected))
                    );
                    let (umem_back, nic_back) = error.into_value();
                    assert!(std::ptr::eq(umem_back, &umem) && std::ptr::eq(nic_back, &nic));
                    assert_eq!((umem.attachments(), nic.regions()), (1, 1));
                    return Err("the second one".into());
                }
            }
            whole.deregister().map_err(|error| error.to_string())?;
            Ok(())
        })();
        let pending = plan.is_pending();
        plan.succeed();
        assert_eq!(outcome.is_ok(), pending, "call {n}");
        assert_eq!((memory.pinned_pages(), nic.regions()), (0, 0), "call {n}");
        assert_eq!(account.inner().charged(), 0, "call {n}");
        if pending {
            break;
        }
        failures += 1;
    }
    assert!(failures > 10, "{failures}");
    memory.assert_no_leak();
    memory.witness().assert_clean();
    // A registration that fails has shown nothing: the memory is not dirty.
    let umem = pin(&process, user(0x10_0000, 0x1000), RW);
    plan.fail_step_at(Step::Map, 0, 0);
    MemoryRegion::register(&*umem, &nic, Iova::new(0), ALL).unwrap_err();
    assert!(!umem.is_dirty());
}

/// A card that does not let go: the pins are leaked, and what peers may still write stays pinned.
#[test]
fn a_card_that_does_not_let_go_leaks_the_pins() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let account = Account::new(256);
    for by_drop in [false, true] {
        let leaked = memory.leaked_pages();
        let pinned = memory.pinned_pages();
        let nic = memory.nic();
        let start = if by_drop { 0x10_0000 } else { 0x11_0000 };
        let request = PinRequest::new(user(start, 0x3000), RW);
        let umem = Arc::new(Umem::pin(process.clone(), &account, request).unwrap());
        let region = MemoryRegion::register(umem.clone(), &nic, Iova::new(0), ALL).unwrap();
        let key = region.key();
        // SAFETY: the memory is that of a mock.
        unsafe { nic.fail_next_invalidation() };
        if by_drop {
            drop(region);
        } else {
            let error = region.deregister().unwrap_err();
            assert_eq!(*error.error(), NicFault::Stuck { key });
            assert_eq!(error.to_string(), "the card does not give the key 0x0 back");
            drop(error.into_parts());
        }
        assert_eq!(umem.attachments(), 1);
        let umem = Arc::into_inner(umem).unwrap().unpin().unwrap_err();
        drop(umem);
        assert_eq!(memory.leaked_pages(), leaked + 3);
        assert_eq!(memory.pinned_pages(), pinned + 3);
        // The peer is still there, and does no harm.
        nic.write(key, Iova::new(0), b"late").unwrap();
        memory.witness().assert_clean();
        drop(nic);
        assert!(matches!(
            memory.witness().take()[..],
            [Violation { kind: ViolationKind::StillMapped, .. }]
        ));
    }
    assert_eq!(account.charged(), 6);
}

/// A memory region that is leaked leaks the pins.
#[test]
fn a_leaked_region_leaks_the_pins() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let nic = memory.nic();
    let umem = pin(&process, user(0x10_0000, 0x3000), RW);
    let region = MemoryRegion::register(umem.clone(), &nic, Iova::new(0), ALL).unwrap();
    let key = region.key();
    std::mem::forget(region);
    drop(umem);
    nic.write(key, Iova::new(0), b"still").unwrap();
    assert_eq!(memory.pinned_pages(), 3);
    memory.witness().assert_clean();
    drop(nic);
    assert!(matches!(
        memory.witness().take()[..],
        [Violation { kind: ViolationKind::StillMapped, .. }]
    ));
}

/// A peer that keeps its key after the memory was unpinned would be caught.
#[test]
fn a_card_that_lies_is_caught_by_the_memory() {
    let memory = Memory::with_frames(1024);
    let process = process(&memory, Vma::read_write());
    let umem = pin(&process, user(0x10_0000, 0x1000), RW);
    let nic = memory.nic();
    let block = umem.whole().unwrap().phys(0).unwrap();
    let blocks = [block].into_iter();
    let key = nic.register(Iova::new(0), P, PageSize::SIZE_4K, blocks, true).unwrap();
    let (pfn, user) = (block.pfn(PageSize::SIZE_4K), UserAddr::new(0x10_0000));
    let at = |kind, call| Violation::new(kind, call).page(pfn).user(user).iova(Iova::new(0));
    drop(umem);
    let early = at(ViolationKind::UnpinnedWhileMapped, Call::Unpin);
    assert_eq!(memory.witness().take(), [early]);
    assert!(nic.write(key, Iova::new(0), b"late").is_err());
    assert_eq!(memory.witness().take(), [at(ViolationKind::DmaToUnpinned, Call::Write)]);
    drop(nic);
    assert_eq!(memory.witness().take(), [at(ViolationKind::StillMapped, Call::Drop)]);
}

/// Two regions on one bus, found by their physical addresses; a gap between them has no memory.
#[test]
fn a_bus_of_regions_finds_every_byte() {
    let memory = Memory::builder()
        .zone(pinned_sgl_mock::Zone::Normal, 0x1000..0x1800)
        .fragmentation(Fragmentation::Seeded { seed: 3, run_order: 0 })
        .build()
        .unwrap();
    let process = process(&memory, Vma::read_write());
    let whole = pin(&process, user(0x10_0321, 0x1_0000), RW);
    let read_only = pin(&process, user(0x14_0000, 0x1000), PinFlags::LONGTERM);
    let mut bus = RegionBus::new();
    bus.push(whole.clone());
    bus.push(read_only.clone());
    for offset in (0..0x1_0000).step_by(777) {
        let phys = whole.whole().unwrap().phys(offset).unwrap();
        let mut bytes = [0; 1];
        bus.read(phys, &mut bytes).unwrap();
        let mut expected = [0; 1];
        memory.peek(phys, &mut expected).unwrap();
        assert_eq!(bytes, expected);
        bus.write(phys, &[!bytes[0]]).unwrap();
        process.read(UserAddr::new(0x10_0321 + offset), &mut expected).unwrap();
        assert_eq!(expected, [!bytes[0]]);
    }
    let phys = read_only.whole().unwrap().phys(0).unwrap();
    bus.read(phys, &mut [0; 4]).unwrap();
    assert!(bus.write(phys, &[1]).unwrap_err().to_string().contains("cannot be accessed so"));
    let before = whole.whole().unwrap().phys(0).unwrap().checked_sub(1).unwrap();
    assert!(bus.read(before, &mut [0]).unwrap_err().to_string().contains("no memory"));
    assert!(bus.read(PhysAddr::new(u64::MAX), &mut [0; 2]).is_err());
    assert!(whole.is_dirty() && !read_only.is_dirty());
}
