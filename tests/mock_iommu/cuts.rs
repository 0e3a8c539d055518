// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting entries: by unmapping a part of one.

use super::{
    iova, is_bad_call, map, map_as, range, seen, sizes, tile, unmap, write_byte, Bytes, K4, M2, RW,
};
use pinned_sgl::iommu::{Cuts, Domain};
use pinned_sgl::PhysAddr;
use pinned_sgl_mock::{Call, Device, DmaFault, Iommu, ViolationKind};

#[test]
fn cuts_without_splitting() {
    let iommu = Iommu::new(sizes("4K|2M"));
    let cut = |at| vec![seen(ViolationKind::UnmapCuts, Call::Unmap, at)];
    let hole = |at| seen(ViolationKind::UnmapOfNothing, Call::Unmap, at);
    map(&iommu, 0, 0, 3 * M2);
    // It begins inside an entry: nothing happens, not even to what follows.
    assert_eq!(unmap(&iommu, M2 + K4, 2 * M2 - K4), 0);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 3));
    assert_eq!(unmap(&iommu, M2 + K4, K4), 0);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 3));
    // It ends inside one: more goes than was asked for.
    assert_eq!(unmap(&iommu, 0, M2 + K4), 2 * M2);
    assert_eq!((iommu.witness().take(), iommu.mapped_pages()), (cut(M2 + K4), 1));
    // A hole ends it.
    map(&iommu, M2 - K4, 0, K4);
    assert_eq!(unmap(&iommu, M2 - K4, 2 * M2), K4);
    assert_eq!(iommu.witness().take(), [hole(M2)]);
    assert_eq!(unmap(&iommu, 0, K4), 0);
    assert_eq!(iommu.witness().take(), [hole(0)]);
    assert_eq!(unmap(&iommu, 2 * M2, M2), M2);
}

#[test]
fn cuts_with_splitting() {
    let iommu = Iommu::config(sizes("4K|64K|2M")).cuts(Cuts::Anywhere).build();
    map(&iommu, 0, M2, 2 * M2);
    let device = Device::new(&iommu, Bytes::new(u64::MAX));
    device.prefetch(range(0, 2 * M2)).unwrap();
    write_byte(&device, 0x1_2345, 7);
    assert_eq!(unmap(&iommu, 0x1_0000 + K4, K4), K4);
    // 31 of 64K and 15 of 4K instead of one of 2M.
    assert_eq!(iommu.mapped_pages(), 31 + 15 + 1);
    assert_eq!(iommu.lookup(iova(0x1_2000)).unwrap().phys, PhysAddr::new(M2 + 0x1_2000));
    assert_eq!(iommu.lookup(iova(0x2_0000)).unwrap().range, range(0x2_0000, 0x1_0000));
    assert_eq!(iommu.lookup(iova(0x1_1000)), None);
    let gone = iova(0x1_1fff);
    assert_eq!(device.read(gone, &mut [0]), Err(DmaFault::NotMapped { iova: gone }));
    assert_eq!(device.reads_as(iova(0x1_2345), &[7]), Ok(true));
    // Both edges in one large page; then across two.
    assert_eq!(unmap(&iommu, M2 + K4, M2 - 2 * K4), M2 - 2 * K4);
    assert_eq!(iommu.mapped_pages(), 31 + 15 + 2);
    assert_eq!(unmap(&iommu, 0x1_2000, M2 - 0x1_2000 + K4), M2 - 0x1_2000 + K4);
    assert_eq!(unmap(&iommu, 0, 0x1_1000), 0x1_1000);
    assert_eq!(unmap(&iommu, 2 * M2 - K4, K4), K4);
    assert_eq!((iommu.mapped_pages(), iommu.mapped_bytes()), (0, 0));
    iommu.witness().assert_clean();
    // Below the smallest pages there is nothing to split into.
    map(&iommu, 0, 0, K4);
    assert_eq!(unmap(&iommu, 0, K4 / 2), 0);
    assert!(is_bad_call(&iommu.witness().take()[..], Call::Unmap, 0));
    assert_eq!(unmap(&iommu, 0, K4), K4);
}

#[test]
fn what_would_be_too_many_entries_is_not_split() {
    for (text, splits) in [("4K|1G", true), ("4K|2G", false), ("4K|1G|8E", false)] {
        let iommu = Iommu::config(sizes(text)).cuts(Cuts::Anywhere).build();
        assert_eq!(iommu.cuts() == Cuts::Anywhere, splits, "{text}");
    }
    let iommu = Iommu::config(sizes("4K|8E")).cuts(Cuts::Anywhere).build();
    assert_eq!(map_as(&iommu, tile(0, 0, 1 << 63, 1), RW), (1 << 63, Ok(())));
    assert_eq!(unmap(&iommu, K4, K4), 0);
    let cut = seen(ViolationKind::UnmapCuts, Call::Unmap, K4);
    assert_eq!(iommu.witness().take(), [cut]);
    assert_eq!(unmap(&iommu, 0, 1 << 63), 1 << 63);
    drop(iommu);
}
