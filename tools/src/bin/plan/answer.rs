// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device would see of a list.

use pinned_sgl::granule::{SegmentError, TileError, Tiles};
use pinned_sgl::{
    BlockSize, Heap, Iova, PageSize, PageSizes, PhysAddr, Segment, SegmentLimits, Sgl, Tile,
    Window, WindowError,
};
use std::fmt;

/// The question: which bytes of a list, where the device sees them, and what it can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) offset: u64,
    /// Absent: the rest of the list.
    pub(crate) length: Option<u64>,
    pub(crate) iova: Iova,
    pub(crate) page_sizes: PageSizes,
    /// Absent: no limit.
    pub(crate) max_seg: Option<u64>,
    /// Absent: no limit.
    pub(crate) boundary: Option<u64>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            offset: 0,
            length: None,
            iova: Iova::new(0),
            page_sizes: PageSizes::SIZE_4K | PageSizes::SIZE_2M | PageSizes::SIZE_1G,
            max_seg: None,
            boundary: None,
        }
    }
}

/// The answer; nothing of it is listed before it is written.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) sgl: &'a Sgl<Heap>,
    pub(crate) view: View,
    pub(crate) window: Window<'a, Heap>,
    limits: SegmentLimits,
    pub(crate) best: Option<BlockSize<'a, Heap>>,
    pub(crate) tiles: Result<Tiles<'a, Heap>, TileError>,
}

impl<'a> Plan<'a> {
    /// Checks the question. That tiles are misaligned is an answer, not an error.
    pub(crate) fn new(sgl: &'a Sgl<Heap>, view: View) -> Result<Self, PlanError> {
        let length = view.length.unwrap_or(sgl.byte_len().saturating_sub(view.offset));
        let window = sgl.window(view.offset, length).map_err(PlanError::Window)?;
        let mut limits = SegmentLimits::NONE;
        if let Some(bytes) = view.max_seg {
            limits = limits.max_len(bytes).map_err(PlanError::Limit)?;
        }
        if let Some(bytes) = view.boundary {
            limits = limits.boundary(bytes).map_err(PlanError::Limit)?;
        }
        let best = window.best_page_size(view.page_sizes, view.iova).map_err(PlanError::Blocks)?;
        let tiles = window.tiles(view.page_sizes, view.iova);
        Ok(Self { sgl, view, window, limits, best, tiles })
    }

    /// The window under the limits.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + Clone + use<'a> {
        // Only limits on addresses or on the number of segments fail, and there are none here.
        self.window.segments(&self.limits).into_iter().flatten()
    }

    /// How many segments there are. O(runs), however many segments a run has.
    pub(crate) fn segment_count(&self) -> u64 {
        self.window.segment_count(&self.limits)
    }

    /// The blocks of the best page size; none if there is no such size.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = PhysAddr> + Clone + use<'a> {
        self.best.map(|best| best.blocks()).into_iter().flatten()
    }

    /// How many blocks there are. O(1).
    pub(crate) fn block_count(&self) -> u64 {
        self.best.map_or(0, |best| best.block_count())
    }

    /// The map calls; none if the window cannot be mapped.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = Tile> + Clone + use<'a> {
        self.tiles.clone().into_iter().flatten()
    }

    /// How many tiles there are. O(runs): a run has at most two tiles of each size.
    pub(crate) fn tile_count(&self) -> u64 {
        self.tiles().map(|_| 1).sum()
    }

    /// Refuses lists longer than `max`, before any of them is begun. The runs are not looked at:
    /// they are no more than were asked about.
    pub(crate) fn check_entries(&self, max: u64) -> Result<(), PlanError> {
        let counts = [
            ("segments", self.segment_count()),
            ("blocks", self.block_count()),
            ("tiles", self.tile_count()),
        ];
        match counts.into_iter().find(|(_, needed)| *needed > max) {
            Some((list, needed)) => Err(PlanError::TooManyEntries { list, needed, max }),
            None => Ok(()),
        }
    }
}

/// Why a list cannot be looked at as asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PlanError {
    Window(WindowError),
    Limit(SegmentError),
    Blocks(TileError),
    /// The answer would be too long.
    TooManyEntries {
        list: &'static str,
        needed: u64,
        max: u64,
    },
}

impl PlanError {
    /// The part of the question, as a request names it, or the list of the answer at fault.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Window(WindowError::OffsetBeyondFirstPage { .. }) => "offset",
            Self::Window(_) => "length",
            Self::Limit(SegmentError::ZeroLength) => "max_seg",
            Self::Limit(_) => "boundary",
            Self::Blocks(TileError::NoPageSizes) => "page_sizes",
            Self::Blocks(_) => "iova",
            Self::TooManyEntries { list, .. } => list,
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(error) => error.fmt(f),
            Self::Limit(SegmentError::BoundaryNotAPowerOfTwo { boundary }) => {
                f.write_str("a boundary is a power of two")?;
                match PageSize::from_mask(*boundary).filter(|_| *boundary != 0) {
                    Some(size) => write!(f, ": {:#x}, not the mask {boundary:#x}", size.bytes()),
                    None if *boundary == u64::MAX => {
                        write!(f, "; the mask {boundary:#x} is that of none: leave it out")
                    }
                    None => write!(f, ", not {boundary:#x}"),
                }
            }
            Self::Limit(error) => error.fmt(f),
            Self::Blocks(error) => error.fmt(f),
            Self::TooManyEntries { needed, max, .. } => {
                write!(f, "{needed} are needed, at most {max} are listed (--max-entries)")
            }
        }
    }
}
