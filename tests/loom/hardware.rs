// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Hardware`]: a mock IOMMU, which may forget to flush.

use crate::frames::{Frames, OURS};
use crate::threads::sync::Arc as Shared;
use pinned_sgl::iommu::{Domain, IovaRange, Prot, RangeGather};
use pinned_sgl::{Iova, PageSizes, Tile};
use pinned_sgl_mock::{Device, DmaFault, Iommu, MapFault};
use std::pin::Pin;

pub(crate) const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Where page `n` is shown to devices.
pub(crate) const fn iova(n: u64) -> Iova {
    Iova::new(0x10_0000 + n * 4096)
}

/// An IOMMU with pages of 4 KiB.
pub(crate) struct Hardware {
    pub(crate) iommu: Iommu,
    flushes: bool,
}

impl Hardware {
    pub(crate) fn new() -> Shared<Self> {
        Shared::new(Self { iommu: Iommu::new(PageSizes::SIZE_4K), flushes: true })
    }

    /// One that breaks the contract of its trait: what was unmapped stays in the IOTLB.
    #[cfg(any(loom, races))]
    pub(crate) fn that_never_flushes() -> Shared<Self> {
        Shared::new(Self { iommu: Iommu::new(PageSizes::SIZE_4K), flushes: false })
    }

    /// A device reads page `n`: what is ours, or nothing. Whether it could.
    pub(crate) fn read(&self, frames: &Frames, n: u64) -> bool {
        let mut byte = [0];
        match Device::new(&self.iommu, frames).read(iova(n), &mut byte) {
            Ok(()) => {
                assert_eq!(byte, [OURS], "a device has seen a page that is not ours");
                true
            }
            Err(fault) => {
                assert_eq!(fault, DmaFault::NotMapped { iova: iova(n) });
                false
            }
        }
    }

    /// Nothing is mapped, and nothing went wrong.
    pub(crate) fn assert_idle(&self) {
        assert_eq!(self.iommu.mapped_bytes(), 0);
        self.iommu.witness().assert_clean();
    }
}

// SAFETY: an `Iommu` keeps the contract; one that never flushes is for models that must fail.
unsafe impl Domain for Hardware {
    type Error = MapFault;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.iommu.page_sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.iommu.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), MapFault>) {
        // SAFETY: the promise of the caller is handed on.
        unsafe { self.iommu.map(tile, prot) }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut RangeGather>) -> u64 {
        // SAFETY: as above.
        unsafe { self.iommu.unmap(tile, gather) }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        gather: Pin<&mut RangeGather>,
    ) -> u64 {
        // SAFETY: as above.
        unsafe { self.iommu.unmap_range(range, tiles, gather) }
    }

    fn flush(&self, gather: Pin<&mut RangeGather>) {
        if self.flushes {
            self.iommu.flush(gather);
        }
    }
}
