// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trait objects, and regions implemented by outsiders.

use super::rig::{bytes, iova, iovas, Pinned, P, RW, WRITE_LONG};
use super::{assert_held, scattered, AT};
use pinned_sgl::iommu::{CutError, HeapIoas, IoasError, MapError, Mapping, Placement, Remains};
use pinned_sgl::rdma::{Access, MemoryRegion, RegisterError};
use pinned_sgl::umem::{
    AccessError, Accountant, AttachError, Attachment, CpuRegion, PinRequest, Pinner, Region,
    RegionExt as _, Umem,
};
use pinned_sgl::{Heap, PageSize, PhysAddr, Sgl, UserAddr, WindowError};
use pinned_sgl_mock::{BusError, Nic, PinFault};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Regions, pinners and accountants of which only the trait is known.
#[test]
fn trait_objects() {
    type AnyRegion = dyn Region<Storage = Heap>;
    let rig = scattered(8);
    let pinner: Arc<dyn Pinner<Error = PinFault> + Send + Sync> = rig.process.clone();
    let account: Arc<dyn Accountant + Send + Sync> = rig.account.clone();
    let request = PinRequest::new(bytes(5, 8 * P - 5), WRITE_LONG);
    let umem = Arc::new(Umem::pin(pinner.clone(), account.clone(), request).unwrap());
    let region: Arc<AnyRegion> = umem.clone();
    let (one, two) = (rig.iommu("1|4K"), rig.iommu("1"));
    let mapping = Mapping::map(region.clone(), one.clone(), iova(AT + 5), RW).unwrap();
    let (head, tail) = mapping.split_at(P - 5).unwrap();
    let mut space = HeapIoas::<Arc<AnyRegion>, _>::new();
    space.attach(two.clone()).unwrap();
    space.map(Placement::At(iova(AT)), region.clone(), RW).unwrap();
    let nic = rig.memory.nic();
    let access = Access::REMOTE_WRITE | Access::LOCAL_WRITE;
    let registered = MemoryRegion::register(region.clone(), &nic, iova(5), access).unwrap();
    let boxed: Box<AnyRegion> = Box::new(Umem::pin(pinner, account, request).unwrap());
    let Ok(held) = Attachment::new(boxed, false) else { panic!() };
    assert_eq!(umem.attachments(), 4);
    nic.write(registered.key(), iova(5), b"from afar").unwrap();
    drop((head, registered));
    assert_held(&rig.memory, &[&one, &two]);
    space.unmap_all();
    drop((tail, region));
    assert_eq!(umem.attachments(), 0);
    drop(umem);
    assert_eq!(rig.pins(8), [1; 8]);
    // SAFETY: no device was shown the memory.
    drop(unsafe { held.release() });
    drop(space);
    rig.assert_idle();
}

/// A region over the frames of another one: it keeps its contract, unless its window is made up.
pub(super) struct Forwarding {
    pub(super) umem: Arc<Pinned>,
    pub(super) page_offset: u64,
    pub(super) len: u64,
    /// How many attachments it takes.
    pub(super) left: AtomicUsize,
    /// Where it says that a copy has stopped, which nothing relies on.
    pub(super) stops_at: u64,
}

impl Forwarding {
    pub(super) fn of(umem: &Arc<Pinned>) -> Self {
        let (page_offset, len) = (umem.page_offset(), umem.len());
        let left = AtomicUsize::new(usize::MAX);
        Self { umem: umem.clone(), page_offset, len, left, stops_at: 0 }
    }
}

