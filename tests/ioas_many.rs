// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space of many mappings, so that its tree has several levels, beside a map that is searched
//! from one end to the other.
#![allow(missing_docs, reason = "a test")]

mod rig;

use pinned_sgl::iommu::{
    DomainSlot, HeapIoas, IoasError, IovaRange, MappingSlot, NodeSlot, Placement, PoolIoas,
};
use pinned_sgl_mock::{Fragmentation, Iommu, Vma};
use rig::{iova, Pinned, Rig, P, RW};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is mapped: pages, from the first on, and how many.
#[derive(Default)]
struct Oracle(BTreeMap<u64, u64>);

impl Oracle {
    fn at(&self, page: u64) -> Option<(u64, u64)> {
        let (first, count) = self.0.iter().rfind(|(first, _)| **first <= page)?;
        (page - first < *count).then_some((*first, *count))
    }

    fn is_free(&self, page: u64, count: u64) -> bool {
        self.0.iter().all(|(first, there)| page + count <= *first || first + there <= page)
    }

    /// The first pages but page 0 that have room.
    fn room(&self, count: u64) -> u64 {
        let mut page = 1;
        for (first, there) in &self.0 {
            if page + count <= *first {
                break;
            }
            page = page.max(first + there);
        }
        page
    }

    /// All that is free below page `end`.
    fn free(&self, end: u64) -> Vec<(u64, u64)> {
        let ends = self.0.iter().map(|(first, count)| (*first, first + count));
        let mut from = 0;
        let mut free = Vec::new();
        for (first, behind) in ends.chain([(end, end)]) {
            if from < first {
                free.push((from, first));
            }
            from = behind;
        }
        free
    }
}

fn pages(page: u64, count: u64) -> IovaRange {
    IovaRange::new(iova(page * P), count * P).unwrap()
}

/// It grows to thousands of mappings of one to four pages, shrinks to none, and grows again.
#[test]
fn thousands_of_mappings() {
    const PAGES: u64 = if cfg!(miri) { 300 } else { 12_000 };
    let rig = Rig::new(Fragmentation::Alternate);
    let umem = rig.pin(rig.buffer(0, 4, Vma::read_write()));
    let mut space = HeapIoas::<Arc<Pinned>, Arc<Iommu>>::new();
    let mut oracle = Oracle::default();
    let mut random = fastrand::Rng::with_seed(7);
    for step in 0..3 * PAGES {
        let (page, count) = (random.u64(1..PAGES), random.u64(1..=4));
        let grows = random.u64(0..8) < if step % PAGES < PAGES / 2 { 7 } else { 1 };
        if grows {
            let anywhere = random.u64(0..40) == 0;
            let at = if anywhere { Placement::Anywhere } else { Placement::At(iova(page * P)) };
            let mapped = space.map_range(at, umem.clone(), 0..count * P, RW);
            let mapped = mapped.map_err(|failed| failed.into_error());
            if anywhere && count == 1 {
                assert_eq!(mapped, Ok(pages(oracle.room(1), 1)));
                oracle.0.insert(oracle.room(1), 1);
            } else if anywhere {
                // Where large pages fit best.
                let first = mapped.unwrap().first().get() / P;
                assert!(oracle.is_free(first, count));
                oracle.0.insert(first, count);
            } else if oracle.is_free(page, count) {
                assert_eq!(mapped, Ok(pages(page, count)));
                oracle.0.insert(page, count);
            } else {
                assert!(matches!(mapped, Err(IoasError::Overlap { .. })), "{mapped:?}");
            }
        } else if let Some((first, count)) = oracle.at(page) {
            assert_eq!(space.unmap(pages(first, count)), Ok(count * P));
            oracle.0.remove(&first);
        }
        let found = space.mapping_at(iova(page * P + 5)).map(|mapping| mapping.range());
        assert_eq!(found, oracle.at(page).map(|(first, count)| pages(first, count)));
        if step % (PAGES / 20) == 0 {
            let all = space.mappings(IovaRange::ALL).map(|mapping| mapping.range());
            assert!(all.eq(oracle.0.iter().map(|(first, count)| pages(*first, *count))));
            let end = 2 * PAGES;
            let free = space.free_ranges().filter_map(|it| it.intersection(&pages(0, end)));
            let expected = oracle.free(end).into_iter();
            assert!(free.eq(expected.map(|(first, behind)| pages(first, behind - first))));
        }
    }
    assert_eq!(space.len(), oracle.0.len());
    let mapped = oracle.0.values().sum::<u64>();
    assert_eq!((space.unmap_all(), space.len(), umem.attachments()), (mapped * P, 0, 0));
}

/// A pool with as many nodes as are needed for its mappings never runs out of nodes, whatever comes and
/// goes.
#[test]
fn as_many_nodes_as_are_needed() {
    const PLACES: usize = if cfg!(miri) { 60 } else { 700 };
    let rig = Rig::new(Fragmentation::Alternate);
    let umem = rig.pin(rig.buffer(0, 1, Vma::read_write()));
    let mut mappings: Vec<_> = (0..PLACES).map(|_| MappingSlot::<Arc<Pinned>>::new()).collect();
    let needed = NodeSlot::needed_for(PLACES);
    let mut nodes: Vec<_> = (0..needed).map(|_| NodeSlot::new()).collect();
    let mut domains = [const { DomainSlot::<Arc<Iommu>>::new() }; 1];
    let mut space = PoolIoas::new(&mut mappings, &mut nodes, &mut domains);
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20u64 {
        // Full, in an order of its own; then all but every few of them go.
        while space.len() < PLACES {
            let page = if round % 3 == 0 { space.len() as u64 + 1 } else { random.u64(1..1 << 20) };
            let placed = space.map(Placement::At(iova(page * P)), umem.clone(), RW);
            let placed = placed.map_err(|failed| failed.into_error());
            assert!(matches!(placed, Ok(_) | Err(IoasError::Overlap { .. })), "{placed:?}");
            if placed.is_err() {
                let _ = space.map(Placement::Anywhere, umem.clone(), RW).unwrap();
            }
        }
        let error = space.map(Placement::Anywhere, umem.clone(), RW).unwrap_err().into_error();
        assert_eq!(error, IoasError::OutOfMemory);
        let all: Vec<_> = space.mappings(IovaRange::ALL).map(|mapping| mapping.range()).collect();
        for range in all.iter().enumerate().filter(|(at, _)| at % (2 + round as usize) != 0) {
            assert_eq!(space.unmap(*range.1), Ok(P));
        }
        assert!(space.mapping_at(iova(0)).is_none());
    }
}
