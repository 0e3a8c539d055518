// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations on pinned regions: pinning, mapping, registering, and back.

use super::devices::{Frames, Nothing};
use super::{inputs, measured, Operation};
use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl::rdma::{Access, MemoryRegion};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
use pinned_sgl::{Heap, Iova, UserAddr};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    ("pin/every page a run", "page", pin),
    ("unpin/every page a run", "page", unpin),
    ("pin and unpin/one page", "region", one_page),
    ("map/every page a run", "page", map),
    ("map by one call/every page a run", "page", map_runs),
    ("unmap/every page a run", "page", unmap),
    ("map and unmap/one page", "mapping", map_one_page),
    ("register/every page a run", "page", register),
    ("deregister/every page a run", "page", deregister),
];

const PAGES: u64 = 1 << 16;
pub(crate) const RW: Prot = Prot::READ.union(Prot::WRITE);

pub(crate) type Region = Arc<Umem<Arc<Frames>, &'static Unaccounted, Heap>>;

pub(crate) fn frames() -> Arc<Frames> {
    Arc::new(Frames::new(inputs::apart(PAGES)))
}

fn request(page: u64, pages: u64) -> PinRequest {
    let range = UserRange::new(UserAddr::new(page << 12), pages << 12).expect("some pages");
    PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM)
}

fn pinned() -> Region {
    Arc::new(Umem::pin(frames(), &Unaccounted, request(0, PAGES)).expect("it pins them"))
}

/// The page of a number.
pub(crate) fn pinned_page(frames: &Arc<Frames>, page: u64) -> Region {
    let (list, slots) = (Heap::new(), &mut [None; 1]);
    let umem = Umem::pin_in(frames.clone(), &Unaccounted, list, slots, request(page, 1));
    Arc::new(umem.expect("it pins a page"))
}

fn mapped<const RUNS: bool>(region: Region) -> Mapping<Region, Arc<Nothing<RUNS>>> {
    Mapping::map(region, Arc::new(Nothing), Iova::new(1 << 30), RW).expect("it maps them")
}

fn registered(region: Region) -> MemoryRegion<Region, Arc<Nothing>> {
    let access = Access::LOCAL_WRITE;
    MemoryRegion::register(region, Arc::new(Nothing), Iova::new(0), access).expect("it takes them")
}

fn pin() -> u64 {
    let frames = frames();
    measured(|| Umem::pin(frames, &Unaccounted, request(0, PAGES)).expect("it pins them"));
    PAGES
}

fn unpin() -> u64 {
    let region = pinned();
    measured(|| drop(region));
    PAGES
}

fn one_page() -> u64 {
    let frames = frames();
    measured(|| (0..1000).for_each(|page| drop(pinned_page(&frames, page))));
    1000
}

fn map() -> u64 {
    let region = pinned();
    drop(measured(|| mapped::<false>(region)));
    PAGES
}

fn map_runs() -> u64 {
    let region = pinned();
    drop(measured(|| mapped::<true>(region)));
    PAGES
}

fn unmap() -> u64 {
    let mapping = mapped::<false>(pinned());
    measured(|| drop(mapping));
    PAGES
}

fn map_one_page() -> u64 {
    let region = pinned_page(&frames(), 0);
    measured(|| (0..1000).for_each(|_| drop(mapped::<false>(region.clone()))));
    1000
}

fn register() -> u64 {
    let region = pinned();
    drop(measured(|| registered(region)));
    PAGES
}

fn deregister() -> u64 {
    let region = registered(pinned());
    measured(|| drop(region));
    PAGES
}
