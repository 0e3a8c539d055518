// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block may reach beyond the buffer, so it cannot be mapped in a domain.

use pinned_sgl::iommu::{Domain, Prot};
use pinned_sgl_mock::Iommu;
use pinned_sgl::{Heap, Iova, PageSizes, Sgl};

fn mistake(sgl: &Sgl<Heap>, iommu: &Iommu) {
    let window = sgl.whole().unwrap();
    let best = window.best_page_size(PageSizes::SIZE_4K, Iova::new(0)).unwrap().unwrap();
    for block in best.blocks() {
        let _ = unsafe { iommu.map(block, Prot::READ) };
    }
}

fn main() {}
