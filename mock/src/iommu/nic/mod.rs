// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Nic`]: a network card with RDMA, which translates through tables of blocks of its own.
//!
//! ```text
//!   key ──► region: first byte, length, page size, may be written
//!           │
//!           ├ block 0 ──► memory ┐ the first block may begin before the region,
//!           ├ block 1 ──► memory │ the last may end behind it;
//!           └ block 2 ──► memory ┘ neither is reached
//! ```

mod error;

use crate::memory::{Block, Reacher};
use crate::sync::{has_failed, lock, Mutex};
use crate::{Bus, Call, Memory, Plan, Step, Violation, ViolationKind, Witness};
use pinned_sgl::iommu::IovaRange;
use pinned_sgl::rdma::{Access, BlockLayout, BlockTable};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};
use std::collections::BTreeMap;
use std::fmt;

pub use error::{NicError, NicFault};

/// A network card for tests: memory is registered as blocks of one size, and reached by key.
///
/// Blocks may reach past the region that they belong to; accesses are checked byte by byte, so that
/// what lies there is not reached. What is wrong with a registration is an error and a
/// [`ViolationKind::BadCall`].
///
/// One that is made by [`Memory::nic`] belongs to a machine: the bytes of its regions must be pinned
/// until they are invalidated, whether or not a peer goes there. If not, that is what it is with an
/// [`Iommu`](super::Iommu): [`ViolationKind::UnpinnedWhileMapped`], for example.
///
/// It is shared by reference or in an `Arc`, between threads too. The card is locked while the bus is
/// accessed: an invalidation waits for accesses under way, and a bus must not call the card.
///
/// ```
/// use pinned_sgl_mock::{Bus, BusError, Nic, NicFault};
/// use pinned_sgl::{Iova, PageSize, PhysAddr};
///
/// /// Reads as the number of the page.
/// struct Numbers;
/// impl Bus for Numbers {
///     fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
///         bytes.fill(u8::try_from(phys.get() >> 12).unwrap_or(0));
///         Ok(())
///     }
///     fn write(&self, _: PhysAddr, _: &[u8]) -> Result<(), BusError> {
///         Ok(())
///     }
/// }
///
/// let nic = Nic::new(Numbers);
/// let (first, len) = (Iova::new(0x10_0ff0), 0x20);
/// let blocks = [PhysAddr::new(0x7000), PhysAddr::new(0x3000)];
/// let key = nic.register(first, len, PageSize::SIZE_4K, blocks.into_iter(), false)?;
/// let mut bytes = [0; 0x20];
/// nic.read(key, first, &mut bytes)?;
/// assert_eq!((bytes[0xf], bytes[0x10]), (7, 3));
/// let behind = Iova::new(0x10_1010);
/// assert_eq!(nic.read(key, behind, &mut [0]), Err(NicFault::OutOfBounds { iova: behind }));
/// nic.invalidate(key)?;
/// assert_eq!(nic.read(key, first, &mut [0]), Err(NicFault::NoRegion { key }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Nic<B> {
    bus: B,
    sizes: PageSizes,
    plan: Plan,
    witness: Witness,
    memory: Option<Memory>,
    state: Mutex<State>,
}

/// Blocks of one region.
const MAX_BLOCKS: u64 = 1 << 24;

#[derive(Default)]
struct State {
    regions: BTreeMap<Key, Region>,
    next_key: u32,
    /// Whether the next invalidation fails.
    breaks: bool,
}

struct Region {
    layout: BlockLayout,
    blocks: Vec<PhysAddr>,
    /// What the memory of the machine knows it by.
    reacher: Option<Reacher>,
}

/// The key of a registered region. No key is ever given twice by one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u32);

impl Key {
    /// A key by its number, which a peer may have guessed.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<B> Nic<B> {
    /// A card on `bus`, in no machine, which takes blocks of any size.
    #[must_use]
    pub fn new(bus: B) -> Self {
        let (plan, witness) = (Plan::new(), Witness::new());
        let sizes = PageSizes::all();
        Self { bus, sizes, plan, witness, memory: None, state: Mutex::new(State::default()) }
    }

    /// The same, in the machine that has `memory`, as by [`Memory::nic`]: registrations fail by its
    /// plan, violations are reported to its witness, and what is registered may not be unpinned. For
    /// cards on a bus that has more than this memory.
    #[must_use]
    pub fn with_memory(mut self, memory: &Memory) -> Self {
        self.memory = Some(memory.clone());
        self.witness = memory.witness().clone();
        self.with_plan(memory.plan())
    }

