// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Device`]: what does DMA through an [`Iommu`].

use super::Iommu;
use crate::{Bus, BusError};
use pinned_sgl::iommu::IovaRange;
use pinned_sgl::Iova;
use std::{fmt, ops::Deref};

/// A device behind an [`Iommu`], held by reference or in an `Arc`, that reads and writes a [`Bus`].
///
/// Devices behind one domain share its IOTLB. What the IOTLB remembers is used, whether or not it is
/// still mapped; so after an unmap without a flush, an access goes where it went before, and a bus
/// that knows what is pinned finds out.
///
/// The domain is locked while the bus is accessed: a bus must not call it.
///
/// ```
/// use pinned_sgl_mock::{Bus, BusError, Device, DmaFault, Iommu};
/// use pinned_sgl::{Iova, PageSizes, PhysAddr};
///
/// /// Reads as zeros.
/// struct Nothing;
/// impl Bus for Nothing {
///     fn read(&self, _: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
///         bytes.fill(0);
///         Ok(())
///     }
///     fn write(&self, _: PhysAddr, _: &[u8]) -> Result<(), BusError> {
///         Ok(())
///     }
/// }
///
/// let iommu = Iommu::new(PageSizes::SIZE_4K);
/// let device = Device::new(&iommu, Nothing);
/// let iova = Iova::new(0x1000);
/// assert_eq!(device.write(iova, &[1]), Err(DmaFault::NotMapped { iova }));
/// ```
pub struct Device<H, B> {
    iommu: H,
    bus: B,
}

impl<H: Deref<Target = Iommu>, B: Bus> Device<H, B> {
    /// A device behind `iommu`, on `bus`.
    #[must_use]
    pub const fn new(iommu: H, bus: B) -> Self {
        Self { iommu, bus }
    }

    /// The domain that it is behind.
    #[must_use]
    pub fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// Reads bytes at `iova`, which may lie in several pages. Reading none always succeeds.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] at the first byte that cannot be read; some of those before it have been.
    pub fn read(&self, iova: Iova, bytes: &mut [u8]) -> Result<(), DmaFault> {
        let (mut at, mut rest) = (first_of(iova, bytes.len())?, bytes);
        while !rest.is_empty() {
            let taken = std::mem::take(&mut rest);
            let done;
            (done, rest) = self.iommu.access(at, false, |phys, len| {
                let (here, behind) = taken.split_at_mut(at_most(taken.len(), len));
                self.bus.read(phys, here).map(|()| (here.len(), behind))
            })??;
            at = behind(at, done);
        }
        Ok(())
    }

    /// Writes bytes at `iova`, which may lie in several pages. Writing none always succeeds.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] at the first byte that cannot be written; those before it have been.
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), DmaFault> {
        let (mut at, mut rest) = (first_of(iova, bytes.len())?, bytes);
        while !rest.is_empty() {
            let done;
            (done, rest) = self.iommu.access(at, true, |phys, len| {
                let (here, behind) = rest.split_at(at_most(rest.len(), len));
                self.bus.write(phys, here).map(|()| (here.len(), behind))
            })??;
            at = behind(at, done);
        }
        Ok(())
    }

    /// Whether it reads `expected` at `iova`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn reads_as(&self, iova: Iova, expected: &[u8]) -> Result<bool, DmaFault> {
        let mut bytes = vec![0; expected.len()];
        self.read(iova, &mut bytes)?;
        Ok(bytes == expected)
    }

    /// Translates all addresses of `range` for reading, so that the IOTLB remembers them, and
    /// accesses no memory: as a device does that asks for translations before it needs them.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] at the first address that cannot be read; the IOTLB remembers those before it.
    pub fn prefetch(&self, range: IovaRange) -> Result<(), DmaFault> {
        let mut at = range.first();
        loop {
            let len = self.iommu.access(at, false, |_, len| len)?;
            match at.checked_add(len) {
                Some(next) if next <= range.last() => at = next,
                _ => return Ok(()),
            }
        }
    }
}

/// `iova`, where so many bytes can follow.
fn first_of(iova: Iova, len: usize) -> Result<Iova, DmaFault> {
    let more = u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(1);
    iova.checked_add(more).map(|_| iova).ok_or(DmaFault::Wraps { iova })
}

/// The address `done` bytes further up; behind the very last one nothing is left to do.
fn behind(iova: Iova, done: usize) -> Iova {
    Iova::new(iova.get().wrapping_add(u64::try_from(done).unwrap_or(0)))
}

fn at_most(len: usize, most: u64) -> usize {
    usize::try_from(most).map_or(len, |most| len.min(most))
}

impl<H: Deref<Target = Iommu>, B> fmt::Debug for Device<H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("iommu", &*self.iommu).finish_non_exhaustive()
    }
}

/// Why a device could not access memory through an [`Iommu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmaFault {
    /// Nothing is mapped at this address, nor remembered by the IOTLB.
    NotMapped {
        /// The address.
        iova: Iova,
    },
    /// What is mapped there may not be accessed so.
    NotPermitted {
        /// The address.
        iova: Iova,
        /// Whether the device was to write.
        write: bool,
    },
    /// The last byte would need an address of more than 64 bits. No byte has been accessed.
    Wraps {
        /// The address of the first byte.
        iova: Iova,
    },
    /// The address leads to memory that is not there for the device.
    Bus(BusError),
}

impl From<BusError> for DmaFault {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl fmt::Display for DmaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped { iova } => write!(f, "nothing is mapped at IOVA {iova}"),
            Self::NotPermitted { iova, write } => {
                let what = if *write { "written" } else { "read" };
                write!(f, "IOVA {iova} may not be {what}")
            }
            Self::Wraps { iova } => {
                write!(f, "the bytes from IOVA {iova} on need more than 64 bits")
            }
            Self::Bus(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DmaFault {}
