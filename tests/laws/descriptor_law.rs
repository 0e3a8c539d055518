// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Descriptors** lead a controller that follows them to the bytes of the window, in order, and to none other;
//! what a format cannot express is refused, with where; and nothing is written outside of the room that was asked
//! for. What a device takes where it lies is not copied, and all else is.
//!
//! The decoders follow pointers through memory as a controller does, and know nothing of how they were written.

use super::alloc::{vec, vec::Vec};
use super::input;
use super::storage::{store, Store};
use arbitrary::{Result, Unstructured};
use pinned_sgl::descriptor::{
    Bounce, DescriptorError, Extent, ListMemory, NvmeSgl, PageArray, Pairs, Part, Prp, Shape,
    TransferLimits,
};
use pinned_sgl::{
    Iova, MemoryKind, PageRun, PageSize, Pfn, PhysAddr, Segment, SegmentLimits, Sgl, SglBuilder,
    Window,
};

/// A window of runs, and what a controller says of itself.
#[derive(Clone, Debug)]
pub struct Case {
    pub page: PageSize,
    /// First pages and how many there are.
    pub runs: Vec<(u64, u64)>,
    pub offset: u64,
    pub len: u64,
    /// The page size of the controller.
    pub controller: PageSize,
    pub sector: u64,
    /// The last address that it reaches.
    pub last: u64,
    /// The slots of lists that may have any number.
    pub lists: Vec<usize>,
}

/// Contiguous bytes: an address and a length.
type Bytes = (u64, u64);

/// Memory of a list: where it is, and what is there.
type Memory<const N: usize> = (u64, Vec<[u8; N]>);

/// What slots have that nothing was written to.
const UNTOUCHED: u8 = 0xa5;
const LISTS: u64 = 0x9000_0000;

fn join(parts: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut joined: Vec<Bytes> = Vec::new();
    for (addr, len) in parts {
        match joined.last_mut() {
            Some(last) if last.0.checked_add(last.1) == Some(addr) => last.1 += len,
            _ => joined.push((addr, len)),
        }
    }
    joined
}

/// The bytes of the window, page by page.
fn expected(case: &Case) -> Vec<Bytes> {
    let page = case.page.bytes();
    let pages = case.runs.iter().flat_map(|(start, count)| *start..start + count);
    let (mut skip, mut left) = (case.offset, case.len);
    let mut parts = Vec::new();
    for number in pages {
        let skipped = skip.min(page);
        let len = (page - skipped).min(left);
        if len > 0 {
            parts.push((number * page + skipped, len));
        }
        (skip, left) = (skip - skipped, left - len);
    }
    join(parts)
}

pub fn check(case: &Case) {
    let mut builder = SglBuilder::<Store>::new_in(case.page, store()).unwrap();
    for (start, count) in &case.runs {
        builder.push_run(PageRun::new(Pfn::new(*start), *count, MemoryKind::Ram).unwrap()).unwrap();
    }
    let sgl: Sgl<Store> = builder.finish().unwrap();
    // The list may begin in the middle of its first page only: longer offsets are a window of a window.
    let whole = sgl.whole().unwrap();
    let window = whole.window(case.offset, case.len).unwrap();
    let bytes = expected(case);
    check_prp(case, window.iter(), &bytes);
    check_nvme_sgl(case, window.iter(), &bytes);
    check_pairs(case, window.iter(), &bytes);
    check_page_array(case, window, &bytes);
    check_bounce(case, window.iter(), &bytes);
    // Extents that touch are one, wherever they were cut: as an API that maps them may do.
    let cut = SegmentLimits::NONE.max_len(case.page.bytes() * 3 / 4).unwrap();
    let parts = window.segments(&cut).unwrap();
    check_prp(case, parts.clone(), &bytes);
    check_nvme_sgl(case, parts.clone(), &bytes);
    check_pairs(case, parts.clone(), &bytes);
    check_bounce(case, parts, &bytes);
}

