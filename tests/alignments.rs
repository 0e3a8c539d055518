// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every window of a buffer, in steps of half a page: device and CPU see the same bytes, exactly the
//! covered pages are pinned, once, whatever comes and goes beside them.

mod rig;

use pinned_sgl::iommu::{HeapIoas, IovaRange, Mapping, Placement};
use pinned_sgl::UserAddr;
use pinned_sgl_mock::{Device, DmaFault, Fragmentation, Iommu, Memory, Vma};
use rig::{bytes, iova, iovas, pattern, Pinned, Rig, BASE, HALF_AND_HUGE, P, RW};
use std::sync::Arc;

const HALF: u64 = P / 2;
const AT: u64 = 0x8000_0000;

/// Compares every half page of `start..end`, which the device sees at `at`; both ways.
fn compare(
    rig: &Rig,
    device: &Device<Arc<Iommu>, Memory>,
    start: u64,
    end: u64,
    at: u64,
    seed: u64,
) {
    let cpu = rig.fill(bytes(start, end - start), seed);
    let written = pattern(end - start, seed + 1);
    for offset in (0..end - start).step_by(HALF as usize) {
        let part = offset as usize..(offset + HALF) as usize;
        let here = iova(at + offset);
        assert!(device.reads_as(here, &cpu[part.clone()]).unwrap(), "{start:#x}..{end:#x}");
        device.write(here, &written[part.clone()]).unwrap();
        assert_eq!(rig.read(bytes(start + offset, HALF)), written[part]);
    }
}

/// One pin on each page that has a byte of `start..end`, none on the others.
fn assert_pins(rig: &Rig, pages: u64, start: u64, end: u64) {
    let covered = |page: &u64| start / P <= *page && *page <= (end - 1) / P;
    let expected: Vec<u64> = (0..pages).map(|page| covered(&page).into()).collect();
    assert_eq!(rig.pins(pages), expected, "{start:#x}..{end:#x}");
}

/// Four pages, a folio of four, and four more: all 300 windows.
fn small(fragmentation: Fragmentation) -> Rig {
    let rig = Rig::new(fragmentation);
    rig.buffer(0, 4, Vma::read_write());
    rig.buffer(4, 4, Vma::read_write().huge(2));
    rig.buffer(8, 4, Vma::read_write());
    rig
}

fn windows(steps: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..steps).flat_map(move |start| (start + 1..=steps).map(move |end| (start * HALF, end * HALF)))
}

#[test]
fn every_window_of_a_small_buffer() {
    for (fragmentation, sizes) in [
        (Fragmentation::None, HALF_AND_HUGE),
        (Fragmentation::Reverse, "2K|16K"),
        (Fragmentation::Seeded { seed: 6, run_order: 0 }, "1K|2K|4K|8K|16K"),
    ] {
        let rig = small(fragmentation);
        let iommu = rig.iommu(sizes);
        let device = rig.device(&iommu);
        for (seed, (start, end)) in windows(24).enumerate() {
            let around = rig.fill(bytes(0, 12 * P), 1000 + seed as u64);
            // In step with the memory, and half a page out of step.
            for at in [AT + start % P, AT + HALF - start % P] {
                let umem = rig.pin(bytes(start, end - start));
                let mapping = Mapping::map(&*umem, &*iommu, iova(at), RW).unwrap();
                assert_pins(&rig, 12, start, end);
                assert_eq!(iommu.mapped_bytes(), u128::from(end - start));
                compare(&rig, &device, start, end, at, seed as u64);
                for outside in [at - 1, at + (end - start)] {
                    let iova = iova(outside);
                    assert_eq!(device.write(iova, b"x"), Err(DmaFault::NotMapped { iova }));
                }
                drop(mapping);
                drop(umem);
                rig.assert_idle();
            }
            let now = rig.read(bytes(0, 12 * P));
            assert_eq!(now[..start as usize], around[..start as usize]);
            assert_eq!(now[end as usize..], around[end as usize..]);
        }
    }
}

