// SPDX-License-Identifier: MIT OR Apache-2.0
//! The text of every error and of what caused it. Each says what failed, where and how far, and leaves the
//! cause to its `source()`; and what an error holds is held until it is let go of.

mod rig;

use pinned_sgl::descriptor::DescriptorError;
use pinned_sgl::granule::{SegmentError, SegmentLimits};
use pinned_sgl::iommu::{
    Cuts, DirtyBitmap, HeapIoas, IoasError, IovaRange, MapError, Mapping, Placement, Prot, Stream,
};
use pinned_sgl::rdma::{Access, MemoryRegion, RegisterError};
use pinned_sgl::umem::{
    AccessError, AddressKind, AttachError, Attachment, ChargeError, PinErrorKind, PinFlags,
    PinRequest, Rejected, SplitError, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{
    AllocError, BuildError, Failed, Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn,
    PhysAddr, Pool, RangeError, Sgl, SglBuilder, UserAddr,
};
use pinned_sgl_mock::{
    BusError, DmaFault, Fragmentation, Iommu, Lie, MapFault, Memory, MemoryBuilder, NicError,
    NicFault, PinFault, Process, Step, Vma, VmaError, Zone,
};
use rig::{bytes, iova, iovas, Pinned, Rig, BASE, P, RO, RW, WRITE_LONG};
use std::error::Error;
use std::iter::successors;
use std::ops::ControlFlow;
use std::sync::Arc;

const K4: PageSize = PageSize::SIZE_4K;

/// The texts of an error and of its causes are these, and none contains that of another.
#[track_caller]
fn reads<E: Error>(error: E, texts: &[&str]) {
    let first: &dyn Error = &error;
    let chain: Vec<_> =
        successors(Some(first), |error| (*error).source()).map(ToString::to_string).collect();
    assert_eq!(chain, texts);
    for (index, text) in chain.iter().enumerate() {
        for cause in &chain[index + 1..] {
            assert!(!text.contains(cause.as_str()), "{text:?} repeats {cause:?}");
        }
    }
}

fn list(runs: &[(u64, u64)]) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(K4).unwrap();
    builder
        .push_runs(runs.iter().map(|run| PageRun::ram(Pfn::new(run.0), run.1).unwrap()))
        .unwrap();
    builder.finish().unwrap()
}

#[test]
fn numbers_and_texts() {
    reads(UserRange::new(UserAddr::new(1), 0).unwrap_err(), &["the range is empty"]);
    let wraps = "the range ends beyond 64 bits";
    reads(IovaRange::new(iova(u64::MAX), 2).unwrap_err(), &[wraps]);
    reads(PageRun::ram(Pfn::new(u64::MAX), 1).unwrap_err(), &[wraps]);
    reads(
        "rom".parse::<MemoryKind>().unwrap_err(),
        &["expected ram, mmio, device or device:NUMBER"],
    );
    for (text, says) in [
        ("", "at byte 0: expected a page size"),
        ("4K|", "at byte 3: expected a page size"),
        ("K", "at byte 0: expected a number of at most 64 bits"),
        (
            "4X",
            "at byte 1: expected one of the units K, M, G, T, P, E, alone or with B or iB behind it",
        ),
        ("3K", "at byte 0: a page size is a power of two, not 0xc00"),
    ] {
        reads(text.parse::<PageSizes>().unwrap_err(), &[says]);
        let mask = "at byte 0: a page size is a power of two: 0x1000, not the mask 0xfff";
    reads("0xfff".parse::<PageSize>().unwrap_err(), &[mask]);
}
}

