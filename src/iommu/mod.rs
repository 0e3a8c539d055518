// SPDX-License-Identifier: MIT OR Apache-2.0
//! IOMMU address spaces: domains, mappings, and address spaces of many mappings.
//!
//! An IOMMU shows memory to devices at addresses of their own. This module takes pinned memory, cuts
//! it into the largest pages that the IOMMU has, maps them, and takes care that nothing is unpinned
//! that a device can reach.
//!
//! ```text
//!   Umem ───────► Mapping ────────┐            one window at one IOVA in one domain
//!    sgl, pins                    │
//!   Umem, Umem ─► Ioas ───────────┼──► Domain ──► IOTLB ──► device
//!                  │ an ordered   │    page table
//!                  │ tree by IOVA └──► Domain ──► IOTLB ──► device
//!   Pinner ─────► Stream                       no list: pinned and mapped a batch at a time
//!
//!   in:   attach ──► tiles ──► map
//!   out:  unmap ──► flush ──► detach ──► unpin
//! ```
//!
//! # Where to find what
//!
//! | to | there is |
//! |---|---|
//! | map a region in a domain | [`Mapping`] |
//! | keep many mappings in several domains, as a container of vfio or an IOAS of iommufd does | [`Ioas`], `HeapIoas`; where they go: [`Placement`] |
//! | map without storing a list | [`Stream`]; what a page table says: [`Readback`] |
//! | write a driver of an IOMMU | [`Domain`], and, as far as the hardware can, [`ReadDomain`], [`DirtyDomain`] |
//! | collect what is to be flushed | [`Domain::Gather`]; one for a range: [`RangeGather`] |
//! | say what a device may do | [`Prot`] |
//! | say which addresses | [`IovaRange`] |
//! | know what was written, by devices or the CPU | [`Ioas::read_dirty`], [`DirtyBitmap`] |
//! | keep addresses free of mappings | [`Ioas::reserve`] |
//! | unmap a part | [`Mapping::unmap_range`], [`Ioas::unmap_cutting`]; where it can be cut: [`Edges`] |
//! | do without a heap | [`Slab`](crate::store::Slab), [`PoolSlab`](crate::store::PoolSlab) |
//!
//! Which of the three? A [`Mapping`] is a value: its owner can unmap it. An [`Ioas`] is for
//! mappings that another program names by address. A [`Stream`] stores nothing, and pays with
//! walks of the page table on the way out; a list costs 2-4 bytes a run, so that is seldom worth it.
//!
//! # From the pin to the unpin
//!
//! ```
//! use pinned_sgl::iommu::{Mapping, Prot};
//! use pinned_sgl_mock::{Vma, DmaFault, Memory, Process};
//! use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
//! use pinned_sgl::{Iova, PageSizes, UserAddr};
//! use std::sync::Arc;
//!
//! // 4 MiB of a process, in huge pages, pinned.
//! let memory = Memory::with_frames(4096);
//! let process = Arc::new(Process::new(&memory));
//! let range = UserRange::new(UserAddr::new(0x4000_0000), 4 << 20)?;
//! process.map(range, Vma::read_write().huge(9))?;
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Arc::new(Umem::pin(process.clone(), &Unaccounted, request)?);
//!
//! // Mapped for two devices: one call with two large pages for each; the pages are pinned once.
//! let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M;
//! let (one, two) = (Arc::new(memory.iommu(sizes)), Arc::new(memory.iommu(sizes)));
//! let first = Mapping::map(umem.clone(), one.clone(), Iova::new(0), Prot::READ | Prot::WRITE)?;
//! let second = Mapping::map(umem.clone(), two.clone(), Iova::new(0x8000_0000), Prot::READ)?;
//! assert_eq!((one.stats().map_calls, one.stats().pages_mapped), (1, 2));
//! assert_eq!(process.pins_at(range.start()), 1);
//!
//! // What one device writes, the other reads; it may not write.
//! let writer = memory.device(one.clone());
//! let reader = memory.device(two.clone());
//! writer.write(Iova::new(0x1f_fffe), b"over the border of a page")?;
//! assert!(reader.reads_as(Iova::new(0x801f_fffe), b"over the border of a page")?);
//! let iova = Iova::new(0x8000_0000);
//! assert_eq!(reader.write(iova, b"x"), Err(DmaFault::NotPermitted { iova, write: true }));
//!
//! // A part can be unmapped where no page of the IOMMU is cut; an error names the nearest edges.
//! let error = first.unmap_range(0..0x1000).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "inside a page of the IOMMU, which it cannot cut there; \
//!      the nearest edges are at 0x0 and 0x200000",
//! );
//!
//! // The error had the mapping, and dropping it has unmapped it. The region is still mapped once.
//! drop(error);
//! drop(umem);
//! assert_eq!(memory.pinned_pages(), 1024);
//! drop(second);
//! memory.assert_no_leak();
//! memory.witness().assert_clean();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Lifecycles, and what is leaked when
//!
//! | what happens | what follows |
//! |---|---|
//! | mapping fails half way | exactly what was mapped is unmapped and flushed; region and domain come back |
//! | a [`Mapping`] is dropped, or unmapped | unmapped, flushed, detached; the region is unpinned if nothing else holds it |
//! | a `Mapping` is leaked | it stays mapped, and the pins of the region are leaked |
//! | an [`Ioas`] is dropped | all of that in each domain, with one flush for each |
//! | a [`Stream`] is dropped | unmapped, flushed, unpinned, a batch at a time; then uncharged |
//! | a domain breaks its contract: a [`Breach`] | what it was about stays attached and pinned for ever; in an `Ioas` its addresses are poisoned |
//!
//! Taking down never allocates, and never fails but for a breach. The page table is not read for it:
//! the list knows what was mapped.
//!
//! # Whose contract is which
//!
//! | trait or call | what is promised, and by what |
//! |---|---|
//! | [`Domain`] | the implementer: it maps what it reports, and after a flush no device reaches what was unmapped |
//! | [`Domain::map`], [`Domain::unmap`] | the caller: the memory stays; what is unmapped was mapped by it. A mapping keeps both |
//! | [`ReadDomain`] | the implementer: what is read decides what is unpinned |
//! | [`DirtyDomain`] | the implementer: no write is missed |
//! | [`Slab`](crate::store::Slab) | the implementer: a key leads to what was put there |
//!
//! Numbers that a domain reports are checked. One that reports more or less than it can have done is
//! caught: that is the breach above.
//!
//! # Errors
//!
//! A failed call gives back what it was given: its error is [`Failed`](crate::Failed), which holds the
//! values, and says why and how far it got: a [`MapError`], [`IoasError`], [`StreamError`] or
//! [`CutError`]. Unless it is a [`Breach`], nothing has changed.
//!
//! # A domain of your own
//!
//! A domain has a page table and a way to make the hardware forget. It is never asked to replace an
//! entry, and may refuse; the crate decides which pages are used.
//!
//! ```
//! use pinned_sgl::iommu::{Domain, IovaRange, Prot, RangeGather};
//! use pinned_sgl::{PageSizes, Tile};
//! use std::{collections::BTreeMap, pin::Pin, sync::Mutex};
//!
//! /// A table of pages: where each leads, and what a device may do.
//! #[derive(Default)]
//! struct Table {
//!     pages: Mutex<BTreeMap<u64, (u64, Prot)>>,
//! }
//!
//! #[derive(Debug)]
//! struct Taken;
//!
//! // SAFETY: there is no hardware that could reach anything; the table holds what is reported.
//! unsafe impl Domain for Table {
//!     type Error = Taken;
//!     type Gather = RangeGather;
//!
//!     fn page_sizes(&self) -> PageSizes {
//!         PageSizes::SIZE_4K | PageSizes::SIZE_2M
//!     }
//!
//!     fn aperture(&self) -> IovaRange {
//!         IovaRange::ALL
//!     }
//!
//!     unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), Taken>) {
//!         let mut pages = self.pages.lock().unwrap();
//!         for page in 0..tile.count {
//!             let done = page * tile.page_size.bytes();
//!             let iova = tile.iova.get() + done;
//!             if pages.contains_key(&iova) {
//!                 // How far it got: the rest is undone by the caller.
//!                 return (done, Err(Taken));
//!             }
//!             pages.insert(iova, (tile.phys.get() + done, prot));
//!         }
//!         (tile.len(), Ok(()))
//!     }
//!
//!     unsafe fn unmap(&self, tile: Tile, mut gather: Pin<&mut RangeGather>) -> u64 {
//!         let mut pages = self.pages.lock().unwrap();
//!         let mut done = 0;
//!         while done < tile.len() && pages.remove(&(tile.iova.get() + done)).is_some() {
//!             done += tile.page_size.bytes();
//!         }
//!         if let Ok(gone) = IovaRange::new(tile.iova, done) {
//!             gather.add(gone);
//!         }
//!         done
//!     }
//!
//!     fn flush(&self, mut gather: Pin<&mut RangeGather>) {
//!         if let Some(_range) = gather.take() {
//!             // Here the hardware is notified, and waited for.
//!         }
//!     }
//! }
//! #
//! # use pinned_sgl::iommu::Mapping;
//! # use pinned_sgl_mock::{Vma, Memory, Process};
//! # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
//! # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
//! # let range = UserRange::new(pinned_sgl::UserAddr::new(0x4000), 0x4000)?;
//! # process.map(range, Vma::read_write())?;
//! # let umem = Umem::pin(process, &Unaccounted, PinRequest::new(range, PinFlags::LONGTERM))?;
//! # let table = Table::default();
//! # let mapping = Mapping::map(&umem, &table, pinned_sgl::Iova::new(0), Prot::READ).unwrap();
//! # assert_eq!(table.pages.lock().unwrap().len(), 4);
//! # drop(mapping);
//! # assert!(table.pages.lock().unwrap().is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In Linux, `map` and `unmap` are `map_pages` and `unmap_pages` of `struct iommu_domain_ops` or
//! `struct io_pgtable_ops`, the gather is `struct iommu_iotlb_gather`, and `flush` is
//! `iommu_iotlb_sync()`.

mod bitmap;
mod domain;
mod edges;
mod entries;
mod error;
mod ioas;
mod mapping;
mod prot;
mod readback;
mod stream;

pub use crate::iova_range::IovaRange;
pub use bitmap::{BitmapTooSmall, DirtyBitmap};
pub use domain::{Cuts, DirtyDomain, Domain, DomainHolder, Entry, RangeGather, ReadDomain};
pub use edges::Edges;
pub use error::{Breach, CutError, MapError};
#[cfg(feature = "alloc")]
pub use ioas::HeapIoas;
pub use ioas::{
    DomainId, DomainSlot, Ioas, IoasError, IoasStore, MappingRef, MappingSlot, NodeSlot, Placement,
    PoolIoas, Reservation,
};
pub use mapping::{Mapping, Remains};
pub use prot::Prot;
pub use readback::Readback;
pub use stream::{Stream, StreamError};
