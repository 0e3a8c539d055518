// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is not pinned is not a region.

use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl_mock::Iommu;
use pinned_sgl::Iova;

fn mistake(memory: &Vec<u8>, iommu: &Iommu) {
    let _ = Mapping::map(memory, iommu, Iova::new(0x1000), Prot::READ);
}

fn main() {}
