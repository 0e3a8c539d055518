// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pinner, an IOMMU and a network card that do as little as they can.

use pinned_sgl::iommu::{Domain, IovaRange, Prot, RangeGather};
use pinned_sgl::rdma::{BlockLayout, BlockTable};
use pinned_sgl::sgl::Segment;
use pinned_sgl::umem::{PinBatch, Pinner};
use pinned_sgl::{
    Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, PhysAddr, Tile, UserAddr,
};
use std::{convert::Infallible, hint::black_box, pin::Pin};

/// A process whose page `n` is the frame `n` of a list.
pub(crate) struct Frames(Vec<PageRun>);

impl Frames {
    pub(crate) fn new(frames: Vec<Pfn>) -> Self {
        Self(frames.into_iter().map(|frame| PageRun::page(frame, Ram).expect("a frame")).collect())
    }
}

// SAFETY: no device exists that could reach the frames, nor does the CPU: each of the promises of a pinner is
// about memory that there is.
unsafe impl Pinner for Frames {
    type Error = Infallible;

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Infallible> {
        let first = (batch.next().get() >> 12) as usize;
        for run in self.0.iter().skip(first) {
            // SAFETY: "the frames of these user pages, each with a pin that belongs to the batch": as above.
            if batch.left() == 0 || unsafe { batch.push(*run) }.is_err() {
                break;
            }
        }
        Ok(())
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, _dirty: bool) {
        black_box(run);
    }
}

/// An IOMMU behind which there is no device, and a network card that is connected to nothing.
pub(crate) struct Nothing<const TAKES_RUNS: bool = false>;

// SAFETY: no device exists that could reach anything: each of the promises of a domain is about devices.
unsafe impl<const TAKES_RUNS: bool> Domain for Nothing<TAKES_RUNS> {
    type Error = Infallible;
    type Gather = RangeGather;

    const MAPS_RUNS: bool = TAKES_RUNS;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K | PageSizes::SIZE_2M
    }

    fn aperture(&self) -> IovaRange {
        IovaRange::ALL
    }

    unsafe fn map(&self, tile: Tile, _: Prot) -> (u64, Result<(), Infallible>) {
        black_box(&tile);
        (tile.len(), Ok(()))
    }

    unsafe fn map_runs(
        &self,
        _: Iova,
        runs: impl Iterator<Item = Segment>,
        _: Prot,
    ) -> (u64, Result<(), Infallible>) {
        (runs.fold(0, |bytes, run| bytes + black_box(run).len), Ok(()))
    }

    unsafe fn unmap(&self, tile: Tile, _: Pin<&mut RangeGather>) -> u64 {
        tile.len()
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        _: impl Iterator<Item = Tile>,
        _: Pin<&mut RangeGather>,
    ) -> u64 {
        range.len().unwrap_or(u64::MAX)
    }

    fn flush(&self, _: Pin<&mut RangeGather>) {}
}

// SAFETY: as for the domain: there is no card that could reach anything.
unsafe impl BlockTable for Nothing {
    type Error = Infallible;
    type Key = ();

    fn page_sizes(&self) -> PageSizes {
        PageSizes::SIZE_4K | PageSizes::SIZE_2M
    }

    unsafe fn register(
        &self,
        _: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<(), Infallible> {
        for block in blocks {
            black_box(block);
        }
        Ok(())
    }

    unsafe fn invalidate(&self, (): ()) -> Result<(), Infallible> {
        Ok(())
    }
}
