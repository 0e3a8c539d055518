// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outsiders' code that runs inside of an address space: regions that report anything, gathers and stale
//! values that unwind when they are dropped.

use super::regions::Forwarding;
use super::rig::{bytes, iova, iovas, Pinned, Rig, P, RW};
use super::{assert_held, AT};
use pinned_sgl::iommu::{
    Cuts, Domain, DomainSlot, HeapIoas, IovaRange, Mapping, MappingSlot, NodeSlot, Placement,
    PoolIoas, Prot, RangeGather,
};
use pinned_sgl::umem::AccessError;
use pinned_sgl::{Iova, PageSizes, Tile};
use pinned_sgl_mock::{Fragmentation, Iommu, MapFault, Vma};
use std::mem;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

fn setup() -> (Rig, Arc<Pinned>) {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 32, Vma::read_write());
    let umem = rig.pin(bytes(0, 4 * P));
    (rig, umem)
}

/// Wherever a region says that it has stopped, the error names an address that was asked for.
#[test]
fn a_region_that_stops_anywhere() {
    let (rig, umem) = setup();
    for offset in [0, 1, P, 2 * P + 1, 3 * P, 4 * P, 5 * P, 1 << 63, u64::MAX] {
        let mut space = HeapIoas::<_, Arc<Iommu>>::new();
        let region = Arc::new(Forwarding { stops_at: offset, ..Forwarding::of(&umem) });
        space.map_range(Placement::At(iova(AT)), region.clone(), P..3 * P, RW).unwrap();
        let top = Iova::new(u64::MAX - (2 * P - 1));
        space.map_range(Placement::At(top), region, P..3 * P, RW).unwrap();
        for start in [iova(AT), iova(AT + P), top, Iova::new(u64::MAX - 7)] {
            let asked = iovas(start.get(), 8);
            for error in [
                space.read(start, &mut [0; 8]).unwrap_err(),
                space.write(start, &[0; 8]).unwrap_err(),
            ] {
                assert!(asked.contains(error.at()), "{offset:#x} {start}: {error:?}");
                assert!(matches!(error, AccessError::Page { .. }));
            }
        }
    }
    drop(umem);
    rig.assert_idle();
}

/// A gather that panics when it is dropped, once.
#[derive(Default)]
struct Bomb(RangeGather);

static ARMED: AtomicBool = AtomicBool::new(false);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!ARMED.swap(false, Ordering::SeqCst), "safe code panics");
    }
}

struct Bombed(Arc<Iommu>);

// SAFETY: all is done by a domain that keeps the contract. That values of its types may be dropped by
// code that unwinds is nothing that the contract rules out.
unsafe impl Domain for Bombed {
    type Error = MapFault;
    type Gather = Bomb;
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }
    fn cuts(&self) -> Cuts {
        self.0.cuts()
    }
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: as the caller promises.
        unsafe { self.0.map(tile, prot) }
    }
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Bomb>) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { self.0.unmap(tile, Pin::new(&mut gather.get_mut().0)) }
    }
    fn flush(&self, gather: Pin<&mut Bomb>) {
        self.0.flush(Pin::new(&mut gather.get_mut().0));
    }
}

/// What was unmapped before the gather was dropped is not unmapped again: another caller may have mapped
/// there meanwhile.
#[test]
fn a_gather_that_unwinds_when_it_is_dropped() {
    for way in 0..3 {
        let (rig, umem) = setup();
        let domain = Arc::new(Bombed(rig.iommu("4K")));
        let mut space = HeapIoas::new();
        let id = space.attach(domain.clone()).unwrap();
        space.map(Placement::At(iova(AT)), umem, RW).unwrap();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            ARMED.store(true, Ordering::SeqCst);
            match way {
                0 => drop(space.unmap(IovaRange::ALL)),
                1 => drop(space.unmap_all()),
                _ => drop(space.detach(id)),
            }
        }));
        assert!(unwound.is_err());
        let other = rig.pin(bytes(8 * P, 4 * P));
        let mapping = Mapping::map(other, domain.0.clone(), iova(AT), RW).unwrap();
        let _ = (space.unmap(IovaRange::ALL), space.unmap_all());
        drop(space);
        assert_eq!(domain.0.mapped_pages(), 4, "{way}: others' memory was unmapped");
        assert_held(&rig.memory, &[&domain.0]);
        drop(mapping);
        drop(domain);
        rig.witness.assert_clean();
    }
}

