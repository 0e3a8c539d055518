// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: one entry a page, or one entry an atom.
//!
//! An *atom* is the step in which an oracle walks over a window. With atoms of one byte each oracle
//! is the definition; larger atoms, which must divide every number of a case, only make it quick.

use super::alloc::vec::Vec;
use pinned_sgl::{MemoryKind, PageRun, PageSize, PageSizes, Pfn};

/// One page.
pub type Page = (u64, MemoryKind);

/// IOVA, physical address, page size, count and kind.
pub type PlainTile = (u64, u64, PageSize, u64, MemoryKind);

/// One page an entry.
pub fn pages(runs: &[PageRun]) -> Vec<Page> {
    let pages = |run: &PageRun| {
        let kind = run.kind();
        (run.start().get()..run.end().get()).map(move |pfn| (pfn, kind))
    };
    runs.iter().flat_map(pages).collect()
}

/// The maximal runs: a page starts one unless it continues the page before it.
pub fn maximal_runs(pages: &[Page]) -> Vec<PageRun> {
    let mut runs: Vec<(u64, u64, MemoryKind)> = Vec::new();
    for (index, &(pfn, kind)) in pages.iter().enumerate() {
        let continues = index > 0 && pages[index - 1] == (pfn.wrapping_sub(1), kind);
        match runs.last_mut() {
            Some(last) if continues => last.1 += 1,
            _ => runs.push((pfn, 1, kind)),
        }
    }
    runs.into_iter().map(|(pfn, n, kind)| PageRun::new(Pfn::new(pfn), n, kind).unwrap()).collect()
}

/// The maximal runs of runs that are too long to be looked at page by page.
pub fn joined(runs: &[PageRun]) -> Vec<PageRun> {
    let mut joined: Vec<PageRun> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last)
                if last.start().get() + last.count() == run.start().get()
                    && last.kind() == run.kind() =>
            {
                *last = PageRun::new(last.start(), last.count() + run.count(), run.kind()).unwrap();
            }
            _ => joined.push(*run),
        }
    }
    joined
}

/// An atom: its physical address, what it is made of, and its IOVA where a case has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atom {
    pub phys: u64,
    pub kind: MemoryKind,
    pub iova: u64,
}

/// A window as atoms.
#[derive(Clone, Debug)]
pub struct Atoms {
    pub atoms: Vec<Atom>,
    pub step: u64,
}

/// More atoms than this take too long for a case.
pub const MOST_ATOMS: u64 = 1 << 11;

impl Atoms {
    /// The window of `len` bytes from `offset` on, in the largest steps that divide all of
    /// `numbers`; `None` if these would be too many.
    pub fn of(
        pages: &[Page],
        page: PageSize,
        offset: u64,
        len: u64,
        iova: u64,
        numbers: &[u64],
    ) -> Option<Self> {
        let all = numbers.iter().fold(page.bytes() | offset | len | iova, |all, n| all | n);
        let step = 1u64 << all.trailing_zeros();
        if len / step > MOST_ATOMS {
            return None;
        }
        let atom = |index: u64| {
            let at = offset + index * step;
            let (pfn, kind) = pages[(at / page.bytes()) as usize];
            let phys = pfn * page.bytes() + at % page.bytes();
            Atom { phys, kind, iova: iova + index * step }
        };
        Some(Self { atoms: (0..len / step).map(atom).collect(), step })
    }

    /// Whether atom `index` continues the atom before it in memory.
    pub fn continues(&self, index: usize) -> bool {
        let (a, b) = (self.atoms[index - 1], self.atoms[index]);
        a.phys.checked_add(self.step) == Some(b.phys) && a.kind == b.kind
    }

    /// How many bytes from atom `index` on are contiguous.
    pub fn contiguous_from(&self, index: usize) -> u64 {
        let more = (index + 1..self.atoms.len()).take_while(|&next| self.continues(next)).count();
        (more as u64 + 1) * self.step
    }

