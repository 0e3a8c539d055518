// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region is mapped through a pointer, which the mapping holds.

use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl_mock::{Iommu, Process};
use pinned_sgl::umem::{Umem, Unaccounted};
use pinned_sgl::{Heap, Iova};

fn mistake(umem: Umem<&Process, &Unaccounted, Heap>, iommu: &Iommu) {
    let _ = Mapping::map(umem, iommu, Iova::new(0x1000), Prot::READ);
}

fn main() {}
