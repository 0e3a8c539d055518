// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a mapping holds is the pointer to a region, and not a pointer to that.

use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl_mock::{Iommu, Process};
use pinned_sgl::umem::{Umem, Unaccounted};
use pinned_sgl::Heap;
use std::sync::Arc;

fn mistake(umem: Arc<Umem<&Process, &Unaccounted, Heap>>, iommu: &Iommu) {
    let mut space = HeapIoas::new();
    let _ = space.attach(iommu);
    let _ = space.map(Placement::Anywhere, &umem, Prot::READ);
}

fn main() {}
