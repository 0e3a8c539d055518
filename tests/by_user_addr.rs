// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions of user addresses, for domains that pin what they map; and that no device gets addresses of
//! the other kind. No privilege is needed: nothing is pinned.

mod real;

use pinned_sgl::iommu::{
    Cuts, Domain, HeapIoas, IoasError, IovaRange, MapError, Mapping, Placement, Prot, Stream,
    StreamError,
};
use pinned_sgl::linux::{Buffer, ByUserAddr, PageError, Pages};
use pinned_sgl::rdma::{Access, MemoryRegion};
use pinned_sgl::umem::{
    AddressKind, AttachError, Attachment, PinBatch, PinErrorKind, PinFlags, PinRequest, Pinner,
    Umem, Unaccounted, UserRange,
};
use pinned_sgl::{Heap, Iova, PageRun, PageSize, PageSizes, PhysAddr, Tile, UserAddr};
use pinned_sgl_mock::{Bus, BusError, Memory, Process, RegionBus, Vma};
use real::page;
use std::{mem, pin::Pin, sync::Arc, sync::Mutex};

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);
const OTHER: AttachError =
    AttachError::AddressKind { list: AddressKind::User, device: AddressKind::Physical };

/// What a kernel that maps user memory is called with.
#[derive(Default)]
struct Calls(Mutex<Vec<(u64, u64, u64)>>);

// SAFETY: no device is behind it. What is mapped is recorded, a second mapping of an address is refused,
// and what was recorded is unmapped as one.
unsafe impl Domain for Calls {
    type Error = &'static str;
    type Gather = ();

    const ADDRESS_KIND: AddressKind = AddressKind::User;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    fn cuts(&self) -> Cuts {
        Cuts::Never
    }

    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), &'static str>) {
        let mut calls = self.0.lock().unwrap();
        let (iova, len) = (tile.iova.get(), tile.len());
        if calls.iter().any(|(at, _, bytes)| iova < at + bytes && *at < iova + len) {
            return (0, Err("in use"));
        }
        calls.push((iova, tile.user().get(), len));
        (len, Ok(()))
    }

    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut ()>) -> u64 {
        let mut calls = self.0.lock().unwrap();
        let call = (tile.iova.get(), tile.user().get(), tile.len());
        let known = calls.iter().position(|known| *known == call);
        known.map_or(0, |index| calls.remove(index).2)
    }

    fn flush(&self, _: Pin<&mut ()>) {}
}

fn pin(memory: &Arc<ByUserAddr>) -> Arc<Umem<Arc<ByUserAddr>, &'static Unaccounted, Heap>> {
    let flags = PinFlags::WRITE | PinFlags::LONGTERM;
    let request = PinRequest::new(memory.buffer().user_range(), flags);
    Arc::new(Umem::pin(memory.clone(), &Unaccounted, request).unwrap())
}

fn memory(pages: u64) -> Arc<ByUserAddr> {
    Arc::new(ByUserAddr::new(Buffer::new(pages * page(), Pages::Base).unwrap()))
}

#[test]
fn a_region_is_mapped_by_one_call_and_never_cut() {
    let memory = memory(1024);
    let (umem, calls) = (pin(&memory), Arc::new(Calls::default()));
    assert_eq!(umem.sgl().run_count(), 1);
    let mut space = HeapIoas::new();
    space.attach(calls.clone()).unwrap();
    let range = space.map(Placement::At(Iova::new(0x10_3000)), umem, READ_WRITE).unwrap();
    let user = memory.buffer().user_addr().get();
    assert_eq!(*calls.0.lock().unwrap(), [(0x10_3000, user, 1024 * page())]);
    // The CPU reaches the bytes by the addresses of the device.
    space.write(Iova::new(0x10_4ffe), b"over a page").unwrap();
    let mut bytes = [0; 11];
    memory.buffer().read(0x1ffe, &mut bytes).unwrap();
    assert_eq!(&bytes, b"over a page");
    let part = IovaRange::new(range.first(), 0x1000).unwrap();
    let refused = space.unmap(part).unwrap_err();
    assert!(matches!(refused, IoasError::CutsMapping { .. }), "{refused}");
    assert!(space.unmap_cutting(part).is_err());
    assert_eq!(space.unmap(range).unwrap(), 1024 * page());
    assert!(calls.0.lock().unwrap().is_empty());
}

