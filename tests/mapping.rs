// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping a region in a domain: what a device sees, what is refused, and what is left when it fails
//! at any tile.

mod rig;

use pinned_sgl::granule::TileError;
use pinned_sgl::iommu::{IovaRange, MapError, Mapping, Prot};
use pinned_sgl::umem::{AttachError, Holder, PinFlags};
use pinned_sgl::{Iova, PageSize, UserAddr};
use pinned_sgl_mock::{DmaFault, Fragmentation, Iommu, MapFault, Plan, Step, Vma};
use rig::{bytes, iova, iovas, pattern, Eager, Pinned, Rig, BASE, ORDERS, P, RO, RW};
use std::rc::Rc;
use std::sync::Arc;

const AT: u64 = 0x4000_0000;

/// A buffer of small pages, a huge one, and small ones again.
fn mixed(rig: &Rig) {
    rig.buffer(0, 256, Vma::read_write());
    rig.buffer(256, 256, Vma::read_write().huge(8));
    rig.buffer(512, 256, Vma::read_write());
}

/// Device and CPU see the same bytes at every window, and nothing around it.
#[test]
fn a_device_sees_the_window_and_no_more() {
    for fragmentation in ORDERS {
        let rig = Rig::new(fragmentation);
        mixed(&rig);
        let all = rig.fill(bytes(0, 768 * P), 1);
        let umem = rig.pin(bytes(0, 768 * P));
        for sizes in ["2K|1M", "4K", "4K|2M", "1K|4K|64K|1M"] {
            let iommu = rig.iommu(sizes);
            let device = rig.device(&iommu);
            let windows = [(0, 768), (0, 1), (255, 2), (256, 256), (250, 300), (767, 1), (200, 60)];
            for (first, pages) in windows {
                let (start, len) = (first * P, pages * P);
                let mapping =
                    Mapping::map_range(&*umem, start..start + len, &*iommu, iova(AT), RW).unwrap();
                assert_eq!((mapping.len(), mapping.range()), (len, iovas(AT, len)));
                assert_eq!(mapping.region_range(), start..start + len);
                let seen = &all[start as usize..(start + len) as usize];
                assert!(device.reads_as(iova(AT), seen).unwrap());
                for around in [AT - 1, AT + len] {
                    let around = iova(around);
                    assert_eq!(
                        device.write(around, b"x"),
                        Err(DmaFault::NotMapped { iova: around })
                    );
                    assert_eq!(mapping.translate(around), None);
                }
                for offset in [0, len / 2, len - 1] {
                    let phys = mapping.translate(iova(AT + offset)).unwrap();
                    let entry = iommu.lookup(iova(AT + offset)).unwrap();
                    let inside = AT + offset - entry.range.first().get();
                    assert_eq!(phys.get(), entry.phys.get() + inside);
                }
                // Both ways, then back to what it was.
                let written = pattern(len, 7);
                device.write(iova(AT), &written).unwrap();
                assert_eq!(rig.read(bytes(start, len)), written);
                rig.process.write(UserAddr::new(BASE + start), seen).unwrap();
                drop(mapping);
                assert_eq!(iommu.mapped_bytes(), 0);
            }
            assert_eq!(iommu.stats().reads, 0, "the list knows; no page table is read");
        }
        assert_eq!(rig.read(bytes(0, 768 * P)), all);
        drop(umem);
        rig.assert_idle();
    }
}

/// A region that begins inside a page, mapped in smaller pages of the IOMMU.
#[test]
fn regions_that_begin_inside_a_page() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 4, Vma::read_write());
    let all = rig.fill(bytes(0, 4 * P), 2);
    let umem = rig.pin(bytes(0x800, 2 * P));
    let iommu = rig.iommu("2K|4K");
    let mapping = Mapping::map(umem, iommu.clone(), iova(AT + 0x800), RO).unwrap();
    let device = rig.device(&iommu);
    assert!(device.reads_as(iova(AT + 0x800), &all[0x800..0x800 + 2 * P as usize]).unwrap());
    assert_eq!(iommu.mapped_bytes(), 2 * u128::from(P));
    assert!(device.read(iova(AT + 0x7ff), &mut [0]).is_err());
    assert_eq!(
        device.write(iova(AT + 0x800), b"x"),
        Err(DmaFault::NotPermitted { iova: iova(AT + 0x800), write: true })
    );
    let (umem, iommu) = mapping.unmap().unwrap();
    assert_eq!((umem.attachments(), iommu.mapped_pages()), (0, 0));
    drop(umem);
    rig.assert_idle();
}

