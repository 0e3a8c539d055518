// SPDX-License-Identifier: MIT OR Apache-2.0
//! Really pinned memory of this process, on Linux.
//!
//! ```text
//!  Buffer::new ──► Buffer ──pin──► Pinned ──sgl()──► Sgl<Heap>
//!   mmap            ▲                │
//!                   └──── unpin ─────┘      drop: unpin, then munmap
//! ```
//!
//! 1. A [`Buffer`] is anonymous memory with pages of the kind that was asked for: see [`Pages`].
//! 2. [`Buffer::pin`] registers it with an io_uring as fixed buffers. The kernel faults every page
//!    in and holds it with `FOLL_LONGTERM | FOLL_WRITE`, the very pins a driver would take: the
//!    frames do not move, are not swapped, and are shown as `VmPin` in `/proc/self/status`.
//! 3. The frame numbers come from `/proc/self/pagemap` ([`PageMap`]) and go into an
//!    [`Sgl`](crate::Sgl).
//! 4. Dropping the [`Pinned`] buffer unregisters it from the ring, which takes effect before the
//!    call returns, then closes the ring, then unmaps the memory. The types leave no other order: a
//!    buffer that is pinned is owned by its pin.
//!
//! Threads can share the work: [`Buffer::pin_parallel`] cuts the buffer at huge-page boundaries and
//! joins the lists of the parts to the very list that one thread would have built.
//!
//! # Who needs which privilege
//!
//! | for | needed | without it |
//! |---|---|---|
//! | pinning at all | io_uring, Linux 5.19 (`kernel.io_uring_disabled` = 0; no seccomp filter) | [`PinErrorKind::NoIoUring`] |
//! | pinning more than `RLIMIT_MEMLOCK` | `CAP_IPC_LOCK`, or a higher limit | [`PinErrorKind::MemlockLimit`] |
//! | knowing frame numbers | `CAP_SYS_ADMIN` | [`FrameError::Hidden`] |
//! | [`Pages::Huge2M`], [`Pages::Huge1G`] | pages that an administrator has reserved | [`BufferError::NoHugePages`] |
//!
//! The kernel does not refuse to tell frame numbers: it tells 0 for each of them. That is never
//! taken for an address.
//!
//! # What this is not
//!
//! A frame number is knowledge about the machine, not permission to touch it: what gives a device
//! access is an IOMMU or a driver. A frame stays what it is as long as the [`Pinned`] value lives;
//! after that, a list that was copied from it is a record of the past.
//!
//! ```no_run
//! use pinned_sgl::linux::{Buffer, Pages};
//! let buffer = Buffer::new(64 << 20, Pages::Transparent)?;
//! let pinned = buffer.pin()?;
//! for run in pinned.sgl().runs() {
//!     println!("{} pages from frame {}", run.count(), run.start());
//! }
//! let buffer = pinned.unpin();
//! # drop(buffer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffer;
mod cut;
mod error;
mod pagemap;
mod pages;
mod pin;
mod ring;

pub use buffer::{AccessError, Buffer, BufferError};
pub use error::{PinError, PinErrorKind};
pub use pagemap::{FrameError, PageMap};
pub use pages::Pages;
pub use pin::{Pinned, Steps};