#[test]
fn lists() {
    let out_of_memory = "out of memory for the list";
    let push = |run: PageRun| SglBuilder::<Heap>::new(K4).unwrap().push_run(run).unwrap_err();
    let out = PageRun::ram(Pfn::new(1 << 52), 1).unwrap();
    reads(push(out), &["the byte address needs more than 64 bits, at index 0"]);
    let many = PageRun::ram(Pfn::new(0), (1 << 52) - 1).unwrap();
    let mut builder = SglBuilder::<Heap>::new(K4).unwrap();
    builder.push_page(Pfn::new(9), MemoryKind::Ram).unwrap();
    reads(
        builder.push_run(many).unwrap_err(),
        &["the list needs more than 64 bits of bytes, at index 0"],
    );
    let huge = PageSize::from_shift(31).unwrap();
    reads(SglBuilder::<Heap>::new(huge).unwrap_err(), &["a base page has 1K to 1G, not 2G"]);
    let other = SglBuilder::<Heap>::new(PageSize::SIZE_64K).unwrap().finish().unwrap();
    reads(
        SglBuilder::<Heap>::new(K4).unwrap().push_sgl(&other).unwrap_err(),
        &["the other list has pages of 64K, expected 4K"],
    );
    reads(
        BuildError::StorageInUse { pieces: 2 },
        &["the storage holds 2 pieces and does not take them back"],
    );
    let mut none: [[u8; 512]; 0] = [];
    let mut builder = SglBuilder::new_in(K4, Pool::new(&mut none)).unwrap();
    let pages: Vec<_> = (0..300).rev().map(Pfn::new).collect();
    let error = builder.push_pages(&pages, MemoryKind::Ram).unwrap_err();
    let BuildError::OutOfMemory { index } = error else { panic!("{error}") };
    reads(error, &[&format!("{out_of_memory}, at index {index}")]);
    // As many runs as are taken, and not all of them can be packed.
    let pages = &pages[..index];
    let mut builder = SglBuilder::new_in(K4, Pool::new(&mut none)).unwrap();
    builder.push_pages(pages, MemoryKind::Ram).unwrap();
    reads(builder.finish().unwrap_err(), &[out_of_memory]);
    reads(AllocError, &[out_of_memory]);
}

#[test]
fn descriptors() {
    use DescriptorError::*;
    for (error, text) in [
        (Empty, "there are no bytes"),
        (Format, "no controller has such a format"),
        (
            Start { offset: 0x400, addr: 0x1002, align: 4 },
            "byte 0x400 lies at 0x1002, and must lie at a multiple of 0x4",
        ),
        (
            End { offset: 0x400, align: 4096 },
            "contiguous bytes end before byte 0x400, and must end at a multiple of 0x1000",
        ),
        (
            Unreachable { offset: 1, addr: 1 << 32, last: (1 << 32) - 1 },
            "byte 0x1 lies at 0x100000000, and the device reaches no further than 0xffffffff",
        ),
        (
            Length { len: 700, max: 4096, sector: 512 },
            "0x2bc bytes, of a device that takes multiples of 0x200 up to 0x1000",
        ),
        (Room { needed: 7, given: 6 }, "there are 6 slots for descriptors, and 7 are needed"),
        (
            List { index: 1, addr: 8, align: 16, slots: 0 },
            "list 1 lies at 0x8, and must lie at a multiple of 0x10",
        ),
        (
            List { index: 1, addr: 0, align: 16, slots: 2 },
            "list 1 lies at 0x0, and must lie at a multiple of 0x10 and have 2 slots",
        ),
        (
            ListUnreachable { index: 0, addr: 0x20, last: 0xf },
            "list 0 lies at 0x20, and the device reaches no further than 0xf",
        ),
    ] {
        reads(error, &[text]);
    }
}

#[test]
fn windows() {
    let sgl = list(&[(0x10, 4), (0x21, 2)]);
    let window = |offset, len| sgl.window(offset, len).unwrap_err();
    reads(window(0, 0), &["a window of zero bytes"]);
    reads(window(4096, 1), &["offset 0x1000 is beyond the first page of 4K"]);
    reads(
        window(1, 0x6000),
        &["0x6000 bytes from offset 0x1 reach beyond the 0x6000 bytes that are there"],
    );
    let none = SegmentLimits::NONE;
    reads(none.max_len(0).unwrap_err(), &["a maximum segment length of zero bytes"]);
    reads(none.boundary(3).unwrap_err(), &["a boundary is a power of two, not 0x3"]);
    reads(none.granularity(3).unwrap_err(), &["a granularity is a power of two, not 0x3"]);
    reads(
        none.max_len(8).unwrap().granularity(512).unwrap_err(),
        &["segments of 0x8 bytes cannot end at multiples of 0x200"],
    );
    reads(none.addr_mask(2).unwrap_err(), &["an address mask is of the form 2^n - 1, not 0x2"]);
    let whole = sgl.whole().unwrap();
    let segments = |limits| -> SegmentError { whole.segments(&limits).unwrap_err() };
    reads(segments(none.max_segments(1)), &["the window needs 2 segments, the device takes 1"]);
    reads(
        segments(none.addr_mask(0x1_ffff).unwrap()),
        &["byte 0x4000 of the window, at 0x21000, is beyond 0x1ffff"],
    );
    let sizes = PageSizes::SIZE_4K;
    let tiles = |window: pinned_sgl::Window<'_, Heap>, sizes, at| {
        window.tiles(sizes, Iova::new(at)).unwrap_err()
    };
    reads(tiles(whole, PageSizes::empty(), 0), &["no page sizes to choose from"]);
    let wraps = "0x6000 bytes at IOVA 0xfffffffffffff000 need more than 64 bits";
    reads(tiles(whole, sizes, u64::MAX - 0xfff), &[wraps]);
    reads(whole.best_page_size(sizes, Iova::new(u64::MAX - 0xfff)).unwrap_err(), &[wraps]);
    reads(
        tiles(whole, sizes, 0x800),
        &["IOVA 0x800 is not a multiple of 4K, the smallest page size"],
    );
    let odd = sgl.window(0x800, 0x1000).unwrap();
    reads(
        tiles(odd, sizes, 0),
        &["memory at 0x10800, byte 0x0 of the window, is not a multiple of 4K, the smallest page \
           size"],
    );
    reads(
        tiles(whole, PageSizes::SIZE_16K, 0),
        &["memory at 0x21000, byte 0x4000 of the window, is not a multiple of 16K, the smallest page \
           size"],
    );
    reads(
        tiles(sgl.window(0, 0x800).unwrap(), sizes, 0),
        &["contiguous memory ends at byte 0x800 of the window, not at a multiple of 4K, the smallest \
           page size"],
    );
}

