// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting a mapping in two, and unmapping parts of it: at the edges of page table entries and
//! nowhere else, unless the domain can split them.

mod rig;

use pinned_sgl::iommu::{CutError, Cuts, Edges, Mapping, Remains};
use pinned_sgl::{Iova, Tile};
use pinned_sgl_mock::{Fragmentation, Iommu, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RW};
use std::sync::Arc;

/// Not a multiple of the largest page, so that entries and offsets disagree.
const AT: u64 = 0x4000_3000;

/// Sizes of the IOMMU, whether it splits, and how the memory lies.
const CASES: [(&str, bool, Fragmentation); 6] = [
    ("4K", false, Fragmentation::Reverse),
    ("2K|16K", false, Fragmentation::None),
    ("4K|16K|64K", false, Fragmentation::None),
    ("4K|16K|64K", true, Fragmentation::None),
    ("2K|8K|64K", false, Fragmentation::Seeded { seed: 2, run_order: 2 }),
    ("2K|8K|64K", true, Fragmentation::Seeded { seed: 2, run_order: 2 }),
];

/// 40 pages, some of them in folios of 64 KiB.
fn region(rig: &Rig) -> Arc<Pinned> {
    rig.buffer(0, 13, Vma::read_write());
    rig.buffer(13, 51, Vma::read_write().huge(4));
    rig.pin(bytes(3 * P, 40 * P))
}

/// Where entries end, as the tiles say.
fn edges(tiles: &[Tile], len: u64) -> Vec<u64> {
    let starts = tiles.iter().flat_map(|tile| {
        (0..tile.count).map(|page| tile.iova.get() - AT + page * tile.page_size.bytes())
    });
    starts.chain([len]).collect()
}

struct Law {
    len: u64,
    smallest: u64,
    can_split: bool,
    edges: Vec<u64>,
}

impl Law {
    fn new(umem: &Pinned, sizes: &str, can_split: bool) -> Self {
        let tiles: Vec<Tile> =
            umem.whole().unwrap().tiles(sizes.parse().unwrap(), Iova::new(AT)).unwrap().collect();
        let smallest = iommu_smallest(sizes);
        Self { len: umem.len(), smallest, can_split, edges: edges(&tiles, umem.len()) }
    }

    /// Why a mapping may not be cut there.
    fn refuses(&self, offset: u64) -> Option<CutError> {
        if offset == 0 || offset >= self.len {
            return Some(CutError::Outside { len: self.len });
        }
        let page = self.can_split.then_some(self.smallest);
        let below = match page {
            Some(page) => offset - offset % page,
            None => *self.edges.iter().filter(|edge| **edge <= offset).max().unwrap(),
        };
        let above = match page {
            Some(page) => offset.next_multiple_of(page).min(self.len),
            None => *self.edges.iter().filter(|edge| **edge >= offset).min().unwrap(),
        };
        (below != above).then_some(CutError::InsideEntry { edges: Edges { below, above } })
    }
}

fn iommu_smallest(sizes: &str) -> u64 {
    sizes.parse::<pinned_sgl::PageSizes>().unwrap().smallest().unwrap().bytes()
}

/// Exactly the bytes `parts` are mapped, and lead where the list says.
fn assert_mapped(iommu: &Iommu, umem: &Pinned, parts: &[std::ops::Range<u64>]) {
    let window = umem.whole().unwrap();
    for offset in (0..umem.len()).step_by(0x800) {
        let entry = iommu.lookup(iova(AT + offset));
        let phys = entry.map(|entry| entry.phys.get() + AT + offset - entry.range.first().get());
        let inside = parts.iter().any(|part| part.contains(&offset));
        let expected = window.phys(offset).filter(|_| inside).map(|phys| phys.get());
        assert_eq!(phys, expected, "{offset:#x} of {parts:x?}");
    }
}

#[test]
fn split_at_every_offset() {
    for (sizes, can_split, fragmentation) in CASES {
        let rig = Rig::new(fragmentation);
        let umem = region(&rig);
        let law = Law::new(&umem, sizes, can_split);
        let iommu = Arc::new(
            rig.config(sizes).cuts([Cuts::Entries, Cuts::Anywhere][usize::from(can_split)]).build(),
        );
        let mut cuts = 0;
        for offset in (0..=law.len + P).step_by(0x400).chain([1, law.len - 1, u64::MAX]) {
            let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
            let stats = iommu.stats();
            match mapping.split_at(offset) {
                Err(error) => {
                    assert_eq!(Some(*error.error()), law.refuses(offset), "{sizes} {offset:#x}");
                    let mapping = error.into_value();
                    assert_eq!((mapping.len(), umem.attachments()), (law.len, 1));
                    assert_eq!(iommu.stats(), stats);
                }
                Ok((head, tail)) => {
                    assert_eq!(law.refuses(offset), None, "{sizes} {offset:#x}");
                    assert_eq!(iommu.stats(), stats, "nothing is unmapped by cutting");
                    assert_eq!(head.range(), iovas(AT, offset));
                    assert_eq!(tail.range(), iovas(AT + offset, law.len - offset));
                    assert_eq!(tail.region_range(), offset..law.len);
                    assert_eq!(umem.attachments(), 2);
                    let phys = umem.whole().unwrap().phys(offset);
                    assert_eq!(tail.translate(iova(AT + offset)), phys);
                    assert_eq!(head.translate(iova(AT + offset)), None);
                    // Either may go first.
                    let (first, rest, second) = match cuts % 2 {
                        0 => (head, offset..law.len, tail),
                        _ => (tail, 0..offset, head),
                    };
                    drop(first);
                    assert_mapped(&iommu, &umem, &[rest]);
                    drop(second);
                    cuts += 1;
                }
            }
            assert_eq!((iommu.mapped_bytes(), umem.attachments()), (0, 0));
        }
        assert!(cuts >= 9, "{sizes}: {cuts}");
        drop(umem);
        rig.assert_idle();
    }
}

