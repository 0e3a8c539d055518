// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts that are lent: storages and slabs that are not empty, or keep what is in them.

use super::rig::{bytes, iova, Pinned, Rig, P, RW, WRITE_LONG};
use super::{assert_held, built, scattered, stale, AT};
use pinned_sgl::iommu::{DomainSlot, Mapping, MappingSlot, NodeSlot, Placement, PoolIoas};
use pinned_sgl::umem::{PinErrorKind, PinRequest, Umem};
use pinned_sgl::{AllocError, BuildError, Heap, PageRun, PageSize, Pfn, Pool, SglBuilder, Storage};
use pinned_sgl_mock::Iommu;
use std::mem;
use std::sync::Arc;

/// One stale piece of every size that there is, and more than one.
#[test]
fn a_list_does_not_see_what_its_storage_held() {
    let plain = built(Heap::new(), 700);
    let same = |sizes: &[usize]| {
        assert!(built(stale(Heap::new(), sizes), 700) == plain, "{sizes:?}");
        let mut memory = [[0; 512]; 32];
        assert!(built(stale(Pool::new(&mut memory), sizes), 700) == plain, "{sizes:?}");
        let mut memory = [[0; 4096]; 32];
        assert!(built(stale(Pool::new(&mut memory), sizes), 700) == plain, "{sizes:?}");
    };
    for size in (0..=4104).step_by(8) {
        same(&[size]);
    }
    same(&[8; 40]);
    same(&[512, 1024, 2048, 4096, 8]);
    same(&[4096, usize::MAX, 513, 512]);
    // What a list did not need is not kept either.
    assert_eq!(built(stale(Heap::new(), &[4096; 40]), 2).runs().count(), 2);
}

/// The same for pinned memory, and a device that writes it.
#[test]
fn a_region_does_not_see_what_its_storage_held() {
    fn check<S: Storage>(rig: &Rig, storage: S, plain: &Pinned, pages: u64) {
        let request = PinRequest::new(bytes(0, pages * P), WRITE_LONG);
        // Slots that hold something, too.
        let mut slots = vec![Some(PageRun::ram(Pfn::new(7), 1 << 40).unwrap()); 128];
        let umem =
            Umem::pin_in(&*rig.process, &*rig.account, storage, &mut slots, request).unwrap();
        assert!(umem.sgl() == plain.sgl());
        let (iommu, half) = (rig.iommu("4K"), pages / 2 * P);
        let mapping =
            Mapping::map_range(&umem, half..pages * P, iommu.clone(), iova(0), RW).unwrap();
        let device = rig.device(&iommu);
        for at in (half..pages * P).step_by(97 * P as usize) {
            device.write(iova(at - half), &at.to_le_bytes()).unwrap();
            assert_eq!(rig.read(bytes(at, 8)), at.to_le_bytes());
        }
        assert_held(&rig.memory, &[&iommu]);
        drop(mapping);
    }
    let pages = 4000;
    let rig = scattered(pages);
    let plain = rig.pin(bytes(0, pages * P));
    for sizes in [
        &[][..],
        &[512],
        &[8],
        &[4096],
        &[512, 1024, 2048, 4096, 8],
        &[512, 1024, 2048, 4096, 64],
        &[8; 30],
    ] {
        check(&rig, stale(Heap::new(), sizes), &plain, pages);
        let mut memory = vec![[0; 512]; 40];
        check(&rig, stale(Pool::new(&mut memory), sizes), &plain, pages);
        let mut memory = vec![[0; 4096]; 12];
        check(&rig, stale(Pool::new(&mut memory), sizes), &plain, pages);
        assert_eq!(rig.pins(pages), vec![1; pages as usize], "{sizes:?}");
    }
    drop(plain);
    rig.assert_idle();
}

/// How a storage breaks its promise to take pieces back.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Keeps,
    Grows,
    Endless,
}

struct Refusing(Heap, Refusal);

// SAFETY: none: it does not take its pieces back.
unsafe impl Storage for Refusing {
    const PIECE_BYTES: usize = 4096;
    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.0.grow(bytes)
    }
    fn shrink(&mut self) {
        if let Refusal::Grows = self.1 {
            self.0.grow(8).unwrap();
        }
    }
    fn pieces(&self) -> usize {
        match self.1 {
            Refusal::Endless => usize::MAX,
            Refusal::Keeps | Refusal::Grows => self.0.pieces(),
        }
    }
    fn piece(&self, index: usize) -> &[u8] {
        self.0.piece(index)
    }
    fn piece_mut(&mut self, index: usize) -> &mut [u8] {
        self.0.piece_mut(index)
    }
    fn footprint(&self) -> usize {
        self.0.footprint()
    }
}

#[test]
fn a_storage_that_takes_nothing_back_is_refused() {
    let rig = scattered(8);
    for (refusal, pieces) in
        [(Refusal::Keeps, 2), (Refusal::Grows, 3), (Refusal::Endless, usize::MAX)]
    {
        let storage = || Refusing(stale(Heap::new(), &[64, 8]), refusal);
        let in_use = BuildError::StorageInUse { pieces };
        assert_eq!(SglBuilder::new_in(PageSize::SIZE_4K, storage()).err(), Some(in_use));
        let request = PinRequest::new(bytes(0, 8 * P), WRITE_LONG);
        let umem = Umem::pin_in(&*rig.process, &*rig.account, storage(), &mut [None; 4], request);
        let error = umem.err().unwrap();
        assert!(matches!(&error.error().kind, PinErrorKind::List(kind) if *kind == in_use));
        rig.assert_idle();
    }
}

/// Slabs in memory that a forgotten address space has left its mappings and domains in.
#[test]
fn a_slab_in_memory_of_a_forgotten_address_space() {
    let rig = scattered(8);
    let (one, two) = (rig.iommu("4K"), rig.iommu("4K"));
    let mut areas: Vec<_> = (0..4).map(|_| MappingSlot::<Arc<Pinned>>::new()).collect();
    let mut links: Vec<_> = (0..2).map(|_| DomainSlot::<Arc<Iommu>>::new()).collect();
    let umem = rig.pin(bytes(0, 4 * P));
    let mut nodes = [NodeSlot::new()];
    let mut lost = PoolIoas::new(&mut areas, &mut nodes, &mut links);
    let stale_id = lost.attach(one.clone()).unwrap();
    lost.map(Placement::At(iova(AT)), umem.clone(), RW).unwrap();
    mem::forget(lost);
    areas.swap(0, 3);
    links.swap(0, 1);

    let mut space = PoolIoas::new(&mut areas, &mut nodes, &mut links);
    assert!(space.is_empty() && space.domains().next().is_none());
    assert_eq!(space.unmap_all(), 0);
    assert!(space.detach(stale_id).is_err());
    space.attach(two.clone()).unwrap();
    space.map(Placement::At(iova(AT)), rig.pin(bytes(4 * P, 4 * P)), RW).unwrap();
    // What was mapped then is mapped still, and its domain refuses the addresses.
    assert!(space.attach(one.clone()).is_err());
    assert_held(&rig.memory, &[&one, &two]);
    drop(space);
    drop((areas, links));
    rig.process.exit();
    // The region of the forgotten one is attached for ever.
    assert_eq!((umem.attachments(), two.mapped_pages()), (1, 0));
    drop(umem);
    rig.device(&one).write(iova(AT), b"still there").unwrap();
    assert_eq!((rig.memory.pinned_pages(), rig.memory.leaked_pages()), (4, 4));
    assert_held(&rig.memory, &[&one]);
    rig.witness.assert_clean();
}
