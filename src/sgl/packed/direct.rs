// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Direct`]: a group whose pages are looked up without its key.
#![forbid(unsafe_code)]

use super::bitmap::{find_bit, guide, next_bit, BITS};
use super::bits::{load, store, Fields, WORD};
use super::group::base;
use super::Frame;
use crate::exact::Exact as _;
use crate::sgl::run::{MemoryKind, PageRun};

/// A group that is looked up without its key: the base, the guide, and the byte at which its bitmap begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::sgl) struct Direct {
    base: u64,
    guide: u64,
    bitmap: usize,
}

impl Direct {
    /// That at byte `at`, of which [`Group::direct`](super::Group::direct) says that it is one.
    #[inline]
    pub(in crate::sgl) fn read(leaf: &[u8], at: usize) -> Option<Self> {
        let bitmap = at.plus(2 * WORD);
        let head: &[u8; 2 * WORD] = leaf.get(at..bitmap)?.first_chunk()?;
        let (base, guide) = (head.first_chunk()?, head.last_chunk()?);
        Some(Self { base: u64::from_le_bytes(*base), guide: u64::from_le_bytes(*guide), bitmap })
    }

    /// Its number in its leaf.
    #[inline]
    pub(in crate::sgl) fn number(self) -> usize {
        guide::GROUP.small(self.guide) as usize
    }

    /// Whether pages that are looked up here may lie in the next leaf, and in its first group.
    #[inline]
    pub(in crate::sgl) fn is_open(self) -> bool {
        guide::OPEN.get(self.guide) != 0
    }

    /// The frame of page `page` of the list.
    #[inline]
    pub(in crate::sgl) fn lookup(self, leaf: &[u8], page: u64) -> Frame<'_> {
        let (run, _, beyond) = self.find(leaf, page);
        self.frame(leaf, run, beyond)
    }

    /// The run that holds page `page` of the list, but for the last of the group, of which is not known here where it
    /// ends: its first page, and the run.
    #[inline]
    pub(in crate::sgl) fn run(self, leaf: &[u8], page: u64) -> Option<(u64, PageRun)> {
        let (run, begin, beyond) = self.find(leaf, page);
        let end = self.last_word().plus(1).times(BITS);
        let next = next_bit(leaf, self.bitmap, begin, end)?;
        let count = u64::from(next.minus(begin)).shifted_up(guide::UNIT.small(self.guide));
        let start = self.frame(leaf, run, 0).get();
        let kind = if base::KIND.get(self.base) == 0 { MemoryKind::Ram } else { MemoryKind::Mmio };
        Some((page.minus(u64::from(beyond)), PageRun::stored(start, count, kind)))
    }

    /// The words of the bitmap, less one.
    #[inline]
    fn last_word(self) -> u32 {
        guide::LAST_WORD.small(self.guide)
    }

    /// The run that holds page `page` of the list, its bit, and the pages of it before that one.
    #[inline]
    fn find(self, leaf: &[u8], page: u64) -> (usize, u32, u32) {
        let unit = guide::UNIT.small(self.guide);
        #[expect(clippy::cast_possible_truncation, reason = "the group has fewer pages than 2^32")]
        let page = (page as u32).wrapping_sub(guide::FIRST.small(self.guide));
        let last = self.last_word().times(BITS).plus(BITS.minus(1));
        let (run, begin) = find_bit(leaf, self.bitmap, page.shifted_down(unit).min(last));
        (run, begin, page.minus(begin.shifted_up(unit)))
    }

    /// The frame `beyond` pages behind the start of run `run`.
    #[inline]
    fn frame(self, leaf: &[u8], run: usize, beyond: u32) -> Frame<'_> {
        let starts = self.bitmap.plus((self.last_word().plus(1) as usize).times(WORD));
        let (width, shift) = (guide::WIDTH.small(self.guide), base::ALIGNMENT.small(self.base));
        let start = Fields::from(starts, run, width, shift);
        Frame { leaf, start, beyond: base::FRAME.get(self.base).plus(u64::from(beyond)) }
    }
}

/// Says of the group at byte `at` that it [is open](Direct::is_open).
pub(in crate::sgl) fn open(leaf: &mut [u8], at: usize) {
    let guide = load(leaf, at.plus(WORD)) | guide::OPEN.of(1);
    store(leaf, at.plus(WORD), guide);
}
