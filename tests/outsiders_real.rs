// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outsiders again, on real memory: `VmPin` of `/proc/self/status` decides, and the page map.
//!
//! These tests need root: frame numbers are hidden from all others.
#![cfg(target_os = "linux")]

mod real;

use pinned_sgl::iommu::{HeapIoas, IovaRange, Mapping, Placement, Prot, Stream, StreamError};
use pinned_sgl::linux::{Buffer, PageError, PageMap, Pages};
use pinned_sgl::umem::{
    Account, Accountant, Attachment, Holder, PinErrorKind, PinFlags, PinRequest, PinnedBatch,
    RunSlot, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{BuildError, Heap, Iova, PageRun, PageSizes, Pfn, Pool, Storage};
use pinned_sgl_mock::{Bus, Iommu};
use real::{alone, page, vm_pin, MIB};
use std::mem;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

const FLAGS: PinFlags = PinFlags::WRITE.union(PinFlags::LONGTERM);
const RW: Prot = Prot::READ.union(Prot::WRITE);

type Pinned = Umem<Arc<Buffer>, Arc<Account>, Heap>;

fn part(buffer: &Buffer, range: Range<u64>) -> UserRange {
    let start = buffer.user_addr().checked_add(range.start).unwrap();
    UserRange::new(start, range.end - range.start).unwrap()
}

fn request(buffer: &Buffer, range: Range<u64>) -> PinRequest {
    PinRequest::new(part(buffer, range), FLAGS)
}

fn pin(buffer: &Arc<Buffer>, range: Range<u64>) -> Arc<Pinned> {
    let account = Arc::new(Account::unlimited());
    Arc::new(Umem::pin(buffer.clone(), account, request(buffer, range)).unwrap())
}

/// The pages of a region are in the frames of its list.
#[track_caller]
fn assert_in_place<P, A, S>(umem: &Umem<P, A, S>)
where
    P: Holder<Target = Buffer>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    let pages = umem.sgl().page_count();
    let mut frames = vec![Pfn::default(); pages as usize];
    let first = umem.user_range().first_page(umem.sgl().page_size());
    PageMap::open().unwrap().read(first, &mut frames).unwrap();
    assert!(umem.sgl().whole().unwrap().pages().eq(frames), "the list has other frames");
    assert!(vm_pin() >= umem.sgl().byte_len());
}

/// A list in a storage that was full is the list; so what it unpins is what it has pinned, and another
/// region over the same pages, which a device is attached to, stays.
#[test]
fn a_stale_storage_unpins_nothing_of_others() {
    fn check<S: Storage>(buffer: &Buffer, good: &Pinned, storage: S) {
        let mut slots = [Some(PageRun::ram(Pfn::new(1), 1 << 40).unwrap()); 128];
        let all = PinRequest::new(buffer.user_range(), FLAGS);
        let umem = Umem::pin_in(buffer, &Unaccounted, storage, &mut slots, all).unwrap();
        assert!(umem.sgl() == good.sgl());
        assert_in_place(&umem);
        drop(umem);
        assert!(vm_pin() >= buffer.len());
        assert_in_place(good);
    }
    let _alone = alone();
    let before = vm_pin();
    let buffer = Arc::new(Buffer::new(8000 * page(), Pages::Base).unwrap());
    let good = pin(&buffer, 0..8000 * page());
    let attachment = Attachment::new(good.clone(), true).unwrap();
    for size in [8, 512, 1024, 2048, 4096, 8192, 1 << 20] {
        for count in [1, 5, 30] {
            let mut heap = Heap::new();
            for _ in 0..count {
                let _ = heap.grow(size);
            }
            (0..heap.pieces()).for_each(|index| heap.piece_mut(index).fill(0xff));
            check(&buffer, &good, heap);
            let mut memory = vec![[0xff; 4096]; 30];
            let mut pool = Pool::new(&mut memory);
            for _ in 0..count {
                let _ = pool.grow(size);
            }
            check(&buffer, &good, pool);
        }
    }
    // SAFETY: no device was shown the memory.
    drop(unsafe { attachment.release() });
    drop(good);
    assert_eq!(vm_pin(), before);
}

