// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations on an address space of 10,000 mappings of a page, each behind a gap of one.

use super::devices::Nothing;
use super::regions::{frames, pinned_page, Region, RW};
use super::{inputs, measured, Operation};
use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement};
use pinned_sgl::Iova;
use std::{hint::black_box, sync::Arc};

pub(crate) const OPERATIONS: &[Operation] = &[
    ("space map/in order", "mapping", map_in_order),
    ("space map/anywhere", "mapping", map_anywhere),
    ("space map and unmap/in no order", "mapping", map_and_unmap),
    ("space translate/in no order", "lookup", translate),
    ("space unmap/all", "mapping", unmap_all),
    ("space unmap/in order", "mapping", unmap_in_order),
];

type Space = HeapIoas<Region, Arc<Nothing>>;

const MAPPINGS: u64 = 10_000;

fn place(number: u64) -> Iova {
    Iova::new((1 + 2 * (number % MAPPINGS)) << 12)
}

fn regions() -> Vec<Region> {
    let frames = frames();
    (0..MAPPINGS).map(|page| pinned_page(&frames, page)).collect()
}

fn empty() -> Space {
    let mut space = Space::new();
    assert!(space.attach(Arc::new(Nothing)).is_ok(), "it has pages and addresses");
    space
}

fn map_all(space: &mut Space, regions: &[Region]) {
    for (number, region) in (0..).zip(regions) {
        space.map(Placement::At(place(number)), region.clone(), RW).expect("it is free");
    }
}

fn full() -> Space {
    let mut space = empty();
    map_all(&mut space, &regions());
    space
}

fn map_in_order() -> u64 {
    let (mut space, regions) = (empty(), regions());
    measured(|| map_all(&mut space, &regions));
    MAPPINGS
}

fn map_anywhere() -> u64 {
    let (mut space, regions) = (full(), regions());
    measured(|| {
        for region in &regions {
            space.map(Placement::Anywhere, region.clone(), RW).expect("there is room");
        }
    });
    MAPPINGS
}

/// A mapping is replaced by another one.
fn map_and_unmap() -> u64 {
    let (mut space, regions) = (full(), regions());
    measured(|| {
        for (number, region) in inputs::numbers(MAPPINGS).zip(&regions) {
            let at = place(number);
            let range = IovaRange::new(at, 1 << 12).expect("a page");
            space.unmap(range).expect("it is mapped");
            space.map(Placement::At(at), region.clone(), RW).expect("it is free");
        }
    });
    MAPPINGS
}

fn translate() -> u64 {
    let space = full();
    measured(|| {
        for number in inputs::numbers(MAPPINGS) {
            black_box(space.translate(place(number)).expect("it is mapped"));
        }
    });
    MAPPINGS
}

fn unmap_all() -> u64 {
    let mut space = full();
    measured(|| space.unmap_all());
    MAPPINGS
}

fn unmap_in_order() -> u64 {
    let mut space = full();
    measured(|| {
        for number in 0..MAPPINGS {
            let range = IovaRange::new(place(number), 1 << 12).expect("a page");
            space.unmap(range).expect("it is mapped");
        }
    });
    MAPPINGS
}
