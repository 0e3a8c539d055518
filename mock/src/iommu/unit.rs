// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Iommu`]: one IOMMU domain, with a page table, a cache of it, and a watchful eye.
//!
//! ```text
//!   map, unmap ──────► page table ◄────┐ walk, where the IOTLB knows nothing
//!                                      │
//!   flush ───────────► IOTLB ──────────┴──► Device ──► Bus
//!                      stale until flushed
//! ```

use super::lie::Liar;
use super::table::{Leaf, Stop, Table};
use super::tlb::{Cached, Tlb};
use super::{DmaFault, IommuConfig, Lie};
use crate::memory::{Block, Reacher};
use crate::sync::{has_failed, lock, Mutex};
use crate::{Call, Plan, Step, Violation, ViolationKind, Witness};
use pinned_sgl::iommu::{
    Cuts, DirtyDomain, Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain,
};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr, Tile};
use std::{fmt, ops::ControlFlow, pin::Pin};

/// An IOMMU domain for tests: it translates for [`Device`](super::Device)s as hardware would, and
/// reports every call that breaks the contract of [`Domain`] to its [`Witness`].
///
/// | what happens | what it does |
/// |---|---|
/// | a call with arguments that no IOMMU takes | [`BadCall`]; nothing is done |
/// | something is in the way of a tile | [`MapFault::Exists`]; with [`IommuConfig::strict_overlap`] also [`MapOverMap`] |
/// | unmapping where nothing is mapped | [`UnmapOfNothing`]; it stops there |
/// | an unmapped range begins inside a page table entry | [`UnmapCuts`]; it stops there |
/// | an unmapped range ends inside a page table entry | [`UnmapCuts`]; all of the entry goes, and more is reported than was asked for |
/// | a missing flush | devices go on reaching what the IOTLB remembers |
/// | the domain is dropped with pages mapped | [`StillMapped`] |
/// | the domain is dropped before a flush | [`NotFlushed`] |
///
/// One that is made by [`Memory::iommu`](crate::Memory::iommu), or described with
/// [`IommuConfig::memory`], belongs to a machine: what it leads to, or may lead to because a flush is
/// missing, must be pinned, whether or not a device goes there:
///
/// | what happens | what it is |
/// |---|---|
/// | the last pin of a page is taken back while it is mapped | [`UnpinnedWhileMapped`] |
/// | the last pin of a page is taken back before the flush | [`UnpinnedBeforeFlush`] |
/// | a page is mapped that is not pinned | [`MappedUnpinned`] |
/// | a page is mapped to be written that is pinned to be read | [`WritablePinnedToRead`] |
///
/// With [`Cuts::Anywhere`] an entry that is cut becomes as many smaller ones as it takes; then
/// only a cut through one of the smallest pages is a mistake.
///
/// It is shared by reference or in an `Arc`, between threads too. A call to it or an access of a
/// device behind it waits for all others: a flush returns when accesses under way are done.
///
/// [`BadCall`]: ViolationKind::BadCall
/// [`MapOverMap`]: ViolationKind::MapOverMap
/// [`UnmapOfNothing`]: ViolationKind::UnmapOfNothing
/// [`UnmapCuts`]: ViolationKind::UnmapCuts
/// [`StillMapped`]: ViolationKind::StillMapped
/// [`NotFlushed`]: ViolationKind::NotFlushed
/// [`UnpinnedWhileMapped`]: ViolationKind::UnpinnedWhileMapped
/// [`UnpinnedBeforeFlush`]: ViolationKind::UnpinnedBeforeFlush
/// [`MappedUnpinned`]: ViolationKind::MappedUnpinned
/// [`WritablePinnedToRead`]: ViolationKind::WritablePinnedToRead
///
/// ```
/// use pinned_sgl::iommu::{Domain, IovaRange, Prot, RangeGather};
/// use pinned_sgl_mock::{Iommu, ViolationKind};
/// use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SglBuilder};
/// use std::pin::Pin;
///
/// let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
/// builder.push_run(PageRun::ram(Pfn::new(0x200), 513)?)?;
/// let sgl = builder.finish()?;
///
/// let iommu = Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M);
/// for tile in sgl.whole()?.tiles(iommu.page_sizes(), Iova::new(0x20_0000))? {
///     // SAFETY: this memory exists in this example only.
///     let (bytes, result) = unsafe { iommu.map(tile, Prot::READ) };
///     assert_eq!((bytes, result), (tile.len(), Ok(())));
/// }
/// assert_eq!(iommu.lookup(Iova::new(0x20_1234)).unwrap().phys, PhysAddr::new(0x20_0000));
/// assert_eq!(iommu.stats().pages_mapped, 2);
///
/// // Half of a large page cannot be unmapped.
/// let half = IovaRange::new(Iova::new(0x20_0000), 1 << 20)?;
/// let mut gather = RangeGather::default();
/// // SAFETY: as above.
/// let bytes = unsafe { iommu.unmap_range(half, std::iter::empty(), Pin::new(&mut gather)) };
/// assert_eq!(bytes, 2 << 20);
/// let seen = iommu.witness().take()[0];
/// assert_eq!((seen.kind, seen.iova), (ViolationKind::UnmapCuts, Some(Iova::new(0x30_0000))));
/// iommu.flush(Pin::new(&mut gather));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Iommu {
    config: IommuConfig,
    /// What the memory of its machine knows it by.
    reacher: Option<Reacher>,
    state: Mutex<State>,
}

