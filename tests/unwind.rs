// SPDX-License-Identifier: MIT OR Apache-2.0
//! Foreign code that unwinds: pinners, accountants, domains, cards, storages, holders, callbacks and
//! iterators, each before it has done its work and after, at the n-th call of every scenario.
//!
//! The law: whatever unwinds, nothing is unpinned that a device reaches, nothing is unpinned twice, and
//! no later call lies. Pins may be leaked: those of memory of which it is unknown what a device reaches.

use pinned_sgl::iommu::{
    Cuts, DirtyDomain, Domain, Entry, HeapIoas, IovaRange, Mapping, Placement, Prot, RangeGather,
    ReadDomain, Stream,
};
use pinned_sgl::rdma::{Access, BlockLayout, BlockTable, MemoryRegion};
use pinned_sgl::umem::{
    Account, Accountant, ChargeError, Holder, Location, PageAccess, PinBatch, PinFlags, PinRequest,
    Pinner, SharedHolder, Umem, UserRange,
};
use pinned_sgl::{
    AllocError, Heap, Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, PhysAddr,
    SglBuilder, Storage, Tile, UserAddr,
};
use pinned_sgl_mock::{
    BusError, Fragmentation, Iommu, MapFault, Memory, Nic, NicFault, PinFault, Process, Vma, Zone,
};
use std::{
    cell::RefCell,
    num::NonZeroUsize,
    ops::{ControlFlow, Deref},
    panic::{catch_unwind, AssertUnwindSafe},
    pin::Pin,
    sync::{
        atomic::{AtomicI64, Ordering},
        Arc,
    },
};

const P: u64 = 4096;
const BASE: u64 = 0x7f00_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const AT: u64 = 0x10_0000;

/// Panics at the n-th touch, once.
#[derive(Clone)]
struct Fuse(Arc<AtomicI64>);

impl Fuse {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(-1)))
    }

    fn arm(&self, n: i64) {
        self.0.store(n, Ordering::SeqCst);
    }

    /// Whether it has gone off.
    fn disarm(&self) -> bool {
        self.0.swap(-1, Ordering::SeqCst) == -1
    }

    fn touch(&self) {
        let less = |left: i64| (left >= 0).then_some(left - 1);
        if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Ok(0) {
            panic!("foreign code panics");
        }
    }
}

/// A value whose every call touches the fuse before and after its work, and so does its end.
struct Fused<T> {
    inner: T,
    fuse: Fuse,
}

impl<T> Fused<T> {
    fn call<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        self.fuse.touch();
        let done = work(&self.inner);
        self.fuse.touch();
        done
    }
}

impl<T> Drop for Fused<T> {
    fn drop(&mut self) {
        self.fuse.touch();
    }
}

// SAFETY: all is done by a process, which keeps the contract. What unwinds has pushed what it pinned,
// or has unpinned the run.
unsafe impl Pinner for Fused<Arc<Process>> {
    type Error = PinFault;

    fn page_size(&self) -> PageSize {
        self.inner.page_size()
    }

    fn charged_pages(&self, range: UserRange) -> u64 {
        self.call(|process| process.charged_pages(range))
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PinFault> {
        self.call(|process| process.pin(batch))
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: the caller promises it of the pages of the process.
        self.call(|process| unsafe { process.unpin(at, run, dirty) });
    }

    fn leaked(&self, at: UserAddr, run: PageRun) {
        self.call(|process| process.leaked(at, run));
    }
}

impl PageAccess for Fused<Arc<Process>> {
    type AccessError = BusError;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), BusError> {
        // SAFETY: the caller promises it of the pages of the process.
        self.call(|process| unsafe { PageAccess::read(&**process, from, bytes) })
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), BusError> {
        // SAFETY: the caller promises it of the pages of the process.
        self.call(|process| unsafe { PageAccess::write(&**process, to, bytes) })
    }
}

impl Accountant for Fused<Arc<Account>> {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        self.call(|account| account.charge(pages))
    }

    fn uncharge(&self, pages: u64) {
        self.call(|account| account.uncharge(pages));
    }
}