#[test]
fn devices_with_physical_addresses_refuse_user_ones() {
    let memory = memory(4);
    let umem = pin(&memory);
    assert_eq!(Attachment::new(umem.clone(), false).unwrap_err().into_error(), OTHER);
    let machine = Memory::with_frames(16);
    let iommu = Arc::new(machine.iommu(PageSizes::SIZE_4K));
    let refused =
        Mapping::map(umem.clone(), iommu.clone(), Iova::new(0x1000), READ_WRITE).unwrap_err();
    assert!(matches!(refused.error(), MapError::Attach(error) if *error == OTHER));
    let mut space = HeapIoas::new();
    space.attach(iommu).unwrap();
    let refused = space.map(Placement::Anywhere, umem.clone(), READ_WRITE).unwrap_err();
    assert!(matches!(refused.error(), IoasError::Map(MapError::Attach(error)) if *error == OTHER));
    let nic = Arc::new(machine.nic());
    let refused = MemoryRegion::register(umem.clone(), nic, Iova::new(0), Access::LOCAL_WRITE);
    assert!(refused.unwrap_err().to_string().contains("user addresses"));
    assert_eq!(umem.attachments(), 0);
}

#[test]
fn a_stream_takes_no_user_addresses_for_physical_ones() {
    let memory = memory(4);
    let iommu = Arc::new(Memory::with_frames(16).iommu(PageSizes::SIZE_4K));
    let request = PinRequest::new(memory.buffer().user_range(), PinFlags::WRITE);
    let (slots, iova) = ([None; 4], Iova::new(0x1000));
    let refused =
        Stream::map(memory, &Unaccounted, iommu.clone(), slots, request, iova, READ_WRITE);
    let error = refused.unwrap_err().into_error();
    assert!(matches!(error, StreamError::Map(MapError::Attach(error)) if error == OTHER));
    assert_eq!(iommu.mapped_bytes(), 0);
}

#[test]
fn a_bus_finds_no_memory_at_user_addresses() {
    let memory = memory(4);
    let mut bus = RegionBus::new();
    bus.push(pin(&memory));
    let phys = PhysAddr::new(memory.buffer().user_addr().get());
    assert_eq!(bus.write(phys, b"astray"), Err(BusError::NoMemory(phys)));
}

#[test]
fn a_domain_with_user_addresses_refuses_physical_ones() {
    let machine = Memory::with_frames(16);
    let process = Arc::new(Process::new(&machine));
    let range = UserRange::new(UserAddr::new(0x1000), 0x2000).unwrap();
    process.map(range, Vma::read_write()).unwrap();
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    let umem = Arc::new(Umem::pin(process, &Unaccounted, request).unwrap());
    let calls = Arc::new(Calls::default());
    let refused = Mapping::map(umem, calls.clone(), Iova::new(0x1000), READ_WRITE).unwrap_err();
    let expected =
        AttachError::AddressKind { list: AddressKind::Physical, device: AddressKind::User };
    assert!(matches!(refused.error(), MapError::Attach(error) if *error == expected));
    assert!(calls.0.lock().unwrap().is_empty());
}