/// Parts of a window: how long they are, and where those are that are not copied.
type Bounced = Vec<(u64, Option<u64>)>;

/// Unit by unit of as many bytes as the alignment has: which of them lies where the device takes it.
fn bounced(case: &Case, bytes: &[Bytes], last: u64, align: u64, boundary: Option<u64>) -> Bounced {
    let mut parts: Bounced = Vec::new();
    let (mut index, mut before) = (0, 0);
    for offset in (0..case.len).step_by(align as usize) {
        while before + bytes[index].1 <= offset {
            before += bytes[index].1;
            index += 1;
        }
        let (start, len) = bytes[index];
        let addr = start + (offset - before);
        let unit = align.min(case.len - offset);
        let together = offset + unit <= before + len;
        let fits = together && unit == align && addr % align == 0 && addr + (unit - 1) <= last;
        let addr = fits.then_some(addr);
        match (parts.last_mut(), addr) {
            (Some((len, None)), None) => *len += unit,
            (Some((len, Some(first))), Some(addr))
                if *first + *len == addr && boundary.is_none_or(|each| addr % each != 0) =>
            {
                *len += unit;
            }
            _ => parts.push((unit, addr)),
        }
    }
    parts
}

fn check_bounce(case: &Case, extents: impl Iterator<Item = Segment> + Clone, bytes: &[Bytes]) {
    // Not more units than can be looked at one by one.
    let least = (case.len.next_power_of_two() >> 9).max(1);
    let page = case.page.bytes();
    // Of pages of a few, some lie where a device wants them; and half of the first run is in reach, with what is below.
    for last in [case.last, bytes[0].0 + bytes[0].1 / 2] {
        for align in [1, case.sector, page, 2 * page].map(|align| align.max(least)) {
            let device = Bounce::NONE.last_addr(last).align(align).unwrap();
            let parts = bounced(case, bytes, last, align, None);
            check_plan(case, device, extents.clone(), &parts);
            let each = case.controller.bytes().max(align);
            let device = device.boundary(each).unwrap();
            let mut parts = bounced(case, bytes, last, align, Some(each));
            check_plan(case, device, extents.clone(), &parts);
            if parts.iter().any(|(_, addr)| addr.is_none()) {
                parts = vec![(case.len, None)];
            }
            check_plan(case, device.whole(), extents.clone(), &parts);
        }
    }
}

fn check_plan(
    case: &Case,
    device: Bounce,
    extents: impl Iterator<Item = Segment> + Clone,
    parts: &Bounced,
) {
    let copied = parts.iter().filter(|part| part.1.is_none()).map(|part| part.0);
    let plan = device.plan(extents).unwrap();
    assert_eq!((plan.len(), plan.copied()), (case.len, copied.sum()), "{device:?} {case:?}");
    let mut offset = 0;
    let found = plan.parts().map(|part| {
        let addr = match part {
            Part::InPlace(extent) => Some(extent.addr().get()),
            Part::Copied { offset: at, .. } => {
                assert_eq!(at, offset);
                None
            }
        };
        offset += part.len();
        (part.len(), addr)
    });
    assert_eq!(found.collect::<Bounced>(), *parts, "{device:?} {case:?}");
}

fn limits(case: &Case) -> TransferLimits {
    TransferLimits::NONE.sector(case.sector).unwrap().last_addr(case.last)
}

/// The first byte out of reach.
fn unreachable(case: &Case, offset: u64, (addr, len): Bytes) -> Option<DescriptorError> {
    let last = case.last;
    (addr + (len - 1) > last).then(|| {
        let fine = if addr > last { 0 } else { last + 1 - addr };
        DescriptorError::Unreachable { offset: offset + fine, addr: addr + fine, last }
    })
}

fn wrong_length(case: &Case) -> Option<DescriptorError> {
    let (len, sector) = (case.len, case.sector);
    (len % sector != 0).then_some(DescriptorError::Length { len, max: u64::MAX, sector })
}