#[test]
fn pins() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 8, Vma::read_write());
    let (process, account) = (&*rig.process, &*rig.account);
    let request = PinRequest::new(bytes(0, 10 * P), WRITE_LONG);
    let pin = |slots: usize, request: PinRequest| {
        let mut slots = vec![None; slots];
        Umem::pin_in(process, account, Heap::new(), &mut slots, request).unwrap_err()
    };
    let first = "cannot pin the page at 0x7f0000000000";
    reads(
        pin(4, request),
        &[
            "cannot pin the page at 0x7f0000008000, 0x8000 bytes in",
            "nothing is mapped, at 0x7f0000008000",
        ],
    );
    reads(pin(0, request), &[first, "the pinner pinned nothing and gave no reason"]);
    let flags = PinFlags::from_bits_retain(1 << 30);
    reads(pin(4, PinRequest::new(bytes(0, P), flags)), &[first, "unknown flags in 0x40000000"]);
    account.set_limit(9);
    reads(
        pin(4, request),
        &[first, "10 pages more than the 0 charged exceed the limit of 9 pages"],
    );
    account.set_limit(u64::MAX);
    let stopped = request.with_progress(|_| ControlFlow::Break(()));
    reads(
        Umem::pin_in(process, account, Heap::new(), &mut [None; 1], stopped).unwrap_err(),
        &["cannot pin the page at 0x7f0000001000, 0x1000 bytes in", "cancelled"],
    );
    let error = PinErrorKind::<BuildError>::List(BuildError::TooManyPages { index: 3 });
    reads(error, &["the list needs more than 64 bits of bytes, at index 3"]);
    reads(PinErrorKind::<BuildError>::OutOfMemory, &["out of memory for the list"]);
    reads(
        PinErrorKind::<BuildError>::Thread(std::io::Error::other("no more")),
        &["cannot start a thread", "no more"],
    );
    reads(Rejected::Full, &["the batch is full"]);
    reads(Rejected::TooLong, &["the run has more pages than are wanted"]);
    reads(Rejected::AddressTooLarge, &["the byte address of the run needs more than 64 bits"]);
    reads(
        ChargeError::Limit { pages: 1, charged: 2, limit: 2 },
        &["1 pages more than the 2 charged exceed the limit of 2 pages"],
    );
    reads(ChargeError::Killed, &["the calling thread is being killed"]);
    rig.assert_idle();
}

#[test]
fn regions() {
    let rig = Rig::new(Fragmentation::None);
    let range = rig.buffer(0, 2, Vma::read_write());
    let umem = rig.pin_as(range, PinFlags::LONGTERM);
    reads(Attachment::new(&*umem, true).unwrap_err(), &["the memory was pinned for reading only"]);
    reads(AttachError::TooMany, &["too many attachments"]);
    let (list, device) = (AddressKind::User, AddressKind::Physical);
    reads(
        AttachError::AddressKind { list, device },
        &["the list has user addresses, and the device takes physical ones"],
    );
    reads(
        umem.read(P, &mut [0; 0x2000]).unwrap_err(),
        &[
            "cannot copy the bytes from 0x1000 on",
            "0x2000 bytes from offset 0x1000 reach beyond the 0x2000 bytes that are there",
        ],
    );
    reads(umem.write(5, b"x").unwrap_err(), &["the memory at 0x5 may not be accessed so"]);
    reads(
        AccessError::Page { at: 7, error: AttachError::TooMany },
        &["cannot reach the memory at 0x7", "too many attachments"],
    );
    let part = || Arc::into_inner(rig.pin(range)).unwrap();
    let outside = "not an offset inside a region of 0x2000 bytes";
    reads(part().split_at(0x2000).unwrap_err(), &[outside]);
    reads(part().split_at(5).unwrap_err(), &["the offset lies inside a page of 4K"]);
    reads(SplitError::Attached { attachments: 2 }, &["attached devices: 2"]);
    reads(
        SplitError::List(BuildError::OutOfMemory { index: 3 }),
        &["the list of a part cannot be built", "out of memory for the list, at index 3"],
    );
    let space = HeapIoas::<Arc<Pinned>, Arc<Iommu>>::new();
    reads(space.read(iova(AT), &mut [0]).unwrap_err(), &["nothing is mapped at 0x10000"]);
    reads(
        AccessError::<AttachError, _>::Wraps { at: Iova::new(u64::MAX) },
        &["there are no addresses behind 0xffffffffffffffff"],
    );
}