/// A domain whose end panics, once.
struct Fatal(Arc<Iommu>, AtomicBool);

impl Drop for Fatal {
    fn drop(&mut self) {
        assert!(!self.1.swap(false, Ordering::SeqCst), "safe code panics");
    }
}

// SAFETY: all is done by a domain that keeps the contract.
unsafe impl Domain for Fatal {
    type Error = MapFault;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: as the caller promises.
        unsafe { self.0.map(tile, prot) }
    }
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { self.0.unmap(tile, gather) }
    }
    fn flush(&self, gather: Pin<&mut RangeGather>) {
        self.0.flush(gather);
    }
}

/// A slab in memory where a forgotten address space has left a domain, whose end unwinds: it does not
/// end where another one takes its place, in the middle of being attached.
#[test]
fn a_stale_domain_whose_place_is_taken() {
    let (rig, umem) = setup();
    let (old, new) = (rig.iommu("4K"), rig.iommu("4K"));
    let mut memory = vec![DomainSlot::<Arc<Fatal>>::new()];
    let mut mappings = [const { MappingSlot::<Arc<Pinned>>::new() }; 1];
    let mut nodes = [NodeSlot::new()];
    let mut lost = PoolIoas::new(&mut mappings, &mut nodes, &mut memory);
    lost.attach(Arc::new(Fatal(old, AtomicBool::new(true)))).unwrap();
    mem::forget(lost);

    let mut space = PoolIoas::new(&mut mappings, &mut nodes, &mut memory);
    space.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    let domain = Arc::new(Fatal(new.clone(), AtomicBool::new(false)));
    let attached = catch_unwind(AssertUnwindSafe(|| space.attach(domain.clone()).is_ok()));
    space.unmap_all();
    drop((space, umem));
    assert_held(&rig.memory, &[&new]);
    rig.witness.assert_clean();
    assert!(attached.unwrap());
    assert_eq!(new.mapped_pages(), 0);
}

/// A domain that breaks its contract, and unwinds when it is to undo what it did.
struct Broken(Fatal, AtomicBool);

// SAFETY: none: what it reports for the second page is false, and then it unwinds.
unsafe impl Domain for Broken {
    type Error = MapFault;
    type Gather = RangeGather;
    fn page_sizes(&self) -> PageSizes {
        self.0.page_sizes()
    }
    fn aperture(&self) -> IovaRange {
        self.0.aperture()
    }
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: as the caller promises.
        let done = unsafe { self.0.map(tile, prot) };
        match tile.iova.get() {
            AT => done,
            _ => (u64::MAX, Ok(())),
        }
    }
    unsafe fn unmap(&self, _: Tile, _: Pin<&mut RangeGather>) -> u64 {
        assert!(!self.1.swap(false, Ordering::SeqCst), "safe code panics");
        0
    }
    fn flush(&self, _: Pin<&mut RangeGather>) {}
}

#[test]
fn a_breach_that_is_followed_by_a_panic() {
    let (rig, umem) = setup();
    let iommu = rig.iommu("4K");
    let mut space = HeapIoas::new();
    let other = rig.pin(bytes(8 * P, P));
    space.map_range(Placement::At(iova(AT)), umem, 0..P, RW).unwrap();
    space.map(Placement::At(iova(2 * AT)), other, RW).unwrap();
    let domain =
        Arc::new(Broken(Fatal(iommu.clone(), AtomicBool::new(false)), AtomicBool::new(true)));
    assert!(catch_unwind(AssertUnwindSafe(|| space.attach(domain).is_ok())).is_err());
    space.unmap_all();
    drop(space);
    assert_held(&rig.memory, &[&iommu]);
    assert_eq!(iommu.mapped_pages(), 2);
}