/// Why PRPs cannot express these bytes.
fn no_prp(case: &Case, bytes: &[Bytes]) -> Option<DescriptorError> {
    let page = case.controller.bytes();
    let mut offset = 0;
    for (index, (addr, len)) in bytes.iter().enumerate() {
        if index > 0 && bytes[index - 1].0.wrapping_add(bytes[index - 1].1) % page != 0 {
            return Some(DescriptorError::End { offset, align: page });
        }
        let align = if index == 0 { 4 } else { page };
        if addr % align != 0 {
            return Some(DescriptorError::Start { offset, addr: *addr, align });
        }
        if let Some(error) = unreachable(case, offset, (*addr, *len)) {
            return Some(error);
        }
        offset += len;
    }
    wrong_length(case)
}

/// What a controller finds at an address of a list.
fn at<const N: usize>(memory: &[Memory<N>], addr: u64) -> [u8; N] {
    let found = memory.iter().find_map(|(start, slots)| {
        let distance = addr.checked_sub(*start)?;
        assert_eq!(distance % N as u64, 0, "between two slots");
        slots.get(usize::try_from(distance / N as u64).ok()?)
    });
    *found.expect("a list is read where there is none")
}

/// Follows PRPs through memory: the bytes of a command.
fn follow_prp(prp: [u64; 2], page: u64, len: u64, memory: &[Memory<8>]) -> Vec<Bytes> {
    let [first, second] = prp;
    let mut parts = vec![(first, (page - first % page).min(len))];
    let mut left = len - parts[0].1;
    if left == 0 {
        assert_eq!(second, 0, "one page needs no PRP2");
    } else if left <= page {
        parts.push((second, left));
    } else {
        let mut entry = second;
        while left > 0 {
            let value = u64::from_le_bytes(at(memory, entry));
            // The last slot of a page leads to the next list, if there is more than it could lead to.
            if (entry + 8) % page == 0 && left > page {
                entry = value;
                assert_eq!(value % page, 0);
                continue;
            }
            let len = left.min(page);
            assert_eq!(value % page, 0);
            parts.push((value, len));
            (left, entry) = (left - len, entry + 8);
        }
    }
    join(parts)
}

fn untouched<const N: usize>(slots: usize) -> Vec<[u8; N]> {
    vec![[UNTOUCHED; N]; slots]
}

fn lend<const N: usize>(memory: &mut [Memory<N>]) -> Vec<ListMemory<'_, PhysAddr, N>> {
    memory.iter_mut().map(|(addr, slots)| ListMemory::new(PhysAddr::new(*addr), slots)).collect()
}