struct State {
    table: Table,
    /// What the calls of a domain that never cuts have mapped.
    calls: Vec<IovaRange>,
    tlb: Tlb,
    /// Whether the hardware notes what devices write.
    tracks_dirty: bool,
    lie: Option<Lie>,
    stats: IommuStats,
}

/// What an [`Iommu`] has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuStats {
    /// Calls of [`Domain::map`], each with a tile, whether or not they failed.
    pub map_calls: u64,
    /// Page table entries that were mapped.
    pub pages_mapped: u64,
    /// Calls of [`Domain::sync_map`].
    pub sync_calls: u64,
    /// Calls of [`Domain::unmap`] and of [`Domain::unmap_range`].
    pub unmap_calls: u64,
    /// Page table entries that were unmapped.
    pub pages_unmapped: u64,
    /// Calls of [`Domain::flush`] that had something to flush.
    pub flushes: u64,
    /// Calls of [`ReadDomain::read`]: walks of the page table by the CPU.
    pub reads: u64,
    /// Accesses of devices that the IOTLB translated.
    pub tlb_hits: u64,
    /// Accesses of devices for which the page table was walked.
    pub tlb_misses: u64,
}

/// A page table entry of an [`Iommu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapped {
    /// The addresses that it translates.
    pub range: IovaRange,
    /// Where the first of them leads.
    pub phys: PhysAddr,
    /// What a device may do.
    pub prot: Prot,
    /// Whether a device is known to have written there.
    pub dirty: bool,
}

/// Why an [`Iommu`] could not do what it was asked for: the error of its [`Domain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapFault {
    /// The arguments are none that an IOMMU takes; the witness knows why.
    BadCall,
    /// Something is mapped at this address already.
    Exists {
        /// The first address in the way.
        iova: Iova,
    },
    /// The plan said so.
    Injected,
}

impl fmt::Display for MapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCall => f.write_str("no IOMMU takes such arguments"),
            Self::Exists { iova } => write!(f, "IOVA {iova} is mapped already"),
            Self::Injected => f.write_str("the plan lets it fail"),
        }
    }
}

impl std::error::Error for MapFault {}

/// An entry is split into `2^MAX_SPLIT_BITS` at most.
const MAX_SPLIT_BITS: u32 = 18;