/// Edges around a huge page, whose entry is used where it fits.
#[test]
fn windows_around_a_huge_page() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(254, 2, Vma::read_write());
    rig.buffer(256, 256, Vma::read_write().huge(8));
    rig.buffer(512, 2, Vma::read_write());
    let iommu = rig.iommu(HALF_AND_HUGE);
    let device = rig.device(&iommu);
    for first in 0..6 {
        for last in 0..6 {
            let (start, end) = (254 * P + first * HALF, 511 * P + last * HALF);
            let umem = rig.pin(bytes(start, end - start));
            let at = AT + start;
            let mapping = Mapping::map(&*umem, &*iommu, iova(at), RW).unwrap();
            let covered = first <= 4 && last >= 2;
            let huge = iommu.mapped(IovaRange::ALL);
            let huge = huge.iter().filter(|entry| entry.range.len() == Some(1 << 20)).count();
            assert_eq!(huge, usize::from(covered), "{start:#x}..{end:#x}");
            let covered = |page: &u64| start / P <= *page && *page <= (end - 1) / P;
            for page in 254..514 {
                let pins = rig.process.pins_at(UserAddr::new(BASE + page * P));
                assert_eq!(pins, covered(&page).into());
            }
            compare(&rig, &device, start, end, at, first * 6 + last);
            drop(mapping);
            drop(umem);
            rig.assert_idle();
        }
    }
}

/// The same in an address space, while another domain is attached and detached.
#[test]
fn every_window_while_domains_come_and_go() {
    let rig = small(Fragmentation::Alternate);
    for (seed, (start, end)) in windows(24).enumerate() {
        let mut space: HeapIoas<Arc<Pinned>, Arc<Iommu>> = HeapIoas::new();
        let iommus = [rig.iommu(HALF_AND_HUGE), rig.iommu("1K|2K|16K")];
        space.attach(iommus[0].clone()).unwrap();
        let umem = rig.pin(bytes(start, end - start));
        let place = space.map(Placement::Anywhere, umem.clone(), RW).unwrap();
        assert_eq!(place.len(), Some(end - start));
        let at = place.first().get();
        let devices = [rig.device(&iommus[0]), rig.device(&iommus[1])];
        compare(&rig, &devices[0], start, end, at, seed as u64);
        let second = space.attach(iommus[1].clone()).unwrap();
        assert_pins(&rig, 12, start, end);
        compare(&rig, &devices[0], start, end, at, seed as u64 + 1);
        compare(&rig, &devices[1], start, end, at, seed as u64 + 2);
        drop(space.detach(second).unwrap());
        assert_pins(&rig, 12, start, end);
        assert!(devices[1].read(iova(at), &mut [0]).is_err());
        compare(&rig, &devices[0], start, end, at, seed as u64 + 3);
        drop(umem);
        assert_pins(&rig, 12, start, end);
        assert_eq!(space.unmap(iovas(at, end - start)).unwrap(), end - start);
        rig.assert_idle();
    }
}

/// A window of a region that is pinned whole: each window is mapped on its own.
#[test]
fn every_window_of_one_region() {
    let rig = small(Fragmentation::Reverse);
    let umem = rig.pin(bytes(0, 12 * P));
    let iommu = rig.iommu("2K|4K|8K|16K");
    let device = rig.device(&iommu);
    for (seed, (start, end)) in windows(24).enumerate() {
        let mapping =
            Mapping::map_range(&*umem, start..end, &*iommu, iova(AT + start), RW).unwrap();
        compare(&rig, &device, start, end, AT + start, seed as u64);
        assert_eq!((iommu.mapped_bytes(), umem.attachments()), (u128::from(end - start), 1));
        assert_eq!(umem.len(), 12 * P);
        drop(mapping);
    }
    assert_eq!(rig.pins(12), [1; 12]);
    drop(umem);
    rig.assert_idle();
}
