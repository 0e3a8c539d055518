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
    pub(crate) fn all(
        runs: impl Iterator<Item = Segment> + Clone,
        height: Range<f64>,
    ) -> Vec<Self> {
        let covered = runs.map(|run| run.phys.get()..run.phys.get().saturating_add(run.len));
        let start = covered.clone().map(|part| part.start).min().unwrap_or_default();
        let end = covered.clone().map(|part| part.end).max().unwrap_or_default();
        let mut drawn = end - start;
        let with_gap = |span: Range<u64>| (widest_gap(covered.clone(), &span), span);
        let mut spans = vec![with_gap(start..end)];
        while spans.len() < MOST_BANDS {
            let size = |gap: &Range<u64>| gap.end - gap.start;
            let by_size = |(_, (gap, _)): &(_, &(Range<u64>, _))| (size(gap), gap.start);
            let widest = spans.iter().enumerate().max_by_key(by_size);
            let (index, cut) = widest.map_or((0, 0), |(index, (gap, _))| (index, size(gap)));
            if cut == 0 || cut < drawn / 6 {
                break;
            }
            drawn -= cut;
            let (gap, span) = spans.remove(index);
            spans.insert(index, with_gap(gap.end..span.end));
            spans.insert(index, with_gap(span.start..gap.start));
        }

        // Each has room for a label; what is left is shared by size.
        let room = height.end - height.start - BREAK * (spans.len() - 1) as f64;
        let shared = room - LEAST * spans.len() as f64;
        let mut bottom = height.end;
        let place = |(_, Range { start, end }): (_, Range<u64>)| {
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

/// The widest gap in `span`, between parts of it that are covered, if that is wider than a small
/// part of the span; otherwise perhaps another one. There may be millions of parts, in any order,
/// so what is kept of them is where the first begins and the last ends in each of a few cells.
fn widest_gap(covered: impl Iterator<Item = Range<u64>>, span: &Range<u64>) -> Range<u64> {
    const CELLS: u64 = 1 << 12;
    let cell = (span.end - span.start).div_ceil(CELLS).max(1);
    let mut cells = vec![(u64::MAX, 0); CELLS as usize];
    for part in covered.filter(|part| span.contains(&part.start)) {
        let mut from = part.start;
        while from < part.end {
            let index = (from - span.start) / cell;
            let to = part.end.min(span.start + (index + 1) * cell);
            let (first, last) = &mut cells[index as usize];
            (*first, *last) = (from.min(*first), to.max(*last));
            from = to;
        }
    }
    let mut widest = span.start..span.start;
    let mut end = span.start;
    for (first, last) in cells.into_iter().filter(|(first, last)| first < last) {
        if first - end > widest.end - widest.start {
            widest = end..first;
        }
        end = last;
    }
    widest
}