impl IommuConfig {
    /// Makes the domain.
    #[must_use]
    pub fn build(mut self) -> Iommu {
        let gap = |(size, larger): (PageSize, PageSize)| larger.shift().abs_diff(size.shift());
        let neighbours = self.sizes.sizes().zip(self.sizes.sizes().skip(1));
        if self.cuts == Cuts::Anywhere && neighbours.map(gap).any(|bits| bits > MAX_SPLIT_BITS) {
            self.cuts = Cuts::Entries;
        }
        let state = State {
            table: Table::new(self.sizes, self.aperture.last()),
            calls: Vec::new(),
            tlb: Tlb::new(self.sizes, self.tlb_entries),
            tracks_dirty: false,
            lie: None,
            stats: IommuStats::default(),
        };
        let reacher = self.memory.as_ref().map(Reacher::new);
        Iommu { config: self, reacher, state: Mutex::new(state) }
    }
}

impl Iommu {
    /// A domain with pages of `sizes`, that translates all addresses of 64 bits, in no machine; see
    /// [`config`](Self::config) for others.
    #[must_use]
    pub fn new(sizes: PageSizes) -> Self {
        Self::config(sizes).build()
    }

    /// A domain with pages of `sizes`, to be described further and then built: see
    /// [`IommuConfig::new`].
    pub fn config(sizes: PageSizes) -> IommuConfig {
        IommuConfig::new(sizes)
    }

