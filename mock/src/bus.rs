// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Bus`]: the memory that a mock device reads and writes.

use pinned_sgl::PhysAddr;
use std::fmt;

/// Physical memory as a device reaches it: that of `Memory`, or a view of real
/// pinned memory.
pub trait Bus {
    /// Reads bytes, which may lie in several pages.
    ///
    /// # Errors
    ///
    /// [`BusError`] at the first byte that cannot be read.
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError>;

    /// Writes bytes, which may lie in several pages.
    ///
    /// # Errors
    ///
    /// [`BusError`] at the first byte that cannot be written; those before it have been.
    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError>;
}

impl<B: Bus + ?Sized> Bus for &B {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        (**self).read(phys, bytes)
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        (**self).write(phys, bytes)
    }
}

/// A device reached for memory that is not there for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// There is no memory at this address.
    NoMemory(PhysAddr),
    /// The page is not pinned: it may have another owner by now.
    NotPinned(PhysAddr),
    /// The memory is there, and cannot be accessed so: it may not be written, for example.
    NoAccess(PhysAddr),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory(phys) => write!(f, "there is no memory at {phys}"),
            Self::NotPinned(phys) => write!(f, "the memory at {phys} is not pinned"),
            Self::NoAccess(phys) => write!(f, "the memory at {phys} cannot be accessed so"),
        }
    }
}

impl std::error::Error for BusError {}