fn check_prp(case: &Case, extents: impl Iterator<Item = Segment> + Clone, bytes: &[Bytes]) {
    let page = case.controller.bytes();
    let prp = Prp::new(case.controller, limits(case)).unwrap();
    let plan = prp.plan(extents);
    if let Some(error) = no_prp(case, bytes) {
        assert_eq!(plan.unwrap_err(), error, "{case:?}");
        return;
    }
    let plan = plan.unwrap();
    // Pages that have a byte of the window, in the order of the window: none of them twice.
    let entries: u64 = bytes.iter().map(|(at, len)| (at + (len - 1)) / page - at / page + 1).sum();
    assert_eq!((plan.len(), plan.entries()), (case.len, entries));
    let slots = page / 8;
    let (mut needed, mut listed) = (0, entries.saturating_sub(1));
    if listed > 1 {
        needed = 1;
        while listed > slots {
            (needed, listed) = (needed + 1, listed - (slots - 1));
        }
    }
    assert_eq!(plan.list_pages(), needed, "{case:?}");
    if LISTS + (needed + 1) * 2 * page > case.last {
        return;
    }

    // Backwards, so that a list does not go on where it ends by accident; one more than is needed.
    let places = (0..=needed).map(|index| LISTS + (needed - index) * 2 * page);
    let mut memory: Vec<Memory<8>> = places.map(|at| (at, untouched(slots as usize))).collect();
    let command = plan.write(&mut lend(&mut memory)).unwrap();
    assert_eq!(follow_prp(command, page, case.len, &memory), bytes, "{case:?}");
    let (_, behind) = memory.last().unwrap();
    assert_eq!(*behind, untouched(slots as usize), "more than was asked for");
    if needed > 0 {
        let (_, last) = &memory[needed as usize - 1];
        let used = if needed == 1 { entries - 1 } else { listed } as usize;
        assert!(last[used..].iter().all(|slot| *slot == [UNTOUCHED; 8]));

        let error = plan.write(&mut lend(&mut memory[..needed as usize - 1])).unwrap_err();
        let [needed, given] = [needed, needed - 1].map(|pages| pages * slots);
        assert_eq!(error, DescriptorError::Room { needed, given });
        memory[0].0 += 8;
        let error = plan.write(&mut lend(&mut memory)).unwrap_err();
        let addr = memory[0].0;
        assert_eq!(error, DescriptorError::List { index: 0, addr, align: page, slots: 0 });
    }

    // In parts, the first of which begins inside of a page: three slots before its end.
    let mut writer = plan.writer();
    let first = writer.next_entry();
    if writer.left() < 2 {
        assert_eq!([first, writer.next_entry()], command);
        return;
    }
    let mut parts: Vec<Memory<8>> = vec![(LISTS + page - 24, untouched(3))];
    loop {
        let index = parts.len();
        let next = LISTS + index as u64 * 3 * page;
        let (_, slots_of_list) = &mut parts[index - 1];
        let room = slots_of_list.len() as u64;
        if writer.left() > room {
            let (left, mut slots) = (writer.left(), untouched::<8>(3));
            let error = writer.write_page(&mut slots[..2], None).unwrap_err();
            assert_eq!(error, DescriptorError::Room { needed: left, given: 2 });
            assert_eq!((slots, writer.left()), (untouched(3), left));
        }
        let more = writer.left() > room;
        writer.write_page(slots_of_list, more.then_some(PhysAddr::new(next))).unwrap();
        if !more {
            break;
        }
        parts.push((next, untouched(slots as usize)));
    }
    assert_eq!((writer.left(), writer.next_entry()), (0, 0));
    let command = [first, LISTS + page - 24];
    assert_eq!(follow_prp(command, page, case.len, &parts), bytes, "in parts: {case:?}");
}

/// Follows a list through memory; the bytes, and the key of each block.
fn follow_nvme_sgl(sgl1: [u8; 16], memory: &[Memory<16>]) -> (Vec<Bytes>, Vec<u32>) {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let (mut parts, mut keys) = (Vec::new(), Vec::new());
    // Descriptors that are to be looked at, the next one last.
    let mut todo = vec![(sgl1, true)];
    while let Some((descriptor, may_lead)) = todo.pop() {
        let addr = number(&descriptor[..8]);
        match descriptor[15] {
            0x00 => {
                assert_eq!(descriptor[12..15], [0; 3]);
                parts.push((addr, number(&descriptor[8..12])));
            }
            0x40 => {
                parts.push((addr, number(&descriptor[8..11])));
                keys.push(number(&descriptor[11..15]) as u32);
            }
            kind @ (0x20 | 0x30) => {
                assert!(may_lead && todo.is_empty(), "what leads on stands behind all blocks");
                let len = number(&descriptor[8..12]);
                assert!(len > 0 && len % 16 == 0);
                todo = (0..len / 16)
                    .map(|slot| (at(memory, addr + slot * 16), kind == 0x20))
                    .collect();
                todo.reverse();
                let leads = todo.iter().filter(|(next, _)| matches!(next[15], 0x20 | 0x30)).count();
                assert_eq!(leads, usize::from(kind == 0x20), "only a segment leads on");
            }
            kind => panic!("there is no type {kind:#x}"),
        }
    }
    (join(parts), keys)
}