// SAFETY: all is done by a mock IOMMU, which keeps the contract; it may unwind.
unsafe impl Domain for Fused<Arc<Iommu>> {
    type Error = MapFault;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.call(|iommu| iommu.page_sizes())
    }

    fn aperture(&self) -> IovaRange {
        self.call(|iommu| iommu.aperture())
    }

    fn cuts(&self) -> Cuts {
        self.call(|iommu| iommu.cuts())
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: the caller promises it of the domain inside.
        self.call(|iommu| unsafe { iommu.map(tile, prot) })
    }

    fn sync_map(&self, range: IovaRange) -> Result<(), MapFault> {
        self.call(|iommu| iommu.sync_map(range))
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: the caller promises it of the domain inside.
        self.call(|iommu| unsafe { iommu.unmap(tile, gather) })
    }

    fn flush(&self, gather: Pin<&mut RangeGather>) {
        self.call(|iommu| iommu.flush(gather));
    }
}

// SAFETY: it is the page table of the mock IOMMU.
unsafe impl ReadDomain for Fused<Arc<Iommu>> {
    fn read(&self, iova: Iova) -> Option<Entry> {
        self.call(|iommu| iommu.read(iova))
    }
}

// SAFETY: it is the mock IOMMU that notes.
unsafe impl DirtyDomain for Fused<Arc<Iommu>> {
    fn set_dirty_tracking(&self, on: bool) -> Result<(), MapFault> {
        self.call(|iommu| iommu.set_dirty_tracking(on))
    }

    fn read_dirty(
        &self,
        range: IovaRange,
        clear: bool,
        gather: Pin<&mut RangeGather>,
        written: impl FnMut(IovaRange),
    ) -> Result<(), MapFault> {
        self.call(|iommu| iommu.read_dirty(range, clear, gather, written))
    }
}

// SAFETY: all is done by a mock card, which keeps the contract; it may unwind.
unsafe impl BlockTable for Fused<Arc<Nic<Memory>>> {
    type Key = pinned_sgl_mock::Key;
    type Error = NicFault;

    fn page_sizes(&self) -> PageSizes {
        self.call(|nic| nic.page_sizes())
    }

    unsafe fn register(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<Self::Key, NicFault> {
        // SAFETY: the caller promises it of the card inside.
        self.call(|nic| unsafe { BlockTable::register(&**nic, layout, blocks) })
    }

    unsafe fn invalidate(&self, key: Self::Key) -> Result<(), NicFault> {
        // SAFETY: the caller promises it of the card inside.
        self.call(|nic| unsafe { BlockTable::invalidate(&**nic, key) })
    }
}

/// A storage whose `grow` touches the fuse before it changes anything.
struct FusedStorage(Heap, Fuse);

// SAFETY: it is a heap; `grow` may unwind, and has changed nothing then.
unsafe impl Storage for FusedStorage {
    const PIECE_BYTES: usize = 512;

    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.1.touch();
        self.0.grow(bytes)
    }

    fn shrink(&mut self) {
        self.0.shrink();
    }

    fn pieces(&self) -> usize {
        self.0.pieces()
    }

    fn piece(&self, index: usize) -> &[u8] {
        self.0.piece(index)
    }

    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.0.piece_mut(index)
    }

    fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

/// An `Arc` whose clone and whose end touch the fuse.
struct Held<T>(Arc<T>, Fuse);

impl<T> Held<T> {
    fn new(value: T, fuse: &Fuse) -> Self {
        Self(Arc::new(value), fuse.clone())
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        self.1.touch();
        Self(self.0.clone(), self.1.clone())
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.1.touch();
    }
}

// SAFETY: it is an `Arc`.
unsafe impl<T> Holder for Held<T> {}
// SAFETY: it is an `Arc`.
unsafe impl<T> SharedHolder for Held<T> {}

type Region = Umem<Held<Fused<Arc<Process>>>, Held<Fused<Arc<Account>>>, Heap>;
type Unit = Held<Fused<Arc<Iommu>>>;

struct World {
    fuse: Fuse,
    memory: Memory,
    process: Arc<Process>,
    account: Arc<Account>,
    iommus: [Arc<Iommu>; 2],
    nic: Arc<Nic<Memory>>,
}

