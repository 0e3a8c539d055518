// SPDX-License-Identifier: MIT OR Apache-2.0
//! What address spaces should be: lists, searched from the front.

use pinned_sgl::iommu::{IovaRange, Prot};
use pinned_sgl::{Iova, PageSize};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Mapped { region: usize, offset: u64, prot: Prot },
    Reserved,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vma {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) kind: Kind,
}

impl Vma {
    pub(super) const fn is_mapped(&self) -> bool {
        matches!(self.kind, Kind::Mapped { .. })
    }

    pub(super) const fn has(&self, iova: u64) -> bool {
        self.first <= iova && iova <= self.last
    }

    pub(super) const fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }

    /// The part of it in a range that it overlaps.
    pub(super) fn within(&self, first: u64, last: u64) -> Self {
        let (from, to) = (self.first.max(first), self.last.min(last));
        let kind = match self.kind {
            Kind::Mapped { region, offset, prot } => {
                Kind::Mapped { region, offset: offset + (from - self.first), prot }
            }
            Kind::Reserved => Kind::Reserved,
        };
        Self { first: from, last: to, kind }
    }
}

/// What an address space should be.
#[derive(Clone)]
pub(super) struct Space {
    /// In no order.
    pub(super) areas: Vec<Vma>,
    /// The latest first.
    pub(super) domains: Vec<usize>,
    pub(super) limit: usize,
    /// What is mapped and cut where there is no domain.
    pub(super) granule: PageSize,
    /// Whether it is noted what is written.
    pub(super) notes: bool,
    /// What was written by the CPU, or through a domain that is detached.
    pub(super) kept: Dirty,
    /// Whether a domain could not say what was written through it: then too much is kept.
    pub(super) too_much: bool,
}

impl Space {
    pub(super) fn new(granule: PageSize) -> Self {
        Self {
            areas: vec![],
            domains: vec![],
            limit: usize::MAX,
            granule,
            notes: false,
            kept: Dirty::default(),
            too_much: false,
        }
    }

    pub(super) fn mappings(&self) -> usize {
        self.areas.iter().filter(|area| area.is_mapped()).count()
    }

    fn at(&self, iova: u64) -> Option<Vma> {
        self.areas.iter().copied().find(|area| area.has(iova))
    }

    pub(super) fn mapped_at(&self, iova: u64) -> Option<Vma> {
        self.at(iova).filter(Vma::is_mapped)
    }

    pub(super) fn in_range(&self, range: IovaRange) -> Vec<Vma> {
        let (first, last) = (range.first().get(), range.last().get());
        let mut areas = self.areas.clone();
        areas.retain(|area| area.overlaps(first, last));
        areas.sort_by_key(|area| area.first);
        areas
    }

    /// The unused addresses of a range.
    pub(super) fn gaps(&self, range: IovaRange) -> Vec<(u64, u64)> {
        let mut gaps = vec![];
        let mut next = Some(range.first().get());
        for area in self.in_range(range) {
            if let Some(from) = next.filter(|next| *next < area.first) {
                gaps.push((from, area.first - 1));
            }
            next = area.last.checked_add(1);
        }
        gaps.extend(next.filter(|n| *n <= range.last().get()).map(|n| (n, range.last().get())));
        gaps
    }

    /// The first address of a range where nothing is mapped.
    pub(super) fn first_hole(&self, range: IovaRange) -> Option<u64> {
        let mut next = range.first().get();
        loop {
            let Some(area) = self.mapped_at(next) else {
                return Some(next);
            };
            if area.last >= range.last().get() {
                return None;
            }
            next = area.last + 1;
        }
    }

    pub(super) fn cut(&mut self, iova: u64) {
        for index in 0..self.areas.len() {
            let area = self.areas[index];
            if area.is_mapped() && area.first < iova && iova <= area.last {
                self.areas[index] = area.within(area.first, iova - 1);
                self.areas.push(area.within(iova, area.last));
            }
        }
    }
}

/// What a domain knows of the writes of devices.
#[derive(Clone, Default)]
pub(super) struct Dirty {
    pub(super) tracks: bool,
    pub(super) written: Vec<(u64, u64)>,
}

impl Dirty {
    pub(super) fn has(&self, first: u64, last: u64) -> bool {
        self.written.iter().any(|(from, to)| *from <= last && first <= *to)
    }

    pub(super) fn subtract(&mut self, first: u64, last: u64) {
        let mut left = vec![];
        for (from, to) in self.written.drain(..) {
            if to < first || last < from {
                left.push((from, to));
                continue;
            }
            if from < first {
                left.push((from, first - 1));
            }
            if last < to {
                left.push((last + 1, to));
            }
        }
        self.written = left;
    }
}

pub(super) fn inclusive(first: u64, last: u64) -> IovaRange {
    IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap()
}
