// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory is read through the pinner that has pinned it: there is no way to name another machine's.

use pinned_sgl::iommu::HeapIoas;
use pinned_sgl_mock::{Iommu, Memory, Process};
use pinned_sgl::umem::{Umem, Unaccounted};
use pinned_sgl::{Heap, Iova};

type Region<'a> = &'a Umem<&'a Process, &'a Unaccounted, Heap>;

fn mistake(space: &HeapIoas<Region<'_>, &Iommu>, region: Region<'_>, other: &Memory) {
    let mut bytes = [0; 8];
    space.read(other, Iova::new(0), &mut bytes).unwrap();
    region.read(other, 0, &mut bytes).unwrap();
}

fn main() {}