impl World {
    fn new() -> Self {
        let memory = Memory::builder()
            .zone(Zone::Normal, 0x1000..0x1400)
            .fragmentation(Fragmentation::Alternate)
            .build()
            .unwrap();
        let process = Arc::new(Process::new(&memory));
        process.map(Self::range(0, 512), Vma::read_write()).unwrap();
        let iommu = || Arc::new(memory.iommu(PageSizes::SIZE_4K));
        let (iommus, nic) = ([iommu(), iommu()], Arc::new(memory.nic()));
        let account = Arc::new(Account::unlimited());
        Self { fuse: Fuse::new(), memory, process, account, iommus, nic }
    }

    fn range(first: u64, pages: u64) -> UserRange {
        UserRange::new(UserAddr::new(BASE + first * P), pages * P).unwrap()
    }

    fn request(first: u64, pages: u64) -> PinRequest {
        PinRequest::new(Self::range(first, pages), PinFlags::WRITE | PinFlags::LONGTERM)
    }

    fn pinner(&self) -> Held<Fused<Arc<Process>>> {
        Held::new(Fused { inner: self.process.clone(), fuse: self.fuse.clone() }, &self.fuse)
    }

    fn accountant(&self) -> Held<Fused<Arc<Account>>> {
        Held::new(Fused { inner: self.account.clone(), fuse: self.fuse.clone() }, &self.fuse)
    }

    fn region(&self, first: u64, pages: u64) -> Held<Region> {
        let umem = Umem::pin(self.pinner(), self.accountant(), Self::request(first, pages));
        Held::new(umem.unwrap(), &self.fuse)
    }

    fn unit(&self, number: usize) -> Unit {
        let inner = self.iommus[number].clone();
        Held::new(Fused { inner, fuse: self.fuse.clone() }, &self.fuse)
    }

    /// Nothing that a device reaches is unpinned, and nothing was unpinned that was not pinned.
    fn check(&self, when: &str) {
        for iommu in &self.iommus {
            for entry in iommu.mapped(IovaRange::ALL) {
                let pfn = entry.phys.pfn(PageSize::SIZE_4K);
                assert_ne!(self.memory.pins(pfn), 0, "{when}: a device reaches {pfn:?}");
            }
        }
        assert_eq!(self.memory.witness().seen(), [], "{when}");
    }
}

/// Runs `work` in a new world with the fuse at its n-th touch, for every n; `afterwards` looks at what
/// is left, in peace. Returns how many touches there are.
fn at_every_call<S>(
    setup: impl Fn(&World) -> S,
    work: impl Fn(&World, &mut S),
    afterwards: impl Fn(&World, S, &str),
) -> i64 {
    let mut n = 0;
    loop {
        let world = World::new();
        let mut state = setup(&world);
        world.fuse.arm(n);
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&world, &mut state)));
        let fired = world.fuse.disarm();
        let when = format!("touch {n}");
        if let Err(panic) = outcome {
            let foreign = panic.downcast_ref::<&str>() == Some(&"foreign code panics");
            if !foreign {
                std::panic::resume_unwind(panic);
            }
        } else {
            assert!(!fired, "{when}: a panic was swallowed");
        }
        world.check(&when);
        afterwards(&world, state, &when);
        world.check(&format!("{when}, afterwards"));
        // What leads to leaked pins stays, for good: nothing took it down.
        std::mem::forget(world.iommus.clone());
        std::mem::forget(world.nic.clone());
        if !fired {
            assert_eq!(world.memory.pinned_pages(), 0, "nothing is leaked where nothing unwinds");
            assert_eq!(world.account.charged(), 0);
            return n;
        }
        // What is not leaked is not charged; what is leaked may be.
        assert!(world.account.charged() <= 512);
        n += 1;
    }
}

#[test]
fn pinning_reading_and_unpinning() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let umem = Umem::pin(world.pinner(), world.accountant(), World::request(0, 300));
            let umem = umem.unwrap();
            umem.write(P - 3, b"across").unwrap();
            umem.read(5 * P - 3, &mut [0; 6]).unwrap();
            drop(umem);
            let umem = Umem::pin(world.pinner(), world.accountant(), World::request(0, 3));
            drop(umem.unwrap().unpin().unwrap());
        },
        |_, (), _| (),
    );
    assert!(touches > 600);
}

