// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads that map and unmap parts of one domain, as far as the API lets them: mappings at
//! addresses of their own, or an address space behind a lock.

use crate::{bounded, wire};
use loom::sync::{Arc, Mutex};
use loom::thread;
use pinned_sgl::iommu::{HeapIoas, Mapping, Placement, Prot};
use pinned_sgl::mock::{Area, Device, DmaFault, Iommu, Memory, Process};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
use pinned_sgl::{Iova, PageSizes, UserAddr};

const BOTH: Prot = Prot::READ.union(Prot::WRITE);

fn page(number: u64) -> UserRange {
    UserRange::new(UserAddr::new(0x10_0000 + number * 0x1000), 0x1000).unwrap()
}

#[test]
fn mappings_at_addresses_of_their_own() {
    bounded(|| {
        let memory = Memory::with_frames(3);
        let process = Arc::new(Process::new(&memory));
        let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K));
        let work = |process: &Arc<Process>, iommu: &Arc<Iommu>, number: u64| {
            process.map(page(number), Area::read_write()).unwrap();
            let request = PinRequest::new(page(number), PinFlags::WRITE);
            let umem = Umem::pin(process.clone(), &Unaccounted, request).unwrap();
            let iova = Iova::new(0x8000 + number * 0x1000);
            Mapping::map(Arc::new(umem), iommu.clone(), iova, BOTH).unwrap()
        };
        let mine = work(&process, &iommu, 0);
        let thread = thread::spawn({
            let (process, iommu) = (process.clone(), iommu.clone());
            move || drop(work(&process, &iommu, 1))
        });
        let device = Device::new(iommu.clone(), &memory);
        device.write(mine.iova(), &[7]).unwrap();
        drop(mine);
        assert!(device.write(Iova::new(0x8000), &[8]).is_err());
        thread.join().unwrap();
        assert_eq!((memory.pinned_pages(), iommu.mapped_pages()), (0, 0));
        assert!(memory.witness().is_clean() && iommu.witness().is_clean());
    });
}

/// A device reaches a page that is pinned, or none: never one that was unpinned meanwhile.
#[test]
fn a_device_against_unmapping() {
    bounded(|| {
        let memory = Memory::with_frames(2);
        let process = Arc::new(Process::new(&memory));
        process.map(page(0), Area::read_write()).unwrap();
        let request = PinRequest::new(page(0), PinFlags::WRITE);
        let umem = Umem::pin(process.clone(), &Unaccounted, request).unwrap();
        let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K));
        let mapping = Mapping::map(Arc::new(umem), iommu.clone(), Iova::new(0x8000), BOTH).unwrap();
        let thread = thread::spawn(move || drop(mapping));
        match Device::new(iommu, &memory).write(Iova::new(0x8000), &[7]) {
            Ok(()) | Err(DmaFault::NotMapped { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        thread.join().unwrap();
        assert_eq!(memory.pinned_pages(), 0);
        assert!(memory.witness().is_clean());
    });
}

#[test]
fn an_address_space_behind_a_lock() {
    bounded(|| {
        let wire = Arc::new(wire::Wire::new());
        let page = Arc::new(wire::pin(&wire));
        let mut space = HeapIoas::new();
        space.attach(wire.clone()).unwrap();
        let space = Arc::new(Mutex::new(space));
        let work = |space: &Mutex<HeapIoas<_, _>>, page: Arc<wire::Page>| {
            let place = space.lock().unwrap().map(Placement::Anywhere, page, BOTH).unwrap();
            assert_eq!(space.lock().unwrap().unmap(place).unwrap(), 0x1000);
        };
        let thread = thread::spawn({
            let (space, page) = (space.clone(), page.clone());
            move || work(&space, page)
        });
        work(&space, page);
        thread.join().unwrap();
        drop(space);
        wire.assert_done(true);
    });
}
