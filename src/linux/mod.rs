// SPDX-License-Identifier: MIT OR Apache-2.0
//! Really pinned memory of this process, on Linux.
//!
//! ```text
//!  Buffer::new ──► Buffer ──Umem::pin──► Umem<Box<Buffer>, _, Heap> ──sgl()──► Sgl<Heap>
//!   mmap            ▲                      │
//!                   └─────── unpin ────────┘      drop: unpin, then munmap
//! ```
//!
//! 1. A [`Buffer`] is anonymous memory with pages of the kind that was asked for: see [`Pages`]; or memory
//!    that is there already, as that of a guest: [`Buffer::from_raw_parts`].
//! 2. It is the [`Pinner`](crate::umem::Pinner) of its own pages, so that an [`Umem`](crate::umem::Umem)
//!    can hold them. It registers them with an io_uring as fixed buffers: the kernel faults every page
//!    in and holds it with `FOLL_LONGTERM | FOLL_WRITE`, the very pins a driver would take. The
//!    frames do not move and are not swapped. `VmPin` in `/proc/self/status` counts them; in newer kernels
//!    (7.3 is one) only for threads that a limit holds, which have no `CAP_IPC_LOCK`.
//! 3. The frame numbers come from `/proc/self/pagemap` ([`PageMap`]).
//! 4. When an `Umem` is dropped, its pages are unregistered from the ring, and a buffer that is dropped
//!    is unmapped. There is no other order: an `Umem` holds its buffer. Where an `Umem` or a mapping
//!    of it was leaked, the memory stays, pinned and mapped, also when the buffer is dropped.
//!
//! Interfaces that pin by themselves, as VFIO's and iommufd's do, take user addresses: an `Umem` over
//! [`ByUserAddr`] has a list of these, and pins nothing.
//!
//! Threads can share the work, with [`Umem::pin_parallel`](crate::umem::Umem::pin_parallel), and several
//! regions can share a buffer, with an `Arc` of it, also where they overlap. The kernel charges each
//! page once, however many hold it.
//!
//! # Which privileges are needed
//!
//! | for | needed | without it |
//! |---|---|---|
//! | pinning at all | io_uring, Linux 5.19 (`kernel.io_uring_disabled` = 0; no seccomp filter) | [`PageError::NoIoUring`] |
//! | pinning more than `RLIMIT_MEMLOCK` | `CAP_IPC_LOCK`, or a higher limit | [`PageError::MemlockLimit`] |
//! | knowing frame numbers | `CAP_SYS_ADMIN` | [`PageError::Hidden`] |
//! | [`Pages::Huge`] | pages that an administrator has reserved | [`BufferError::NoHugePages`] |
//!
//! The kernel does not refuse to show frame numbers: it shows 0 for each of them. That is never
//! taken for an address. As the kernel itself holds what it pins against the limit, an `Umem` here is
//! [`Unaccounted`](crate::umem::Unaccounted).
//!
//! # What this is not
//!
//! A frame number is knowledge about the machine, not permission to touch it: what gives a device
//! access is an IOMMU or a driver. A frame stays what it is as long as the `Umem` lives; after that,
//! a list that was copied from it is a record of the past.
//!
//! ```no_run
//! use pinned_sgl::linux::{Buffer, Pages};
//! use pinned_sgl::umem::{PinFlags, PinRequest, Region, Umem, Unaccounted};
//!
//! let buffer = Box::new(Buffer::new(64 << 20, Pages::Transparent)?);
//! let request = PinRequest::new(buffer.user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
//! let umem = Umem::pin(buffer, &Unaccounted, request)?;
//! for run in umem.sgl().runs() {
//!     println!("{} pages from frame {}", run.count(), run.start());
//! }
//! let buffer = umem.unpin().expect("no device is attached");
//! # drop(buffer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod buffer;
mod by_user_addr;
mod clock;
mod copy;
mod error;
mod pagemap;
mod pages;
mod pinner;
mod ring;
mod slots;

pub use buffer::{Buffer, BufferError};
pub use by_user_addr::ByUserAddr;
pub use clock::Steps;
pub use error::PageError;
pub use pagemap::PageMap;
pub use pages::Pages;