#[test]
fn progress_and_storages() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let storage = FusedStorage(Heap::new(), world.fuse.clone());
            let request = World::request(0, 400).with_progress(|_| {
                world.fuse.touch();
                ControlFlow::Continue(())
            });
            // A plain pinner: the fuse is that of the storage and of the callback.
            let mut slots = [None; 32];
            Umem::pin_in(&*world.process, &*world.account, storage, &mut slots, request).unwrap();
        },
        |_, (), _| (),
    );
    assert!(touches > 13, "more than the callbacks: {touches}");
}

#[test]
fn pinning_by_threads() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let threads = NonZeroUsize::new(3).unwrap();
            let request = World::request(0, 512).with_shared_progress(|_| {
                world.fuse.touch();
                ControlFlow::Continue(())
            });
            let (pinner, accountant) = (world.pinner(), world.accountant());
            drop(Umem::pin_parallel(pinner, accountant, request, threads).unwrap());
        },
        |_, (), _| (),
    );
    assert!(touches > 512);
}

#[test]
fn builders() {
    let fuse = Fuse::new();
    for n in 0.. {
        let mut builder =
            SglBuilder::new_in(PageSize::SIZE_4K, FusedStorage(Heap::new(), fuse.clone())).unwrap();
        for page in 0..100 {
            builder.push_page(Pfn::new(page * 2), Ram).unwrap();
        }
        let before: Vec<_> = builder.runs().collect();
        fuse.arm(n);
        let pages = || {
            (0..300).map(|page| {
                fuse.touch();
                PageRun::ram(Pfn::new(1000 + page * 3), 1 + page % 2).unwrap()
            })
        };
        let pushed = catch_unwind(AssertUnwindSafe(|| builder.push_runs(pages()).unwrap()));
        let fired = fuse.disarm();
        assert_eq!(pushed.is_err(), fired);
        let expected: Vec<_> =
            if fired { before } else { before.into_iter().chain(pages()).collect() };
        assert!(builder.runs().eq(expected.iter().copied()), "touch {n}");
        // It can be used on.
        builder.push_runs(pages()).unwrap();
        let sgl = builder.finish().unwrap_or_else(|_| panic!("there is memory"));
        assert!(sgl.runs().eq(expected.into_iter().chain(pages())), "touch {n}");
        if !fired {
            return;
        }
    }
}

#[test]
fn mappings() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let (umem, unit) = (world.region(0, 8), world.unit(0));
            let mapping = Mapping::map(umem.clone(), unit.clone(), Iova::new(AT), RW).unwrap();
            let (head, tail) = mapping.split_at(3 * P).unwrap();
            let (left, right) = tail.unmap_range(P..2 * P).unwrap();
            drop(left);
            right.unwrap().unmap().unwrap();
            drop(umem);
            drop(head);
        },
        |_, (), _| (),
    );
    assert!(touches > 100);
}

#[test]
fn streams() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let (pinner, accountant, unit) = (world.pinner(), world.accountant(), world.unit(0));
            let request = World::request(0, 24);
            let iova = Iova::new(AT);
            let stream =
                Stream::map(pinner, accountant, unit, [None; 5], request, iova, RW).unwrap();
            assert!(stream.translate(Iova::new(AT + 5 * P)).is_some());
            stream.unmap().unwrap();
        },
        |_, (), _| (),
    );
    assert!(touches > 200);
}

#[test]
fn memory_regions() {
    let touches = at_every_call(
        |_| (),
        |world, ()| {
            let nic = Fused { inner: world.nic.clone(), fuse: world.fuse.clone() };
            let nic = Held::new(nic, &world.fuse);
            let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
            let (umem, iova) = (world.region(0, 4), Iova::new(AT));
            let one = MemoryRegion::register(umem.clone(), nic.clone(), iova, access).unwrap();
            let two = MemoryRegion::register(umem, nic, iova, access).unwrap();
            one.deregister().unwrap();
            drop(two);
        },
        |_, (), _| (),
    );
    assert!(touches > 20);
}

