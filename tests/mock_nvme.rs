// SPDX-License-Identifier: MIT OR Apache-2.0
//! The controller of the mock kit: what the crate's lists lead it to, and what it finds wrong in others.

use pinned_sgl::descriptor::{Extent, ListMemory, NvmeSgl, Prp, TransferLimits};
use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl::umem::UserRange;
use pinned_sgl::{Iova, PageSize, PageSizes, UserAddr};
use pinned_sgl_mock::{
    DataPointer, Device, DmaFault, Entry, Iommu, Memory, Nvme, NvmeFault, PinnedMemory,
};
use std::sync::Arc;

type Mapped = Mapping<PinnedMemory, Arc<Iommu>>;

const PAGE: PageSize = PageSize::SIZE_4K;
const P: u64 = 0x1000;
/// Where the controller has the buffer, whose pages are scattered, and the lists.
const BUFFER: u64 = 0x10_0000;
const LISTS: u64 = 0x90_0000;

/// A controller, a buffer of 16 pages, and four pages for lists.
struct Lab {
    memory: Memory,
    nvme: Nvme<Arc<Iommu>, Memory>,
    buffer: (PinnedMemory, Vec<Mapped>),
    lists: (PinnedMemory, Mapped),
}

impl Lab {
    /// The pages of the buffer lie at every second page of the IOMMU, last to first, so that each is an extent.
    fn new() -> Self {
        let memory = Memory::with_frames(256);
        let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
        let pinned = |at, pages| {
            memory.pinned(UserRange::new(UserAddr::new(at), pages * P).unwrap()).unwrap()
        };
        let (buffer, lists) = (pinned(0x1000_0000, 16), pinned(0x2000_0000, 4));
        let both = Prot::READ | Prot::WRITE;
        let page = |number: u64| {
            let (range, iova) = (number * P..(number + 1) * P, Iova::new(place(number)));
            Mapping::map_range(buffer.clone(), range, iommu.clone(), iova, both).unwrap()
        };
        let mapped = (0..16).map(page).collect();
        let list = Mapping::map(lists.clone(), iommu.clone(), Iova::new(LISTS), both).unwrap();
        let nvme = Nvme::new(Device::new(iommu, memory.clone()), PAGE);
        Self { memory, nvme, buffer: (buffer, mapped), lists: (lists, list) }
    }

    /// The bytes of the buffer, as the controller has them.
    fn extents(&self, offset: u64, len: u64) -> Vec<Extent<Iova>> {
        let (mut at, end, mut extents) = (offset, offset + len, Vec::new());
        while at < end {
            let here = (end - at).min(P - at % P);
            extents.push(Extent::new(Iova::new(place(at / P) + at % P), here).unwrap());
            at += here;
        }
        extents
    }

    /// Writes a list that somebody has got wrong.
    fn put<const N: usize>(&self, at: u64, slots: &[[u8; N]]) {
        self.lists.0.write(at, slots.as_flattened()).unwrap();
    }

    /// Both ways arrive, and nothing else changes.
    fn moves(&self, pointer: DataPointer, offset: u64, len: u64, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut expected = vec![0; 16 * P as usize];
        random.fill(&mut expected);
        self.buffer.0.write(0, &expected).unwrap();
        let range = offset as usize..(offset + len) as usize;
        let mut seen = vec![0; len as usize];
        self.nvme.fetch(pointer, &mut seen).unwrap();
        assert!(seen == expected[range.clone()]);
        random.fill(&mut expected[range.clone()]);
        self.nvme.send(pointer, &expected[range]).unwrap();
        let mut all = vec![0; expected.len()];
        self.buffer.0.read(0, &mut all).unwrap();
        assert!(all == expected);
    }

    fn end(self) {
        drop((self.buffer, self.lists, self.nvme));
        self.memory.witness().assert_clean();
        assert_eq!(self.memory.pinned_pages(), 0);
    }
}