    /// The same, with blocks of these sizes only.
    #[must_use]
    pub fn with_page_sizes(mut self, sizes: PageSizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// The same, with registrations that fail by `plan`, as [`Step::Map`].
    #[must_use]
    pub fn with_plan(mut self, plan: &Plan) -> Self {
        self.plan = plan.clone();
        self
    }

    /// Which registrations fail.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where violations are reported.
    #[must_use]
    pub const fn witness(&self) -> &Witness {
        &self.witness
    }

    /// The sizes that blocks may have.
    #[must_use]
    pub const fn page_sizes(&self) -> PageSizes {
        self.sizes
    }

    /// Lets the next invalidation fail, once: the region stays where it is, and peers reach it.
    ///
    /// # Safety
    ///
    /// What is registered must be memory that may be lost, as that of the mocks: it may be reached as
    /// long as the card lives.
    pub unsafe fn fail_next_invalidation(&self) {
        lock(&self.state).breaks = true;
    }

    /// How many regions are registered.
    #[must_use]
    pub fn regions(&self) -> usize {
        lock(&self.state).regions.len()
    }

    /// How many blocks the translation tables of all regions have.
    #[must_use]
    pub fn blocks(&self) -> usize {
        let state = lock(&self.state);
        state.regions.values().fold(0, |sum, region| sum + region.blocks.len())
    }
}

impl<B: Bus> Nic<B> {
    /// Registers the `len` bytes from `iova` on, as blocks of `page_size` at multiples of it: block
    /// `i` is where memory has the bytes from `align_down(iova, page_size) + i * page_size` on.
    /// Peers may read them, and write them if `writable`.
    ///
    /// # Errors
    ///
    /// [`NicError`]; nothing is registered then.
    pub fn register(
        &self,
        iova: Iova,
        len: u64,
        page_size: PageSize,
        blocks: impl Iterator<Item = PhysAddr>,
        writable: bool,
    ) -> Result<Key, NicError> {
        let access = if writable { Access::REMOTE_WRITE } else { Access::empty() };
        let layout = IovaRange::new(iova, len)
            .map(|range| BlockLayout::new(range, page_size, access | Access::REMOTE_READ));
        self.add(iova, layout.map_err(|_| NicError::Range), blocks)
    }

