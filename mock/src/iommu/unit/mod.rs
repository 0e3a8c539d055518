// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Iommu`]: one IOMMU domain, with a page table, a cache of it, and a watchful eye.
//!
//! ```text
//!   map, unmap ──────► page table ◄────┐ walk, where the IOTLB knows nothing
//!                                      │
//!   flush ───────────► IOTLB ──────────┴──► Device ──► Bus
//!                      stale until flushed
//! ```

mod domain;
mod error;
mod walk;

pub use domain::IommuStats;
pub use error::MapFault;

use super::table::{Pte, Table};
use super::tlb::Tlb;
use super::{DmaFault, IommuConfig, Lie};
use crate::memory::Reacher;
use crate::sync::{has_failed, lock, Mutex};
use crate::{Call, Plan, Violation, ViolationKind, Witness};
use pinned_sgl::iommu::{Cuts, IovaRange, Prot};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};
use std::{fmt, ops::ControlFlow};

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
/// [`Domain`]: pinned_sgl::iommu::Domain
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

    /// Which of its calls fail: [`Map`], [`SyncMap`] and [`Dirty`] are asked for.
    ///
    /// [`Map`]: crate::Step::Map
    /// [`SyncMap`]: crate::Step::SyncMap
    /// [`Dirty`]: crate::Step::Dirty
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
    /// again. A new lie replaces one that was not made yet.
    ///
    /// # Safety
    ///
    /// The domain breaks the contract of [`Domain`] then, on which all that map memory in it rely:
    /// until that is unmapped, it must be memory that may be lost, as that of the mocks.
    ///
    /// [`Domain`]: pinned_sgl::iommu::Domain
    pub unsafe fn lie(&self, lie: Lie) {
        lock(&self.state).lie = Some(lie);
    }

    /// Whether a lie is still to be made.
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
        lock(&self.state).table.entries()
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
        Some(Mapped::new(found.range(), *found.pte))
    }

    /// All page table entries that translate an address of `range`, in ascending order.
    #[must_use]
    pub fn mapped(&self, range: IovaRange) -> Vec<Mapped> {
        let mut all = Vec::new();
        lock(&self.state).table.visit(range, |found| {
            all.push(Mapped::new(found.range(), *found.pte));
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
}

impl Mapped {
    const fn new(range: IovaRange, pte: Pte) -> Self {
        Self { range, phys: pte.phys, prot: pte.prot, dirty: pte.dirty }
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
        // What a failed test entries behind is not reported.
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
