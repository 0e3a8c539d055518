// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Readback`]: what a domain maps, as maximal runs, read out of its page table.
//!
//! For callers that store no list. It costs a walk of the page table for each entry, which is what a
//! list saves.
#![forbid(unsafe_code)]

use super::domain::ReadDomain;
use crate::addr::{Iova, PhysAddr};
use crate::iova_range::IovaRange;
use crate::sgl::{MemoryKind, Segment};
use core::iter::FusedIterator;

/// The memory behind a range of addresses of a domain, as segments that are as long as can be.
///
/// It ends where the range ends, or at the first address that is not mapped: see
/// [`next_iova`](Self::next_iova). A page table does not know kinds of memory: all is reported as RAM.
#[derive(Debug)]
#[must_use = "iterators do nothing unless they are walked"]
pub struct Readback<'a, D: ?Sized> {
    domain: &'a D,
    /// What is still to be read.
    rest: Option<IovaRange>,
}

impl<'a, D: ReadDomain + ?Sized> Readback<'a, D> {
    /// Reads `range` of `domain`.
    pub const fn new(domain: &'a D, range: IovaRange) -> Self {
        Self { domain, rest: Some(range) }
    }

    /// The address that is read next; `None` at the end of the range.
    #[must_use]
    pub fn next_iova(&self) -> Option<Iova> {
        self.rest.map(|rest| rest.first())
    }

    /// The entry at the next address, clipped to the range.
    fn entry(&self) -> Option<(PhysAddr, u64)> {
        let rest = self.rest?;
        let entry = self.domain.read(rest.first())?;
        let len = entry.len.min(rest.len().unwrap_or(u64::MAX));
        // An entry of no bytes would never end, and one whose last byte has no address is none.
        entry.phys.checked_add(len.checked_sub(1)?)?;
        Some((entry.phys, len))
    }

    fn advance(&mut self, bytes: u64) {
        self.rest = self.rest.and_then(|rest| {
            IovaRange::inclusive(rest.first().checked_add(bytes)?, rest.last()).ok()
        });
    }
}

impl<D: ReadDomain + ?Sized> Iterator for Readback<'_, D> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let (phys, mut len) = self.entry()?;
        self.advance(len);
        while let Some((next, more)) = self.entry() {
            let longer = len.checked_add(more).filter(|_| phys.checked_add(len) == Some(next));
            let Some(longer) = longer else {
                break;
            };
            len = longer;
            self.advance(more);
        }
        Some(Segment::new(phys, len, MemoryKind::Ram))
    }
}

impl<D: ReadDomain + ?Sized> FusedIterator for Readback<'_, D> {}