    /// Which of its calls fail: [`Step::Map`], [`Step::SyncMap`] and [`Step::Dirty`] are asked for.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.config.plan
    }

    /// Where violations are reported.
    #[must_use]
    pub const fn witness(&self) -> &Witness {
        &self.config.witness
    }

    /// Lets the next call of one kind that can do so report what is not so, once; then it is honest
    /// again. A lie that has not been told is forgotten for the new one.
    ///
    /// # Safety
    ///
    /// The domain breaks the contract of [`Domain`] then, on which those rely who map memory in it:
    /// until that is unmapped, it must be memory that may be lost, as that of the mocks.
    pub unsafe fn lie(&self, lie: Lie) {
        lock(&self.state).lie = Some(lie);
    }

    /// Whether a lie is still to be told.
    #[must_use]
    pub fn is_lie_pending(&self) -> bool {
        lock(&self.state).lie.is_some()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> IommuStats {
        lock(&self.state).stats
    }

    /// The bytes that its page table would take in the memory of hardware: 8 for each entry of
    /// each table, used or not.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        lock(&self.state).table.bytes()
    }

    /// The bytes that are mapped: up to 2^64.
    #[must_use]
    pub fn mapped_bytes(&self) -> u128 {
        lock(&self.state).table.mapped_bytes()
    }

    /// The page table entries that are mapped.
    #[must_use]
    pub fn mapped_pages(&self) -> u64 {
        lock(&self.state).table.leaves()
    }

    /// The entries that the IOTLB remembers.
    #[must_use]
    pub fn tlb_len(&self) -> usize {
        lock(&self.state).tlb.len()
    }

    /// The page table entry that translates `iova`. Not counted as a read, and never a lie.
    #[must_use]
    pub fn lookup(&self, iova: Iova) -> Option<Mapped> {
        let mut state = lock(&self.state);
        let found = state.table.find(iova)?;
        Some(Mapped::new(found.range(), *found.leaf))
    }

    /// All page table entries that translate an address of `range`, in ascending order.
    #[must_use]
    pub fn mapped(&self, range: IovaRange) -> Vec<Mapped> {
        let mut all = Vec::new();
        lock(&self.state).table.visit(range, |found| {
            all.push(Mapped::new(found.range(), *found.leaf));
            ControlFlow::Continue(())
        });
        all
    }

    /// Makes the hardware forget everything, as if the domain had been attached anew. Not counted
    /// as a flush.
    pub fn forget_all(&self) {
        self.forget(&mut lock(&self.state), IovaRange::ALL);
    }

    fn forget(&self, state: &mut State, range: IovaRange) {
        state.tlb.flush(range, |block| {
            if let Some(reacher) = &self.reacher {
                reacher.flush(block);
            }
        });
    }

    /// Translates an address for a device, and lets it access memory: what is mapped at `iova`
    /// leads to the address given to `access`, for so many bytes.
    ///
    /// The lock is held until the access is done: a flush waits for it, as it does in hardware.
    pub(super) fn access<R>(
        &self,
        iova: Iova,
        write: bool,
        access: impl FnOnce(PhysAddr, u64) -> R,
    ) -> Result<R, DmaFault> {
        let mut state = lock(&self.state);
        let (phys, len) = state.translate(iova, write)?;
        let result = access(phys, len);
        drop(state);
        Ok(result)
    }

    /// Remembers a call that no IOMMU takes.
    fn bad_call(&self, call: Call, what: &'static str, iova: Iova) {
        let kind = ViolationKind::BadCall { what };
        self.config.witness.saw(Violation::new(kind, call).iova(iova));
    }

    /// A violation at an address, which leads to memory, or does not.
    fn about(
        &self,
        kind: ViolationKind,
        call: Call,
        iova: Iova,
        phys: Option<PhysAddr>,
    ) -> Violation {
        match (&self.reacher, phys) {
            (Some(reacher), Some(phys)) => reacher.about(kind, call, iova, phys),
            _ => Violation::new(kind, call).iova(iova),
        }
    }

    /// What is wrong with a tile, wherever it comes from.
    fn check(&self, tile: &Tile) -> Result<IovaRange, &'static str> {
        let size = tile.page_size;
        if !self.config.sizes.has(size) {
            return Err("a tile has a page size that the IOMMU does not have");
        }
        if tile.count == 0 {
            return Err("a tile has no pages");
        }
        if tile.count > (u64::MAX >> size.shift()) {
            return Err("a tile has more bytes than 64 bits can count");
        }
        if !tile.iova.is_aligned(size) || !tile.phys.is_aligned(size) {
            return Err("a tile lies at no multiple of its page size");
        }
        if tile.phys.checked_add(tile.len() - 1).is_none() {
            return Err("the memory of a tile wraps");
        }
        match IovaRange::new(tile.iova, tile.len()) {
            Ok(range) if self.config.aperture.covers(&range) => Ok(range),
            _ => Err("a tile lies outside the aperture"),
        }
    }

    /// Unmaps a range, and returns how much; reports what is wrong with it.
    fn remove(&self, range: IovaRange, gather: Pin<&mut RangeGather>) -> u64 {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        match state.lie {
            Some(Lie::UnmapsNothing) => {
                state.lie = None;
                return 0;
            }
            Some(Lie::PretendsToUnmap) => {
                state.lie = None;
                return range.len().unwrap_or(u64::MAX);
            }
            _ => {}
        }
        if self.config.cuts == Cuts::Never {
            if let Some(at) = state.cut_call(range) {
                let phys = state.table.find(at).and_then(|found| found.block().at(at));
                let seen = self.about(ViolationKind::UnmapCuts, Call::Unmap, at, phys);
                drop(guard);
                self.config.witness.saw(seen);
                return 0;
            }
            let gone = |call: &IovaRange| range.covers(call);
            state.calls.retain(|call| !gone(call));
        }
        let mut last = None;
        let done = state.table.unmap(range, self.config.cuts == Cuts::Anywhere, |block| {
            last = Some(block);
            state.tlb.unmap(block);
            if let Some(reacher) = &self.reacher {
                reacher.unmap(block);
            }
        });
        state.stats.pages_unmapped += done.leaves;
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Unmap && done.bytes != 0);
        let seen = done.stop.map(|stop| {
            let (kind, at) = match stop {
                Stop::Hole(at) => (ViolationKind::UnmapOfNothing, at),
                Stop::Cut(at) => (ViolationKind::UnmapCuts, at),
            };
            // What is cut is there still, or was the last to go.
            let here = state.table.find(at).map(|found| found.block()).or(last);
            self.about(kind, Call::Unmap, at, here.and_then(|block| block.at(at)))
        });
        drop(guard);
        self.config.witness.saw_all(seen);
        if let Ok(gone) = IovaRange::new(range.first(), done.bytes) {
            gather.get_mut().add(gone);
        }
        let page = self.config.sizes.smallest().map_or(0, PageSize::bytes);
        match lie {
            Some(Lie::UnmapsMore) => done.bytes.saturating_add(page),
            Some(Lie::UnmapsLess) => done.bytes.saturating_sub(page),
            Some(Lie::UnmapsPartOfPage) => done.bytes.saturating_sub(1),
            _ => done.bytes,
        }
    }
}