    /// Segments: each goes on as far as the memory does, up to a multiple of the boundary or the
    /// greatest length; where the length alone ends it, it ends at the last multiple of the granularity.
    pub fn segments(
        &self,
        max_len: Option<u64>,
        boundary: Option<u64>,
        granularity: u64,
    ) -> Vec<(u64, u64, MemoryKind)> {
        let goes_on = |index: usize| {
            let atom = self.atoms.get(index);
            let at_boundary = |phys| boundary.is_some_and(|boundary| phys % boundary == 0);
            atom.is_some_and(|atom| self.continues(index) && !at_boundary(atom.phys))
        };
        let mut segments = Vec::new();
        let mut first = 0;
        while let Some(atom) = self.atoms.get(first) {
            let mut end = first + 1;
            while goes_on(end) && max_len != Some((end - first) as u64 * self.step) {
                end += 1;
            }
            while goes_on(end) && self.atoms[end].phys % granularity != 0 {
                end -= 1;
            }
            segments.push((atom.phys, (end - first) as u64 * self.step, atom.kind));
            first = end;
        }
        segments
    }

    /// Whether blocks of `size` hold the window: every atom agrees with memory in its address
    /// inside a block, and the atoms of one block are contiguous.
    pub fn is_feasible(&self, size: PageSize) -> bool {
        let inside = |address: u64| address % size.bytes();
        self.atoms.iter().enumerate().all(|(index, atom)| {
            let same_block =
                index > 0 && self.atoms[index - 1].iova / size.bytes() == atom.iova / size.bytes();
            inside(atom.phys) == inside(atom.iova) && (!same_block || self.continues(index))
        })
    }

    /// The largest feasible size, leaving those alone that are larger than the smallest size of
    /// which one block would cover the window.
    pub fn best_page_size(&self, sizes: PageSizes) -> Option<PageSize> {
        let first = self.atoms[0].iova;
        let last = self.atoms[self.atoms.len() - 1].iova + (self.step - 1);
        let mut best = None;
        for size in sizes.sizes() {
            if self.is_feasible(size) {
                best = Some(size);
            }
            if first / size.bytes() == last / size.bytes() {
                break;
            }
        }
        best
    }

    /// The blocks of a feasible size: for each, the address at which it begins in memory.
    pub fn blocks(&self, size: PageSize) -> Vec<u64> {
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for atom in &self.atoms {
            let mut block = atom.iova - atom.iova % size.bytes();
            let end = atom.iova + (self.step - 1);
            // Blocks smaller than an atom: all that lie in it.
            loop {
                if blocks.last().is_none_or(|last| last.0 != block) {
                    blocks.push((block, atom.phys.wrapping_add(block.wrapping_sub(atom.iova))));
                }
                match block.checked_add(size.bytes()) {
                    Some(next) if next <= end => block = next,
                    _ => break,
                }
            }
        }
        blocks.into_iter().map(|(_, phys)| phys).collect()
    }

    /// The largest size that divides both addresses of atom `index` and fits in its run.
    fn usable(&self, index: usize, sizes: PageSizes) -> Option<PageSize> {
        let (atom, left) = (self.atoms[index], self.contiguous_from(index));
        let fits = |size: &PageSize| {
            let bytes = size.bytes();
            atom.iova % bytes == 0 && atom.phys % bytes == 0 && bytes <= left
        };
        sizes.sizes().filter(fits).last()
    }

    /// Tiles: the largest usable size, page after page, until the run has no room for another or
    /// a larger size becomes usable. `None` where the window cannot be tiled.
    pub fn tiles(&self, sizes: PageSizes) -> Option<Vec<PlainTile>> {
        let mut tiles = Vec::new();
        let mut index = 0;
        while index < self.atoms.len() {
            let size = self.usable(index, sizes)?;
            let atom = self.atoms[index];
            // A size below the step divides every number of the case, so no larger one comes up
            // between two atoms.
            let pages_a_step = (self.step / size.bytes()).max(1);
            let steps_a_page = (size.bytes() / self.step).max(1) as usize;
            let mut count = 0;
            loop {
                count += pages_a_step;
                index += steps_a_page;
                let goes_on = index < self.atoms.len()
                    && self.continues(index)
                    && self.usable(index, sizes) == Some(size);
                if !goes_on {
                    break;
                }
            }
            tiles.push((atom.iova, atom.phys, size, count, atom.kind));
        }
        Some(tiles)
    }
}
