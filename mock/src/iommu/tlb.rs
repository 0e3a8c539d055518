// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Tlb`]: what the hardware remembers of a page table, until it is made to forget it.
//!
//! It is a device's worst case: an entry stays until it is flushed, or until newer ones push it out
//! where the number of entries is limited. Nothing else takes it away, least of all a change of the
//! page table.
#![forbid(unsafe_code)]

use crate::memory::Block;
use pinned_sgl::iommu::{IovaRange, Prot};
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};
use std::collections::BTreeMap;
use std::ops::Range;

pub(super) struct Tlb {
    /// What is remembered of the pages of each size, by the first address of a page. Pages of
    /// different sizes may overlap here, although they never did in the page table at one time.
    sizes: Vec<(PageSize, BTreeMap<Iova, Page>)>,
    /// All entries, the oldest first.
    by_age: BTreeMap<u64, (PageSize, Iova)>,
    next_age: u64,
    capacity: Option<usize>,
    /// What was unmapped and not flushed: hardware may remember it, whether or not it stands above.
    unflushed: Vec<Extent>,
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
    /// Whether the entry is known to say that the page was written: it is not written again then.
    pub(super) dirty: bool,
}

/// An entry that translates an address.
pub(super) struct Hit<'a> {
    pub(super) size: PageSize,
    pub(super) cached: &'a mut Cached,
}

/// Pages of one size that follow each other, in the addresses of the device and in memory.
struct Extent {
    first: Block,
    count: u64,
}

impl Extent {
    /// Some of its pages.
    fn blocks(&self, indices: Range<u64>) -> impl Iterator<Item = Block> {
        let Block { size, iova, phys } = self.first;
        indices.map_while(move |index| {
            let offset = index.checked_mul(size.bytes())?;
            Some(Block { size, iova: iova.checked_add(offset)?, phys: phys.checked_add(offset)? })
        })
    }

    /// Whether a page follows the last one.
    fn ends_at(&self, block: Block) -> bool {
        block.size == self.first.size && self.blocks(self.count..u64::MAX).next() == Some(block)
    }

    /// Which of its pages have all of their addresses in `range`.
    fn inside(&self, range: IovaRange) -> Range<u64> {
        let Block { size, iova, .. } = self.first;
        let count = |bytes: u64| bytes >> size.shift();
        let before = range.first().checked_offset_from(iova).unwrap_or(0);
        let first = count(before).saturating_add(u64::from(before & size.mask() != 0));
        let last = range.last().checked_offset_from(iova);
        let last = last.and_then(|last| last.checked_sub(size.mask())).map(count);
        let end = last.map_or(0, |last| last.saturating_add(1)).min(self.count);
        first.min(end)..end
    }
}

impl Tlb {
    /// A cache of at most `capacity` entries, or of any number of them.
    pub(super) fn new(sizes: PageSizes, capacity: Option<usize>) -> Self {
        Self {
            sizes: sizes.sizes().map(|size| (size, BTreeMap::new())).collect(),
            by_age: BTreeMap::new(),
            next_age: 0,
            capacity,
            unflushed: Vec::new(),
        }
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
            self.next_age = age + 1;
            pages.insert(first, Page { cached, age });
            self.by_age.insert(age, (size, first));
        }
    }

    /// Says that a page was unmapped.
    pub(super) fn unmap(&mut self, block: Block) {
        match self.unflushed.last_mut() {
            Some(last) if last.ends_at(block) => last.count = last.count.saturating_add(1),
            _ => self.unflushed.push(Extent { first: block, count: 1 }),
        }
    }

    /// The pages that were unmapped and not flushed.
    pub(super) fn unflushed(&self) -> impl Iterator<Item = Block> + '_ {
        self.unflushed.iter().flat_map(|extent| extent.blocks(0..extent.count))
    }

    /// Forgets all pages that have an address of `range`. Calls `flushed` for each of those that were
    /// unmapped, and of which all addresses are flushed now: no hardware remembers it.
    pub(super) fn flush(&mut self, range: IovaRange, mut flushed: impl FnMut(Block)) {
        for extent in std::mem::take(&mut self.unflushed) {
            let inside = extent.inside(range);
            extent.blocks(inside.clone()).for_each(&mut flushed);
            for rest in [0..inside.start, inside.end..extent.count] {
                let count = rest.end.saturating_sub(rest.start);
                let first = extent.blocks(rest).next();
                self.unflushed.extend(first.map(|first| Extent { first, count }));
            }
        }
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
}