/// Whichever tile fails, after whichever page of it: exactly what was mapped goes, and all comes back.
#[test]
fn failure_at_every_tile() {
    for (fragmentation, sizes) in [
        (Fragmentation::None, "4K"),
        (Fragmentation::None, "2K|1M"),
        (Fragmentation::Seeded { seed: 1, run_order: 3 }, "4K|16K|1M"),
        (Fragmentation::Reverse, "1K|4K|1M"),
    ] {
        let rig = Rig::new(fragmentation);
        mixed(&rig);
        let umem = rig.pin(bytes(200 * P, 320 * P));
        let iommu = rig.iommu(sizes);
        let window = umem.whole().unwrap();
        let tiles: Vec<_> = window.tiles(sizes.parse().unwrap(), iova(AT)).unwrap().collect();
        let before = iommu.stats();
        let mut done = 0;
        for (n, tile) in tiles.iter().enumerate() {
            for after in [0, 1, 2, tile.count / 2, tile.count] {
                rig.plan.fail_step_at(Step::Map, n as u64, after);
                let start = iommu.stats();
                let error = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap_err();
                let part = after.min(tile.count - 1) * tile.page_size.bytes();
                let expected = MapError::Domain { error: MapFault::Injected, mapped: done + part };
                assert_eq!(*error.error(), expected, "tile {n}, after {after} pages");
                let (region, domain) = error.into_value();
                assert!(Arc::ptr_eq(&region, &umem) && Arc::ptr_eq(&domain, &iommu));
                assert_eq!((region.attachments(), iommu.mapped_bytes()), (0, 0));
                let flushes = iommu.stats().flushes - start.flushes;
                assert_eq!(flushes, u64::from(done + part > 0));
            }
            done += tile.len();
        }
        assert_eq!(done, 320 * P);
        rig.plan.fail_step_at(Step::SyncMap, 0, 0);
        let error = Mapping::map(&*umem, &*iommu, iova(AT), RW).unwrap_err();
        let expected = MapError::Domain { error: MapFault::Injected, mapped: done };
        assert_eq!((*error.error(), iommu.mapped_bytes()), (expected, 0));
        rig.plan.succeed();
        let mapping = Mapping::map(&*umem, &*iommu, iova(AT), RW).unwrap();
        assert_eq!(iommu.mapped_bytes(), u128::from(done));
        drop(mapping);
        let stats = iommu.stats();
        assert_eq!(stats.pages_mapped, stats.pages_unmapped);
        assert_eq!((stats.reads, before.reads), (0, 0));
        drop(umem);
        rig.assert_idle();
    }
}

/// A device that uses a tile at once: what failed is flushed before it is unpinned, and is dirty.
#[test]
fn failure_under_a_busy_device() {
    let rig = Rig::new(Fragmentation::Seeded { seed: 4, run_order: 1 });
    rig.buffer(0, 12, Vma::read_write());
    for n in 0.. {
        let umem = rig.pin(bytes(0, 12 * P));
        let domain = Eager::new(&rig, "2K|4K|8K");
        rig.plan.fail_step_at(Step::Map, n, 1);
        let mapping = Mapping::map(umem.clone(), &domain, iova(AT), RW);
        let done = mapping.is_ok();
        match mapping {
            Ok(mapping) => drop(mapping),
            Err(error) => {
                let MapError::Domain { mapped, .. } = error.error() else { panic!("{error}") };
                assert_eq!(umem.is_dirty(), *mapped > 0);
            }
        }
        drop(umem);
        let device = rig.device(&domain.iommu);
        assert_eq!(domain.iommu.tlb_len(), 0);
        assert!(device.write(iova(AT), b"late").is_err());
        rig.assert_idle();
        if done {
            assert!(n >= 6 && rig.plan.is_pending());
            break;
        }
    }
}

