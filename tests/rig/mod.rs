// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of pinned regions and mappings stand on: a machine with a process, an account, a
//! plan of failure, and a witness that all of them share.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use pinned_sgl::iommu::{Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain};
use pinned_sgl::umem::{
    Account, Location, PageAccess, PinBatch, PinFlags, PinRequest, Pinner, Umem, UserRange,
};
use pinned_sgl::{Heap, Iova, PageRun, PageSize, PageSizes, Tile, UserAddr};
use pinned_sgl_mock::{
    Device, Fragmentation, Iommu, IommuConfig, MapFault, Memory, PinFault, Plan, Process, Vma,
    Witness, Zone,
};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The pages of the machine, unless a test says otherwise.
pub const P: u64 = 4096;
/// Where buffers begin: a multiple of 1 GiB.
pub const BASE: u64 = 0x7f00_0000_0000;
pub const RW: Prot = Prot::READ.union(Prot::WRITE);
pub const RO: Prot = Prot::READ;
pub const WRITE_LONG: PinFlags = PinFlags::WRITE.union(PinFlags::LONGTERM);
/// Pages of half the size of the machine's, and huge ones.
pub const HALF_AND_HUGE: &str = "2K|1M";
/// All orders in which frames are handed out.
#[cfg(not(miri))]
pub const ORDERS: [Fragmentation; 4] = [
    Fragmentation::None,
    Fragmentation::Reverse,
    Fragmentation::Alternate,
    Fragmentation::Seeded { seed: 5, run_order: 1 },
];
/// An interpreter has the time for one.
#[cfg(miri)]
pub const ORDERS: [Fragmentation; 1] = [Fragmentation::Alternate];

pub type Pinned = Umem<Arc<Process>, Arc<Account>, Heap>;

pub struct Rig {
    pub plan: Plan,
    pub witness: Witness,
    pub memory: Memory,
    pub process: Arc<Process>,
    pub account: Arc<Account>,
}

impl Rig {
    /// 64 MiB in pages of 4 KiB.
    pub fn new(fragmentation: Fragmentation) -> Self {
        Self::of(PageSize::SIZE_4K, fragmentation, 0x1000..0x5000)
    }

    pub fn of(page: PageSize, fragmentation: Fragmentation, frames: Range<u64>) -> Self {
        let (plan, witness) = (Plan::new(), Witness::new());
        let memory = Memory::builder()
            .page_size(page)
            .zone(Zone::Normal, frames)
            .fragmentation(fragmentation)
            .plan(plan.clone())
            .witness(witness.clone())
            .build()
            .unwrap();
        Self::on(memory)
    }

    pub fn on(memory: Memory) -> Self {
        let process = Arc::new(Process::new(&memory));
        let account = Arc::new(Account::unlimited());
        let (plan, witness) = (memory.plan().clone(), memory.witness().clone());
        Self { plan, witness, memory, process, account }
    }

    /// Maps `pages` pages from page `first` of the buffer on.
    pub fn buffer(&self, first: u64, pages: u64, area: Vma) -> UserRange {
        let page = self.memory.page_size().bytes();
        let range = bytes(first * page, pages * page);
        self.process.map(range, area).unwrap();
        range
    }

    /// Pins bytes, to be written, for long.
    pub fn pin(&self, range: UserRange) -> Arc<Pinned> {
        self.pin_as(range, WRITE_LONG)
    }

    pub fn pin_as(&self, range: UserRange, flags: PinFlags) -> Arc<Pinned> {
        let request = PinRequest::new(range, flags);
        Arc::new(Umem::pin(self.process.clone(), self.account.clone(), request).unwrap())
    }

    pub fn config(&self, sizes: &str) -> IommuConfig {
        Iommu::config(sizes.parse().unwrap()).memory(&self.memory)
    }

    pub fn iommu(&self, sizes: &str) -> Arc<Iommu> {
        Arc::new(self.config(sizes).build())
    }

    pub fn device(&self, iommu: &Arc<Iommu>) -> Device<Arc<Iommu>, Memory> {
        self.memory.device(iommu.clone())
    }

    /// Fills bytes by the CPU, each page with other ones.
    pub fn fill(&self, range: UserRange, seed: u64) -> Vec<u8> {
        let bytes = pattern(range.len(), seed);
        self.process.write(range.start(), &bytes).unwrap();
        bytes
    }