fn no_nvme_sgl(case: &Case, bytes: &[Bytes], align: u64) -> Option<DescriptorError> {
    let mut offset = 0;
    for (addr, len) in bytes {
        if addr % align != 0 {
            return Some(DescriptorError::Start { offset, addr: *addr, align });
        }
        if let Some(error) = unreachable(case, offset, (*addr, *len)) {
            return Some(error);
        }
        offset += len;
        if len % align != 0 {
            return Some(DescriptorError::End { offset, align });
        }
    }
    wrong_length(case)
}

fn check_nvme_sgl(case: &Case, extents: impl Iterator<Item = Segment> + Clone, bytes: &[Bytes]) {
    for (sgls, align, key) in [(1, 1, None), (2, 4, None), (1, 1, Some(0x8765_4321))] {
        let mut format = NvmeSgl::new(sgls, limits(case)).unwrap();
        if let Some(key) = key {
            format = format.keyed(key);
        }
        let plan = format.plan(extents.clone());
        if let Some(error) = no_nvme_sgl(case, bytes, align) {
            assert_eq!(plan.unwrap_err(), error, "{case:?}");
            continue;
        }
        let plan = plan.unwrap();
        let most = if key.is_some() { 1 << 23 } else { 1 << 31 };
        let blocks: u64 = bytes.iter().map(|(_, len)| len.div_ceil(most)).sum();
        assert_eq!((plan.len(), plan.blocks()), (case.len, blocks));

        let sizes = || case.lists.iter().copied();
        let spread: u64 = sizes().map(|slots| slots as u64 * 16 + 64).sum();
        if LISTS + spread > case.last {
            continue;
        }
        let mut next = LISTS;
        let mut memory: Vec<Memory<16>> = sizes()
            .map(|slots| {
                let place = next;
                next += slots as u64 * 16 + 64;
                (place, untouched(slots))
            })
            .collect();
        // Lists are filled, but for one slot each that leads on, until one has room for the rest.
        let (mut given, mut needed, mut used) = (0u64, blocks, 0);
        for slots in sizes() {
            (given, used) = (given + slots as u64, used + 1);
            if given >= needed {
                break;
            }
            needed += 1;
        }
        let written = plan.write(&mut lend(&mut memory));
        if blocks > 1 && given < needed {
            assert_eq!(written, Err(DescriptorError::Room { needed, given }), "{case:?}");
            assert!(memory
                .iter()
                .flat_map(|(_, slots)| slots)
                .all(|slot| *slot == [UNTOUCHED; 16]));
            continue;
        }
        let (found, keys) = follow_nvme_sgl(written.unwrap(), &memory);
        assert_eq!(found, bytes, "{case:?}");
        let count = if key.is_some() { blocks } else { 0 };
        assert_eq!(keys, vec![key.unwrap_or(0); count as usize]);
        let used = if blocks > 1 { used } else { 0 };
        let touched = memory.iter().flat_map(|(_, slots)| slots);
        let touched = touched.filter(|slot| **slot != [UNTOUCHED; 16]).count();
        assert_eq!(touched as u64, if used > 0 { needed } else { 0 }, "as many as are needed");
    }
}

