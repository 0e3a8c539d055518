// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MemoryBuilder`]: what a memory is like.

use super::{Inner, Memory};
use crate::memory::contents::Contents;
use crate::memory::folios::State;
use crate::memory::fragmentation::Fragmentation;
use crate::memory::page_table::MAX_PFN;
use crate::memory::zone::{Frames, Zone};
use crate::plan::Plan;
use crate::sync::{AtomicU64, Mutex, OnceLock};
use crate::witness::Witness;
use pinned_sgl::{PageSize, Pfn};
use std::{fmt, ops::Range, sync::Arc};

/// Where a memory begins unless a test says so: not at zero, which is easily right by chance.
pub(super) const FIRST_PFN: u64 = 0x1000;
/// Frames of one zone: 16 TiB of 4 KiB each.
pub(super) const MAX_FRAMES: u64 = 1 << 32;

/// Describes a [`Memory`].
///
/// ```
/// use pinned_sgl_mock::{Fragmentation, Memory, Zone};
/// use pinned_sgl::PageSize;
/// let memory = Memory::builder()
///     .page_size(PageSize::SIZE_64K)
///     .zone(Zone::Normal, 0x100..0x200)
///     .zone(Zone::Movable, 0x10_0000..0x10_1000)
///     .fragmentation(Fragmentation::Seeded { seed: 7, run_order: 0 })
///     .build()?;
/// assert_eq!(memory.free_frames(Zone::Movable), 0x1000);
/// # Ok::<(), pinned_sgl_mock::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MemoryBuilder {
    page: Option<PageSize>,
    pub(super) zones: Vec<(Zone, Range<u64>)>,
    fragmentation: Fragmentation,
    witness: Witness,
    panics: bool,
    plan: Plan,
}

impl MemoryBuilder {
    /// The size of a frame: 4 KiB unless said otherwise, from 1 KiB to 2 MiB.
    pub fn page_size(mut self, page: PageSize) -> Self {
        self.page = Some(page);
        self
    }

    /// Adds frames, by their numbers. A zone may have several parts.
    pub fn zone(mut self, zone: Zone, frames: Range<u64>) -> Self {
        self.zones.push((zone, frames));
        self
    }

    /// The order in which frames are handed out: ascending unless said otherwise.
    pub fn fragmentation(mut self, fragmentation: Fragmentation) -> Self {
        self.fragmentation = fragmentation;
        self
    }

    /// Where violations are reported: a witness of its own unless said otherwise.
    pub fn witness(mut self, witness: Witness) -> Self {
        self.witness = witness;
        self
    }

    /// Lets the call that does what must never happen panic: see [`Witness::panic_on_violation`].
    pub fn panic_on_violation(mut self) -> Self {
        self.panics = true;
        self
    }

    /// What decides which call fails: nothing fails unless said otherwise.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }

    /// Makes the memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if there can be no such memory.
    pub fn build(mut self) -> Result<Memory, MemoryError> {
        let page = self.page.unwrap_or(PageSize::SIZE_4K);
        if !(10..=21).contains(&page.shift()) {
            return Err(MemoryError::PageSize);
        }
        self.zones.sort_by_key(|(_, frames)| frames.start);
        let mut end = 0;
        for (_, frames) in &self.zones {
            let count = frames.end.checked_sub(frames.start).filter(|count| *count != 0);
            let count = count.ok_or(MemoryError::Empty)?;
            let too_high = frames.end > MAX_PFN || Pfn::new(frames.end).phys(page).is_none();
            if too_high || count > MAX_FRAMES {
                return Err(MemoryError::TooLarge);
            }
            if frames.start < end {
                return Err(MemoryError::Overlap(Pfn::new(frames.start)));
            }
            end = frames.end;
        }
        Ok(self.made(page))
    }

    pub(super) fn made(self, page: PageSize) -> Memory {
        if self.panics {
            self.witness.panic_on_violation(true);
        }
        let parts = self.zones.into_iter();
        let parts = parts.map(|(zone, part)| Frames::new(zone, part.start, part.end));
        let (zones, pools) = parts.unzip();
        let inner = Inner {
            page,
            fragmentation: self.fragmentation,
            zones,
            contents: Contents::new(usize::try_from(page.bytes()).unwrap_or(0)),
            state: Mutex::new(State::new(pools)),
            witness: self.witness,
            plan: self.plan,
            leaked: AtomicU64::new(0),
            reach: OnceLock::new(),
        };
        Memory { inner: Arc::new(inner) }
    }
}

/// Why there can be no such [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// A frame has 1 KiB to 2 MiB.
    PageSize,
    /// A zone without frames.
    Empty,
    /// Frames whose addresses need too many bits, or a zone of more than 2^32 frames.
    TooLarge,
    /// A frame that belongs to two zones, or twice to one.
    Overlap(Pfn),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageSize => f.write_str("a frame has 1 KiB to 2 MiB"),
            Self::Empty => f.write_str("a zone without frames"),
            Self::TooLarge => f.write_str("too many frames, or frame numbers too high"),
            Self::Overlap(pfn) => write!(f, "frame {pfn} belongs to two zones"),
        }
    }
}

impl std::error::Error for MemoryError {}
