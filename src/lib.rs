// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scatterlist for pinned memory: physically contiguous runs in 2-5 bytes each, broken up at any
//! granularity a device wants.
//!
//! A device that does DMA needs to know where a buffer lies in physical memory. Pinning its pages
//! yields a page list, 8 bytes for every 4 KiB. This crate turns that list into the maximal
//! physically contiguous runs, keeps them packed, and breaks them up again for each consumer:
//!
//! ```text
//!  pages, slices, ──► SglBuilder ──► Sgl ──► Window
//!  folios, lists        merges      packed   bytes
//!                                              ├─► pages     for the CPU
//!                                              ├─► segments  for scatter-gather engines
//!                                              ├─► blocks    for RDMA NICs, may overhang
//!                                              └─► tiles     for IOMMUs, exact
//! ```
//!
//! ```
//! use pinned_sgl::{Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, SglBuilder};
//!
//! // Pages as a driver gets them: one by one, in slices, or as folios.
//! let mut builder = SglBuilder::new(PageSize::SIZE_4K)?;
//! builder.push_pages(&[0x1ff, 0x200, 0x201].map(Pfn::new), Ram)?;
//! builder.push_run(PageRun::ram(Pfn::new(0x202), 1024)?)?;
//! let sgl = builder.finish()?;
//! assert_eq!((sgl.page_count(), sgl.run_count()), (1027, 1));
//!
//! // What an IOMMU with 4 KiB and 2 MiB pages is asked for to show it at this address.
//! let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M;
//! let calls: Vec<_> = sgl.whole()?.tiles(sizes, Iova::new(0xffff_f000))?.collect();
//! assert_eq!(
//!     format!("{calls:?}"),
//!     "[Tile(0xfffff000 -> 0x1ff000, 4K x1), Tile(0x100000000 -> 0x200000, 2M x2), \
//!       Tile(0x100400000 -> 0x600000, 4K x2)]",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to find what
//!
//! | module | holds |
//! |---|---|
//! | `exact`, `abridged`, `sync`, `flags`, `asserts`, `failed` | private, and used by most: arithmetic that fits, short `Debug`, atomics, sets of flags, assertions, [`Failed`] |
//! | this one | addresses ([`Pfn`], [`PhysAddr`], [`Iova`], [`DmaAddr`], [`UserAddr`]) and sizes ([`PageSize`], [`PageSizes`]) |
//! | [`store`] | the memory of lists and address spaces: [`Storage`], [`Slab`](store::Slab) |
//! | [`sgl`] | the list: [`SglBuilder`], [`Sgl`], [`Window`] |
//! | [`granule`] | breaking a window up: [`Window::pages`], [`Window::segments`], [`Window::best_page_size`], [`Window::tiles`] |
//! | [`descriptor`] | what a device reads of all these: PRPs, scatter-gather lists, page arrays, pairs |
//! | [`umem`] | pinned regions: [`Pinner`](umem::Pinner), [`Umem`](umem::Umem), [`Charge`](umem::Charge) |
//! | [`iommu`] | showing them to devices: [`Domain`](iommu::Domain), [`Mapping`](iommu::Mapping), [`Stream`](iommu::Stream), [`Ioas`](iommu::Ioas) |
//! | [`rdma`] | showing them to network cards: [`BlockTable`](rdma::BlockTable), [`MemoryRegion`](rdma::MemoryRegion) |
//! | [`cookbook`] | recipes: short answers to "how do I", each of them a test |
//! | [`contracts`] | every promise that `unsafe` stands for: what keeps it, what relies on it, which test shows it |
//! | `linux` | feature `linux`: really pinned memory of this process |
//! | `kernel` | feature `kernel`: the same in the Linux kernel, and domains of its IOMMUs |
//!
//! Arrows between them point up this table only. Memory, processes, IOMMUs and devices for tests, which
//! catch every mistake, are a crate of their own: `pinned-sgl-mock`.
//!
//! On top of the list stands the common *umem* API: pin, charge, map, unmap, unpin.
//!
//! ```text
//!  Pinner ──► Umem ──┬─► Mapping ──► Domain          one window, one device
//!   user      Sgl    ├─► Ioas ─────► Domains         an address space: vfio, iommufd, VMMs
//!   memory    Charge └─► Attachment                  a device that translates by itself
//!      └────────────────► Stream ──► Domain          nothing stored
//! ```
//!
//! The types enforce the order: a region is held by what shows it to a device, and is unpinned when
//! the last of these has been unmapped and flushed. What is leaked stays pinned.
//!
//! # What holds everywhere
//!
//! - **Nothing panics, overflows or rounds silently.** Bad input is a typed error that says where;
//!   nothing has changed then. That no panic can be reached is checked in the compiled objects.
//! - **What an operation does not keep comes back.** Its error is [`Failed`], which holds the values: a
//!   region in it stays pinned and charged, until [`Failed::into_error`] lets go of it.
//! - **An error says what failed, where and how far**; what caused it is its `source()`, and stands in no
//!   text twice.
//! - **No memory is asked for that a kernel could not give:** pieces of at most a page, fallibly,
//!   and what is stored is never copied to grow. A few runs need none at all.
//! - **Device limits are arguments of iteration** and are never baked into a list.
//! - **Every iterator** is total and fused, has a truthful `size_hint`, and has a `fold` that
//!   is faster than `next`.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `alloc` (default) | `Heap`, lists on the heap; without it lists live in a [`Pool`] lent by the caller |
//! | `std` | the standard library: `Umem::pin_parallel` |
//! | `arbitrary` | `Arbitrary` for addresses, sizes, runs, ranges, limits and flags, for fuzzers |
//! | `linux` | `linux::Buffer`: memory pinned through io_uring, its frames read from the pagemap |
//! | `kernel` | the Linux kernel's own pins, IOMMU domains and memory; compiled by Kbuild, and by cargo documented only |
//!
//! The core is `no_std` and needs no allocator, no 128-bit arithmetic, no 64-bit division and no
//! floating point, and compiles with a plain `rustc`. `unsafe` stands where a promise decides what a
//! device may touch, and nowhere else.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![allow(clippy::type_complexity, reason = "a signature names all that is given back")]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::integer_division,
        clippy::float_arithmetic,
        reason = "nothing here may panic, wrap or lose bits; tests may: that is how they fail"
    )
)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(all(feature = "linux", not(target_os = "linux")))]
compile_error!(
    "the feature `linux` pins memory through io_uring, which only Linux has: leave it out"
);

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod abridged;
mod addr;
#[cfg(feature = "arbitrary")]
mod arbitrary;
mod asserts;
#[cfg(doc)]
pub mod contracts;
#[cfg(doc)]
pub mod cookbook;
pub mod descriptor;
mod exact;
mod failed;
mod flags;
pub mod granule;
pub mod iommu;
mod iova_range;
#[cfg(all(feature = "kernel", any(pinned_sgl_kbuild, doc)))]
pub mod kernel;
#[cfg(all(feature = "linux", target_os = "linux"))]
pub mod linux;
mod page_size;
pub mod rdma;
pub mod sgl;
pub mod store;
mod sync;
pub mod umem;

pub use addr::{DmaAddr, Iova, Pfn, PhysAddr, RangeError, UserAddr};
pub use failed::Failed;
pub use granule::{BlockSize, SegmentLimits, Tile};
pub use page_size::{PageSize, PageSizes, ParsePageSizeError};
pub use sgl::{
    BuildError, MemoryKind, PageRun, ProviderId, Runs, Segment, Sgl, SglBuilder, Window,
    WindowError,
};
#[cfg(feature = "alloc")]
pub use store::Heap;
pub use store::{AllocError, Pool, Storage};