#[test]
fn one_buffer_does_not_pin_for_another() {
    let _alone = alone();
    let before = vm_pin();
    let new = || Arc::new(Buffer::new(MIB, Pages::Base).unwrap());
    let (mut a, mut b) = (new(), new());
    for _ in 0..2 {
        mem::swap(&mut a, &mut b);
        let mut slots: [RunSlot; 16] = [None; 16];
        let mut batch = PinnedBatch::new(&*a, b.user_range(), FLAGS, &mut slots);
        for _ in 0..3 {
            assert!(matches!(batch.fill(), Err(PageError::NotInBuffer { .. })));
            assert!(batch.is_empty() && batch.take_first().is_none());
        }
        drop(batch);
        let error = Umem::pin(&*a, &Unaccounted, PinRequest::new(b.user_range(), FLAGS)).err();
        let kind = error.unwrap().into_error().kind;
        assert!(matches!(kind, PinErrorKind::Pinner(PageError::NotInBuffer { .. })));
        // The last page, and what is not there behind it.
        let beyond =
            UserRange::new(a.user_addr().checked_add(MIB - page()).unwrap(), 2 * page()).unwrap();
        assert!(Umem::pin(&*a, &Unaccounted, PinRequest::new(beyond, FLAGS)).is_err());
        assert_eq!(vm_pin(), before);
    }
}

/// What cannot be done leaves nothing pinned: flags, slots, callbacks, streams of another's range.
#[test]
fn calls_that_fail_pin_nothing() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Buffer::new(200 * MIB, Pages::Base).unwrap();
    let all = PinRequest::new(buffer.user_range(), FLAGS);
    for bit in 5..32 {
        let flags = PinFlags::from_bits_retain(FLAGS.bits() | 1 << bit);
        let umem = Umem::pin(&buffer, &Unaccounted, PinRequest::new(all.range(), flags));
        let kind = umem.err().unwrap().into_error().kind;
        assert!(matches!(kind, PinErrorKind::UnknownFlags { bits } if bits == flags.bits()));
    }
    for stop in [1, 64 * MIB, 65 * MIB, 150 * MIB, 200 * MIB] {
        let at =
            |pinned| if pinned < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let umem = Umem::pin(&buffer, &Unaccounted, all.with_progress(at));
        assert!(matches!(&umem.err().unwrap().error().kind, PinErrorKind::Cancelled));
        assert_eq!(vm_pin(), before);
        let two = NonZeroUsize::new(2).unwrap();
        let umem = Umem::pin_parallel(&buffer, &Unaccounted, all.with_shared_progress(at), two);
        assert!(matches!(&umem.err().unwrap().error().kind, PinErrorKind::Cancelled));
        assert_eq!(vm_pin(), before);
        let panics =
            |pinned| if pinned < stop { ControlFlow::Continue(()) } else { panic!("safe") };
        let pinning = || Umem::pin(&buffer, &Unaccounted, all.with_progress(panics)).is_ok();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(pinning)).is_err());
        assert_eq!(vm_pin(), before);
    }
    // No memory for the list, none for the batch, and none for the charge.
    let mut memory = [[0; 512]; 1];
    let pool = Pool::new(&mut memory);
    let umem = Umem::pin_in(&buffer, &Unaccounted, pool, &mut [None; 128], all);
    let kind = umem.err().unwrap().into_error().kind;
    assert!(matches!(
        kind,
        PinErrorKind::List(BuildError::OutOfMemory { .. }) | PinErrorKind::OutOfMemory
    ));
    assert!(Umem::pin_in(&buffer, &Unaccounted, Heap::new(), &mut [], all).is_err());
    assert!(Umem::pin(&buffer, &Account::new(9), all).is_err());
    let iommu = Iommu::new(PageSizes::SIZE_4K);
    let stream = Stream::map(&buffer, &Unaccounted, &iommu, [], all, Iova::new(0), RW);
    assert!(matches!(stream.err().unwrap().error(), StreamError::Pin(_)));
    assert_eq!((vm_pin(), iommu.mapped_pages()), (before, 0));
}

