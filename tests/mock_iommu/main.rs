// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mock IOMMU and its devices against an oracle, at the edges, and reporting every mistake.

mod cuts;
mod devices;
mod failures;
mod maps;

use pinned_sgl::iommu::{Domain, IovaRange, Prot, RangeGather};
use pinned_sgl::{
    Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SglBuilder, Tile, Window,
};
use pinned_sgl_mock::{Bus, BusError, Call, Device, Iommu, MapFault, Violation, ViolationKind};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Mutex;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;

/// Memory of bytes, zero until written, up to an end.
struct Bytes {
    bytes: Mutex<HashMap<u64, u8>>,
    end: u64,
}

impl Bytes {
    fn new(end: u64) -> Self {
        Self { bytes: Mutex::default(), end }
    }

    fn check(&self, at: u64) -> Result<(), BusError> {
        let error = BusError::NoMemory(PhysAddr::new(at));
        if at < self.end {
            Ok(())
        } else {
            Err(error)
        }
    }
}

impl Bus for Bytes {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        for (at, byte) in (phys.get()..).zip(bytes) {
            self.check(at)?;
            *byte = self.bytes.lock().unwrap().get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        for (at, byte) in (phys.get()..).zip(bytes) {
            self.check(at)?;
            self.bytes.lock().unwrap().insert(at, *byte);
        }
        Ok(())
    }
}

fn sizes(text: &str) -> PageSizes {
    text.parse().unwrap()
}

fn range(first: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len).unwrap()
}

/// The tiles that map contiguous memory.
fn tiles(sizes: PageSizes, iova: u64, phys: u64, len: u64) -> Vec<Tile> {
    // Pages of the list as small as it can have them.
    let page = PageSize::new(1 << 10).unwrap();
    let mut builder = SglBuilder::new(page).unwrap();
    builder.push_run(PageRun::ram(Pfn::new(phys >> 10), len >> 10).unwrap()).unwrap();
    let sgl = builder.finish().unwrap();
    let window: Window<'_, _> = sgl.whole().unwrap();
    window.tiles(sizes, Iova::new(iova)).unwrap().collect()
}

/// One tile, of any arguments whatever.
fn tile(iova: u64, phys: u64, page_size: u64, count: u64) -> Tile {
    // A tile cannot be made but by a window.
    let mut tile = tiles(PageSizes::SIZE_4K, 0, 0, K4)[0];
    tile.iova = Iova::new(iova);
    tile.phys = PhysAddr::new(phys);
    tile.page_size = PageSize::new(page_size).unwrap();
    tile.count = count;
    tile.kind = MemoryKind::Ram;
    tile
}

fn map_as(iommu: &Iommu, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.map(tile, prot) }
}

fn map(iommu: &Iommu, iova: u64, phys: u64, len: u64) {
    for tile in tiles(iommu.page_sizes(), iova, phys, len) {
        assert_eq!(map_as(iommu, tile, RW), (tile.len(), Ok(())), "{tile:?}");
    }
}

fn unmap_into(iommu: &Iommu, gone: IovaRange, gather: &mut RangeGather) -> u64 {
    // SAFETY: memory that exists in this test only.
    unsafe { iommu.unmap_range(gone, std::iter::empty(), Pin::new(gather)) }
}

fn unmap(iommu: &Iommu, first: u64, len: u64) -> u64 {
    let mut gather = RangeGather::default();
    let bytes = unmap_into(iommu, range(first, len), &mut gather);
    iommu.flush(Pin::new(&mut gather));
    bytes
}

fn iova(iova: u64) -> Iova {
    Iova::new(iova)
}

fn seen(kind: ViolationKind, call: Call, at: u64) -> Violation {
    Violation::new(kind, call).iova(iova(at))
}

fn is_bad_call(seen: &[Violation], call: Call, at: u64) -> bool {
    let [seen] = seen else { return false };
    matches!(seen.kind, ViolationKind::BadCall { .. })
        && (seen.call, seen.iova) == (call, Some(iova(at)))
}

/// Writes a byte through a device.
fn write_byte<B: Bus>(device: &Device<&Iommu, B>, at: u64, byte: u8) {
    device.write(iova(at), &[byte]).unwrap();
}