fn check_pairs(case: &Case, extents: impl Iterator<Item = Segment> + Clone, bytes: &[Bytes]) {
    for shape in [Shape::IoVec, Shape::Sge { lkey: 7 }, Shape::Virtq { writable: true }] {
        let plan = Pairs::new(shape, limits(case)).plan(extents.clone());
        if let Some(error) = no_nvme_sgl(case, bytes, 1) {
            assert_eq!(plan.unwrap_err(), error, "{case:?}");
            continue;
        }
        let plan = plan.unwrap();
        let count = plan.pairs() as usize;
        assert_eq!((plan.len(), count), (case.len, bytes.len()));
        let mut pairs = untouched::<16>(count + 1);
        if count > 0 {
            let error = plan.write(&mut pairs[..count - 1]).unwrap_err();
            let [needed, given] = [count, count - 1].map(|pairs| pairs as u64);
            assert_eq!(error, DescriptorError::Room { needed, given });
            assert_eq!(pairs, untouched(count + 1));
        }
        assert_eq!(plan.write(&mut pairs).unwrap(), count);
        assert_eq!(pairs[count], [UNTOUCHED; 16]);
        let word =
            |pair: &[u8; 16], from: usize| <[u8; 8]>::try_from(&pair[from..from + 8]).unwrap();
        let half =
            |pair: &[u8; 16], from: usize| <[u8; 4]>::try_from(&pair[from..from + 4]).unwrap();
        let native = |pair: &[u8; 16]| u64::from_ne_bytes(word(pair, 0));
        let found: Vec<Bytes> = match shape {
            Shape::IoVec => pairs[..count]
                .iter()
                .map(|pair| (native(pair), u64::from_ne_bytes(word(pair, 8))))
                .collect(),
            Shape::Sge { lkey } => pairs[..count]
                .iter()
                .map(|pair| {
                    assert_eq!(u32::from_ne_bytes(half(pair, 12)), lkey);
                    (native(pair), u32::from_ne_bytes(half(pair, 8)).into())
                })
                .collect(),
            _ => {
                let table = follow_virtq(&pairs, 0);
                // The same in a ring, of which every third descriptor is free, from its end on.
                let mut ring = untouched::<16>(3 * count + 1);
                let free: Vec<u16> = (0..count).map(|index| (3 * (count - index)) as u16).collect();
                let head = plan.write_chain(&mut ring, &free, None).unwrap();
                assert_eq!(follow_virtq(&ring, head), table);
                let left = ring.iter().filter(|slot| **slot == [UNTOUCHED; 16]).count();
                assert_eq!(left, ring.len() - count);
                let slots = free[0].into();
                let error = plan.write_chain(&mut ring[..slots], &free, None).unwrap_err();
                assert_eq!(error, DescriptorError::List { index: 0, addr: 0, align: 16, slots });
                table
            }
        };
        assert_eq!(found, bytes, "{shape:?} {case:?}");
    }
}

/// The entries of a translation table, read as a card does: the address above the flags.
fn check_page_array(case: &Case, window: Window<'_, Store>, bytes: &[Bytes]) {
    let iova = Iova::new(bytes[0].0 % case.page.bytes());
    let Some(size) = window.best_page_size(case.page.into(), iova).unwrap() else {
        return;
    };
    let (block, flags) = (size.page_size(), 0b101);
    for big_endian in [false, true] {
        let mut array = PageArray::new(block, flags).unwrap();
        if big_endian {
            array = array.big_endian();
        }
        let count = size.block_count() as usize;
        let mut slots = untouched::<8>(count + 1);
        // In two parts: what has no slot yet is not lost.
        let (mut blocks, half) = (size.blocks(), count / 2);
        assert_eq!(array.write(&mut blocks, &mut slots[..half]), Ok(half));
        assert_eq!(array.write(&mut blocks, &mut slots[half..]), Ok(count - half));
        assert_eq!(slots[count], [UNTOUCHED; 8]);
        let read = if big_endian { u64::from_be_bytes } else { u64::from_le_bytes };
        let mut parts = Vec::new();
        let (mut skip, mut left) = (bytes[0].0 % block.bytes(), case.len);
        for slot in &slots[..count] {
            let entry = read(*slot);
            assert_eq!(entry % block.bytes(), flags);
            let len = (block.bytes() - skip).min(left);
            parts.push((entry - flags + skip, len));
            (skip, left) = (0, left - len);
        }
        assert_eq!((join(parts), left), (bytes.to_vec(), 0), "{case:?}");
    }
}

/// Follows a chain of descriptors, which the device writes.
fn follow_virtq(ring: &[[u8; 16]], head: u16) -> Vec<Bytes> {
    let (mut index, mut parts) = (head, Vec::new());
    loop {
        let pair = ring[usize::from(index)];
        let addr = u64::from_le_bytes(pair[..8].try_into().unwrap());
        let len = u32::from_le_bytes(pair[8..12].try_into().unwrap());
        parts.push((addr, len.into()));
        match u16::from_le_bytes([pair[12], pair[13]]) {
            2 => return parts,
            3 => index = u16::from_le_bytes([pair[14], pair[15]]),
            flags => panic!("flags {flags:#x}"),
        }
    }
}