/// What can be known before is refused before: the domain is not asked.
#[test]
fn refused_without_asking_the_domain() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 16, Vma::read_write());
    let umem = rig.pin(bytes(0, 8 * P));
    let read_only = rig.pin_as(bytes(8 * P, 8 * P), PinFlags::LONGTERM);
    let aperture = IovaRange::inclusive(iova(0x1000_0000), iova(0x1fff_ffff)).unwrap();
    let iommu = rig.config("4K|2M").aperture(aperture).build();
    let refused = |umem: &Pinned, range: std::ops::Range<u64>, at: u64, prot: Prot| {
        let error = Mapping::map_range(umem, range, &iommu, iova(at), prot).unwrap_err();
        assert_eq!((umem.attachments(), umem.is_dirty()), (0, false));
        error.into_error()
    };
    let fine = 0x1000_0000;
    for prot in [Prot::empty(), Prot::NOEXEC | Prot::CACHE] {
        assert_eq!(refused(&umem, 0..P, fine, prot), MapError::NoAccess);
    }
    for prot in [Prot::WRITE, RW] {
        let why = MapError::Attach(AttachError::ReadOnly);
        assert_eq!(refused(&read_only, 0..P, fine, prot), why);
    }
    for at in [0, fine - P, fine + 0x0fff_f000, u64::MAX - 2 * P + 1] {
        let range = iovas(at, 2 * P);
        assert_eq!(refused(&umem, 0..2 * P, at, RW), MapError::Aperture { range, aperture });
    }
    let wraps = u64::MAX - P + 1;
    let why = MapError::Tiles(TileError::Wraps { iova: Iova::new(wraps), len: 2 * P });
    assert_eq!(refused(&umem, 0..2 * P, wraps, RW), why);
    // Misaligned: the address, the offset, the length; by a byte or by half a page.
    for by in [1, P / 2] {
        for (range, at) in [(0..P, fine + by), (by..P + by, fine), (0..P + by, fine)] {
            assert!(matches!(refused(&umem, range, at, RW), MapError::Tiles(_)));
        }
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is to be refused")]
    for range in [0..0, P..P, 8 * P..9 * P, 0..8 * P + 1, 4 * P..2 * P, u64::MAX..u64::MAX] {
        assert!(matches!(refused(&umem, range, fine, RW), MapError::Window(_)));
    }
    assert_eq!(iommu.stats().map_calls, 0);
    // The very last page of the address space is fine.
    let whole = rig.config("4K|2M").build();
    let last = Mapping::map_range(&*umem, 0..P, &whole, iova(wraps), RW).unwrap();
    assert_eq!(last.range().last(), iova(u64::MAX));
    drop(last);
    drop((umem, read_only));
    rig.assert_idle();
}

/// Addresses that are in use are refused by the domain; what was mapped of them stays.
#[test]
fn addresses_in_use() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 16, Vma::read_write());
    let umem = rig.pin(bytes(0, 16 * P));
    let iommu = rig.iommu("4K");
    let there = Mapping::map_range(&*umem, 0..4 * P, &*iommu, iova(AT + 4 * P), RW).unwrap();
    for (at, pages, mapped) in [(4, 4, 0), (2, 3, 2), (7, 2, 0), (0, 16, 4), (5, 1, 0)] {
        let range = 0..pages * P;
        let error = Mapping::map_range(&*umem, range, &*iommu, iova(AT + at * P), RW).unwrap_err();
        let taken = iova(AT + at.max(4) * P);
        let error_there = MapFault::Exists { iova: taken };
        let expected = MapError::Domain { error: error_there, mapped: mapped * P };
        assert_eq!((*error.error(), iommu.mapped_pages()), (expected, 4));
    }
    assert_eq!(umem.attachments(), 1);
    drop(there);
    drop(umem);
    rig.assert_idle();
}

/// One region in several domains, and twice in one: pinned and charged once, until the last goes.
#[test]
fn several_domains_share_one_pin() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 6, Vma::read_write());
    let umem = rig.pin(bytes(0, 6 * P));
    let iommus = [rig.iommu("4K"), rig.iommu("2K|1M"), rig.iommu("1K|2K|4K")];
    let mut mappings = vec![];
    for iommu in &iommus {
        for at in [AT, 2 * AT] {
            mappings.push(Mapping::map(umem.clone(), iommu.clone(), iova(at), RW).unwrap());
        }
    }
    assert_eq!((umem.attachments(), rig.pins(6), rig.account.charged()), (6, vec![1; 6], 6));
    rig.device(&iommus[0]).write(iova(AT + P - 2), b"seen").unwrap();
    for (index, iommu) in iommus.iter().enumerate() {
        for at in [AT, 2 * AT] {
            assert!(rig.device(iommu).reads_as(iova(at + P - 2), b"seen").unwrap(), "{index}");
        }
    }
    drop(umem);
    while let Some(mapping) = mappings.pop() {
        assert_eq!(rig.pins(6), [1; 6]);
        drop(mapping);
    }
    assert!(iommus.iter().all(|iommu| iommu.mapped_pages() == 0));
    rig.assert_idle();
}

fn map_and_drop<U, D>(region: U, domain: D) -> (U, D)
where
    U: Holder<Target = Pinned>,
    D: Holder<Target = Iommu>,
{
    let mapping = Mapping::map(region, domain, iova(AT), RW).unwrap();
    assert_eq!((mapping.region().attachments(), mapping.domain().mapped_pages()), (1, 2));
    mapping.unmap().unwrap()
}