/// An address space lives on when something has unwound in it.
#[test]
fn address_spaces() {
    type Space = HeapIoas<Held<Region>, Unit>;
    let at = |page: u64| Placement::At(Iova::new(AT + page * P));
    let range =
        |page: u64, pages: u64| IovaRange::new(Iova::new(AT + page * P), pages * P).unwrap();
    let touches = at_every_call(
        |_| (Space::new(), Space::new()),
        |world, (space, copy)| {
            space.attach(world.unit(0)).unwrap();
            let second = world.unit(1);
            for place in [0, 8, 16] {
                space.map(at(place), world.region(place, 8), RW).unwrap();
            }
            let id = space.attach(second).unwrap();
            space.set_dirty_tracking(true).unwrap();
            space.write(Iova::new(AT + 7 * P + 5), &[7; P as usize]).unwrap();
            space.split(Iova::new(AT + 4 * P)).unwrap();
            space.unmap_cutting(range(9, 2)).unwrap();
            copy.copy_from(space, range(11, 13), at(100), RW).unwrap();
            space.unmap(range(16, 8)).unwrap();
            drop(space.detach(id).unwrap());
            copy.unmap_all();
        },
        |world, (mut space, mut copy), when| {
            // What the space says is mapped is mapped so in each of its domains.
            for space in [&space, &copy] {
                for mapping in space.mappings(IovaRange::ALL) {
                    for (_, domain) in space.domains() {
                        let mut at = Some(mapping.range().first());
                        while let Some(iova) = at.filter(|at| *at <= mapping.range().last()) {
                            let there = domain.inner.lookup(iova).map(|entry| entry.phys);
                            assert_eq!(there, mapping.translate(iova), "{when}: {iova}");
                            at = iova.checked_add(P);
                        }
                    }
                }
            }
            // Another owner maps wherever a domain has room; the space does not take it away.
            let plain = Umem::pin(&*world.process, &*world.account, World::request(100, 32));
            let plain = plain.unwrap();
            let others: Vec<_> = world
                .iommus
                .iter()
                .flat_map(|iommu| (0..32).map(move |page| (iommu, page)))
                .filter(|(iommu, page)| iommu.lookup(Iova::new(AT + page * P)).is_none())
                .map(|(iommu, page)| {
                    let (bytes, iova) = (page * P..(page + 1) * P, Iova::new(AT + page * P));
                    Mapping::map_range(&plain, bytes, &**iommu, iova, RW).unwrap()
                })
                .collect();
            let listed: u64 =
                space.mappings(IovaRange::ALL).map(|m| m.range().len().unwrap()).sum();
            assert_eq!(space.unmap_all(), listed, "{when}");
            assert_eq!(space.mappings(IovaRange::ALL).count(), 0);
            copy.unmap_all();
            for other in &others {
                let there = other.domain().lookup(other.iova()).map(|entry| entry.phys);
                assert_eq!(there, other.translate(other.iova()), "{when}: another owner's");
            }
            others.into_iter().for_each(|other| assert!(other.unmap().is_ok()));
            assert!(plain.unpin().is_ok());
            world.check(when);
        },
    );
    assert!(touches > 300, "{touches}");
}

/// A panic in the middle of letting many regions go: the others go all the same.
#[test]
fn regions_behind_one_that_unwinds_are_let_go() {
    struct Bomb(Arc<Account>, RefCell<bool>);
    impl Accountant for Bomb {
        fn charge(&self, pages: u64) -> Result<(), ChargeError> {
            self.0.charge(pages)
        }
        fn uncharge(&self, pages: u64) {
            self.0.uncharge(pages);
            assert!(!self.1.replace(false), "safe code panics");
        }
    }
    let world = World::new();
    let bomb = Bomb(world.account.clone(), RefCell::new(false));
    let mut space = HeapIoas::new();
    space.attach(&*world.iommus[0]).unwrap();
    for place in 0..4 {
        let umem = Umem::pin(&*world.process, &bomb, World::request(place, 1)).unwrap();
        let at = Placement::At(Iova::new(AT + place * P));
        space.map(at, Box::new(umem), RW).unwrap();
    }
    bomb.1.replace(true);
    assert!(catch_unwind(AssertUnwindSafe(|| space.unmap(IovaRange::ALL))).is_err());
    assert_eq!((space.len(), world.iommus[0].mapped_bytes()), (0, 0));
    assert_eq!((world.memory.pinned_pages(), world.account.charged()), (0, 0));
    world.check("at the end");
}