const AT: u64 = 0x1_0000;

#[test]
fn mappings() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 16, Vma::read_write());
    let umem = rig.pin(bytes(0, 8 * P));
    let aperture = IovaRange::new(iova(0), 1 << 20).unwrap();
    let iommu = Arc::new(rig.config("4K|16K").aperture(aperture).build());
    let map = |at, prot| Mapping::map(umem.clone(), iommu.clone(), iova(at), prot).unwrap_err();
    reads(map(AT, Prot::empty()), &["neither reading nor writing was asked for"]);
    reads(map(AT, Prot::from_bits_retain(1 << 20)), &["unknown flags in 0x100000"]);
    reads(
        map(1 << 20, RW),
        &["0x100000..=0x107fff is not in the aperture of the domain, 0x0..=0xfffff"],
    );
    reads(map(1, RW), &["IOVA 0x1 is not a multiple of 4K, the smallest page size"]);
    let read_only = rig.pin_as(bytes(0, P), PinFlags::LONGTERM);
    reads(
        Mapping::map(&*read_only, &*iommu, iova(AT), RW).unwrap_err(),
        &["the memory was pinned for reading only"],
    );
    reads(
        Mapping::map_range(&*umem, 0..0, &*iommu, iova(AT), RW).unwrap_err(),
        &["a window of zero bytes"],
    );
    let injected = "the plan lets it fail";
    rig.plan.fail_step_at(Step::Map, 0, 0);
    reads(map(AT, RW), &["the domain failed to map", injected]);
    rig.plan.fail_step_at(Step::Map, 0, 1);
    reads(map(AT, RW), &["the domain failed to map, 0x4000 bytes in", injected]);

    let cut = |mapping: Mapping<_, _>, offset, text: &str| {
        let refused = mapping.split_at(offset).unwrap_err();
        reads(&refused, &[text]);
        refused.into_value()
    };
    let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
    let mapping = cut(mapping, 0x8000, "not a place inside a mapping of 0x8000 bytes");
    let inside = "inside a page of the IOMMU, which it cannot cut there; \
                  the nearest edges are at 0x4000 and 0x8000";
    drop(cut(mapping, 0x5000, inside));
    let never = Arc::new(rig.config("4K").cuts(Cuts::Never).build());
    let mapping = Mapping::map(umem.clone(), never, iova(AT), RW).unwrap();
    drop(cut(mapping, 0x4000, "the domain unmaps it whole, or not at all"));

    let mapping = Mapping::map(umem.clone(), iommu.clone(), iova(AT), RW).unwrap();
    // SAFETY: memory that exists in this test only, and is not freed after the breach.
    unsafe { iommu.lie(Lie::UnmapsNothing) };
    let breach = "the domain broke its contract: it reported 0x0 bytes for 0x10000..=0x17fff; the \
                  memory stays pinned for ever";
    let failed = mapping.unmap().unwrap_err();
    reads(&failed, &[breach]);
    reads(MapError::<AttachError>::Breach(*failed.error()), &[breach]);
    reads(pinned_sgl::iommu::CutError::Breach(*failed.error()), &[breach]);
    reads(pinned_sgl::iommu::CutError::Attach(AttachError::TooMany), &["too many attachments"]);
    std::mem::forget(iommu);
    reads(
        DirtyBitmap::new(&mut [], iovas(0, P), K4).unwrap_err(),
        &["the bitmap needs 1 words and has 0"],
    );
}

