// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Tlb`]: what the hardware remembers of a page table, until it is told to forget it.
//!
//! It is a device's worst case: an entry stays until it is flushed, or until newer ones push it out
//! where the number of entries is limited. Nothing else takes it away, least of all a change of the
//! page table.
#![forbid(unsafe_code)]

use crate::addr::{Iova, PhysAddr};
use crate::iommu::{IovaRange, Prot};
use crate::page_size::{PageSize, PageSizes};
use std::{collections::BTreeMap, vec::Vec};

pub(super) struct Tlb {
    /// What is remembered of the pages of each size, by the first address of a page. Pages of
    /// different sizes may overlap here, although they never did in the page table at one time.
    sizes: Vec<(PageSize, BTreeMap<Iova, Page>)>,
    /// All entries, the oldest first.
    by_age: BTreeMap<u64, (PageSize, Iova)>,
    next_age: u64,
    capacity: Option<usize>,
}

struct Page {
    cached: Cached,
    age: u64,
}

/// A page table entry as it was when it was walked.
#[derive(Clone, Copy)]
pub(super) struct Cached {
    pub(super) phys: PhysAddr,
    pub(super) prot: Prot,
    /// Whether the entry is known to say that the page was written: it is not told again then.
    pub(super) dirty: bool,
}

/// An entry that translates an address.
pub(super) struct Hit<'a> {
    pub(super) size: PageSize,
    pub(super) cached: &'a mut Cached,
}

impl Tlb {
    /// A cache of at most `capacity` entries, or of any number of them.
    pub(super) fn new(sizes: PageSizes, capacity: Option<usize>) -> Self {
        let sizes = sizes.sizes().map(|size| (size, BTreeMap::new())).collect();
        Self { sizes, by_age: BTreeMap::new(), next_age: 0, capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(super) fn find(&mut self, iova: Iova) -> Option<Hit<'_>> {
        self.sizes.iter_mut().find_map(|(size, pages)| {
            let first = iova.align_down(*size);
            Some(Hit { size: *size, cached: &mut pages.get_mut(&first)?.cached })
        })
    }

    /// Remembers a page that was not found here.
    pub(super) fn insert(&mut self, first: Iova, size: PageSize, cached: Cached) {
        if self.capacity == Some(0) {
            return;
        }
        while self.capacity.is_some_and(|most| self.by_age.len() >= most) {
            let Some((_, (size, first))) = self.by_age.pop_first() else {
                break;
            };
            if let Some((_, pages)) = self.sizes.iter_mut().find(|(of, _)| *of == size) {
                pages.remove(&first);
            }
        }
        if let Some((_, pages)) = self.sizes.iter_mut().find(|(of, _)| *of == size) {
            let age = self.next_age;
            self.next_age = age.wrapping_add(1);
            pages.insert(first, Page { cached, age });
            self.by_age.insert(age, (size, first));
        }
    }

    /// Forgets all pages that have an address of `range`.
    pub(super) fn flush(&mut self, range: IovaRange) {
        for (size, pages) in &mut self.sizes {
            // The pages of one size that a range touches follow each other.
            let touched = range.first().align_down(*size)..=range.last();
            let gone: Vec<_> =
                pages.range(touched).map(|(first, page)| (*first, page.age)).collect();
            for (first, age) in gone {
                pages.remove(&first);
                self.by_age.remove(&age);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn flush_all(&mut self) {
        self.flush(IovaRange::ALL);
    }
}
