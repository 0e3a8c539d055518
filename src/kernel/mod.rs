// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate in the Linux kernel: pins through GUP, domains of the IOMMU, memory of its allocator.
//!
//! ```text
//!  MmPinner ──► Umem ──► Mapping ──► PagingDomain ──► device
//!                │                      iommu_map(), iommu_unmap_fast(), one flush
//!                ├──► SgTable ──► DmaList ──► device
//!                │                      dma_map_sgtable()
//!                ├── MmAccountant       a counter of the process or its user
//!                └── Kmalloc            kmalloc(), at most a page at once
//! ```
//!
//! | here | is | over |
//! |---|---|---|
//! | [`MmPinner`] | a `Pinner` and a `PageAccess` | [`pin_user_pages_fast()`](srctree/mm/gup.c), [`kmap_local_page()`](srctree/include/linux/highmem.h) |
//! | [`pin_current`], [`UserMem`] | an `Umem`, as most drivers have it | all of these |
//! | [`pin`] | an `Umem`, with a pinner of your own | |
//! | [`PinnedPages`] | what a pinner of your own gives to a batch | the pages of `pin_user_pages()` |
//! | [`SglBuilder::push_page_structs`](crate::SglBuilder::push_page_structs) | takes pages | an array of `struct page *` |
//! | an `Mm` by its `ARef` | a `Pinner`, a `PageAccess` and an `Accountant`, as RDMA has them: nothing is allocated for it | the same, `mm->pinned_vm` |
//! | [`MmAccountant`] | an `Accountant` | `mm->pinned_vm`, `mm->locked_vm`, `user->locked_vm` |
//! | [`PagingDomain`] | a `Domain` and a `ReadDomain` | [`struct iommu_domain`](srctree/drivers/iommu/iommu.c) |
//! | [`PgTableDomain`] | a `Domain` and a `ReadDomain` | [`kernel::iommu::pgtable`](srctree/rust/kernel/iommu/pgtable.rs), the flush of its owner |
//! | [`SgTable`], [`DmaList`] | a part of a region for the DMA API | `struct sg_table`, [`dma_map_sgtable()`](srctree/kernel/dma/mapping.c) |
//! | [`DmaExtents`] | what [descriptors](crate::descriptor) are written from | the entries of a mapped `struct sg_table` |
//! | [`PagingDomain::map_coherent`] | queues of the driver, where the DMA API has them | [`dma_get_sgtable()`](srctree/include/linux/dma-mapping.h) |
//! | [`DevresDmaList`], [`DevresMapping`] | the same, mapped until it is dropped or the driver unbound | `DevresLt` |
//! | [`Kmalloc`], [`KmallocSlab`], [`KmallocIoas`] | a `Storage`, a `Slab`, an `Ioas` | `kmalloc()` with flags |
//! | `Arc`, `ARef`, `KBox` | holders | |
//! | `Error` | all errors of the crate | errno |
//!
//! Below these is `foundation`, which knows nothing of the crate: pins, counters, domains and tables, as the crate
//! `kernel` will have them one day.
//!
//! # How a driver takes the crate
//!
//! Kbuild compiles it: cargo cannot, because there is no crate `kernel` outside of a kernel's tree. With
//! the feature `kernel`, cargo documents this module, in which the types of that crate are mere names,
//! and compiles nothing of it.
//!
//! The crate is a module of its own, `pinned_sgl.ko`, which drivers share: it exports what they call, and
//! stays loaded as long as one of them is.
//!
//! ```text
//! kbuild/lay-out /build/pinned_sgl                            the sources, and what they need
//! make -C LINUX_BUILD M=/build/pinned_sgl modules             pinned_sgl.ko
//! make -C LINUX_BUILD M=DRIVER PINNED_SGL=/build/pinned_sgl \
//!     KBUILD_EXTRA_SYMBOLS=/build/pinned_sgl/Module.symvers modules
//! ```
//!
//! The `Kbuild` of a driver says that it uses it:
//!
//! ```make
//! obj-m := driver.o
//! driver-y := driver_main.o
//! include $(PINNED_SGL)/driver.mk
//! RUSTFLAGS_driver_main.o := $(pinned-sgl-extern)
//! $(obj)/driver_main.o: $(pinned-sgl-ready)
//! ```
//!
//! `examples/kernel/edu/` is such a driver, which maps memory by the DMA API and in a domain of its
//! own, `examples/kernel/nvme/` one that writes [descriptors](crate::descriptor), and `tests/kernel/run` builds and
//! runs both.
//!
//! Tried with Linux 7.3.4 on x86-64 and in User Mode Linux, compiled by rustc 1.95.0:
//! `tests/kernel/README.md` says with what else.
//!
//! # What is unsafe here, and why
//!
//! - The implementations of `Pinner`, `Domain`, `ReadDomain`, `Storage`, `Slab`, `Holder`: what they
//!   promise follows from what the kernel's functions do, and stands beside each of them.
//! - Calls of C, most of them in `foundation`: pointers that are held by `self`, or to locals.
//! - [`PinnedPages::new`] and `push_page_structs`: only the caller knows that pointers are those of
//!   pages, and pinned.
//! - [`SgTable::map`]: the DMA API does not stop a device, so its driver says that it has stopped.
//! - [`PagingDomain::map_coherent`]: only the driver knows when it frees its queues.
//! - [`TlbFlush`]: only the owner of a page table knows how its hardware forgets.
//!
//! A driver needs no `unsafe` to pin, map into a domain, copy, unmap and unpin.
//!
//! # Where it may be called
//!
//! | | in a hard interrupt, under a spinlock | in a thread of an interrupt, in a work item | with a mutex held | where memory is reclaimed |
//! |---|---|---|---|---|
//! | to look at a list, a region, or a [`DmaList`]; to copy by the CPU | yes | yes | yes | yes |
//! | to add to a list | with `GFP_ATOMIC` | yes | yes | with flags that reclaim nothing |
//! | to pin | no | of another process: [`MmPinner`] | not the `mmap_lock` | no |
//! | to unpin: to drop a region | no | yes | not the lock of a page | no |
//! | to charge and give back, by [`Counter::Pinned`] and [`Counter::User`] | yes | yes | yes | yes |
//! | by [`Counter::Locked`] | no | yes | not the `mmap_lock` | no |
//! | to make an [`SgTable`] | no | yes | yes | no |
//! | to map it, to sync a [`DmaList`], to unmap it into its table | yes | yes | yes | yes |
//! | to map, unmap and read in a domain | no | yes | yes | no |
//! | to make a [`PagingDomain`], and to drop it | no | yes | yes | no |
//!
//! Dropping is what it lets go of: a [`DmaList`] that owns its region unpins it, and its table does so, too. An interrupt
//! that must unmap at once calls [`DmaList::unmap`], and leaves the table to its thread. A region that is dropped by an
//! accountant with [`Counter::Locked`] waits for the `mmap_lock`.
//!
//! Domains, and what is built on them ([`Mapping`](crate::iommu::Mapping), an [`Ioas`](crate::iommu::Ioas)), allocate
//! under their lock. So none may be used in a shrinker or an MMU notifier, which memory that is allocated may wait for.
//! A mutex under which domains are used is taken before theirs, and not where memory is reclaimed either.

mod accountant;
mod bound;
mod coherent;
mod display;
mod domain;
mod error;
mod foundation;
mod holder;
#[cfg(not(pinned_sgl_kbuild))]
#[path = "names.rs"]
mod kernel;
mod kmalloc;
mod page_structs;
mod pgtable;
mod pin;
mod pinned_pages;
mod pinner;
mod sg_table;
mod turn;

#[cfg(pinned_sgl_kbuild)]
use ::kernel;

pub use self::foundation::iommu_domain::Gather;
pub use self::{
    accountant::{Counter, MmAccountant},
    bound::{ArcDomain, DevresDmaList, DevresDomain, DevresMapping, DomainMapping},
    domain::{PagingDomain, RawDomain},
    kmalloc::{Gfp, Kmalloc, KmallocIoas, KmallocSlab, Slots},
    page_structs::PAGE_SIZE,
    pgtable::{PgTableDomain, TlbFlush},
    pin::{pin, pin_current, UserMem},
    pinned_pages::PinnedPages,
    pinner::MmPinner,
    sg_table::{DmaExtents, DmaList, SgTable},
};