#[test]
fn spaces() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 16, Vma::read_write());
    let umem = rig.pin(bytes(0, 8 * P));
    let mut space = HeapIoas::<Arc<Pinned>, Arc<Iommu>>::new();
    let aperture = IovaRange::new(iova(0), 1 << 20).unwrap();
    let iommu = Arc::new(rig.config("4K|16K").aperture(aperture).build());
    let id = space.attach(iommu.clone()).unwrap();
    let place = space.map(Placement::At(iova(AT)), umem.clone(), RO).unwrap();
    let map = |space: &mut HeapIoas<_, _>, at| {
        space.map(Placement::At(iova(at)), umem.clone(), RO).unwrap_err()
    };
    reads(map(&mut space, AT), &["0x10000..=0x17fff is mapped already"]);
    reads(map(&mut space, 1), &["IOVA 0x1 is not a multiple of 4K, the smallest page size"]);
    rig.plan.fail_step_at(Step::Map, 0, 1);
    reads(
        map(&mut space, 2 * AT),
        &["the domain failed to map, 0x4000 bytes in", "the plan lets it fail"],
    );
    space.reserve(iovas(0x8_0000, P)).unwrap();
    reads(map(&mut space, 0x8_0000), &["0x80000..=0x80fff is reserved"]);
    let within = [iovas(0, P)];
    reads(
        space.map(Placement::Within(&within), umem.clone(), RO).unwrap_err(),
        &["there is no room for 0x8000 bytes"],
    );
    space.set_mapping_limit(1);
    reads(map(&mut space, 2 * AT), &["there are 1 mappings, the limit"]);
    reads(space.unmap(iovas(0x4_0000, P)).unwrap_err(), &["nothing is mapped at 0x40000"]);
    reads(
        space.unmap(iovas(AT, P)).unwrap_err(),
        &["0x10fff lies inside the mapping 0x10000..=0x17fff, which goes whole or not at all"],
    );
    reads(
        space.read(place.first(), &mut [0; 0x9000]).unwrap_err(),
        &["nothing is mapped at 0x18000"],
    );
    reads(
        space.write(place.first(), b"x").unwrap_err(),
        &["the memory at 0x10000 may not be accessed so"],
    );
    reads(space.attach(iommu).unwrap_err(), &["the domain is attached already"]);
    reads(space.attach(rig.iommu("none")).unwrap_err(), &["the domain has no page sizes"]);
    let far = IovaRange::new(iova(1 << 32), 1 << 20).unwrap();
    reads(
        space.attach(Arc::new(rig.config("4K").aperture(far).build())).unwrap_err(),
        &["the domain translates 0x100000000..=0x1000fffff, and all others only 0x0..=0xfffff"],
    );
    reads(
        space.attach(rig.iommu("64K")).unwrap_err(),
        &["the domain cannot map what is mapped at 0x10000..=0x17fff",
          "contiguous memory ends at byte 0x8000 of the window, not at a multiple of 64K, the smallest \
           page size"],
    );
    rig.plan.fail_step_at(Step::Dirty, 0, 0);
    reads(
        space.set_dirty_tracking(true).unwrap_err(),
        &["a domain failed", "the plan lets it fail"],
    );
    space.detach(id).unwrap();
    reads(space.detach(id).unwrap_err(), &["there is no such domain"]);
    let (edge, entry) = (iova(AT), iovas(0xc000, 16 * P));
    for (error, text) in [
        (
            IoasError::CutsEntry { edge, entry },
            "0x10000 lies inside a page of the IOMMU, 0xc000..=0x1bfff",
        ),
        (
            IoasError::Poisoned { range: place },
            "0x10000..=0x17fff cannot be used any more: a domain broke its contract there",
        ),
        (IoasError::Range(RangeError::Wraps), "the range ends beyond 64 bits"),
        (IoasError::OutOfMemory, "out of memory"),
    ] {
        reads::<IoasError<MapFault>>(error, &[text]);
    }
}

