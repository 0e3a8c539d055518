// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the cells of a directory are laid, and what is written of each.
//!
//! Cells are few where leaves are, and small where groups are many; where most of the large runs have a size
//! of their own, as huge pages have, cells are as small and have the same borders.
#![forbid(unsafe_code)]

use super::Leaves;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::directory::{self, Directory, Place, ENTRY};
use crate::sgl::packed::{self, mask, Group, LARGE_LOG2};
use crate::store::{AllocError, Storage};
use core::ops::Range;

/// A search in so few leaves is as good as a directory.
const FEW_LEAVES: usize = 4;
/// So many entries are found together.
const SOME: usize = 32;

/// A group, and where the next one is.
struct Span {
    place: Place,
    /// How many runs it has.
    count: usize,
    /// Its first page, and the one behind its last.
    begin: u64,
    end: u64,
    next: Place,
}

impl Span {
    fn pages(&self) -> u64 {
        self.end.minus(self.begin)
    }
}

/// Entries that name a group.
struct Names {
    /// That of each cell but the last.
    each: u32,
    last: u32,
    /// The byte of the group, if the last cell goes on in the next leaf.
    open: Option<usize>,
}

/// The item of which there are more than of all others together, if there is one; another one if not.
fn majority<T: PartialEq>(items: impl Iterator<Item = T>) -> Option<T> {
    // The vote of Boyer and Moore.
    let (mut most, mut votes) = (None, 0u64);
    for item in items {
        if votes == 0 {
            (most, votes) = (Some(item), 1);
        } else if most.as_ref() == Some(&item) {
            votes = votes.plus(1);
        } else {
            votes = votes.minus(1);
        }
    }
    most
}

impl<S: Storage> Leaves<S> {
    /// Adds the directory of a list of `pages` pages, which gets no further leaf.
    ///
    /// If there is no memory, nothing has changed; nor if the storage unwinds.
    pub(in crate::sgl) fn add_directory(
        &mut self,
        pages: u64,
        page: PageSize,
    ) -> Result<(), AllocError> {
        if self.count() <= FEW_LEAVES {
            return Ok(());
        }
        let directory = self.layout(pages, page);
        let mut added = Added { storage: &mut self.storage, pieces: 0 };
        for bytes in directory.pieces(Self::PIECE_LOG2) {
            added.grow(bytes)?;
        }
        added.keep();
        self.write(directory, pages);
        self.directory = directory;
        Ok(())
    }

    /// How the directory of a list of `pages` pages is divided. O(groups).
    fn layout(&self, pages: u64, page: PageSize) -> Directory {
        let leaves = self.count();
        let groups = (0..leaves).map(|leaf| packed::groups(self.leaf(leaf)));
        let groups = groups.fold(0usize, |sum, groups| sum.plus(groups));
        // Two cells for a group that fills a leaf, four for others; an eighth of the leaves at most.
        let eighth = leaves.times((S::PIECE_BYTES >> 3) >> ENTRY.trailing_zeros());
        let most = groups.times(4).saturating_sub(leaves.times(2)).min(eighth);
        let directory = Directory::new(pages, page.shift(), leaves, most);
        if directory.is_none() {
            return directory;
        }
        let mut highest = 0u64;
        let large = self.large(pages).map(|(group, start, begin)| {
            highest = highest.max(group.highest_start());
            let log2 = group.granularity();
            (log2, start.wrapping_sub(begin) & mask(log2))
        });
        let Some((log2, distance)) = majority(large) else {
            return directory;
        };
        // Half of the leaves at most.
        let directory = directory.of_cells(pages, log2, eighth.times(4));
        directory.aligned(pages, distance, highest.plus(directory.cell_pages()))
    }

