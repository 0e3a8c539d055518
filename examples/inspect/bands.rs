// SPDX-License-Identifier: MIT OR Apache-2.0
//! The axis of physical addresses, broken where the buffer has no memory for long.

use pinned_sgl::Segment;
use std::ops::Range;

/// Between two pieces of a broken axis.
const BREAK: f64 = 22.0;
/// Between the frame of a band and the memory in it.
const PAD: f64 = 4.0;
/// The height of a band, however little memory it has: room for a label.
const LEAST: f64 = 30.0;
const MOST_BANDS: usize = 6;

/// A stretch of physical memory that is drawn to one scale.
#[derive(Clone, Copy)]
pub(crate) struct Band {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

impl Band {
    /// Cuts physical memory where the buffer has none for long: again and again at the widest gap,
    /// as long as that takes up much of what would be drawn. The bands fill `height`, the lowest
    /// addresses at its end.
    pub(crate) fn all(runs: &[Segment], height: Range<f64>) -> Vec<Self> {
        let mut covered: Vec<(u64, u64)> = runs
            .iter()
            .map(|run| (run.phys.get(), run.phys.get().saturating_add(run.len)))
            .collect();
        covered.sort_unstable();
        let mut gaps = Vec::new();
        let (start, mut end) = covered.first().copied().unwrap_or_default();
        for (from, to) in covered {
            if from > end {
                gaps.push((from - end, end, from));
            }
            end = end.max(to);
        }
        gaps.sort_unstable();
        let mut drawn = end - start;
        let mut cuts = Vec::new();
        while let Some((gap, below, above)) = gaps.pop() {
            if gap < drawn / 6 || cuts.len() + 1 == MOST_BANDS {
                break;
            }
            drawn -= gap;
            cuts.push((below, above));
        }
        cuts.sort_unstable();
        let starts = std::iter::once(start).chain(cuts.iter().map(|cut| cut.1));
        let ends = cuts.iter().map(|cut| cut.0).chain([end]);
        let spans: Vec<(u64, u64)> = starts.zip(ends).collect();

        // Each has room for a label; what is left is shared by size.
        let room = height.end - height.start - BREAK * cuts.len() as f64;
        let shared = room - LEAST * spans.len() as f64;
        let mut bottom = height.end;
        let place = |(start, end): (u64, u64)| {
            let top = bottom - LEAST - shared * (end - start) as f64 / drawn.max(1) as f64;
            let band = Self { start, end, top, bottom };
            bottom = top - BREAK;
            band
        };
        spans.into_iter().map(place).collect()
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    pub(crate) fn y_of(&self, address: u64) -> f64 {
        let share = (address - self.start) as f64 / (self.end - self.start) as f64;
        self.bottom - PAD - share * (self.bottom - self.top - 2.0 * PAD)
    }
}
