// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors of real devices, made of segments: NVMe PRP lists, and the segments of a range of guest
//! addresses, as libvfio-user tests them.

mod rig;

use pinned_sgl::descriptor::{DescriptorError, ListMemory, NvmeSgl, Prp, TransferLimits};
use pinned_sgl::granule::{SegmentError, SegmentLimits};
use pinned_sgl::iommu::{HeapIoas, IoasError, Placement};
use pinned_sgl::sgl::Segment;
use pinned_sgl::umem::AccessError;
use pinned_sgl::{Heap, PageRun, PageSize, Pfn, PhysAddr, Sgl, SglBuilder, Storage, Window};
use pinned_sgl_mock::{Fragmentation, Iommu, Vma};
use rig::{bytes, iova, iovas, Pinned, Rig, P, RO, RW};
use std::sync::Arc;

/// Where the buffers of the PRP tests lie.
const BUFFER: u64 = 0x100_0000;
/// Where list pages lie, one behind the other.
const LISTS: u64 = 0x9000_0000;
/// The entries of a list page.
const SLOTS: usize = 512;

/// PRP1, PRP2, and the pages of the list, each with what was written to it.
type Command = ([u64; 2], Vec<Vec<u64>>);

fn prp<S: Storage>(window: Window<'_, S>) -> Result<Command, DescriptorError> {
    let plan = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE)?.plan(window.iter())?;
    let mut pages = vec![[[0; 8]; SLOTS]; plan.list_pages() as usize];
    let mut lists: Vec<_> = (0..)
        .zip(&mut pages)
        .map(|(index, page)| ListMemory::new(PhysAddr::new(LISTS + index * P), page))
        .collect();
    let command = plan.write(&mut lists)?;
    let written = |page: &[[u8; 8]; SLOTS]| {
        page.iter().map(|slot| u64::from_le_bytes(*slot)).take_while(|entry| *entry != 0).collect()
    };
    Ok((command, pages.iter().map(written).collect()))
}

fn list(page: u64, runs: &[(u64, u64)]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::new(page).unwrap()).unwrap();
    for (start, bytes) in runs {
        builder.push_run(PageRun::ram(Pfn::new(start / page), bytes / page).unwrap()).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn nvme_prp() {
    let sgl = list(P, &[(BUFFER, 0x8000)]);
    let made = |offset, len| prp(sgl.window(offset, len).unwrap()).unwrap();
    let pages = |count: u64| -> Vec<u64> { (1..=count).map(|page| BUFFER + page * P).collect() };
    for (offset, len, further) in [
        (0, 0x200, 0),
        (0, 0x1000, 0),
        (0, 0x1008, 1),
        (0, 0x2000, 1),
        (0, 0x2010, 2),
        (0, 0x3000, 2),
        (4, 0x1000 - 4, 0),
        (4, 0x1000, 1),
        (4, 0x2000 - 4, 1),
        (4, 0x2000, 2),
        (4, 0x3000, 3),
    ] {
        let (second, lists) = match further {
            0 => (0, vec![]),
            1 => (BUFFER + P, vec![]),
            _ => (LISTS, vec![pages(further)]),
        };
        assert_eq!(made(offset, len), ([BUFFER + offset, second], lists), "+{offset:#x} {len:#x}");
    }
}

/// Only the first element may begin, and only the last may end, inside a page.
#[test]
fn nvme_prp_misaligned() {
    let all = [(BUFFER, 0x1000), (2 * BUFFER + 0x400, 0xc00), (3 * BUFFER, 0x1000)];
    let sgl = list(0x400, &all);
    let start = DescriptorError::Start { offset: P, addr: 2 * BUFFER + 0x400, align: P };
    assert_eq!(prp(sgl.whole().unwrap()), Err(start));
    let fine = sgl.whole().unwrap().window(0x1000, 0x1800).unwrap();
    assert_eq!(prp(fine), Ok(([2 * BUFFER + 0x400, 3 * BUFFER], vec![])));
    let sgl = list(0x400, &[(BUFFER, 0x800), (2 * BUFFER, 0x1000)]);
    let end = DescriptorError::End { offset: 0x800, align: P };
    assert_eq!(prp(sgl.whole().unwrap()), Err(end));
}

/// A list page that is exactly full has no link; with one entry more its last slot is one.
#[test]
fn nvme_prp_chains() {
    for (entries, chain) in [
        (511, vec![511]),
        (512, vec![512]),
        (513, vec![512, 2]),
        (1023, vec![512, 512]),
        (1024, vec![512, 512, 2]),
    ] {
        let sgl = list(P, &[(BUFFER, (entries + 1) * P)]);
        let (command, lists) = prp(sgl.whole().unwrap()).unwrap();
        assert_eq!(command, [BUFFER, LISTS]);
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), chain);
        let (last, linked) = lists.split_last().unwrap();
        let mut walked: Vec<u64> = vec![];
        for (index, list) in linked.iter().enumerate() {
            let (link, pages) = list.split_last().unwrap();
            assert_eq!(*link, LISTS + (index as u64 + 1) * P);
            walked.extend(pages);
        }
        walked.extend(last);
        assert!(walked.iter().copied().eq((1..=entries).map(|page| BUFFER + page * P)));
    }
}