#[test]
fn streams_and_registrations() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 8, Vma::read_write());
    let iommu = rig.iommu("4K");
    let request = PinRequest::new(bytes(0, 9 * P), WRITE_LONG);
    let stream = |prot| {
        let (process, account) = (&*rig.process, &*rig.account);
        Stream::map(process, account, &*iommu, [None; 4], request, iova(AT), prot).unwrap_err()
    };
    reads(
        stream(RW),
        &[
            "cannot pin the page at 0x7f0000008000, 0x8000 bytes in",
            "nothing is mapped, at 0x7f0000008000",
        ],
    );
    reads(stream(Prot::empty()), &["neither reading nor writing was asked for"]);
    let not_ram = pinned_sgl::iommu::StreamError::<AttachError, AttachError>::NotRam {
        at: UserAddr::new(BASE),
        kind: MemoryKind::Mmio,
    };
    reads(not_ram, &["only RAM can be streamed, not mmio as the page at 0x7f0000000000 is"]);

    let umem = rig.pin(bytes(0, 4 * P));
    let nic = rig.memory.nic().with_page_sizes(PageSizes::SIZE_4K);
    let register = |at, access| {
        MemoryRegion::register(&*umem, &nic, Iova::new(at), access).map(drop).unwrap_err()
    };
    reads(register(0, Access::from_bits_retain(1 << 31)), &["unknown flags in 0x80000000"]);
    let wraps = "0x4000 bytes at IOVA 0xfffffffffffff000 need more than 64 bits";
    reads(register(u64::MAX - 0xfff, Access::empty()), &[wraps]);
    reads(
        register(1, Access::empty()),
        &["the memory cannot be cut into blocks of 4K at IOVA 0x1"],
    );
    rig.plan.fail_step_at(Step::Map, 0, 0);
    reads(
        register(0, Access::empty()),
        &["the card cannot register the memory", "the plan lets it fail"],
    );
    reads(RegisterError::<AttachError>::Attach(AttachError::TooMany), &["too many attachments"]);
    reads(
        MemoryRegion::register_range(&*umem, 0..0, &nic, iova(0), Access::empty()).unwrap_err(),
        &["a window of zero bytes"],
    );
}

/// While an error holds a region, the memory is pinned and charged; `into_error` lets go of it.
#[test]
fn what_an_error_holds() {
    let rig = Rig::new(Fragmentation::None);
    rig.buffer(0, 8, Vma::read_write());
    let (iommu, nic) = (rig.iommu("4K"), rig.memory.nic().with_page_sizes(PageSizes::SIZE_4K));
    let held = |what: &str| {
        assert_eq!((rig.pins(8), rig.account.charged()), (vec![1; 8], 8), "{what}");
    };
    let failed = Mapping::map(rig.pin(bytes(0, 8 * P)), &*iommu, iova(1), RW).unwrap_err();
    held("a failed map");
    // The domain outlives the error, not what comes out of it.
    let error: Box<dyn Error> = failed.into_error().into();
    rig.assert_idle();
    assert!(error.is::<MapError<MapFault>>());

    let mut space = HeapIoas::<Arc<Pinned>, Arc<Iommu>>::new();
    space.attach(iommu.clone()).unwrap();
    let failed = space.map(Placement::At(iova(1)), rig.pin(bytes(0, 8 * P)), RW).unwrap_err();
    held("a failed map of an address space");
    drop(failed);
    rig.assert_idle();

    let umem = rig.pin(bytes(0, 8 * P));
    let failed = MemoryRegion::register(umem, &nic, iova(1), Access::empty()).unwrap_err();
    held("a failed registration");
    let (error, (umem, _)) = failed.into_parts();
    assert!(matches!(error, RegisterError::NoPageSize { .. }));
    let mapping = Mapping::map(umem, &*iommu, iova(AT), RW).unwrap();
    let failed = mapping.split_at(1).unwrap_err();
    held("a mapping that was not cut");
    assert_eq!(iommu.mapped_pages(), 8);
    let failed = failed.map_value(|mapping| mapping.unmap().unwrap());
    held("its region");
    assert_eq!(iommu.mapped_pages(), 0);
    let _ = failed.into_error();
    rig.assert_idle();

    // `?` into a boxed error lets go first, though the domain is borrowed.
    let show = || -> Result<(), Box<dyn Error>> {
        let local = rig.iommu("4K");
        let umem = rig.pin(bytes(0, 8 * P));
        let mapping = Mapping::map(umem, &*local, iova(1), RW).map_err(Failed::into_error)?;
        mapping.unmap().map_err(Failed::into_error)?;
        Ok(())
    };
    let error = show().unwrap_err();
    rig.assert_idle();
    drop(error);
}