#[test]
fn unmap_every_range() {
    for (sizes, can_split, fragmentation) in CASES {
        let rig = Rig::new(fragmentation);
        let umem = region(&rig);
        let law = Law::new(&umem, sizes, can_split);
        let iommu = Arc::new(
            rig.config(sizes).cuts([Cuts::Entries, Cuts::Anywhere][usize::from(can_split)]).build(),
        );
        let mut unmapped = 0;
        let offsets: Vec<u64> = (0..=law.len).step_by(0x1800).chain(law.edges.clone()).collect();
        for start in &offsets {
            for end in &offsets {
                let (start, end) = (*start, *end);
                let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
                let fine =
                    |offset| offset == law.len || offset == 0 || law.refuses(offset).is_none();
                let legal = start < end && fine(start) && fine(end);
                match mapping.unmap_range(start..end) {
                    Err(error) => {
                        assert!(!legal, "{sizes} {start:#x}..{end:#x}");
                        // A range without bytes is none, whatever lies at its ends.
                        let first = [start, end].into_iter().find(|offset| !fine(*offset));
                        let first = first.filter(|_| start < end);
                        let why = first
                            .map_or(Some(CutError::Outside { len: law.len }), |at| law.refuses(at));
                        assert_eq!(Some(*error.error()), why);
                        let remains = error.into_value();
                        assert!(matches!(remains, Remains::Whole(_)));
                        assert_eq!(umem.attachments(), 1);
                        assert_mapped(&iommu, &umem, std::slice::from_ref(&(0..law.len)));
                    }
                    Ok((head, tail)) => {
                        assert!(legal, "{sizes} {start:#x}..{end:#x}");
                        assert_mapped(&iommu, &umem, &[0..start, end..law.len]);
                        let parts =
                            [&head, &tail].map(|part| part.as_ref().map(Mapping::region_range));
                        let there = |part: std::ops::Range<u64>| (!part.is_empty()).then_some(part);
                        assert_eq!(parts, [there(0..start), there(end..law.len)]);
                        assert_eq!(umem.attachments(), parts.iter().flatten().count());
                        unmapped += 1;
                        // The hole can be filled again.
                        if unmapped % 5 == 0 {
                            let hole = start..end;
                            let again =
                                Mapping::map_range(&*umem, hole, &*iommu, iova(AT + start), RW);
                            assert_eq!(again.unwrap().len(), end - start);
                        }
                    }
                }
                assert_eq!((iommu.mapped_bytes(), umem.attachments()), (0, 0));
            }
        }
        assert!(unmapped > 20, "{sizes}: {unmapped}");
        assert_eq!(iommu.stats().reads, 0);
        drop(umem);
        rig.assert_idle();
    }
}

/// Parts of parts, until nothing is left; a device that has everything in its IOTLB sees each go.
#[test]
fn parts_of_parts() {
    let rig = Rig::new(Fragmentation::Seeded { seed: 3, run_order: 0 });
    let umem = region(&rig);
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let iommu = Arc::new(rig.config("4K|16K").cuts(Cuts::Anywhere).build());
        let device = rig.device(&iommu);
        let mut parts = vec![Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap()];
        while let Some(part) =
            (!parts.is_empty()).then(|| parts.swap_remove(rng.usize(..parts.len())))
        {
            device.prefetch(part.range()).unwrap();
            let (whole, pages) = (part.region_range(), part.len() / P);
            let first = rng.u64(0..pages);
            let gone = first * P..(rng.u64(first..pages) + 1) * P;
            let (head, tail) = part.unmap_range(gone.clone()).unwrap();
            for offset in gone.step_by(P as usize) {
                assert!(device.read(iova(AT + whole.start + offset), &mut [0]).is_err());
            }
            parts.extend(head.into_iter().chain(tail));
            let ranges: Vec<_> = parts.iter().map(Mapping::region_range).collect();
            assert_mapped(&iommu, &umem, &ranges);
        }
        assert_eq!(umem.attachments(), 0);
    }
    drop(umem);
    rig.assert_idle();
}