impl State {
    /// Where `range` cuts what one call has mapped.
    fn cut_call(&self, range: IovaRange) -> Option<Iova> {
        let cut = self
            .calls
            .iter()
            .find(|call| !range.covers(call) && call.intersection(&range).is_some())?;
        Some(if cut.first() < range.first() { range.first() } else { range.last() })
    }

    /// Where `iova` leads, and for how many bytes: by what the IOTLB remembers, else by the table.
    fn translate(&mut self, iova: Iova, write: bool) -> Result<(PhysAddr, u64), DmaFault> {
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let notes = write && self.tracks_dirty;
        let denied = DmaFault::NotPermitted { iova, write };
        if let Some(hit) = self.tlb.find(iova) {
            self.stats.tlb_hits += 1;
            if !hit.cached.prot.contains(needs) {
                return Err(denied);
            }
            if notes && !hit.cached.dirty {
                hit.cached.dirty = true;
                // A stale entry may have no bit left to set; it is served all the same.
                let found = self.table.find(iova).filter(|found| found.size == hit.size);
                if let Some(found) = found.filter(|found| found.leaf.phys == hit.cached.phys) {
                    found.leaf.dirty = true;
                }
            }
            return Ok(within(hit.cached.phys, iova, hit.size));
        }
        self.stats.tlb_misses += 1;
        let found = self.table.find(iova).ok_or(DmaFault::NotMapped { iova })?;
        if !found.leaf.prot.contains(needs) {
            return Err(denied);
        }
        found.leaf.dirty |= notes;
        let Leaf { phys, prot, dirty } = *found.leaf;
        self.tlb.insert(found.first, found.size, Cached { phys, prot, dirty });
        Ok(within(phys, iova, found.size))
    }
}

/// Where `iova` leads in a page at `phys`, and the bytes from there to the end of the page.
const fn within(phys: PhysAddr, iova: Iova, size: PageSize) -> (PhysAddr, u64) {
    let offset = iova.offset_in(size);
    (PhysAddr::new(phys.get() + offset), size.bytes() - offset)
}

impl Mapped {
    const fn new(range: IovaRange, leaf: Leaf) -> Self {
        Self { range, phys: leaf.phys, prot: leaf.prot, dirty: leaf.dirty }
    }
}