#[test]
fn what_is_leaked_stays_mapped_in_the_process() {
    // So large that no other test maps something in all of its place.
    const PAGES: usize = 1 << 16;
    for leaks in [false, true] {
        let memory = memory(PAGES as u64);
        let range = memory.buffer().user_range();
        let umem = Arc::try_unwrap(pin(&memory)).unwrap();
        if leaks {
            // Without the reference that it holds, too.
            let request = PinRequest::new(range, PinFlags::WRITE);
            mem::forget(Umem::pin(&*memory, &Unaccounted, request).ok().unwrap());
        }
        drop(umem);
        drop(memory);
        let (at, len) = (range.start().get() as *mut _, PAGES * page() as usize);
        let mut resident = vec![0u8; PAGES];
        // SAFETY: the call reads page tables, and writes one byte for each page. It fails with ENOMEM where
        // nothing is mapped.
        let found = unsafe { libc::mincore(at, len, resident.as_mut_ptr()) };
        assert_eq!(found == 0, leaks);
    }
}

#[test]
fn what_is_not_in_the_buffer_is_refused() {
    let memory = memory(2);
    let beyond = UserRange::new(memory.buffer().user_addr(), 3 * page()).unwrap();
    let request = PinRequest::new(beyond, PinFlags::WRITE);
    assert!(Umem::pin(&*memory, &Unaccounted, request).is_err());
    let request = PinRequest::new(memory.buffer().user_range(), PinFlags::NOFAULT);
    assert!(Umem::pin(&*memory, &Unaccounted, request).is_err());
}

/// Forwards, and does not say which addresses it has: that they are physical follows.
struct Careless(ByUserAddr);

// SAFETY: none: its address kind is not true.
unsafe impl Pinner for Careless {
    type Error = PageError;

    fn page_size(&self) -> PageSize {
        self.0.page_size()
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PageError> {
        self.0.pin(batch)
    }

    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool) {
        // SAFETY: as the caller promises.
        unsafe { self.0.unpin(at, run, dirty) }
    }
}

#[test]
fn a_batch_of_a_pinner_with_other_addresses_is_refused() {
    let memory = Careless(ByUserAddr::new(Buffer::new(page(), Pages::Base).unwrap()));
    let request = PinRequest::new(memory.0.buffer().user_range(), PinFlags::WRITE);
    let refused = Umem::pin(&memory, &Unaccounted, request).unwrap_err().into_error();
    assert!(matches!(refused.kind, PinErrorKind::Pinner(PageError::AddressKind)), "{refused:?}");
}

/// The same, where a user's addresses may be cut anywhere.
struct Anywhere(Calls);

// SAFETY: no device is behind it; what was mapped is recorded.
unsafe impl Domain for Anywhere {
    type Error = &'static str;
    type Gather = ();

    const ADDRESS_KIND: AddressKind = AddressKind::User;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    fn cuts(&self) -> Cuts {
        Cuts::Anywhere
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), &'static str>) {
        // SAFETY: as the caller promises.
        unsafe { self.0.map(tile, prot) }
    }

    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut ()>) -> u64 {
        tile.len()
    }

    fn flush(&self, _: Pin<&mut ()>) {}
}

#[test]
fn a_part_of_a_mapping_has_the_addresses_of_the_whole() {
    let memory = memory(4);
    let domain = Arc::new(Anywhere(Calls::default()));
    let mapping =
        Mapping::map(pin(&memory), domain.clone(), Iova::new(0x1000), READ_WRITE).unwrap();
    let (head, tail) = mapping.split_at(0x2000).unwrap();
    let user = memory.buffer().user_addr().get();
    assert_eq!(tail.translate(Iova::new(0x3000)).map(PhysAddr::get), Some(user + 0x2000));
    drop((head, tail));
    let mut space = HeapIoas::new();
    space.attach(domain).unwrap();
    let range = space.map(Placement::At(Iova::new(0x10_0000)), pin(&memory), READ_WRITE).unwrap();
    let part = IovaRange::new(range.first(), 0x1000).unwrap();
    assert_eq!(space.unmap_cutting(part).unwrap(), 0x1000);
    assert_eq!(space.unmap_all(), 4 * page() - 0x1000);
}