    pub fn read(&self, range: UserRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len() as usize];
        self.process.read(range.start(), &mut bytes).unwrap();
        bytes
    }

    /// How often each of the first `pages` pages of the buffer is pinned.
    pub fn pins(&self, pages: u64) -> Vec<u64> {
        let page = self.memory.page_size().bytes();
        (0..pages).map(|at| self.process.pins_at(UserAddr::new(BASE + at * page))).collect()
    }

    /// Nothing is pinned or charged, and nothing has gone wrong.
    #[track_caller]
    pub fn assert_idle(&self) {
        self.memory.assert_no_leak();
        assert_eq!(self.account.charged(), 0, "pages are still charged");
        self.witness.assert_clean();
    }
}

/// Bytes of the buffer.
pub fn bytes(offset: u64, len: u64) -> UserRange {
    UserRange::new(UserAddr::new(BASE + offset), len).unwrap()
}

pub fn iova(at: u64) -> Iova {
    Iova::new(at)
}

pub fn iovas(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// Bytes that look random: the same for the same seed.
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    // An interpreter takes its time: it draws few bytes of each page, and repeats them.
    let drawn = if cfg!(miri) { 16 } else { P };
    let page = |_| {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(drawn as usize).collect();
        bytes.repeat((P / drawn) as usize)
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(P)).flat_map(page).collect();
    bytes.truncate(len as usize);
    bytes
}

/// What a [`Watched`] pinner was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Pin,
    Unpin,
    Leaked,
}

/// The pinner of a process that notes each call, and how many pages were charged then.
pub struct Watched {
    pub process: Arc<Process>,
    account: Arc<Account>,
    calls: Mutex<Vec<(Call, u64)>>,
    leaked: AtomicU64,
}

impl Watched {
    pub fn new(rig: &Rig) -> Self {
        Self {
            process: rig.process.clone(),
            account: rig.account.clone(),
            calls: Mutex::default(),
            leaked: AtomicU64::new(0),
        }
    }

    /// The calls since they were last asked for.
    pub fn calls(&self) -> Vec<(Call, u64)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    pub fn leaked_pages(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push((call, self.account.charged()));
    }
}

// SAFETY: what is pinned, and unpinned, is what the process pins and unpins.
unsafe impl Pinner for Watched {
    type Error = PinFault;

    fn page_size(&self) -> PageSize {
        self.process.page_size()
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PinFault> {
        self.note(Call::Pin);
        self.process.pin(batch)
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        self.note(Call::Unpin);
        // SAFETY: the caller's promise is handed on.
        unsafe { self.process.unpin(at, run, dirty) };
    }

    fn leaked(&self, at: UserAddr, run: PageRun) {
        self.note(Call::Leaked);
        self.leaked.fetch_add(run.count(), Ordering::Relaxed);
        self.process.leaked(at, run);
    }
}

impl PageAccess for Watched {
    type AccessError = <Process as PageAccess>::AccessError;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), Self::AccessError> {
        // SAFETY: the caller promises it of the pages of the process, which pins and unpins them.
        unsafe { PageAccess::read(&*self.process, from, bytes) }
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), Self::AccessError> {
        // SAFETY: the caller promises it of the pages of the process, which pins and unpins them.
        unsafe { PageAccess::write(&*self.process, to, bytes) }
    }
}

/// A domain with a device that is never idle: it reads, or writes, each tile as soon as it is mapped,
/// and so has its translation in the IOTLB.
pub struct Eager {
    pub iommu: Arc<Iommu>,
    device: Device<Arc<Iommu>, Memory>,
}

impl Eager {
    pub fn new(rig: &Rig, sizes: &str) -> Self {
        let iommu = rig.iommu(sizes);
        let device = rig.device(&iommu);
        Self { iommu, device }
    }
}

// SAFETY: all is done by a domain that keeps the contract; the device is one behind it.
unsafe impl Domain for Eager {
    type Error = MapFault;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.iommu.page_sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.iommu.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: the caller's promise is handed on.
        let (bytes, result) = unsafe { self.iommu.map(tile, prot) };
        if bytes > 0 {
            self.device.prefetch(iovas(tile.iova.get(), bytes)).unwrap();
            if prot.contains(Prot::WRITE) {
                self.device.write(tile.iova, b"eager").unwrap();
            }
        }
        (bytes, result)
    }

    fn sync_map(&self, range: IovaRange) -> Result<(), MapFault> {
        self.iommu.sync_map(range)
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.iommu.unmap(tile, gather) }
    }

    fn flush(&self, gather: Pin<&mut RangeGather>) {
        self.iommu.flush(gather);
    }
}

// SAFETY: what is read is the page table that the device uses.
unsafe impl ReadDomain for Eager {
    fn read(&self, iova: Iova) -> Option<Entry> {
        self.iommu.read(iova)
    }
}
