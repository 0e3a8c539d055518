// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Vma`]: what a part of a process' address space is like, and [`Vmas`]: which parts there are.
#![forbid(unsafe_code)]

use super::page_table::PageTable;
use super::zone::Zone;
use pinned_sgl::{Pfn, RangeError, UserAddr};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What a part of a process' address space is like. Pages get their frames when they are first
/// touched or pinned.
///
/// ```
/// use pinned_sgl_mock::{Vma, Zone};
/// // Transparent huge pages of 2 MiB, in memory from which pages move before they are pinned.
/// let vma = Vma::read_write().huge(9).zone(Zone::Movable);
/// assert!(vma.is_writable());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vma {
    pub(super) writable: bool,
    pub(super) backing: Backing,
    pub(super) order: u32,
    pub(super) zone: Zone,
}

/// Whose pages they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Backing {
    /// The process's own; a child gets copies, made at the first write.
    Private,
    /// The same, but a page that was only read is the one frame of zeros.
    FromZero,
    /// Those of the process and its children.
    Shared,
}

/// The largest order of a folio: 2^20 pages.
const MAX_ORDER: u32 = 20;

impl Vma {
    const fn new(writable: bool, backing: Backing) -> Self {
        Self { writable, backing, order: 0, zone: Zone::Normal }
    }

    /// Private memory that can be read and written.
    #[must_use]
    pub const fn read_write() -> Self {
        Self::new(true, Backing::Private)
    }

    /// Private memory that can only be read.
    #[must_use]
    pub const fn read_only() -> Self {
        Self::new(false, Backing::Private)
    }

    /// Private memory that can be read and written; until it is written, all of its pages are one
    /// frame of zeros. Pages of it that are pinned just for reading are that frame, too, unless
    /// they are pinned for long.
    #[must_use]
    pub const fn copy_on_write() -> Self {
        Self::new(true, Backing::FromZero)
    }

    /// Memory that can be read and written, and that children share.
    #[must_use]
    pub const fn shared() -> Self {
        Self::new(true, Backing::Shared)
    }

    /// Folios of `2^order` pages (at most 2^20) where the addresses are aligned to them and there
    /// are free ones; single pages elsewhere.
    #[must_use]
    pub const fn huge(mut self, order: u32) -> Self {
        self.order = if order < MAX_ORDER { order } else { MAX_ORDER };
        self
    }

    /// Frames of this zone. If a movable zone is full, frames of the normal zone.
    #[must_use]
    pub const fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// Whether the process may write.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.writable
    }
}

/// A part of the address space.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) table: Arc<PageTable>,
    /// Shared by all slices that show pages of the table: how many of them there are.
    pub(super) user: Arc<()>,
    /// The index of its first page in the table.
    pub(super) first: u64,
    pub(super) pages: u64,
    pub(super) vma: Vma,
}

/// A page, found in the address space.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The number of the page in the address space.
    pub(super) page: u64,
    pub(super) table: Arc<PageTable>,
    /// The index of the page in the table.
    pub(super) index: u64,
    /// Pages of the slice before this one.
    pub(super) before: u64,
    /// Pages of the slice from this one on.
    pub(super) left: u64,
    pub(super) vma: Vma,
}

/// The address space: slices that do not overlap, by the number of their first page.
#[derive(Debug, Default)]
pub(super) struct Vmas {
    slices: BTreeMap<u64, Slice>,
}

impl Vmas {
    pub(super) fn find(&self, page: u64) -> Option<Found> {
        let (start, slice) = self.slices.range(..=page).next_back()?;
        let before = page.checked_sub(*start)?;
        let left = slice.pages.checked_sub(before).filter(|left| *left != 0)?;
        let table = slice.table.clone();
        let index = slice.first.checked_add(before)?;
        Some(Found { page, table, index, before, left, vma: slice.vma })
    }

    /// The first page of `from..to` that is mapped.
    pub(super) fn first_in(&self, from: u64, to: u64) -> Option<u64> {
        if self.find(from).is_some() {
            return Some(from);
        }
        self.slices.range(from..to).next().map(|(start, _)| *start)
    }

    pub(super) fn insert(&mut self, start: u64, slice: Slice) {
        self.slices.insert(start, slice);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Slice)> {
        self.slices.iter().map(|(start, slice)| (*start, slice))
    }

    /// Cuts `from..to` free from what lies around it; its slices, to change.
    pub(super) fn carve(&mut self, from: u64, to: u64) -> impl Iterator<Item = &mut Slice> {
        self.cut(from);
        self.cut(to);
        self.slices.range_mut(from..to).map(|(_, slice)| slice)
    }

    /// Takes the slices of `from..to` out.
    pub(super) fn remove(&mut self, from: u64, to: u64) -> Vec<Slice> {
        self.cut(from);
        self.cut(to);
        let mut removed = Vec::new();
        while let Some(start) = self.slices.range(from..to).next().map(|(start, _)| *start) {
            removed.extend(self.slices.remove(&start));
        }
        removed
    }

    /// Makes two slices of one that lies across `page`.
    fn cut(&mut self, page: u64) {
        let Some((start, slice)) = self.slices.range_mut(..page).next_back() else { return };
        let before = page.saturating_sub(*start);
        let Some(after) = slice.pages.checked_sub(before).filter(|after| *after != 0) else {
            return;
        };
        slice.pages = before;
        let first = slice.first.saturating_add(before);
        let behind = Slice { first, pages: after, ..slice.clone() };
        self.slices.insert(page, behind);
    }
}

/// Why whole pages cannot be mapped, unmapped, or protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmaError {
    /// There are no frames, or more than there are addresses behind the first one.
    Range(RangeError),
    /// The range does not begin or does not end at a page border.
    Misaligned,
    /// Something is mapped there already.
    Overlap(UserAddr),
    /// The frame is in use, or there is none of this number, or it is to be two pages at once.
    NotFree(Pfn),
}

impl fmt::Display for VmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Misaligned => f.write_str("a range that is not whole pages"),
            Self::Overlap(at) => write!(f, "something is mapped at {at} already"),
            Self::NotFree(pfn) => write!(f, "frame {pfn} is not free"),
        }
    }
}

impl std::error::Error for VmaError {}