/// Every window of every list of up to `longest` pages, of which some lie together, from quarter to quarter of a
/// page.
pub fn every_window(longest: u32) {
    const FRAMES: u64 = 4;
    const QUARTER: u64 = 0x400;
    for count in 1..=longest {
        for number in 0..FRAMES.pow(count) {
            let runs: Vec<_> =
                (0..count).map(|page| (0x10 + number / FRAMES.pow(page) % FRAMES, 1)).collect();
            let quarters = u64::from(count) * 4;
            for from in 0..quarters {
                for to in from + 1..=quarters {
                    check(&Case {
                        page: PageSize::SIZE_4K,
                        runs: runs.clone(),
                        offset: from * QUARTER,
                        len: (to - from) * QUARTER,
                        controller: PageSize::SIZE_4K,
                        sector: 512,
                        last: u64::MAX,
                        lists: vec![2; 8],
                    });
                }
            }
        }
    }
}

/// Memory that is one extent for the device, as behind an IOMMU, is as good as any.
pub fn borders() {
    let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE).unwrap();
    // As many entries as make a list that is just full, and one more.
    for (pages, lists) in [(1, 0), (2, 0), (3, 1), (513, 1), (514, 2), (1024, 2), (1025, 3)] {
        let extent = Extent::new(Iova::new(0x10_0000), pages << 12).unwrap();
        let plan = prp.plan([extent]).unwrap();
        assert_eq!((plan.entries(), plan.list_pages()), (pages, lists), "{pages}");
    }
    // All addresses there are, in one plan or two extents.
    let all = [(0, 1 << 63), (1 << 63, 1 << 63)]
        .map(|(at, len)| Extent::new(Iova::new(at), len).unwrap());
    assert_eq!(prp.plan(all).unwrap().entries(), 1 << 52);
    refusals();
    let sgl = NvmeSgl::new(1, TransferLimits::NONE).unwrap();
    assert_eq!(sgl.plan(all).unwrap().blocks(), 1 << 33);
    assert_eq!(
        sgl.plan::<Iova, _>(core::iter::empty::<Extent<Iova>>()).unwrap_err(),
        DescriptorError::Empty
    );
}