// SAFETY: all answers are those of a region that keeps its promises, which is attached as often as this one
// is; where the window is made up, none.
unsafe impl Region for Forwarding {
    type Storage = Heap;
    fn sgl(&self) -> &Sgl<Heap> {
        self.umem.sgl()
    }
    fn page_offset(&self) -> u64 {
        self.page_offset
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn user_addr(&self) -> Option<UserAddr> {
        Some(UserAddr::new(u64::MAX))
    }
    fn mark_dirty(&self) {
        self.umem.mark_dirty();
    }
    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        let less = |left: usize| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map_err(|_| AttachError::TooMany)?;
        self.umem.attach(writable)
    }
    unsafe fn detach(&self) {
        // SAFETY: "made for one successful `attach`": each that succeeds here is one there.
        unsafe { self.umem.detach() };
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

impl CpuRegion for Forwarding {
    type AccessError = BusError;
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), AccessError<BusError>> {
        let error = BusError::NoMemory(PhysAddr::new(0));
        Err(AccessError::Page { at: self.stops_at, error })
    }
    fn write(&self, offset: u64, _: &[u8]) -> Result<(), AccessError<BusError>> {
        self.read(offset, &mut [])
    }
}

/// Cuts that fail at the second edge leave one mapping, and it can still go.
#[test]
fn too_many_attachments() {
    for left in 0..4 {
        let rig = scattered(8);
        let umem = rig.pin(bytes(0, 8 * P));
        let region = Arc::new(Forwarding { left: AtomicUsize::new(left), ..Forwarding::of(&umem) });
        let iommu = rig.iommu("4K");
        match Mapping::map(region.clone(), iommu.clone(), iova(AT), RW) {
            Err(error) => {
                assert_eq!(*error.error(), MapError::Attach(AttachError::TooMany));
                assert_eq!(left, 0);
            }
            Ok(mapping) => match mapping.unmap_range(2 * P..5 * P) {
                Ok((Some(head), Some(tail))) => {
                    assert_eq!((left, head.len(), tail.len()), (3, 2 * P, 3 * P));
                    assert_held(&rig.memory, &[&iommu]);
                }
                Err(error) => {
                    assert_eq!(*error.error(), CutError::Attach(AttachError::TooMany));
                    let Remains::Whole(mapping) = error.into_value() else { panic!() };
                    assert_eq!((mapping.len(), umem.attachments()), (8 * P, 1));
                    assert_eq!(iommu.mapped_pages(), 8);
                }
                other => panic!("{left}: {other:?}"),
            },
        }
        assert_eq!(umem.attachments(), 0);
        let mut space = HeapIoas::new();
        space.attach(iommu.clone()).unwrap();
        if space.map(Placement::At(iova(AT)), region, RW).is_ok() {
            let cut = space.unmap_cutting(iovas(AT + 2 * P, 3 * P));
            let refused = IoasError::Map(MapError::Attach(AttachError::TooMany));
            assert!(cut == Ok(3 * P) || cut == Err(refused), "{cut:?}");
            assert_held(&rig.memory, &[&iommu]);
        }
        drop(space);
        assert_eq!((iommu.mapped_pages(), umem.attachments()), (0, 0));
        drop(umem);
        rig.assert_idle();
    }
}

/// A region that breaks its contract: it says that it has other bytes than its list.
#[test]
fn a_region_whose_window_lies_outside() {
    let rig = scattered(4);
    let umem = rig.pin(bytes(0, 4 * P));
    let (iommu, nic) = (rig.iommu("1|4K"), Nic::new(rig.memory.clone()));
    for (page_offset, len, error) in [
        (0, 0, WindowError::Empty),
        (0, 4 * P + 1, WindowError::Beyond { offset: 0, len: 4 * P + 1, available: 4 * P }),
        (1, 4 * P, WindowError::Beyond { offset: 1, len: 4 * P, available: 4 * P }),
        (1, u64::MAX, WindowError::Beyond { offset: 1, len: u64::MAX, available: 4 * P }),
        (P, 1, WindowError::OffsetBeyondFirstPage { offset: P, page: PageSize::SIZE_4K }),
        (
            u64::MAX,
            1,
            WindowError::OffsetBeyondFirstPage { offset: u64::MAX, page: PageSize::SIZE_4K },
        ),
    ] {
        let region = Forwarding { page_offset, len, ..Forwarding::of(&umem) };
        assert_eq!(region.whole().err(), Some(error));
        let reversed = Range { start: 1, end: 0 };
        for part in [reversed, 0..len, 0..1, len..u64::MAX, u64::MAX..u64::MAX, 0..u64::MAX] {
            assert!(region.window(part.clone()).is_err());
            let mapped = Mapping::map_range(&region, part.clone(), &*iommu, iova(AT), RW);
            assert!(matches!(mapped.unwrap_err().error(), MapError::Window(_)));
            let mut space = HeapIoas::new();
            space.attach(&*iommu).unwrap();
            for place in [Placement::Anywhere, Placement::At(iova(AT))] {
                let refused = space.map_range(place, &region, part.clone(), RW).unwrap_err();
                assert!(matches!(refused.error(), IoasError::Map(MapError::Window(_))));
            }
            let access = Access::REMOTE_READ;
            let refused = MemoryRegion::register_range(&region, part, &nic, iova(AT), access);
            assert!(matches!(refused.unwrap_err().error(), RegisterError::Window(_)));
        }
        assert!(Mapping::map(&region, &*iommu, iova(AT), RW).is_err());
        assert!(MemoryRegion::register(&region, &nic, iova(AT), Access::empty()).is_err());
    }
    assert_eq!((umem.attachments(), iommu.stats().map_calls), (0, 0));
    drop(umem);
    rig.assert_idle();
}