/// The texts of the mock's own errors.
#[test]
fn mocks() {
    let machine = |build: fn(MemoryBuilder) -> MemoryBuilder| build(Memory::builder()).build();
    let odd = machine(|memory| memory.page_size(PageSize::SIZE_1G).zone(Zone::Normal, 0..1));
    reads(odd.unwrap_err(), &["a frame has 1 KiB to 2 MiB"]);
    let empty = machine(|memory| memory.zone(Zone::Normal, 0..0));
    reads(empty.unwrap_err(), &["a zone without frames"]);
    let large = machine(|memory| memory.zone(Zone::Normal, 0..u64::MAX));
    reads(large.unwrap_err(), &["too many frames, or frame numbers too high"]);
    let twice = machine(|memory| memory.zone(Zone::Normal, 0..4).zone(Zone::Movable, 3..5));
    reads(twice.unwrap_err(), &["frame 0x3 belongs to two zones"]);

    let (at, phys) = (UserAddr::new(0x1000), PhysAddr::new(0x1000));
    reads(VmaError::Range(RangeError::Empty), &["the range is empty"]);
    reads(VmaError::Misaligned, &["a range that is not whole pages"]);
    reads(VmaError::Overlap(at), &["something is mapped at 0x1000 already"]);
    reads(VmaError::NotFree(Pfn::new(7)), &["frame 0x7 is not free"]);
    for (fault, text) in [
        (PinFault::NotMapped(at), "nothing is mapped, at 0x1000"),
        (PinFault::AccessDenied(at), "memory that may only be read, at 0x1000"),
        (
            PinFault::NotPresent(at),
            "a page that is not there, and is not to be faulted in, at 0x1000",
        ),
        (PinFault::NoMemory(at), "no free frame, at 0x1000"),
        (PinFault::Busy(at), "a page that cannot be moved because it is pinned, at 0x1000"),
        (PinFault::DeviceMemory(at), "memory of a device, which was not asked for, at 0x1000"),
        (PinFault::Interrupted(at), "interrupted by a signal, at 0x1000"),
        (PinFault::Invalid(at), "flags that rule each other out, at 0x1000"),
        (PinFault::Injected(at), "failed as planned, at 0x1000"),
    ] {
        reads(fault, &[text]);
    }
    for (error, text) in [
        (BusError::NoMemory(phys), "there is no memory at 0x1000"),
        (BusError::NotPinned(phys), "the memory at 0x1000 is not pinned"),
        (BusError::NoAccess(phys), "the memory at 0x1000 cannot be accessed so"),
    ] {
        reads(error, &[text]);
        reads(DmaFault::Bus(error), &[text]);
        reads(NicFault::Bus(error), &[text]);
    }
    let iova = Iova::new(0x2000);
    for (fault, text) in [
        (DmaFault::NotMapped { iova }, "nothing is mapped at IOVA 0x2000"),
        (DmaFault::NotPermitted { iova, write: true }, "IOVA 0x2000 may not be written"),
        (DmaFault::NotPermitted { iova, write: false }, "IOVA 0x2000 may not be read"),
        (DmaFault::Wraps { iova }, "the bytes from IOVA 0x2000 on need more than 64 bits"),
    ] {
        reads(fault, &[text]);
    }
    reads(MapFault::BadCall, &["no IOMMU takes such arguments"]);
    reads(MapFault::Exists { iova }, &["IOVA 0x2000 is mapped already"]);
    reads(MapFault::Injected, &["the plan lets it fail"]);

    let memory = Memory::with_frames(4);
    let nic = memory.nic().with_page_sizes(PageSizes::SIZE_4K);
    let register = |at, len, page, blocks: &[u64]| {
        let blocks = blocks.iter().copied().map(PhysAddr::new);
        nic.register(Iova::new(at), len, page, blocks, true).unwrap_err()
    };
    let size = "a region has blocks of a size that the card does not have: 1G";
    reads(register(0, 0, K4, &[]), &["a region has no bytes, or wraps"]);
    reads(register(0, 1, PageSize::SIZE_1G, &[0]), &[size]);
    reads(register(0, 1, K4, &[]), &["a region has more or fewer blocks than it needs: 1"]);
    reads(register(0, 1, K4, &[8]), &["a block lies at no multiple of its size: 0x8"]);
    reads(NicError::TooManyBlocks, &["a region has more than 2^24 blocks"]);
    reads(NicError::NoKeys, &["all keys have been given"]);
    reads(NicError::Injected, &["the plan lets it fail"]);
    reads(NicFault::Register(NicError::NoKeys), &["all keys have been given"]);
    memory.plan().succeed();
    let process = Process::new(&memory);
    let range = UserRange::new(at, P).unwrap();
    process.map(range, Vma::read_write()).unwrap();
    let request = PinRequest::new(range, WRITE_LONG);
    let umem = Umem::pin(&process, &Unaccounted, request).unwrap();
    let region = MemoryRegion::register(&umem, &nic, Iova::new(0), Access::REMOTE_READ).unwrap();
    let key = region.key();
    let one = |iova: u64| nic.read(key, Iova::new(iova), &mut [0]).unwrap_err();
    reads(one(P), &["bytes from IOVA 0x1000 on lie outside the region"]);
    let write = nic.write(key, Iova::new(0), &[0]).unwrap_err();
    reads(write, &["peers may not do that at IOVA 0x0"]);
    drop(region);
    let gone = one(0).to_string();
    assert!(gone.starts_with("no region has the key 0x"), "{gone}");
    let stuck = NicFault::Stuck { key }.to_string();
    assert!(stuck.starts_with("the card does not give the key 0x"), "{stuck}");
    let _ = memory.witness().take();
}