/// What is refused before anything is written: lengths, and lists that a device cannot read.
fn refusals() {
    let extent = |at, len| [Extent::new(Iova::new(at), len).unwrap()];
    let most = TransferLimits::NONE.max_len(0x3000).last_addr(0xffff_ffff);
    let prp = Prp::new(PageSize::SIZE_4K, most).unwrap();
    let length = DescriptorError::Length { len: 0x3004, max: 0x3000, sector: 1 };
    assert_eq!(prp.plan(extent(0x1000, 0x3004)).unwrap_err(), length);
    let plan = prp.plan(extent(0x1000, 0x3000)).unwrap();
    let mut page = untouched::<8>(512);
    let addr = 0xffff_ffff_f000;
    let far = DescriptorError::ListUnreachable { index: 0, addr, last: 0xffff_ffff };
    assert_eq!(plan.write(&mut [ListMemory::new(Iova::new(addr), &mut page)]), Err(far));
    let short = DescriptorError::List { index: 0, addr: 0x8000, align: 0x1000, slots: 512 };
    assert_eq!(plan.write(&mut [ListMemory::new(Iova::new(0x8000), &mut page[..511])]), Err(short));
    assert_eq!(page, untouched(512));

    let sgl = NvmeSgl::new(1, most).unwrap();
    let apart = [0x1000, 0x3000].map(|at| Extent::new(Iova::new(at), 0x1000).unwrap());
    let plan = sgl.plan(apart).unwrap();
    let mut slots = untouched::<16>(2);
    let far = DescriptorError::ListUnreachable { index: 0, addr, last: 0xffff_ffff };
    assert_eq!(plan.write(&mut [ListMemory::new(Iova::new(addr), &mut slots)]), Err(far));
    let odd = DescriptorError::List { index: 0, addr: 0x8008, align: 16, slots: 0 };
    assert_eq!(plan.write(&mut [ListMemory::new(Iova::new(0x8008), &mut slots)]), Err(odd));
    let none = DescriptorError::List { index: 0, addr: 0x8000, align: 16, slots: 1 };
    assert_eq!(plan.write(&mut [ListMemory::new(Iova::new(0x8000), &mut slots[..0])]), Err(none));
    assert_eq!(slots, untouched(2));

    // A chain that goes on, and a table of others: flags NEXT, and INDIRECT.
    let pairs = Pairs::new(Shape::Virtq { writable: false }, most).plan(apart).unwrap();
    let mut ring = untouched::<16>(3);
    assert_eq!(pairs.write_chain(&mut ring, &[2, 0], Some(1)), Ok(2));
    assert_eq!((&ring[2][12..], &ring[0][12..]), (&[1, 0, 0, 0][..], &[1, 0, 1, 0][..]));
    assert_eq!(ring[1], [UNTOUCHED; 16]);
    let room = DescriptorError::Room { needed: 2, given: 1 };
    assert_eq!(pairs.write_chain(&mut ring, &[1], None), Err(room));
    let table = Pairs::indirect(Iova::new(0x8000), 2);
    assert_eq!(
        (&table[..8], &table[8..]),
        (&0x8000_u64.to_le_bytes()[..], &[32, 0, 0, 0, 4, 0, 0, 0][..])
    );
    let odd = DescriptorError::Start { offset: 0x1000, addr: 0x1200, align: 0x1000 };
    let array = PageArray::new(PageSize::SIZE_4K, 1).unwrap();
    let mut slots = untouched::<8>(2);
    assert_eq!(array.write([0x1000, 0x1200].map(PhysAddr::new), &mut slots), Err(odd));
    assert_eq!(PageArray::new(PageSize::SIZE_4K, 0x1000), Err(DescriptorError::Format));
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let page = PageSize::from_shift(*u.choose(&[12, 12, 13, 16])?).unwrap();
    let controller = PageSize::from_shift(*u.choose(&[12, 12, 13, 14, 16])?).unwrap();
    // Some lists are such that a controller with larger pages can take them.
    let unit = if u.ratio(3, 4)? { (controller.bytes() / page.bytes()).max(1) } else { 1 };
    let (mut runs, mut pages, mut last) = (Vec::new(), 0, 0u64);
    for _ in 0..u.int_in_range(1..=6)? {
        let count =
            unit * if u.ratio(1, 3)? { u.int_in_range(1..=1200)? } else { u.int_in_range(1..=3)? };
        let start = if u.ratio(1, 4)? { last } else { input::number(u, 1 << 30)? / unit * unit };
        runs.push((start, count));
        (pages, last) = (pages + count, start + count);
    }
    let bytes = pages << page.shift();
    let grain = *u.choose(&[4, 4, 512, 4096, 1])?;
    let offset = if u.ratio(1, 4)? { 0 } else { input::number(u, bytes - 1)? / grain * grain };
    let len = bytes - offset - (input::number(u, bytes - offset - 1)? / grain * grain);
    let len = if u.ratio(1, 4)? { bytes - offset } else { len };
    let lists = (0..u.int_in_range(0..=8)?)
        .map(|_| Ok(usize::from(u.arbitrary::<u8>()? % 6) + 1))
        .collect::<Result<_>>()?;
    let sector = *u.choose(&[1, 1, 1, 4, 512])?;
    let last = if u.ratio(3, 4)? { u64::MAX } else { input::number(u, 1 << 42)? };
    check(&Case { page, runs, offset, len, controller, sector, last, lists });
    Ok(())
}
