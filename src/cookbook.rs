// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recipes: short answers to "how do I", each of them a test.
//!
//! | recipe | in short |
//! |---|---|
//! | [PRPs for NVMe](#prps-for-nvme) | [`Prp`](crate::descriptor::Prp) |
//! | [Lists that a controller follows](#lists-that-a-controller-follows) | [`NvmeSgl`](crate::descriptor::NvmeSgl), `pinned_sgl_mock::Nvme` |
//! | [Blocks for an RDMA NIC](#blocks-for-an-rdma-nic) | [`Window::best_page_size`], [`MemoryRegion`] |
//! | [Regions of several types](#regions-of-several-types) | `Arc<dyn Region<Storage = Heap> + Send + Sync>` |
//! | [Guest memory](#guest-memory) | `linux::Buffer::from_raw_parts`, [`Placement::At`] |
//! | [A domain of your own](#a-domain-of-your-own) | `unsafe impl Domain` |
//! | [A pinner of your own](#a-pinner-of-your-own) | `unsafe impl Pinner` |
//! | [The n-th call fails](#the-n-th-call-fails) | `memory.plan().fail_at(n)` |
//! | [A page list that is there already](#a-page-list-that-is-there-already) | [`Pfn::from_slice`] |
//!
//! # PRPs for NVMe
//!
//! An NVMe command points to the first page of its buffer, and to a list of the others. How many list pages that takes
//! is known before, and so is whether PRPs can express the buffer at all.
//!
//! ```
//! use pinned_sgl::descriptor::{ListMemory, Prp, TransferLimits};
//! use pinned_sgl::{PageRun, PageSize, Pfn, PhysAddr, Sgl};
//!
//! let runs = [PageRun::ram(Pfn::new(0x80), 2)?, PageRun::ram(Pfn::new(0x13), 1)?];
//! let sgl = Sgl::from_runs(PageSize::SIZE_4K, runs)?;
//! let buffer = sgl.window(0x200, 0x2800)?;
//!
//! let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE.sector(512)?)?;
//! let plan = prp.plan(buffer.iter())?;
//! assert_eq!(plan.list_pages(), 1);
//! let mut page = [[0; 8]; 512]; // the controller has it at 0xf000
//! let [prp1, prp2] = plan.write(&mut [ListMemory::new(PhysAddr::new(0xf000), &mut page)])?;
//! assert_eq!((prp1, prp2), (0x8_0200, 0xf000));
//! assert_eq!(page[..2], [0x8_1000_u64, 0x1_3000].map(u64::to_le_bytes));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Behind an IOMMU a buffer is contiguous: it is one [`Extent`](crate::descriptor::Extent), of an
//! [`Iova`](crate::Iova), and so is the list page; what the DMA API has mapped are extents of
//! [`DmaAddr`](crate::DmaAddr)s.
//!
//! # Lists that a controller follows
//!
//! Whether a list is right, a controller knows. That of the mock kit follows it through the IOMMU, and returns what is
//! wrong with it, and in which entry; it may as well be given lists that your own code wrote.
//!
//! ```
//! use pinned_sgl::descriptor::{Extent, ListMemory, NvmeSgl, TransferLimits};
//! use pinned_sgl::iommu::{Mapping, Prot};
//! use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
//! use pinned_sgl_mock::{DataPointer, DmaFault, Memory, Nvme, NvmeFault};
//! use std::sync::Arc;
//!
//! // A buffer that the controller may write, at two places, and memory for the list, which it may read.
//! let memory = Memory::with_frames(64);
//! let buffer = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x2000)?)?;
//! let lists = memory.pinned(UserRange::new(UserAddr::new(0x20_0000), 0x1000)?)?;
//! let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
//! let [front, back, list] = [0x8000, 0x4000, 0xf000].map(Iova::new);
//! let first = Mapping::map_range(buffer.clone(), 0..0x1000, iommu.clone(), front, Prot::WRITE)?;
//! let second = Mapping::map_range(buffer.clone(), 0x1000..0x2000, iommu.clone(), back, Prot::WRITE)?;
//! let _lists = Mapping::map(lists.clone(), iommu.clone(), list, Prot::READ)?;
//!
//! // 512 bytes across the border of its pages.
//! let format = NvmeSgl::new(1, TransferLimits::NONE.sector(512)?)?;
//! let extents = [Extent::new(Iova::new(0x8f80), 0x80)?, Extent::new(back, 0x180)?];
//! let mut slots = [[0; 16]; 2];
//! let sgl1 = format.plan(extents)?.write(&mut [ListMemory::new(list, &mut slots)])?;
//! lists.write(0, slots.as_flattened())?;
//!
//! let nvme = Nvme::new(memory.device(iommu), PageSize::SIZE_4K);
//! nvme.send(DataPointer::Sgl(sgl1), &[7; 512])?;
//! let mut bytes = [0; 514];
//! buffer.read(0xf7f, &mut bytes)?;
//! assert_eq!((bytes[0], &bytes[1..513], bytes[513]), (0, &[7; 512][..], 0));
//!
//! // Once the second page is unmapped, the controller gets no further than the first.
//! drop(second);
//! let fault = DmaFault::NotMapped { iova: back };
//! let refused = nvme.send(DataPointer::Sgl(sgl1), &[9; 512]);
//! assert_eq!(refused, Err(NvmeFault::Data { offset: 0x80, fault }));
//! # drop(first);
//! # memory.witness().assert_clean();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In a kernel, `examples/kernel/nvme/` writes them for a real one.
//!
//! # Blocks for an RDMA NIC
//!
//! A NIC takes blocks of one size. The largest that will do depends on the address at which peers see the memory.
//!
//! ```
//! use pinned_sgl::{Iova, PageRun, PageSize, PageSizes, Pfn, Sgl};
//!
//! let runs = [PageRun::ram(Pfn::new(0x410), 0x10)?, PageRun::ram(Pfn::new(0x880), 0x20)?];
//! let sgl = Sgl::from_runs(PageSize::SIZE_4K, runs)?;
//! let window = sgl.window(0x40, 0x2_0000)?;
//! let sizes: PageSizes = "4K|64K|2M".parse()?;
//! let iova = Iova::new(0x7f00_0001_0040);
//! let best = window.best_page_size(sizes, iova)?.ok_or("no size will do")?;
//! assert_eq!((best.page_size(), best.block_count()), (PageSize::SIZE_64K, 3));
//! let blocks: Vec<u64> = best.blocks().map(|block| block.get()).collect();
//! assert_eq!(blocks, [0x41_0000, 0x88_0000, 0x89_0000]);
//!
//! // Where the offsets below 64K differ, only smaller blocks will do; below 4K, none.
//! let best = window.best_page_size(sizes, Iova::new(0x1040))?.ok_or("no size will do")?;
//! assert_eq!(best.page_size(), PageSize::SIZE_4K);
//! assert!(window.best_page_size(sizes, Iova::new(0x1000))?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`MemoryRegion`] does that and holds the memory as long as a peer can reach it.
//!
//! # Regions of several types
//!
//! An address space has regions of one type. Where pinners or accountants differ, that type is `dyn Region`; where
//! the CPU is to read and write by IOVA, too, [`dyn CpuRegion`](crate::umem::Region#regions-of-several-types).
//!
//! ```
//! use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
//! use pinned_sgl::umem::{Account, PinFlags, PinRequest, Region, Umem, UserRange};
//! use pinned_sgl::{Heap, PageSizes, UserAddr};
//! use pinned_sgl_mock::{Iommu, Memory};
//! use std::sync::Arc;
//!
//! type AnyRegion = dyn Region<Storage = Heap> + Send + Sync;
//!
//! let memory = Memory::with_frames(64);
//! let uncounted = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
//! let request = PinRequest::new(uncounted.user_range(), PinFlags::LONGTERM);
//! let counted = Umem::pin(uncounted.pinner().clone(), Arc::new(Account::new(16)), request)?;
//!
//! let mut space = HeapIoas::<Arc<AnyRegion>, Arc<Iommu>>::new();
//! space.attach(Arc::new(memory.iommu(PageSizes::SIZE_4K)))?;
//! space.map(Placement::Anywhere, uncounted, Prot::READ | Prot::WRITE)?;
//! space.map(Placement::Anywhere, Arc::new(counted), Prot::READ)?;
//! assert_eq!(space.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guest memory
//!
//! The memory of a guest is there already. It is pinned where it is, and mapped at the guest's own addresses, so that
//! a device that was passed through can be given these. With `vm-memory`:
//!
//! ```no_run
//! # #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
//! use pinned_sgl::linux::{Buffer, Pages};
//! use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
//! use pinned_sgl::Iova;
//! use std::{ptr::NonNull, sync::Arc};
//! use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
//!
//! # let domain = Arc::new(pinned_sgl_mock::Iommu::new(pinned_sgl::PageSizes::SIZE_4K));
//! let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 16 << 20)])?;
//! let mut space = HeapIoas::new();
//! space.attach(domain)?;
//! for region in guest.iter() {
//!     let start = NonNull::new(region.as_ptr()).ok_or("a region at address zero")?;
//!     // SAFETY: `guest` outlives the buffers, none of which is leaked; nothing has a
//!     // reference to its memory, and `vm-memory` accesses it by volatile reads and writes.
//!     let buffer = unsafe { Buffer::from_raw_parts(start, region.len(), Pages::Base) }?;
//!     let flags = PinFlags::WRITE | PinFlags::LONGTERM;
//!     let request = PinRequest::new(buffer.user_range(), flags);
//!     let umem = Arc::new(Umem::pin(Box::new(buffer), &Unaccounted, request)?);
//!     let at = Placement::At(Iova::new(region.start_addr().0));
//!     space.map(at, umem, Prot::READ | Prot::WRITE)?;
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
//! # fn main() {}
//! ```
//!
//! `examples/guest_memory.rs` is the whole of it, with a device that reads what the guest wrote. A mapping of a part
//! ([`Ioas::map_range`]) can be unmapped by itself, as when a guest gives back a block.
//!
//! # A domain of your own
//!
//! A domain maps tiles, unmaps them, and makes the hardware forget. This one has no hardware: it writes down what it
//! is asked for, so that a test can compare the calls.
//!
//! ```
//! use pinned_sgl::iommu::{Domain, IovaRange, Mapping, Prot, RangeGather};
//! use pinned_sgl::umem::UserRange;
//! use pinned_sgl::{Iova, PageSizes, Tile, UserAddr};
//! use pinned_sgl_mock::Memory;
//! use std::{convert::Infallible, pin::Pin, sync::{Arc, Mutex}};
//!
//! #[derive(Default)]
//! struct Calls(Mutex<Vec<String>>);
//!
//! // SAFETY: no device reaches anything through it: nothing can be reported wrongly.
//! unsafe impl Domain for Calls {
//!     type Error = Infallible;
//!     type Gather = RangeGather;
//!
//!     fn page_sizes(&self) -> PageSizes {
//!         PageSizes::SIZE_4K | PageSizes::SIZE_64K
//!     }
//!
//!     fn aperture(&self) -> IovaRange {
//!         IovaRange::ALL
//!     }
//!
//!     unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), Infallible>) {
//!         let call = format!("map {} {}x{}", tile.iova, tile.count, tile.page_size);
//!         self.0.lock().unwrap().push(call);
//!         (tile.len(), Ok(()))
//!     }
//!
//!     unsafe fn unmap(&self, tile: Tile, mut gather: Pin<&mut RangeGather>) -> u64 {
//!         if let Ok(range) = IovaRange::new(tile.iova, tile.len()) {
//!             gather.add(range);
//!         }
//!         tile.len()
//!     }
//!
//!     fn flush(&self, mut gather: Pin<&mut RangeGather>) {
//!         let flushed = gather.take().map(|range| format!("flush {range}"));
//!         self.0.lock().unwrap().extend(flushed);
//!     }
//! }
//!
//! let calls = Arc::new(Calls::default());
//! let memory = Memory::with_frames(64);
//! let umem = memory.pinned(UserRange::new(UserAddr::new(0x7000_0000), 0x1_1000)?)?;
//! Mapping::map(umem, calls.clone(), Iova::new(0x2_0000), Prot::READ)?.unmap()?;
//! let calls = calls.0.lock().unwrap();
//! assert_eq!(*calls, ["map 0x20000 1x64K", "map 0x30000 1x4K", "flush 0x20000..=0x30fff"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [The page of the module](crate::iommu#a-domain-of-your-own) has one with a page table. The map calls of VFIO take
//! user addresses and pin by themselves: `examples/vfio_container.rs` is such a domain.
//!
//! # A pinner of your own
//!
//! A pinner reports the frames of the pages that it is asked for, some at a time. This one has a list of frames that
//! never move, as those of a boot-time reservation, which user addresses from `at` on show.
//!
//! ```
//! use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner};
//! use pinned_sgl::umem::{Umem, Unaccounted, UserRange};
//! use pinned_sgl::{MemoryKind, PageRun, PageSize, Pfn, UserAddr};
//!
//! struct Reserved {
//!     at: UserAddr,
//!     frames: Vec<Pfn>,
//! }
//!
//! #[derive(Debug)]
//! struct NotReserved;
//!
//! // SAFETY: the frames are reserved for ever, and need no pin to stay; `pin` reports those
//! // of the pages that it is asked for.
//! unsafe impl Pinner for Reserved {
//!     type Error = NotReserved;
//!
//!     fn page_size(&self) -> PageSize {
//!         PageSize::SIZE_4K
//!     }
//!
//!     fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), NotReserved> {
//!         let bytes = batch.next().checked_offset_from(self.at).ok_or(NotReserved)?;
//!         let pfn = self.frames.get((bytes >> 12) as usize).ok_or(NotReserved)?;
//!         let run = PageRun::page(*pfn, MemoryKind::Ram).map_err(|_| NotReserved)?;
//!         // SAFETY: the frame of the next page; it is called again for the one behind it.
//!         unsafe { batch.push(run) }.map_err(|_| NotReserved)
//!     }
//!
//!     unsafe fn unpin(&self, _: UserAddr, _: PageRun, _dirty: bool) {}
//! }
//!
//! let at = UserAddr::new(0x7000_0000);
//! let reserved = Reserved { at, frames: [8, 9, 3].map(Pfn::new).to_vec() };
//! let range = UserRange::new(at, 0x3000)?;
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Umem::pin(&reserved, &Unaccounted, request).expect("all of it is reserved");
//! assert_eq!(umem.sgl().run_count(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [The page of the module](crate::umem#a-pinner-of-your-own) has one that pushes long runs.
//!
//! # The n-th call fails
//!
//! All that can fail on a mock machine, pinning, charging, mapping, allocating, counts as one sequence. Its
//! [plan](https://docs.rs/pinned-sgl-mock/latest/pinned_sgl_mock/struct.Plan.html) lets the n-th call fail, for each
//! n in turn, until nothing fails any more.
//!
//! ```
//! use pinned_sgl::iommu::{Mapping, Prot};
//! use pinned_sgl::umem::UserRange;
//! use pinned_sgl::{Iova, PageSizes, UserAddr};
//! use pinned_sgl_mock::Memory;
//! use std::sync::Arc;
//!
//! let memory = Memory::with_frames(64);
//! let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
//! // The driver's code goes here.
//! let work = || -> Result<(), Box<dyn std::error::Error>> {
//!     let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x8000)?)?;
//!     Mapping::map(umem, iommu.clone(), Iova::new(0), Prot::READ)?.unmap()?;
//!     Ok(())
//! };
//! let mut failures = 0;
//! loop {
//!     memory.plan().fail_at(failures);
//!     // An error has the region that it gives back: pinned until the error is dropped.
//!     let done = work().is_ok();
//!     memory.assert_no_leak();
//!     memory.witness().assert_clean();
//!     if done {
//!         break;
//!     }
//!     failures += 1;
//! }
//! assert_eq!(failures, 3); // pinning, mapping, and completing the mapping
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A page list that is there already
//!
//! A test, or a driver, that has its frames as numbers keeps them: they become a list, and back.
//!
//! ```
//! use pinned_sgl::{MemoryKind::Ram, PageSize, Pfn, SglBuilder};
//!
//! let frames: Vec<u64> = vec![0x413, 0x414, 0x415, 0x200];
//! let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
//! builder.push_pages(Pfn::from_slice(&frames), Ram)?;
//! let sgl = builder.finish()?;
//!
//! // The frame of a page, all of them again, and what an assertion on runs looks like.
//! assert_eq!(sgl.whole()?.phys(3 << 12), Pfn::new(frames[3]).phys(sgl.page_size()));
//! let again: Vec<u64> = sgl.whole()?.pages().map(Pfn::get).collect();
//! assert_eq!(again, frames);
//! let runs = sgl.runs().map(|run| (run.start().get(), run.count()));
//! assert!(runs.eq([(0x413, 3), (0x200, 1)]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A process of the mock kit can have these very frames:
//!
//! ```
//! use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
//! use pinned_sgl::{Pfn, UserAddr};
//! use pinned_sgl_mock::{Vma, Memory, Process};
//!
//! let memory = Memory::with_frames(64); // from frame 0x1000 on
//! let process = Process::new(&memory);
//! let frames = Pfn::from_slice(&[0x1013, 0x1014, 0x1002]);
//! let range = process.map_frames(UserAddr::new(0x10_0000), frames, Vma::read_write())?;
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Umem::pin(Box::new(process), &Unaccounted, request)?;
//! assert!(umem.whole()?.pages().eq(frames.iter().copied()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Window::best_page_size`]: crate::Window::best_page_size
//! [`MemoryRegion`]: crate::rdma::MemoryRegion
//! [`Placement::At`]: crate::iommu::Placement::At
//! [`Pfn::from_slice`]: crate::Pfn::from_slice
//! [`IovaRange`]: crate::iommu::IovaRange
//! [`Ioas::map_range`]: crate::iommu::Ioas::map_range