/// References, boxes, `Rc` and `Arc` hold regions and domains, and come back.
#[test]
fn holders() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 2, Vma::read_write());
    let pin = || Arc::into_inner(rig.pin(bytes(0, 2 * P))).unwrap();
    let iommu = || rig.config("4K").build();
    let (umem, domain) = map_and_drop(Box::new(pin()), Rc::new(iommu()));
    drop(map_and_drop(&*umem, Box::new(iommu())));
    drop(map_and_drop(Arc::<Pinned>::from(umem), &*domain));
    drop(map_and_drop(Rc::new(pin()), Arc::new(iommu())));
    drop(domain);
    rig.assert_idle();
}

/// In either order: an access afterwards fails, and never reaches memory that is not pinned.
#[test]
fn drop_order() {
    let rig = Rig::new(Fragmentation::Alternate);
    rig.buffer(0, 8, Vma::read_write());
    for umem_first in [false, true] {
        for domain_first in [false, true] {
            for by_unmap in [false, true] {
                let (umem, iommu) = (rig.pin(bytes(0, 8 * P)), rig.iommu("2K|4K"));
                let device = rig.device(&iommu);
                let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
                device.prefetch(iovas(AT, 8 * P)).unwrap();
                device.write(iova(AT), b"early").unwrap();
                let held = (!umem_first).then_some(umem);
                let domain = (!domain_first).then_some(iommu);
                assert!(device.read(iova(AT), &mut [0; 8]).is_ok());
                if by_unmap {
                    drop(mapping.unmap().unwrap());
                } else {
                    drop(mapping);
                }
                drop(held);
                rig.assert_idle();
                // The frames may be another's now.
                rig.memory.compact();
                for at in (AT..AT + 8 * P).step_by(0x800) {
                    let iova = iova(at);
                    assert_eq!(device.write(iova, b"late"), Err(DmaFault::NotMapped { iova }));
                }
                drop(domain);
                rig.assert_idle();
            }
        }
    }
}

/// A mapping that is forgotten leaks pins and charge, and the device goes on.
#[test]
fn a_forgotten_mapping_leaks_its_pins() {
    let rig = Rig::new(Fragmentation::Reverse);
    rig.buffer(0, 4, Vma::read_write());
    let (umem, iommu) = (rig.pin(bytes(0, 4 * P)), rig.iommu("4K"));
    let umem = Arc::into_inner(umem).unwrap();
    std::mem::forget(Mapping::map(&umem, &*iommu, iova(AT), RW).unwrap());
    let umem = umem.unpin().unwrap_err();
    assert_eq!(rig.memory.leaked_pages(), 0);
    drop(umem);
    assert_eq!((rig.memory.leaked_pages(), rig.pins(4)), (4, vec![1; 4]));
    assert_eq!(rig.account.charged(), 4);
    rig.process.exit();
    rig.device(&iommu).write(iova(AT + P), b"still pinned").unwrap();
    rig.witness.assert_clean();
    // The domain of a mapping that was forgotten is never empty.
    std::mem::forget(iommu);
}

/// Pages of the machine and of the IOMMU in all proportions.
#[test]
fn pages_of_all_sizes() {
    for page in [PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let rig = Rig::of(page, Fragmentation::None, 0x100..0x400);
        rig.buffer(0, 96, Vma::read_write());
        let len = 96 * page.bytes();
        let all = rig.fill(bytes(0, len), 5);
        let umem = rig.pin(bytes(0, len));
        for sizes in ["512", "4K", "8K|64K", "64K", "4K|64K|2M", "2M"] {
            let iommu = rig.config(sizes).plan(&Plan::new()).build();
            let smallest: u64 = iommu_smallest(sizes);
            let phys = umem.whole().unwrap().phys(0).unwrap().get();
            let fits = phys % smallest == 0 && len % smallest == 0;
            let mapping = Mapping::map(&*umem, &iommu, iova(AT), RO);
            assert_eq!(mapping.is_ok(), fits, "{page:?} in {sizes}");
            if let Ok(mapping) = mapping {
                let device = rig.memory.device(&iommu);
                assert!(device.reads_as(iova(AT), &all).unwrap());
                drop(mapping);
            }
            assert!(iommu.mapped_bytes() == 0 && iommu.witness().is_clean());
        }
        drop(umem);
        rig.assert_idle();
    }
}

fn iommu_smallest(sizes: &str) -> u64 {
    sizes.parse::<pinned_sgl::PageSizes>().unwrap().smallest().unwrap().bytes()
}
