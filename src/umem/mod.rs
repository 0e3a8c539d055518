// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinned regions: pin, charge, hold, unpin.
//!
//! A device that does DMA needs memory that stays where it is. This module makes such memory out of
//! the pages of a process, remembers in a few bytes where they are, and gives them back when the last
//! device has let go of them, and not before.
//!
//! ```text
//!   Accountant ──► Charge ─┐                      ┌─► Mapping, Ioas   crate::iommu
//!                          ▼                      │
//!   Pinner ──► PinBatch ─► Umem ──► Attachment ───┼─► MemoryRegion    crate::rdma
//!      ▲       runs        │ Sgl                  │
//!      │                   │                      └─► a device that translates by itself
//!      └────── unpin ──────┘
//!              when it is dropped, and nothing is attached
//! ```
//!
//! # Where to find what
//!
//! | to | there is |
//! |---|---|
//! | say which bytes, and how they are pinned | [`UserRange`], [`PinFlags`], [`PinRequest`] |
//! | pin them | [`Umem::pin_in`], with a list in any storage; `Umem::pin` on the heap; `Umem::pin_parallel` by threads |
//! | bring pages of your own kind | [`Pinner`], which fills a [`PinBatch`] |
//! | count them against a limit | [`Account`], [`Accounts`], [`Unaccounted`], or an [`Accountant`] of your own |
//! | share values by reference, `Arc`, or otherwise | [`Holder`], [`SharedHolder`] |
//! | show memory to a device | [`Region`], [`Attachment`] |
//! | read and write it by the CPU | [`Umem::read`], [`Umem::write`], through a [`PageAccess`] |
//!
//! # From the first page to the last
//!
//! ```
//! use pinned_sgl_mock::{Vma, Memory, Process};
//! use pinned_sgl::umem::{Account, PinFlags, PinRequest, Region, Umem, UserRange};
//! use pinned_sgl::UserAddr;
//! use std::sync::Arc;
//!
//! // A process, as tests have it; in a driver this is the caller's address space.
//! let memory = Memory::with_frames(1024);
//! let process = Arc::new(Process::new(&memory));
//! process.map(UserRange::new(UserAddr::new(0x10_0000), 0x1_0000)?, Vma::read_write())?;
//!
//! // 100 bytes that lie in two pages: both are charged, then both are pinned.
//! let account = Arc::new(Account::new(16));
//! let range = UserRange::new(UserAddr::new(0x10_0fce), 100)?;
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Umem::pin(process.clone(), account.clone(), request)?;
//! assert_eq!((account.charged(), memory.pinned_pages()), (2, 2));
//!
//! // Where they are: whole pages in the list, the 100 bytes in a window of it.
//! assert_eq!(umem.sgl().page_count(), 2);
//! assert_eq!((umem.whole()?.len(), umem.page_offset()), (100, 0xfce));
//!
//! // The CPU writes through the pin, so the pages are dirty when they go.
//! umem.write(40, b"over the border of a page")?;
//! let mut bytes = [0; 25];
//! process.read(UserAddr::new(0x10_0ff6), &mut bytes)?;
//! assert_eq!(&bytes, b"over the border of a page");
//!
//! // Unpinned, then given back. Dropping it does the same.
//! let pinner = umem.unpin().expect("no device is attached");
//! assert_eq!((account.charged(), memory.pinned_pages()), (0, 0));
//! # assert!(Arc::ptr_eq(&pinner, &process));
//!
//! // More than the limit is refused before a page is touched, and the error says by how much.
//! let range = UserRange::new(UserAddr::new(0x10_0000), 17 << 12)?;
//! let error = Umem::pin(process, account, PinRequest::new(range, PinFlags::LONGTERM)).unwrap_err();
//! assert_eq!(
//!     error.error().kind.to_string(),
//!     "17 pages more than the 0 charged exceed the limit of 16 pages",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Lifecycles, and what is leaked when
//!
//! What a device may still write is never given back. Where that cannot be known, it is leaked: the
//! memory stays pinned and charged, and [`Pinner::leaked`] is called.
//!
//! | what happens | what follows |
//! |---|---|
//! | pinning fails half way | what was pinned is unpinned, then uncharged; the error has the pinner |
//! | an [`Umem`] is dropped | unpinned, uncharged, list freed, in this order; the pinner is let go |
//! | it is dropped with a device attached: an [`Attachment`] was leaked | pins, charge and pinner are leaked |
//! | the `Umem` itself is leaked | the same, and nothing is called |
//! | a [`PinBatch`] is dropped | what it still holds is unpinned |
//! | a [`Charge`] is leaked | its pages are charged for ever |
//! | a device breaks its contract | the attachment is [leaked](Attachment::leak), as above |
//!
//! # Whose contract is which
//!
//! | trait or call | what is promised, and by what |
//! |---|---|
//! | [`Pinner`] | the implementer: the runs are the frames of these pages, and stay so until they are unpinned |
//! | [`PinBatch::push`] | the pinner, which calls it: the pins of the run are the batch's now |
//! | [`Pinner::unpin`] | the caller, an [`Umem`] or a [`Stream`](crate::iommu::Stream): nothing relies on the pins any more |
//! | [`Region`] | the implementer: attached memory stays where it is; an [`Umem`] does that |
//! | [`Region::detach`], [`Attachment::release`] | the caller: the device does not reach the memory any more |
//! | [`Holder`] | the implementer: it always leads to the same value |
//! | [`Accountant`] | nothing: it is safe, and a wrong one counts wrong |
//!
//! Using [`Umem`] with a mapping or a memory region needs no `unsafe`.
//!
//! # Errors
//!
//! [`PinError`] is the reason ([`PinErrorKind`]), the page, and the bytes that were pinned before; it
//! comes as [`Failed`](crate::Failed), with the pinner. [`AccessError`] says where a copy stopped,
//! [`ChargeError`] has the numbers, [`AttachError`] the reason.
//!
//! # A pinner of your own
//!
//! A pinner fills batches: it pins as many of the [next](PinBatch::next) pages as it likes, at least
//! one, and pushes them as runs, a folio at a time. It may be called again for the rest. This one has
//! memory that never moves, as that of a boot-time reservation:
//!
//! ```
//! use pinned_sgl::umem::{PinBatch, PinFlags, PinRequest, Pinner, Region, Umem, Unaccounted, UserRange};
//! use pinned_sgl::{PageRun, PageSize, Pfn, UserAddr};
//!
//! /// 1024 pages at a fixed place, seen at an address of the process.
//! struct Reserved {
//!     at: UserAddr,
//!     first: Pfn,
//! }
//!
//! #[derive(Debug)]
//! struct NotReserved;
//!
//! // SAFETY: the frames are reserved for ever, for this process and for nothing else; they may be
//! // written, and need no pin to stay. `pin` reports the frames of the pages that it was asked for.
//! unsafe impl Pinner for Reserved {
//!     type Error = NotReserved;
//!
//!     fn page_size(&self) -> PageSize {
//!         PageSize::SIZE_4K
//!     }
//!
//!     fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), NotReserved> {
//!         let bytes = batch.next().checked_offset_from(self.at).ok_or(NotReserved)?;
//!         let page = bytes >> 12;
//!         let count = batch.left().min(1024u64.saturating_sub(page));
//!         let first = self.first.checked_add(page).ok_or(NotReserved)?;
//!         // A run of no pages is none: then the pages are not ours.
//!         let run = PageRun::ram(first, count).map_err(|_| NotReserved)?;
//!         // SAFETY: these are the frames of the next pages. A real pinner has pinned them now.
//!         unsafe { batch.push(run) }.map_err(|_| NotReserved)
//!     }
//!
//!     unsafe fn unpin(&self, _: UserAddr, _: PageRun, _dirty: bool) {
//!         // A real pinner takes one pin back from each page, after it has marked it dirty.
//!     }
//! }
//!
//! let reserved = Reserved { at: UserAddr::new(0x7000_0000), first: Pfn::new(0x8_0000) };
//! let range = UserRange::new(UserAddr::new(0x7000_0000), 4 << 20)?;
//! let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Umem::pin(&reserved, &Unaccounted, request).expect("all of it is reserved");
//! assert_eq!((umem.sgl().run_count(), umem.sgl().page_count()), (1, 1024));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In Linux, `pin` is `pin_user_pages_fast()` and `unpin` is `unpin_user_page_range_dirty_lock()`;
//! the whole of this module is what `ib_umem_get()` and `ib_umem_release()` are for RDMA.

mod access;
mod address_kind;
mod batch;
mod charge;
mod error;
mod flags;
mod holder;
#[cfg(feature = "std")]
mod parallel;
mod pin;
mod pinned;
mod pinned_batch;
mod pinner;
mod range;
mod region;
mod shown;

pub use access::{AccessError, AccessHolder, CpuRegion, CpuRegionHolder, Location, PageAccess};
pub use address_kind::AddressKind;
#[cfg(all(feature = "kernel", any(pinned_sgl_kbuild, doc)))]
pub(crate) use batch::FEW;
pub use batch::{PinBatch, Rejected, RunSlot};
pub use charge::{
    Account, Accountant, AccountantHolder, AccountingMode, Accounts, Charge, ChargeError,
    Unaccounted,
};
pub use error::{PinError, PinErrorKind};
pub use flags::PinFlags;
pub use holder::{Holder, SharedHolder};
pub(crate) use pin::in_batches;
pub use pin::PinRequest;
pub use pinned::{SplitError, Umem};
pub use pinned_batch::PinnedBatch;
pub use pinner::{Pinner, PinnerHolder};
pub use range::UserRange;
pub use region::{AttachError, Attachment, Region, RegionExt, RegionHolder};
pub(crate) use shown::Shown;
