// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outsiders: safe code only, two of everything, parts that are stale or foreign, calls
//! in odd order. The witness decides, and one rule more: no page that an IOMMU leads to is unpinned.
//!
//! Where an `unsafe impl` stands here, it keeps its contract, unless it says that it breaks it: then the
//! answer is a typed error.

mod callbacks;
mod domains;
mod foreign;
mod ioas;
mod lent;
mod numbers;
mod pinners;
mod regions;
#[path = "../rig/mod.rs"]
mod rig;

use pinned_sgl::iommu::{HeapIoas, IovaRange, Mapping};
use pinned_sgl::{PageRun, PageSize, Pfn, Sgl, SglBuilder, Storage};
use pinned_sgl_mock::{Fragmentation, Iommu, Memory, Vma};
use rig::{Pinned, Rig};
use std::sync::Arc;

const AT: u64 = 0x10_0000;

type Mapped = Mapping<Arc<Pinned>, Arc<Iommu>>;
type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// A machine with a buffer, each page of which lies on its own.
fn scattered(pages: u64) -> Rig {
    let rig = Rig::new(Fragmentation::Seeded { seed: 3, run_order: 0 });
    rig.buffer(0, pages, Vma::read_write());
    rig
}

/// Every page that an IOMMU leads to is pinned.
#[track_caller]
fn assert_held(memory: &Memory, iommus: &[&Iommu]) {
    let page = memory.page_size();
    for entry in iommus.iter().flat_map(|iommu| iommu.mapped(IovaRange::ALL)) {
        let last = entry.phys.checked_add(entry.range.len().unwrap() - 1).unwrap();
        for pfn in entry.phys.pfn(page).get()..=last.pfn(page).get() {
            assert_ne!(memory.pins(Pfn::new(pfn)), 0, "{entry:?} leads to an unpinned page");
        }
    }
}

/// A storage that is not empty: pieces of these sizes, as far as there is room, full of ones.
fn stale<S: Storage>(mut storage: S, sizes: &[usize]) -> S {
    for size in sizes {
        let _ = storage.grow(*size);
    }
    for index in 0..storage.pieces() {
        storage.piece_mut(index).fill(0xff);
    }
    storage
}

/// Runs that never merge, in pages of 4 KiB.
fn runs(count: u64) -> impl Iterator<Item = PageRun> + Clone {
    (0..count).map(move |at| PageRun::ram(Pfn::new((count - at) * 7 + 1), 1 + at % 3).unwrap())
}

fn built<S: Storage>(storage: S, count: u64) -> Sgl<S> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, storage).unwrap();
    builder.push_runs(runs(count)).unwrap();
    builder.finish().unwrap()
}