fn place(page: u64) -> u64 {
    BUFFER + (15 - page) * 2 * P
}

/// Offsets and lengths from one dword to the whole buffer.
fn cases() -> impl Iterator<Item = (u64, u64)> {
    let mut random = fastrand::Rng::with_seed(5);
    let fixed = [(0, 4), (0, P), (4, P), (0, 2 * P), (P - 4, 8), (0, 16 * P), (8, 16 * P - 8)];
    fixed.into_iter().chain((0..200).map(move |_| {
        let offset = random.u64(0..16 * P / 4) * 4;
        (offset, random.u64(1..=(16 * P - offset) / 4) * 4)
    }))
}

#[test]
fn prps_lead_to_the_bytes() {
    let lab = Lab::new();
    let prp = Prp::new(PAGE, TransferLimits::NONE).unwrap();
    for (seed, (offset, len)) in cases().enumerate() {
        let plan = prp.plan(lab.extents(offset, len)).unwrap();
        let mut slots = [[0; 8]; 512];
        let mut lists = [ListMemory::new(Iova::new(LISTS), &mut slots)];
        let command = plan.write(&mut lists).unwrap();
        lab.put(0, &slots);
        lab.moves(DataPointer::Prp(command), offset, len, seed as u64);
    }
    lab.end();
}

#[test]
fn prps_chain_at_the_end_of_a_page() {
    let lab = Lab::new();
    // PRP2 points to the last three slots of a list page, of which the last leads on.
    let entries: Vec<[u8; 8]> = (1..6).map(|page| place(page).to_le_bytes()).collect();
    lab.put(P - 24, &entries[..2]);
    lab.put(P - 8, &[(LISTS + P).to_le_bytes()]);
    lab.put(P, &entries[2..]);
    let command = DataPointer::Prp([place(0), LISTS + P - 24]);
    lab.moves(command, 0, 6 * P, 1);
    // With as many slots as pages, the last slot is an entry.
    lab.put(P - 8, &[place(3).to_le_bytes()]);
    lab.moves(command, 0, 4 * P - 4, 2);
    lab.end();
}

#[test]
fn scatter_gather_lists_lead_to_the_bytes() {
    let lab = Lab::new();
    let format = NvmeSgl::new(1, TransferLimits::NONE).unwrap();
    for (seed, (offset, len)) in cases().enumerate() {
        // At any byte, and in lists of few slots, which are chained.
        let (offset, len) = (offset + 1, (len - 2).max(1).min(16 * P - offset - 1));
        let plan = format.plan(lab.extents(offset, len)).unwrap();
        let mut memory: [[[u8; 16]; 5]; 4] = Default::default();
        let mut lists: Vec<_> = (0..)
            .zip(&mut memory)
            .map(|(page, slots)| ListMemory::new(Iova::new(LISTS + page * P + 16), slots))
            .collect();
        let command = plan.write(&mut lists).unwrap();
        for (page, slots) in (0..).zip(&memory) {
            lab.put(page * P + 16, slots);
        }
        lab.moves(DataPointer::Sgl(command), offset, len, seed as u64);
    }
    lab.end();
}

fn descriptor(addr: u64, len: u32, kind: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[15] = kind;
    bytes
}