/// Two buffers, and regions, mappings, streams and address spaces of them that are made, cut, swapped and
/// dropped in every order: whatever is alive is where it was.
#[test]
fn values_of_two_buffers_in_any_order() {
    let _alone = alone();
    let before = vm_pin();
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let pages = 900;
        let buffers: Vec<_> =
            (0..2).map(|_| Arc::new(Buffer::new(pages * page(), Pages::Base).unwrap())).collect();
        let iommus: Vec<_> = (0..2).map(|_| Arc::new(Iommu::new(PageSizes::SIZE_4K))).collect();
        let mut regions: Vec<Arc<Pinned>> = vec![];
        let mut mappings: Vec<Mapping<Arc<Pinned>, Arc<Iommu>>> = vec![];
        let mut streams = vec![];
        let mut space = HeapIoas::<Arc<Pinned>, Arc<Iommu>>::new();
        space.attach(iommus[0].clone()).unwrap();
        for step in 0..120 {
            let buffer = &buffers[rng.usize(..2)];
            let iommu = &iommus[rng.usize(..2)];
            let first = rng.u64(..pages);
            let range = first * page()..(first + rng.u64(1..=pages - first)) * page();
            let at = Iova::new(rng.u64(..4 * pages) * page());
            match rng.u8(..10) {
                0 | 1 => regions.push(pin(buffer, range)),
                2 if !regions.is_empty() => drop(regions.swap_remove(rng.usize(..regions.len()))),
                3 if !regions.is_empty() => {
                    let region = regions[rng.usize(..regions.len())].clone();
                    mappings.extend(Mapping::map(region, iommu.clone(), at, RW));
                }
                4 if mappings.len() > 1 => {
                    let (a, b) = (rng.usize(..mappings.len()), mappings.len() - 1);
                    mappings.swap(a, b);
                    let mapping = mappings.pop().unwrap();
                    let cut = rng.u64(..=mapping.len() / page()) * page();
                    match mapping.split_at(cut) {
                        Ok((head, tail)) => mappings.extend([tail, head]),
                        Err(error) => mappings.push(error.into_value()),
                    }
                }
                5 if !mappings.is_empty() => {
                    drop(mappings.swap_remove(rng.usize(..mappings.len())));
                }
                6 => {
                    let account = Arc::new(Account::unlimited());
                    let (buffer, request) = (buffer.clone(), request(buffer, range));
                    let slots = vec![None; rng.usize(..40)];
                    streams.extend(Stream::map(
                        buffer,
                        account,
                        iommu.clone(),
                        slots,
                        request,
                        at,
                        RW,
                    ));
                }
                7 if !streams.is_empty() => drop(streams.swap_remove(rng.usize(..streams.len()))),
                8 if !regions.is_empty() => {
                    let region = regions[rng.usize(..regions.len())].clone();
                    let _ = space.map(Placement::At(at), region, RW);
                }
                _ => {
                    let last = at.checked_add(rng.u64(1..2 * pages) * page() - 1).unwrap();
                    let _ = space.unmap_cutting(IovaRange::inclusive(at, last).unwrap());
                }
            }
            let alive = regions.iter().chain(mappings.iter().map(Mapping::region));
            let longest = alive.clone().map(|region| region.len()).max().unwrap_or(0);
            assert!(vm_pin() - before >= longest);
            if step % 8 == 0 {
                alive.for_each(|region| assert_in_place(region));
            }
        }
        drop((space, mappings, streams, regions));
        assert!(iommus.iter().all(|iommu| iommu.mapped_pages() == 0));
        iommus.iter().for_each(|iommu| iommu.witness().assert_clean());
        assert_eq!(vm_pin(), before, "{seed}");
    }
}

/// What is forgotten stays pinned and mapped, also when the buffer goes; a device may go on.
#[test]
fn what_is_forgotten_stays() {
    let _alone = alone();
    let before = vm_pin();
    let ways: [fn(Arc<Buffer>, Arc<Iommu>); 4] = [
        |buffer, iommu| {
            mem::forget(Mapping::map(pin(&buffer, 0..MIB), iommu, Iova::new(0), RW).unwrap());
        },
        |buffer, _| drop(Attachment::new(pin(&buffer, 0..MIB), true).unwrap()),
        |buffer, iommu| {
            let mut space = HeapIoas::new();
            space.attach(iommu).unwrap();
            space.map(Placement::Anywhere, pin(&buffer, 0..MIB), RW).unwrap();
            mem::forget(space);
        },
        |buffer, iommu| {
            let (request, slots) = (request(&buffer, 0..MIB), vec![None; 7]);
            let stream = Stream::map(buffer, &Unaccounted, iommu, slots, request, Iova::new(0), RW);
            mem::forget(stream.unwrap());
        },
    ];
    for (index, way) in (1..).zip(ways) {
        let buffer = Arc::new(Buffer::new(MIB, Pages::Base).unwrap());
        let at = buffer.user_addr();
        let iommu = Arc::new(Iommu::new(PageSizes::SIZE_4K));
        way(buffer.clone(), iommu);
        drop(buffer);
        assert_eq!(vm_pin() - before, index * MIB);
        let mut frames = vec![Pfn::default(); (MIB / page()) as usize];
        PageMap::open().unwrap().read(at, &mut frames).unwrap();
    }
}

/// A bus has the memory of the regions that it holds, and of nothing else.
#[test]
fn a_bus_reaches_what_it_holds() {
    use pinned_sgl_mock::RegionBus;
    let _alone = alone();
    let new = || Arc::new(Buffer::new(MIB, Pages::Base).unwrap());
    let (a, b) = (new(), new());
    let (umem, other) = (pin(&a, 0..MIB), pin(&b, 0..MIB));
    let mut bus = RegionBus::new();
    bus.push(umem.clone());
    let of = |umem: &Pinned| umem.whole().unwrap().phys(5 * page()).unwrap();
    bus.write(of(&umem), b"mine").unwrap();
    assert!(bus.write(of(&other), b"others").is_err());
    let mut bytes = [0; 6];
    b.read(5 * page(), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 6]);
}
