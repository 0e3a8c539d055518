// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageAccess`]: how the CPU reaches pinned memory: a kernel maps the page for a moment, a program
//! uses its own address, a mock looks into its frames.

use crate::addr::{PhysAddr, UserAddr};
use crate::sgl::MemoryKind;
use core::fmt;

/// Where bytes lie: contiguous in memory and, where they belong to a process, in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Their physical address.
    pub phys: PhysAddr,
    /// What the memory is made of.
    pub kind: MemoryKind,
    /// Their address in the process that they were pinned for.
    pub user: Option<UserAddr>,
}

/// Copies bytes to and from pinned memory.
///
/// A device may read and write the same bytes at the same time, so an implementation makes no
/// references to them: it copies with volatile accesses, or lets a kernel do so.
pub trait PageAccess {
    /// Why bytes could not be copied.
    type Error: fmt::Debug;

    /// Copies the bytes at `from` out of memory.
    ///
    /// # Errors
    ///
    /// The implementation's own; the contents of `bytes` do not matter then.
    ///
    /// # Safety
    ///
    /// The bytes are pinned, or attached, for as long as the call takes.
    unsafe fn read(&self, from: Place, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Copies `bytes` to the memory at `to`.
    ///
    /// # Errors
    ///
    /// The implementation's own; some of the bytes may have been written then.
    ///
    /// # Safety
    ///
    /// As [`read`](Self::read); and the memory may be written.
    unsafe fn write(&self, to: Place, bytes: &[u8]) -> Result<(), Self::Error>;
}
