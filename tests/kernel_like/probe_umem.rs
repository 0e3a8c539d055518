// SPDX-License-Identifier: MIT OR Apache-2.0
//! Uses the umem API, the IOMMU address spaces and memory regions as a kernel would, as `probe.rs`
//! does the list.
//!
//! The pinner, the domain and the card are a driver's: of them only the calls are seen here.
#![no_std]

use core::{ops::ControlFlow, pin::Pin};
use pinned_sgl::iommu::{
    DirtyBitmap, DirtyDomain, Domain, DomainSlot, Entry, IovaRange, Mapping, MappingSlot, NodeSlot,
    Placement, PoolIoas, Prot, RangeGather, ReadDomain, Stream,
};
use pinned_sgl::rdma::{Access, BlockLayout, BlockTable, MemoryRegion};
use pinned_sgl::umem::{
    Account, PageAccess, PinBatch, PinFlags, PinRequest, Pinner, Location, Region, RunSlot, Umem,
    UserRange,
};
use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, PhysAddr, Pool, Tile, UserAddr};

extern "Rust" {
    fn driver_pin(batch: &mut PinBatch<'_>) -> Result<(), i32>;
    fn driver_unpin(at: UserAddr, run: PageRun, dirty: bool);
    fn driver_map(tile: &Tile, prot: Prot) -> (u64, Result<(), i32>);
    fn driver_unmap(tile: &Tile) -> u64;
    fn driver_flush(range: IovaRange);
    fn driver_read(iova: Iova) -> Option<Entry>;
    fn driver_dirty(range: IovaRange, clear: bool) -> Option<IovaRange>;
    fn driver_copy(from: Location, bytes: &[u8]) -> Result<(), i32>;
    fn driver_register(layout: &BlockLayout) -> Result<u32, i32>;
    fn driver_block(key: u32, block: PhysAddr);
    fn driver_invalidate(key: u32) -> Result<(), i32>;
}

pub struct User;

// SAFETY: never run.
unsafe impl Pinner for User {
    type Error = i32;

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), i32> {
        unsafe { driver_pin(batch) }
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        unsafe { driver_unpin(at, run, dirty) }
    }
}

impl PageAccess for User {
    type AccessError = i32;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), i32> {
        unsafe { driver_copy(from, bytes) }
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), i32> {
        unsafe { driver_copy(to, bytes) }
    }
}

pub struct Unit(PageSizes);

// SAFETY: never run.
unsafe impl Domain for Unit {
    type Error = i32;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.0
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), i32>) {
        unsafe { driver_map(&tile, prot) }
    }

    unsafe fn unmap(&self, tile: Tile, mut gather: Pin<&mut RangeGather>) -> u64 {
        if let Ok(range) = IovaRange::new(tile.iova, tile.len()) {
            gather.add(range);
        }
        unsafe { driver_unmap(&tile) }
    }

    fn flush(&self, mut gather: Pin<&mut RangeGather>) {
        if let Some(range) = gather.take() {
            unsafe { driver_flush(range) }
        }
    }
}

// SAFETY: never run.
unsafe impl ReadDomain for Unit {
    fn read(&self, iova: Iova) -> Option<Entry> {
        unsafe { driver_read(iova) }
    }
}

// SAFETY: never run.
unsafe impl DirtyDomain for Unit {
    fn set_dirty_tracking(&self, _: bool) -> Result<(), i32> {
        Ok(())
    }

    fn read_dirty(
        &self,
        range: IovaRange,
        clear: bool,
        _: Pin<&mut RangeGather>,
        mut written: impl FnMut(IovaRange),
    ) -> Result<(), i32> {
        while let Some(range) = unsafe { driver_dirty(range, clear) } {
            written(range);
        }
        Ok(())
    }
}

type Memory<'a> = Umem<&'a User, &'a Account, Pool<'a>>;
type Shown<'a> = Mapping<&'a Memory<'a>, &'a Unit>;
type Space<'a> = PoolIoas<'a, &'a Memory<'a>, &'a Unit>;

#[no_mangle]
pub fn probe_pin<'a>(
    user: &'a User,
    account: &'a Account,
    pool: &'a mut [[u8; 4096]],
    slots: &mut [RunSlot],
    start: UserAddr,
    len: u64,
) -> Option<Memory<'a>> {
    let range = UserRange::new(start, len).ok()?;
    let request = PinRequest::new(range, PinFlags::WRITE).with_progress(|bytes| match bytes {
        0x1_0000_0000.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    Umem::pin_in(user, account, Pool::new(pool), slots, request).ok()
}

#[no_mangle]
pub fn probe_unpin(memory: Memory<'_>) -> bool {
    memory.unpin().is_ok()
}

#[no_mangle]
pub fn probe_copy(memory: &Memory<'_>, offset: u64, bytes: &mut [u8]) -> bool {
    memory.write(offset, bytes).is_ok() && memory.read(offset, bytes).is_ok()
}

#[no_mangle]
pub fn probe_map<'a>(
    memory: &'a Memory<'a>,
    unit: &'a Unit,
    iova: Iova,
    from: u64,
    to: u64,
) -> Option<Shown<'a>> {
    let _ = memory.whole().ok()?.segment_at(from);
    Mapping::map_range(memory, from..to, unit, iova, Prot::READ | Prot::WRITE).ok()
}