// SAFETY: devices translate through the table, which holds what was reported, and through the IOTLB,
// whose entries for a range are gone when its gather has been flushed; they hold the domain while
// they can access anything. The page sizes, the aperture and the splitting are those of a
// configuration that nobody can change any more. It lies only for callers who have promised that no
// harm can come of it.
unsafe impl Domain for Iommu {
    type Error = MapFault;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.config.sizes
    }

    fn aperture(&self) -> IovaRange {
        self.config.aperture
    }

    fn cuts(&self) -> Cuts {
        self.config.cuts
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.stats.map_calls += 1;
        if let Err(what) = self.check(&tile) {
            self.bad_call(Call::Map, what, tile.iova);
            return (0, Err(MapFault::BadCall));
        }
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            self.bad_call(Call::Map, "a tile may be neither read nor written", tile.iova);
            return (0, Err(MapFault::BadCall));
        }
        let page = tile.page_size.bytes();
        if state.lie == Some(Lie::FailsWithMore) {
            state.lie = None;
            return (tile.len().saturating_add(page), Err(MapFault::Injected));
        }
        let failure = self.config.plan.step(Step::Map).err();
        let count = failure
            .map_or(tile.count, |failure| failure.after_pages.min(tile.count.saturating_sub(1)));
        let leaf = Leaf { phys: tile.phys, prot, dirty: false };
        let (mut pages, in_the_way) = state.table.map(tile.iova, tile.page_size, count, leaf);
        if self.config.cuts == Cuts::Never {
            let mapped = IovaRange::new(tile.iova, pages << tile.page_size.shift());
            match mapped {
                Ok(call) if pages == tile.count => state.calls.push(call),
                Ok(part) => {
                    state.table.unmap(part, false, |_| {});
                    pages = 0;
                }
                Err(_) => {}
            }
        }
        state.stats.pages_mapped += pages;
        let badly_pinned = self.reach(&tile, pages, prot);
        let over = in_the_way.filter(|_| self.config.strict_overlap).map(|iova| {
            let phys = state.table.find(iova).and_then(|found| found.block().at(iova));
            self.about(ViolationKind::MapOverMap, Call::Map, iova, phys)
        });
        let honest = in_the_way.is_some() || failure.is_some();
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Map && !honest);
        drop(guard);
        self.config.witness.saw_all(badly_pinned.into_iter().chain(over));
        let bytes = pages << tile.page_size.shift();
        if let Some(iova) = in_the_way {
            return (bytes, Err(MapFault::Exists { iova }));
        }
        if failure.is_some() {
            return (bytes, Err(MapFault::Injected));
        }
        match lie {
            Some(Lie::MapsMore) => (bytes.saturating_add(page), Ok(())),
            Some(Lie::MapsLess) => (bytes.saturating_sub(page), Ok(())),
            Some(Lie::MapsPartOfPage) => (bytes.saturating_sub(1), Err(MapFault::Injected)),
            _ => (bytes, Ok(())),
        }
    }

    fn sync_map(&self, range: IovaRange) -> Result<(), MapFault> {
        let mut state = lock(&self.state);
        state.stats.sync_calls += 1;
        drop(state);
        if !self.config.aperture.covers(&range) {
            let what = "a range to be synced lies outside the aperture";
            self.bad_call(Call::SyncMap, what, range.first());
            return Err(MapFault::BadCall);
        }
        self.config.plan.step(Step::SyncMap).map_err(|_| MapFault::Injected)
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        self.count_unmap();
        match self.check(&tile) {
            Ok(range) => self.remove(range, gather),
            Err(what) => {
                self.bad_call(Call::Unmap, what, tile.iova);
                0
            }
        }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        _: impl Iterator<Item = Tile>,
        gather: Pin<&mut RangeGather>,
    ) -> u64 {
        self.count_unmap();
        let inside = self.config.sizes.smallest().map_or(0, PageSize::mask);
        let is_whole = range.first().get() & inside == 0 && !range.last().get() & inside == 0;
        if !self.config.aperture.covers(&range) {
            let what = "an unmapped range lies outside the aperture";
            self.bad_call(Call::Unmap, what, range.first());
            return 0;
        }
        if !is_whole {
            let what = "an unmapped range is not made of whole pages";
            self.bad_call(Call::Unmap, what, range.first());
            return 0;
        }
        self.remove(range, gather)
    }

    fn flush(&self, gather: Pin<&mut RangeGather>) {
        let Some(range) = gather.get_mut().take() else { return };
        let mut state = lock(&self.state);
        state.stats.flushes += 1;
        if state.lie == Some(Lie::PretendsToFlush) {
            state.lie = None;
        } else {
            self.forget(&mut state, range);
        }
    }
}

impl Iommu {
    /// Records in the memory what was mapped of a tile; returns the first page whose pins are not as
    /// they should be.
    fn reach(&self, tile: &Tile, pages: u64, prot: Prot) -> Option<Violation> {
        let (reacher, size) = (self.reacher.as_ref()?, tile.page_size);
        let mut first = None;
        for page in 0..pages {
            let offset = page << size.shift();
            let iova = Iova::new(tile.iova.get() + offset);
            let phys = PhysAddr::new(tile.phys.get() + offset);
            let block = Block { size, iova, phys };
            let writable = prot.contains(Prot::WRITE);
            first = first.or(reacher.map(Call::Map, block, IovaRange::ALL, writable));
        }
        first
    }

