// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions of network cards: pinned memory as blocks of one size, behind a key.
//!
//! A card with RDMA translates by itself: for each region it has a table of blocks, all of one size,
//! and peers reach them by key. This is the second front of an [`Umem`](crate::umem::Umem), beside
//! [`iommu`](crate::iommu): the same pins, the same list, cut up otherwise. One region may be on both
//! at once, and is pinned once.
//!
//! ```text
//!                      Window::best_page_size          key, or the iova of a peer
//!   Umem ── window ──────────────► blocks ──► BlockTable ◄──────────────── peer
//!                                             │ of a card
//!     region          ├───────── len ──────────┤
//!     blocks      ├──────────┼──────────┼──────────┤   may reach past it
//! ```
//!
//! # Where to find what
//!
//! | to | there is |
//! |---|---|
//! | register pinned memory with a card | [`MemoryRegion`] |
//! | say what a peer may do | [`Access`] |
//! | write a driver of a card | [`BlockTable`], which is given a [`BlockLayout`] |
//! | know why not | [`RegisterError`] |
//! | choose a page size by hand | [`Window::best_page_size`], [`BlockSize::shrink`] |
//!
//! # How it differs from a mapping
//!
//! | | [`Mapping`](crate::iommu::Mapping) | [`MemoryRegion`] |
//! |---|---|---|
//! | pages | of mixed sizes, largest first | of one size, the largest that fits all of it |
//! | contract | exact: not a byte more is shown | cover: blocks overhang, and the card checks each access |
//! | address | a multiple of the smallest page | any that lies in its page as the memory does |
//! | bytes | whole pages of the IOMMU | any |
//! | named by | its IOVA | a key |
//!
//! That is why blocks cannot be mapped in a domain: it would show devices foreign memory.
//!
//! # From the pin to the unpin
//!
//! ```
//! use pinned_sgl_mock::{Vma, Memory, NicFault, Process};
//! use pinned_sgl::rdma::{Access, MemoryRegion, RegisterError};
//! use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
//! use pinned_sgl::{Iova, PageSize, PageSizes, UserAddr};
//! use std::sync::Arc;
//!
//! // 128 KiB of a process in folios of 64 KiB; all but its first and last bytes are wanted.
//! let memory = Memory::with_frames(1024);
//! let process = Arc::new(Process::new(&memory));
//! process.map(UserRange::new(UserAddr::new(0x10_0000), 0x2_0000)?, Vma::read_write().huge(4))?;
//! let range = UserRange::new(UserAddr::new(0x10_0040), 0x1_ff80)?;
//! let account = Arc::new(Account::new(32));
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Arc::new(Umem::pin(process.clone(), account.clone(), request)?);
//!
//! // Registered at the address of the process: two blocks of 64K do.
//! let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_64K;
//! let nic = Arc::new(memory.nic().with_page_sizes(sizes));
//! let (iova, access) = (Iova::new(0x10_0040), Access::REMOTE_READ | Access::REMOTE_WRITE);
//! let region = MemoryRegion::register(umem.clone(), nic.clone(), iova, access)?;
//! assert_eq!((region.page_size(), region.block_count()), (PageSize::SIZE_64K, 2));
//!
//! // What a peer writes by key, the process reads.
//! nic.write(region.key(), Iova::new(0x10_fffe), b"across two blocks")?;
//! let mut bytes = [0; 17];
//! process.read(UserAddr::new(0x10_fffe), &mut bytes)?;
//! assert_eq!(&bytes, b"across two blocks");
//!
//! // Blocks reach past the region, peers do not.
//! let before = Iova::new(0x10_003f);
//! let fault = nic.read(region.key(), before, &mut [0]);
//! assert_eq!(fault, Err(NicFault::OutOfBounds { iova: before }));
//!
//! // Where address and memory differ below the smallest size, no size will do.
//! let error = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0), access).unwrap_err();
//! assert!(matches!(error.error(), RegisterError::NoPageSize { .. }));
//! drop(error); // it has the region and the card
//!
//! // Deregistered first, unpinned when the last one lets go.
//! region.deregister()?;
//! assert_eq!((nic.regions(), account.charged()), (0, 32));
//! drop(umem);
//! assert_eq!(account.charged(), 0);
//! memory.assert_no_leak();
//! memory.witness().assert_clean();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Lifecycles, and what is leaked when
//!
//! | what happens | what follows |
//! |---|---|
//! | registering fails | nothing was shown; region and card come back in the error |
//! | a [`MemoryRegion`] is dropped, or deregistered | invalidated, detached; the region is unpinned if nothing else holds it |
//! | a `MemoryRegion` is leaked | peers reach the memory, and its pins are leaked |
//! | the card does not invalidate | the region is attached for ever and its pins are leaked; [`deregister`](MemoryRegion::deregister) says so |
//! | a region which any peer may write was registered | its pages are marked dirty when they are unpinned |
//!
//! # A card of your own
//!
//! A card is given a layout and the blocks, in order; it copies them into its table and gives a key.
//!
//! ```
//! use pinned_sgl::rdma::{BlockLayout, BlockTable};
//! use pinned_sgl::{PageSizes, PhysAddr};
//! use std::{collections::BTreeMap, sync::Mutex};
//!
//! /// A card whose tables are in the memory of the host.
//! #[derive(Default)]
//! struct Card {
//!     tables: Mutex<BTreeMap<u32, (BlockLayout, Vec<PhysAddr>)>>,
//! }
//!
//! #[derive(Debug)]
//! struct Full;
//!
//! // SAFETY: there is no hardware that could reach anything; a key leads to what was registered
//! // under it until it is invalidated.
//! unsafe impl BlockTable for Card {
//!     type Key = u32;
//!     type Error = Full;
//!
//!     fn page_sizes(&self) -> PageSizes {
//!         PageSizes::SIZE_4K | PageSizes::SIZE_2M
//!     }
//!
//!     unsafe fn register(
//!         &self,
//!         layout: BlockLayout,
//!         blocks: impl Iterator<Item = PhysAddr>,
//!     ) -> Result<u32, Full> {
//!         let mut tables = self.tables.lock().unwrap();
//!         let key = tables.keys().last().map_or(Some(0), |last| last.checked_add(1)).ok_or(Full)?;
//!         tables.insert(key, (layout, blocks.collect()));
//!         Ok(key)
//!     }
//!
//!     unsafe fn invalidate(&self, key: u32) -> Result<(), Full> {
//!         // Here the hardware is notified, and waited for.
//!         self.tables.lock().unwrap().remove(&key);
//!         Ok(())
//!     }
//! }
//! #
//! # use pinned_sgl::{rdma::{Access, MemoryRegion}, Iova, UserAddr};
//! # use pinned_sgl_mock::{Vma, Memory, Process};
//! # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
//! # let process = std::sync::Arc::new(Process::new(&Memory::with_frames(64)));
//! # let range = UserRange::new(UserAddr::new(0x4000), 0x4000)?;
//! # process.map(range, Vma::read_write())?;
//! # let umem = Umem::pin(process, &Unaccounted, PinRequest::new(range, PinFlags::LONGTERM))?;
//! # let card = Card::default();
//! # let region = MemoryRegion::register(&umem, &card, Iova::new(0), Access::empty()).unwrap();
//! # assert_eq!(card.tables.lock().unwrap()[&region.key()].1.len(), 1);
//! # drop(region);
//! # assert!(card.tables.lock().unwrap().is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In Linux, registering is `ib_umem_get()`, `ib_umem_find_best_pgsz()` and
//! `rdma_umem_for_each_dma_block()`, called by each driver; deregistering is `ib_dereg_mr()`.
//!
//! [`Window::best_page_size`]: crate::Window::best_page_size
//! [`BlockSize::shrink`]: crate::BlockSize::shrink

mod error;
mod region;
mod table;

pub use error::RegisterError;
pub use region::MemoryRegion;
pub use table::{Access, BlockLayout, BlockTable, TableHolder};