#[no_mangle]
pub fn probe_unmap<'a>(mapping: Shown<'a>, from: u64, to: u64) -> Option<(Shown<'a>, Shown<'a>)> {
    let (head, tail) = mapping.unmap_range(from..to).ok()?;
    let (head, rest) = head?.split_at(from).ok()?;
    rest.unmap().ok()?;
    Some((head, tail?))
}

#[no_mangle]
pub fn probe_stream<'a>(
    user: &'a User,
    account: &'a Account,
    unit: &'a Unit,
    slots: &'a mut [RunSlot],
    range: UserRange,
    iova: Iova,
) -> u64 {
    let request = PinRequest::new(range, PinFlags::WRITE);
    let Ok(stream) = Stream::map(user, account, unit, slots, request, iova, Prot::READ) else {
        return 0;
    };
    let sum = stream.segments().fold(0, |sum, segment| sum ^ segment.len);
    if let Some(phys) = stream.translate(iova) {
        return sum ^ phys.get();
    }
    u64::from(stream.unmap().is_ok())
}

#[no_mangle]
pub fn probe_space<'a>(
    mappings: &'a mut [MappingSlot<&'a Memory<'a>>],
    nodes: &'a mut [NodeSlot],
    domains: &'a mut [DomainSlot<&'a Unit>],
) -> Space<'a> {
    Space::new(mappings, nodes, domains)
}

#[no_mangle]
pub fn probe_space_map<'a>(
    space: &mut Space<'a>,
    memory: &'a Memory<'a>,
    range: IovaRange,
) -> bool {
    let within = [range];
    space.map(Placement::At(range.first()), memory, Prot::READ).is_ok()
        && space.map(Placement::Within(&within), memory, Prot::READ).is_ok()
        && space.reserve(range).is_ok_and(|reserved| space.unreserve(reserved).is_ok())
}

#[no_mangle]
pub fn probe_space_unmap(space: &mut Space<'_>, range: IovaRange) -> bool {
    space.split(range.first()).is_ok()
        && space.unmap_cutting(range).is_ok()
        && space.unmap(range).is_ok()
        && space.unmap_all() > 0
}

#[no_mangle]
pub fn probe_space_domains<'a>(space: &mut Space<'a>, unit: &'a Unit) -> Option<&'a Unit> {
    let id = space.attach(unit).ok()?;
    space.set_dirty_tracking(true).ok()?;
    space.detach(id).ok()
}

#[no_mangle]
pub fn probe_space_copy<'a>(space: &mut Space<'a>, source: &Space<'a>, range: IovaRange) -> bool {
    space.copy_from(source, range, Placement::Anywhere, Prot::READ).is_ok()
}

#[no_mangle]
pub fn probe_space_access(
    space: &mut Space<'_>,
    iova: Iova,
    bytes: &mut [u8],
    words: &mut [u64],
) -> Option<u64> {
    space.write(iova, bytes).ok()?;
    space.read(iova, bytes).ok()?;
    let range = IovaRange::new(iova, bytes.len() as u64).ok()?;
    let mut bitmap = DirtyBitmap::new(words, range, PageSize::SIZE_4K).ok()?;
    space.read_dirty(&mut bitmap, true).ok()?;
    let sum = space.mappings(range).fold(bitmap.count(), |sum, mapping| sum ^ mapping.offset());
    let sum = space.reserved().fold(sum, |sum, range| sum ^ range.first().get());
    Some(space.translate(iova)?.get() ^ sum ^ space.len() as u64)
}

pub struct Card(PageSizes);

// SAFETY: never run.
unsafe impl BlockTable for Card {
    type Key = u32;
    type Error = i32;

    fn page_sizes(&self) -> PageSizes {
        self.0
    }

    unsafe fn register(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<u32, i32> {
        let key = unsafe { driver_register(&layout) }?;
        blocks.for_each(|block| unsafe { driver_block(key, block) });
        Ok(key)
    }

    unsafe fn invalidate(&self, key: u32) -> Result<(), i32> {
        unsafe { driver_invalidate(key) }
    }
}

type Registered<'a> = MemoryRegion<&'a Memory<'a>, &'a Card>;

#[no_mangle]
pub fn probe_register<'a>(
    memory: &'a Memory<'a>,
    card: &'a Card,
    iova: Iova,
    from: u64,
    to: u64,
) -> Option<Registered<'a>> {
    let access = Access::LOCAL_WRITE | Access::REMOTE_READ;
    drop(MemoryRegion::register(memory, card, iova, access).ok()?);
    MemoryRegion::register_range(memory, from..to, card, iova, access).ok()
}

#[no_mangle]
pub fn probe_deregister(region: Registered<'_>, iova: Iova) -> Option<u64> {
    let (block, offset) = region.layout().locate(iova)?;
    let sum = region.block_count() ^ region.len() ^ region.region_range().end ^ block ^ offset;
    let window = region.window().ok()?.len();
    region.deregister().ok()?;
    Some(sum ^ window)
}
