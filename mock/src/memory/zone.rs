// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Zone`]: what frames are good for, and which of them are free.
#![forbid(unsafe_code)]

use super::fragmentation::Fragmentation;
use super::frame::Frame;
use super::sparse::Sparse;
use pinned_sgl::{MemoryKind, ProviderId};
use std::collections::BTreeMap;

/// What frames are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Zone {
    /// For everything: the only zone in which pages may be pinned for long.
    #[default]
    Normal,
    /// For pages that can be moved, so that the memory can be unplugged.
    Movable,
    /// For pages that can be moved, so that a driver finds contiguous memory there.
    Cma,
    /// The memory of a device, from one provider.
    Device(ProviderId),
}

impl Zone {
    /// What its pages are made of.
    #[must_use]
    pub const fn kind(self) -> MemoryKind {
        match self {
            Self::Device(provider) => MemoryKind::Device(provider),
            Self::Normal | Self::Movable | Self::Cma => MemoryKind::Ram,
        }
    }

    /// Whether pages leave it before they are pinned for long.
    pub(super) const fn is_left_for_long_pins(self) -> bool {
        matches!(self, Self::Movable | Self::Cma)
    }
}

/// The frames of a zone, or of a part of it.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) zone: Zone,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) frames: Sparse<Frame>,
}

/// Which of the frames are free; guarded by the lock of the memory.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) free: u64,
    /// For each order, the place at which the search goes on.
    cursors: BTreeMap<u32, u64>,
}

impl Frames {
    pub(super) fn new(zone: Zone, start: u64, end: u64) -> (Self, Pool) {
        let frames = Sparse::new(start, end);
        let pool = Pool { free: end.saturating_sub(start), cursors: BTreeMap::new() };
        (Self { zone, start, end, frames }, pool)
    }

    /// Takes a free folio; its first frame.
    pub(super) fn take(&self, pool: &mut Pool, order: u32, by: Fragmentation) -> Option<u64> {
        let pages = 1u64.checked_shl(order)?;
        let first = self.start.checked_add(pages - 1)? >> order;
        let blocks = (self.end >> order).checked_sub(first)?;
        let places = by.places(blocks, order);
        let cursor = *pool.cursors.entry(order).or_default();
        let (head, place) = (cursor..places).chain(0..cursor).find_map(|place| {
            let block = first.checked_add(by.block(place, blocks, order)?)?;
            Some((self.take_at(pool, block << order, order)?, place))
        })?;
        pool.cursors.insert(order, place.saturating_add(1));
        Some(head)
    }

    /// Takes this very folio, if all of its frames are free.
    pub(super) fn take_at(&self, pool: &mut Pool, head: u64, order: u32) -> Option<u64> {
        let pages = 1u64.checked_shl(order)?;
        let free = pool.free.checked_sub(pages)?;
        let end = head.saturating_add(pages);
        if !self.frames.made_in(head, end).all(|(_, frame)| frame.is_free()) {
            return None;
        }
        pool.free = free;
        for pfn in head..end {
            self.frames.get(pfn)?.take(order);
        }
        self.frames.get(head)?.thaw();
        Some(head)
    }

    /// Makes the frames of a folio free, which is frozen; how many there are.
    pub(super) fn give_back(&self, pool: &mut Pool, head: u64) -> u64 {
        let Some(frame) = self.frames.peek(head) else { return 0 };
        let pages = 1u64.checked_shl(frame.order()).unwrap_or(0);
        for (_, frame) in self.frames.made_in(head, head.saturating_add(pages)) {
            frame.give_back();
        }
        pool.free = pool.free.saturating_add(pages);
        pages
    }
}