    fn count_unmap(&self) {
        let mut state = lock(&self.state);
        state.stats.unmap_calls += 1;
    }
}

// SAFETY: it returns the leaf that a device without an IOTLB would find; what an IOTLB remembers
// instead was unmapped and not flushed. Lies are as harmless as those of a `Domain`.
unsafe impl ReadDomain for Iommu {
    fn read(&self, iova: Iova) -> Option<Entry> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.stats.reads += 1;
        let found = state.table.find(iova)?;
        let lie = state.lie.take_if(|lie| lie.liar() == Liar::Read);
        let (phys, len) = within(found.leaf.phys, iova, found.size);
        match lie {
            Some(Lie::ReadsNothing) => None,
            Some(Lie::ReadsElsewhere) => {
                // There may be none: it is a lie anyway.
                let next = phys.get().wrapping_add(found.size.bytes());
                Some(Entry::new(PhysAddr::new(next), len))
            }
            Some(Lie::ReadsEmpty) => Some(Entry::new(phys, 0)),
            Some(Lie::ReadsTooLong) => Some(Entry::new(phys, u64::MAX)),
            _ => Some(Entry::new(phys, len)),
        }
    }
}

// SAFETY: a write sets the dirty bit of its leaf unless the IOTLB remembers it as set; so it is, or
// it was cleared, and the flush that must follow has not been made. Only whole leaves are cleared.
unsafe impl DirtyDomain for Iommu {
    fn set_dirty_tracking(&self, on: bool) -> Result<(), MapFault> {
        self.config.plan.step(Step::Dirty).map_err(|_| MapFault::Injected)?;
        lock(&self.state).tracks_dirty = on;
        Ok(())
    }

    /// Where the plan lets it fail, it reports `after_pages` entries that were written, then fails.
    fn read_dirty(
        &self,
        range: IovaRange,
        clear: bool,
        gather: Pin<&mut RangeGather>,
        mut written: impl FnMut(IovaRange),
    ) -> Result<(), MapFault> {
        let failure = self.config.plan.step(Step::Dirty).err();
        let most = failure.map(|failure| failure.after_pages);
        let gather = gather.get_mut();
        let mut dirty = Vec::new();
        let mut told = 0u64;
        lock(&self.state).table.visit(range, |found| {
            if found.leaf.dirty {
                if most == Some(told) {
                    return ControlFlow::Break(());
                }
                told += 1;
                dirty.push(found.range());
                if clear && range.covers(&found.range()) {
                    gather.add(found.range());
                    found.leaf.dirty = false;
                }
            }
            ControlFlow::Continue(())
        });
        // Not under the lock: the caller may use the domain.
        dirty.into_iter().for_each(&mut written);
        failure.map_or(Ok(()), |_| Err(MapFault::Injected))
    }
}

impl Drop for Iommu {
    fn drop(&mut self) {
        if has_failed() {
            return;
        }
        let mut state = lock(&self.state);
        let mut mapped = None;
        state.table.visit(IovaRange::ALL, |found| {
            mapped = Some(found.block());
            ControlFlow::Break(())
        });
        let unflushed = state.tlb.unflushed().next();
        drop(state);
        let reaches = mapped.is_some() || unflushed.is_some();
        if let Some(reacher) = self.reacher.as_ref().filter(|_| reaches) {
            reacher.forget_all();
        }
        // What a test that has failed leaves behind is no news.
        if std::thread::panicking() {
            return;
        }
        let left = [(ViolationKind::StillMapped, mapped), (ViolationKind::NotFlushed, unflushed)];
        let left = left.into_iter().filter_map(|(kind, block)| Some((kind, block?)));
        self.config.witness.saw_all(
            left.map(|(kind, block)| self.about(kind, Call::Drop, block.iova, Some(block.phys))),
        );
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("page_sizes", &self.config.sizes)
            .field("aperture", &self.config.aperture)
            .field("cuts", &self.config.cuts)
            .finish_non_exhaustive()
    }
}