    /// Registers a region that begins at `iova`; a layout that is none is reported to the witness.
    fn add(
        &self,
        iova: Iova,
        layout: Result<BlockLayout, NicError>,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<Key, NicError> {
        if layout.is_ok_and(|layout| layout.block_count() > MAX_BLOCKS) {
            return Err(NicError::TooManyBlocks);
        }
        let region = layout.and_then(|layout| self.region(layout, blocks));
        let region = region.inspect_err(|error| {
            let kind = ViolationKind::BadCall { what: error.what() };
            self.witness.saw(Violation::new(kind, Call::Register).iova(iova));
        })?;
        self.plan.step(Step::Map).map_err(|_| NicError::Injected)?;
        let mut state = lock(&self.state);
        let key = Key(state.next_key);
        state.next_key = state.next_key.checked_add(1).ok_or(NicError::NoKeys)?;
        let seen = region.reach();
        state.regions.insert(key, region);
        drop(state);
        self.witness.saw_all(seen);
        Ok(key)
    }

    fn region(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<Region, NicError> {
        let page_size = layout.page_size;
        if !self.sizes.has(page_size) {
            return Err(NicError::PageSize { page_size });
        }
        let needs = layout.block_count();
        let mut checked = Vec::new();
        for (index, block) in (0u64..).zip(blocks) {
            if index >= needs {
                return Err(NicError::BlockCount { needs });
            }
            if !block.is_aligned(page_size) {
                return Err(NicError::Misaligned { block });
            }
            checked.push(block);
        }
        if u64::try_from(checked.len()) != Ok(needs) {
            return Err(NicError::BlockCount { needs });
        }
        let reacher = self.memory.as_ref().map(Reacher::new);
        Ok(Region { layout, blocks: checked, reacher })
    }

    /// Takes a region away from all peers, when the accesses under way are done.
    ///
    /// # Errors
    ///
    /// [`NicFault::NoRegion`], and a [`ViolationKind::BadCall`], if there is none under the key;
    /// [`NicFault::Stuck`] if it [was to fail](Self::fail_next_invalidation).
    pub fn invalidate(&self, key: Key) -> Result<(), NicFault> {
        let gone = {
            let mut state = lock(&self.state);
            if std::mem::take(&mut state.breaks) {
                return Err(NicFault::Stuck { key });
            }
            state.regions.remove(&key).map(|region| region.forget())
        };
        gone.ok_or_else(|| {
            let what = "a key was invalidated that is not registered";
            let kind = ViolationKind::BadCall { what };
            self.witness.saw(Violation::new(kind, Call::Invalidate));
            NicFault::NoRegion { key }
        })
    }

    /// Reads bytes of a region for a peer. Reading none succeeds wherever the region may be read.
    ///
    /// # Errors
    ///
    /// [`NicFault`]; only where it is [`NicFault::Bus`] may some bytes have been read.
    pub fn read(&self, key: Key, iova: Iova, bytes: &mut [u8]) -> Result<(), NicFault> {
        let state = lock(&self.state);
        let region = state.regions.get(&key).ok_or(NicFault::NoRegion { key })?;
        region.check(iova, bytes.len(), Access::REMOTE_READ)?;
        let (mut at, mut rest) = (iova, bytes);
        while !rest.is_empty() {
            let (phys, len) = region.translate(at, rest.len())?;
            let (here, behind) = rest.split_at_mut(len);
            self.bus.read(phys, here)?;
            (at, rest) = (further(at, len), behind);
        }
        Ok(())
    }

    /// Writes bytes of a region for a peer. Writing none succeeds wherever the region may be
    /// written.
    ///
    /// # Errors
    ///
    /// [`NicFault`]; only where it is [`NicFault::Bus`] may some bytes have been written.
    pub fn write(&self, key: Key, iova: Iova, bytes: &[u8]) -> Result<(), NicFault> {
        let state = lock(&self.state);
        let region = state.regions.get(&key).ok_or(NicFault::NoRegion { key })?;
        region.check(iova, bytes.len(), Access::REMOTE_WRITE)?;
        let (mut at, mut rest) = (iova, bytes);
        while !rest.is_empty() {
            let (phys, len) = region.translate(at, rest.len())?;
            let (here, behind) = rest.split_at(len);
            self.bus.write(phys, here)?;
            (at, rest) = (further(at, len), behind);
        }
        Ok(())
    }
}

impl Region {
    /// What the card translates with each of its entries.
    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let size = self.layout.page_size;
        let first = self.layout.range.first().align_down(size);
        let mut iova = Some(first);
        self.blocks.iter().map_while(move |phys| {
            let here = iova?;
            iova = here.checked_add(size.bytes());
            Some(Block { size, iova: here, phys: *phys })
        })
    }

    /// Records in the memory what peers can reach; returns the first page whose pins are not as they
    /// should be.
    fn reach(&self) -> Option<Violation> {
        let (reacher, writable) = (self.reacher.as_ref()?, self.layout.access.is_writable());
        let mut first = None;
        for block in self.blocks() {
            let seen = reacher.map(Call::Register, block, self.layout.range, writable);
            first = first.or(seen);
        }
        first
    }

    /// Records in the memory that it cannot be reached here any more.
    fn forget(&self) {
        if let Some(reacher) = &self.reacher {
            self.blocks().for_each(|block| reacher.forget(block));
        }
    }

    /// Whether peers may do that, and all of the bytes belong to the region: none of what its blocks
    /// have beside it.
    fn check(&self, iova: Iova, len: usize, access: Access) -> Result<(), NicFault> {
        if !self.layout.access.contains(access) {
            return Err(NicFault::NotPermitted { iova });
        }
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        if len == 0 {
            return Ok(());
        }
        match IovaRange::new(iova, len) {
            Ok(bytes) if self.layout.range.covers(&bytes) => Ok(()),
            _ => Err(NicFault::OutOfBounds { iova }),
        }
    }

    /// Where an address of the region leads, and how many of `most` bytes its block has.
    fn translate(&self, iova: Iova, most: usize) -> Result<(PhysAddr, usize), NicFault> {
        let outside = NicFault::OutOfBounds { iova };
        let (index, offset) = self.layout.locate(iova).ok_or(outside)?;
        let block = usize::try_from(index).ok().and_then(|index| self.blocks.get(index));
        let block = block.ok_or(outside)?;
        let left = self.layout.page_size.bytes() - offset;
        let len = usize::try_from(left).map_or(most, |left| left.min(most));
        Ok((PhysAddr::new(block.get() + offset), len))
    }
}

// SAFETY: a peer reaches the blocks under a key, and only the bytes of its range, for what its access
// allows; a registration that failed has left nothing. The card is locked during an access, so when
// an invalidation returns, none is under way; it succeeds only if the key is gone. A card that was
// dropped has no peers. The page sizes never change.
unsafe impl<B: Bus> BlockTable for Nic<B> {
    type Key = Key;
    type Error = NicFault;

    fn page_sizes(&self) -> PageSizes {
        self.sizes
    }

    unsafe fn register(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<Key, NicFault> {
        self.add(layout.range.first(), Ok(layout), blocks).map_err(NicFault::Register)
    }

    unsafe fn invalidate(&self, key: Key) -> Result<(), NicFault> {
        self.invalidate(key)
    }
}

/// The address `done` bytes further up; behind the very last one nothing is left to do.
fn further(iova: Iova, done: usize) -> Iova {
    Iova::new(iova.get().wrapping_add(u64::try_from(done).unwrap_or(0)))
}

impl<B> Drop for Nic<B> {
    /// Regions that are still registered are a [`ViolationKind::StillMapped`].
    fn drop(&mut self) {
        if has_failed() {
            return;
        }
        let state = lock(&self.state);
        state.regions.values().for_each(Region::forget);
        let left = state.regions.values().next().map(|region| {
            let (iova, kind) = (region.layout.range.first(), ViolationKind::StillMapped);
            let phys = region.blocks().next().and_then(|block| block.at(iova));
            match (&region.reacher, phys) {
                (Some(reacher), Some(phys)) => reacher.about(kind, Call::Drop, iova, phys),
                _ => Violation::new(kind, Call::Drop).iova(iova),
            }
        });
        drop(state);
        // What a failed test leaves behind is not reported.
        if !std::thread::panicking() {
            self.witness.saw_all(left);
        }
    }
}

impl<B> fmt::Debug for Nic<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic").field("page_sizes", &self.sizes).finish_non_exhaustive()
    }
}