#[test]
fn wrong_prps_are_found_where_they_are() {
    let lab = Lab::new();
    let fault = |prp, len| lab.nvme.parts(DataPointer::Prp(prp), len).unwrap_err();
    let command = |pointer| Entry::Command { pointer };
    let misaligned = |entry, addr, align| NvmeFault::Misaligned { entry, addr, align };
    let first = place(0);
    assert_eq!(fault([first + 2, 0], 512), misaligned(command(1), first + 2, 4));
    assert_eq!(fault([first, first + 4], 2 * P), misaligned(command(2), first + 4, P));
    assert_eq!(fault([first, LISTS + 4], 3 * P), misaligned(command(2), LISTS + 4, 8));
    // The offset is in the first entry only.
    lab.put(0, &[place(1).to_le_bytes(), (place(2) + 8).to_le_bytes()]);
    let entry = Entry::List { list: 0, slot: 1 };
    assert_eq!(fault([first, LISTS], 3 * P), misaligned(entry, place(2) + 8, P));
    // A list that should lead on and does not.
    lab.put(P - 8, &[place(1).to_le_bytes()]);
    let entry = Entry::List { list: 1, slot: 0 };
    lab.buffer.0.write(P, &[1; 8]).unwrap();
    let addr = u64::from_le_bytes([1; 8]);
    assert_eq!(fault([first, LISTS + P - 8], 3 * P), misaligned(entry, addr, P));
    // Lists, and bytes, where nothing is mapped.
    let nowhere = LISTS + 4 * P;
    let not_mapped = DmaFault::NotMapped { iova: Iova::new(nowhere) };
    let entry = Entry::List { list: 0, slot: 0 };
    let unreadable = NvmeFault::Unreadable { entry, fault: not_mapped };
    assert_eq!(fault([first, nowhere], 3 * P), unreadable);
    let data = NvmeFault::Data { offset: P - 4, fault: not_mapped };
    let sent = lab.nvme.send(DataPointer::Prp([first + 4, nowhere]), &[0; 4096]);
    assert_eq!(sent, Err(data));
    lab.end();
}

#[test]
fn wrong_scatter_gather_lists_are_found_where_they_are() {
    let lab = Lab::new();
    let fault = |sgl, len| lab.nvme.parts(DataPointer::Sgl(sgl), len).unwrap_err();
    let command = Entry::Command { pointer: 1 };
    let slot = |list, slot| Entry::List { list, slot };
    let data = |page| descriptor(place(page), 512, 0);
    let last = |at, slots: u32| descriptor(LISTS + at, slots * 16, 0x30);
    let next = |at, slots: u32| descriptor(LISTS + at, slots * 16, 0x20);

    let kind = |entry, kind| NvmeFault::Kind { entry, kind };
    assert_eq!(fault(descriptor(place(0), 512, 0x10), 512), kind(command, 0x10));
    let length = |described, needed| NvmeFault::Length { described, needed };
    assert_eq!(fault(data(0), 1024), length(512, 1024));
    assert_eq!(fault(data(0), 256), length(512, 256));
    for len in [0, 24] {
        let list = NvmeFault::ListLength { entry: command, len };
        assert_eq!(fault(descriptor(LISTS, len, 0x30), 512), list);
    }
    let misaligned = NvmeFault::Misaligned { entry: command, addr: LISTS + 8, align: 16 };
    assert_eq!(fault(last(8, 2), 512), misaligned);
    // What leads on lies in the middle, in a last segment, or is missing.
    lab.put(0, &[data(0), next(P, 1), data(1)]);
    lab.put(P, &[data(2)]);
    assert_eq!(fault(next(0, 3), 1536), kind(slot(0, 1), 0x20));
    assert_eq!(fault(last(0, 2), 1024), kind(slot(0, 1), 0x20));
    assert_eq!(fault(next(0, 1), 512), kind(slot(0, 0), 0));
    assert_eq!(fault(next(0, 2), 1024), kind(slot(1, 0), 0));
    // A list that leads to itself.
    lab.put(0, &[next(0, 1)]);
    assert_eq!(fault(next(0, 1), 512), NvmeFault::TooManyLists);
    let not_mapped = DmaFault::NotMapped { iova: Iova::new(LISTS + 4 * P) };
    let unreadable = NvmeFault::Unreadable { entry: slot(0, 1), fault: not_mapped };
    lab.put(4 * P - 16, &[data(0)]);
    assert_eq!(fault(last(4 * P - 16, 2), 1024), unreadable);
    assert_eq!(unreadable.to_string(), "slot 1 of list 0 cannot be read");
    lab.end();
}