    /// The groups of large runs, of the same granularity in the list and in memory: where each starts, and the
    /// first of its pages. O(groups).
    fn large(&self, pages: u64) -> impl Iterator<Item = (Group, u64, u64)> + '_ {
        let next = move |span: &Span| self.span(span.next, pages);
        let spans = core::iter::successors(self.span(Place::FIRST, pages), next);
        let large = spans.filter(|span| span.pages().shifted_down(LARGE_LOG2) >= span.count as u64);
        large.filter_map(|span| {
            let leaf = self.leaf(span.place.leaf);
            let group = packed::group(leaf, span.place.group);
            (group.granularity() >= LARGE_LOG2).then(|| (group, group.start(leaf, 0), span.begin))
        })
    }

    /// The group at `place`, in a list of `pages` pages; `None` behind the last.
    #[inline]
    fn span(&self, mut place: Place, pages: u64) -> Option<Span> {
        let mut leaf_first = self.first_page(place.leaf)?;
        // The first leaf is small, and may have had no room.
        while packed::groups(self.leaf(place.leaf)) == 0 {
            place.leaf = place.leaf.plus(1);
            leaf_first = self.first_page(place.leaf)?;
        }
        let leaf = self.leaf(place.leaf);
        let (first, count) = packed::group_span(leaf, place.group)?;
        let behind = place.group.plus(1);
        let (end, next) = match packed::group_first(leaf, behind) {
            Some(end) => (leaf_first.plus(end), Place { group: behind, ..place }),
            None => {
                let next = place.leaf.plus(1);
                (self.first_page(next).unwrap_or(pages), Place { leaf: next, group: 0 })
            }
        };
        Some(Span { place, count, begin: leaf_first.plus(first), end, next })
    }

    /// Writes the entries of all cells of a directory, and its marks.
    fn write(&mut self, directory: Directory, pages: u64) {
        let (mut cell, mut place) = (0usize, Place::FIRST);
        while let Some(span) = self.span(place, pages) {
            let end = directory.begun_by(span.end.minus(1));
            let group = packed::group(self.leaf(span.place.leaf), span.place.group);
            let Names { each, last, open } = self.names(directory, &span, &group, pages, end);
            if let Some(at) = open {
                packed::open(self.leaf_mut(span.place.leaf), at);
            }
            let has_addresses = directory.is_worth(span.count, span.pages());
            let mut at = (0usize, 0u64);
            while cell < end {
                let cells = cell..end.min(cell.plus(SOME));
                let mut some = [each; SOME];
                let some = some.get_mut(..cells.end.minus(cell)).unwrap_or_default();
                if let (true, Some(entry)) = (cells.end == end, some.last_mut()) {
                    *entry = last;
                }
                if has_addresses {
                    self.put_addresses(
                        directory,
                        (&span, &group),
                        pages,
                        cells.clone(),
                        &mut at,
                        some,
                    );
                }
                self.write_entries(cell, some);
                cell = cells.end;
                for mark in directory.marks_in(cells) {
                    self.write_entries(mark, &[span.place.entry()]);
                }
            }
            place = span.next;
        }
        self.write_entries(cell, &[Place::END.entry()]);
        self.write_entries(directory.mark_behind(), &[Place::END.entry()]);
    }

    /// How a group is named by the cells that begin in it, which end before cell `end`.
    fn names(
        &self,
        directory: Directory,
        span: &Span,
        group: &Group,
        pages: u64,
        end: usize,
    ) -> Names {
        let entry = span.place.entry();
        let names = Names { each: entry, last: entry, open: None };
        let Some(at) = group.direct(span.pages()) else {
            return names;
        };
        let only = span.place.only_entry(at);
        let names = Names { each: only, ..names };
        let last = end.saturating_sub(1);
        if directory.ends_by(last, span.end, pages) {
            return Names { last: only, ..names };
        }
        // The rest of the last cell may be the first group of the next leaf.
        let next = self.span(span.next, pages);
        let next = next.filter(|next| next.place.leaf == span.place.leaf.plus(1));
        match next {
            Some(next) if self.is_direct(&next) && directory.ends_by(last, next.end, pages) => {
                Names { last: only, open: Some(at), ..names }
            }
            _ => names,
        }
    }

    /// Whether a group is looked up without its key.
    fn is_direct(&self, span: &Span) -> bool {
        let group = packed::group(self.leaf(span.place.leaf), span.place.group);
        group.direct(span.pages()).is_some()
    }

    /// Puts the addresses of those of some cells that lie in one run each of a group. `at` has the run with
    /// which to go on.
    fn put_addresses(
        &self,
        directory: Directory,
        (span, group): (&Span, &Group),
        pages: u64,
        cells: Range<usize>,
        at: &mut (usize, u64),
        mut entries: &mut [u32],
    ) {
        let leaf = self.leaf(span.place.leaf);
        let mut cell = cells.start;
        for (start, count) in group.runs(leaf, *at, at.1..span.pages()) {
            let end = at.1.plus(count);
            let run = span.begin.plus(at.1)..span.begin.plus(end);
            let begun = directory.begun_by(run.end.minus(1));
            let filled = begun.min(cells.end).saturating_sub(cell);
            let Some((here, behind)) = entries.split_at_mut_checked(filled) else {
                return;
            };
            directory.put_addresses(here, cell, &run, start, pages);
            (cell, entries) = (cell.plus(filled), behind);
            if begun > cells.end {
                return;
            }
            *at = (at.0.plus(1), end);
            if cell == cells.end {
                return;
            }
        }
    }

    /// Writes entries from number `index` on.
    fn write_entries(&mut self, mut index: usize, mut entries: &[u32]) {
        while !entries.is_empty() {
            let (piece, at) = Directory::slot(index, Self::PIECE_LOG2);
            let piece = self.storage.piece_mut(self.outer.plus(piece));
            let count = directory::put(piece.get_mut(at..).unwrap_or_default(), entries);
            if count == 0 {
                return;
            }
            let behind = entries.get(count..).unwrap_or_default();
            (index, entries) = (index.plus(count), behind);
        }
    }
}

/// Pieces that were added to a storage, and are removed again unless they are kept: so that nothing
/// changes where the storage fails or unwinds between two of them.
struct Added<'a, S: Storage> {
    storage: &'a mut S,
    pieces: usize,
}

impl<S: Storage> Added<'_, S> {
    fn grow(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.storage.grow(bytes)?;
        self.pieces = self.pieces.plus(1);
        Ok(())
    }

    fn keep(mut self) {
        self.pieces = 0;
    }
}

impl<S: Storage> Drop for Added<'_, S> {
    fn drop(&mut self) {
        for _ in 0..self.pieces {
            self.storage.shrink();
        }
    }
}