type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;

/// The bytes of each mapping in a range, or the first address where there are none.
fn segments(space: &Space, first: u64, len: u64) -> Result<Vec<u64>, u64> {
    let range = iovas(first, len);
    let (mut at, mut found) = (first, vec![]);
    for mapping in space.mappings(range) {
        let part = mapping.range().intersection(&range).unwrap();
        if part.first() != iova(at) {
            return Err(at);
        }
        found.push(part.len().unwrap());
        at += part.len().unwrap();
    }
    if at == first + len {
        Ok(found)
    } else {
        Err(at)
    }
}

#[test]
fn a_range_becomes_segments() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 6, Vma::read_write());
    let umem = rig.pin(bytes(0, 6 * P));
    let mut space = Space::new();
    space.map_range(Placement::At(iova(0x1000)), umem.clone(), 0..0x4000, RW).unwrap();
    space.map_range(Placement::At(iova(0x5000)), umem.clone(), 0x4000..0x6000, RO).unwrap();
    assert_eq!(segments(&space, 0x1000, 0x5000), Ok(vec![0x4000, 0x1000]));
    assert_eq!(segments(&space, 0x4fff, 2), Ok(vec![1, 1]));
    assert_eq!(segments(&space, 0x1000, 0x7000), Err(0x7000), "a hole behind them");
    assert_eq!(segments(&space, 0xfff, 2), Err(0xfff));
    // Where the memory is contiguous the mappings do not matter to a list; too few slots are reported.
    let window = umem.window(0..0x5000).unwrap();
    let limits = SegmentLimits::NONE.max_len(0x4000).unwrap().max_segments(1);
    let refused = window.segments(&limits).map(|_| ()).unwrap_err();
    assert_eq!(refused, SegmentError::TooMany { needed: 2, max: 1 });
    let limits = limits.max_segments(2);
    let lens: Vec<u64> = window.segments(&limits).unwrap().map(|segment| segment.len).collect();
    assert_eq!(lens, [0x4000, 0x1000]);
    // To write where it may only be read; to unmap what was not mapped so.
    let refused = space.write(iova(0x4ffe), b"four").unwrap_err();
    assert_eq!(refused, AccessError::NotPermitted { at: iova(0x5000) });
    for (first, len) in [(0x1000, 0x3000), (0x2000, 0x3000), (0x1000, 0x5000), (0x6000, 0x2000)] {
        let refused = space.unmap(iovas(first, len)).unwrap_err();
        assert!(matches!(refused, IoasError::CutsMapping { .. }), "{refused}");
    }
    assert_eq!(space.len(), 2);
    assert_eq!(space.unmap(iovas(0x1000, 0x4000)), Ok(0x4000));
    assert_eq!(space.unmap(iovas(0x5000, 0x2000)), Ok(0x2000));
    drop(umem);
    rig.assert_idle();
}

/// The blocks of an SGL, as (address, length).
fn sgl_blocks(extents: &[Segment]) -> Vec<(u64, u64)> {
    let format = NvmeSgl::new(1, TransferLimits::NONE).unwrap();
    let plan = format.plan(extents.iter().copied()).unwrap();
    let mut slots = vec![[0; 16]; plan.blocks() as usize];
    let command = plan.write(&mut [ListMemory::new(PhysAddr::new(LISTS), &mut slots)]).unwrap();
    let blocks = if slots.len() == 1 { vec![command] } else { slots };
    let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    blocks.iter().map(|block| (half(&block[..8]), half(&block[8..]))).collect()
}

#[test]
fn extents_at_both_ends_of_all_addresses() {
    let at = |phys, len| {
        let list = list(P, &[(0, P)]);
        let mut segment = list.whole().unwrap().iter().next().unwrap();
        (segment.phys, segment.len) = (PhysAddr::new(phys), len);
        segment
    };
    let last = u64::MAX - (P - 1);
    // What touches is one block; nothing continues behind the last address of all.
    assert_eq!(sgl_blocks(&[at(0, P), at(P, P)]), [(0, 2 * P)]);
    assert_eq!(sgl_blocks(&[at(last - P, P), at(last, P)]), [(last - P, 2 * P)]);
    assert_eq!(sgl_blocks(&[at(last, P), at(0, P)]), [(last, P), (0, P)]);
    // Bytes without addresses are none; there is one at least.
    assert_eq!(sgl_blocks(&[at(last, 2 * P)]), [(last, P)]);
    assert_eq!(sgl_blocks(&[at(0, 0)]), [(0, 1)]);
    assert_eq!(sgl_blocks(&[at(P, 0), at(2 * P, 1)]), [(P, 1), (2 * P, 1)]);
}