/// The texts about memory of this process; none needs a privilege.
#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
#[test]
fn memory_of_this_process() {
    use pinned_sgl::linux::{Buffer, BufferError, PageError, PageMap, Pages};
    let buffer = |len| Buffer::new(len, Pages::Base).unwrap_err();
    reads(buffer(0), &["a buffer of zero bytes"]);
    reads(buffer(5), &["5 bytes are not a multiple of the page size, 4K"]);
    reads(buffer(1 << 63), &["0x8000000000000000 bytes do not fit an address space"]);
    let (at, page, size) = (UserAddr::new(5), K4, PageSize::SIZE_2M);
    let misaligned = "the memory at 0x5 does not begin at a multiple of 4K";
    reads(BufferError::Misaligned { at, page }, &[misaligned]);
    let none = "this kernel has no transparent huge pages";
    reads(BufferError::NoTransparentHugePages, &[none]);
    reads(BufferError::NoSuchHugePages { size }, &["this machine has no huge pages of 2M"]);
    reads(
        BufferError::NoHugePages { size, needed: 3, available: 1, total: 2 },
        &["huge pages of 2M: 3 are needed and 1 are free; reserve them with `echo 4 > \
           /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` (or vm.nr_hugepages)"],
    );
    let source = || std::io::Error::other("no more");
    reads(BufferError::Map { len: 16, source: source() }, &["cannot map 0x10 bytes", "no more"]);
    let advise = "cannot advise the kernel which pages to use";
    reads(BufferError::Advise { source: source() }, &[advise, "no more"]);

    let buffer = Buffer::new(1 << 20, Pages::Base).unwrap();
    reads(
        buffer.read(1 << 20, &mut [0]).unwrap_err(),
        &["0x1 bytes at offset 0x100000 reach beyond the buffer of 0x100000"],
    );
    let uring = "this process cannot use io_uring to pin memory: it needs Linux 5.19, the sysctl \
                 kernel.io_uring_disabled at 0, and no seccomp filter against it";
    reads(PageError::NoIoUring { source: source() }, &[uring, "no more"]);
    reads(PageError::Ring { source: source() }, &["cannot set up an io_uring", "no more"]);
    let (offset, len) = (0x1000, 0x2000);
    reads(
        PageError::MemlockLimit { offset, len, limit: 1 << 20 },
        &["no memory to pin 0x2000 bytes at offset 0x1000, most likely because of RLIMIT_MEMLOCK, \
           1024 KiB: raise it (ulimit -l), or give the process CAP_IPC_LOCK"],
    );
    let pin = "cannot pin 0x2000 bytes at offset 0x1000";
    reads(PageError::Pin { offset, len, source: source() }, &[pin, "no more"]);
    reads(
        PageError::Unsupported { flags: PinFlags::NOFAULT },
        &["a buffer cannot be pinned with the flags PinFlags(NOFAULT)"],
    );
    reads(PageError::NoRoom, &["the batch has no room for a run, or wants no page"]);
    reads(PageError::AddressKind, &["the batch is of a pinner with addresses of another kind"]);
    reads(PageError::TooManyPins, &["the pages are held more often than can be counted"]);
    reads(
        PageError::Hidden { offset },
        &["the kernel hides the frame of the page at offset 0x1000: this process lacks \
           CAP_SYS_ADMIN"],
    );
    let untouched = "there is no page at offset 0x1000: it was never touched";
    reads(PageError::NotPresent { offset }, &[untouched]);
    let swapped = "the page at offset 0x1000 is in swap, not in memory";
    reads(PageError::Swapped { offset }, &[swapped]);
    if let Ok(map) = PageMap::open() {
        let odd = map.read(at, &mut [Pfn::new(0)]).unwrap_err();
        reads(odd, &["0x5 is not the start of a page of 4K"]);
    }
    reads(PageError::Misaligned { addr: at, page }, &["0x5 is not the start of a page of 4K"]);
    let map = "cannot read /proc/self/pagemap at offset 0x1000";
    reads(PageError::PageMap { offset, source: source() }, &[map, "no more"]);
    reads(PageError::NotInBuffer { at }, &["the address 0x5 is not in the buffer"]);
    reads(PageError::NoUserAddress, &["the bytes have no address in this process"]);
}
