// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of random pages, against an array with an entry a page.

use kernel::prelude::*;
use pinned_sgl::{
    kernel::Kmalloc, Iova, MemoryKind::Ram, PageRun, PageSize, PageSizes, Pfn, SegmentLimits, Sgl,
    SglBuilder,
};

const CASES: u64 = 50;
const PAGE: u64 = 4096;

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // objtool does not know that dividing by zero does not return.
        self.0.checked_rem(limit).unwrap_or(0)
    }
}

/// The frames of pages in runs of up to `longest`, and the list of them, however they arrive.
fn pages(numbers: &mut Numbers, longest: u64) -> Result<(KVec<u64>, Sgl<Kmalloc>)> {
    let mut frames = KVec::new();
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Kmalloc::new(GFP_KERNEL))?;
    for _ in 0..=numbers.below(300) {
        // Next to the last page now and then: then the runs are one.
        let next = frames.last().map_or(0, |last| last + 1);
        let start = if numbers.below(4) == 0 { next } else { numbers.below(1 << 30) };
        let count = 1 + numbers.below(longest);
        for pfn in start..start + count {
            frames.push(pfn, GFP_KERNEL)?;
        }
        if numbers.below(2) == 0 {
            builder.push_run(PageRun::ram(Pfn::new(start), count)?)?;
        } else {
            for pfn in start..start + count {
                builder.push_page(Pfn::new(pfn), Ram)?;
            }
        }
    }
    Ok((frames, builder.finish()?))
}

/// Calls `test` with random lists.
fn each(mut test: impl FnMut(&mut Numbers, &[u64], &Sgl<Kmalloc>) -> Result) -> Result {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for case in 0..CASES {
        let (frames, list) = pages(&mut numbers, [1, 3, 40, 2000][case as usize % 4])?;
        test(&mut numbers, &frames, &list)?;
    }
    Ok(())
}

/// A part of a list that begins in its first page, and has one byte at least.
fn part(numbers: &mut Numbers, list: &Sgl<Kmalloc>) -> (u64, u64) {
    let offset = numbers.below(PAGE);
    (offset, 1 + numbers.below(list.byte_len() - offset))
}

/// Where byte `at` of the pages is.
fn phys(frames: &[u64], at: u64) -> u64 {
    frames[(at / PAGE) as usize] * PAGE + at % PAGE
}

pub(crate) fn runs_are_maximal() -> Result {
    each(|_, frames, list| {
        let mut left = frames;
        for run in list.runs() {
            let ascending = left.iter().zip(left[0]..).take_while(|(frame, next)| *frame == next);
            check!((run.start().get(), run.count()) == (left[0], ascending.count() as u64));
            left = &left[run.count() as usize..];
        }
        check!(left.is_empty() && list.page_count() == frames.len() as u64);
        Ok(())
    })
}

pub(crate) fn windows_find_every_byte() -> Result {
    each(|numbers, frames, list| {
        let (offset, len) = part(numbers, list);
        let window = list.window(offset, len)?;
        for step in 0..=len * 2 / PAGE {
            let at = (step * PAGE / 2).min(len - 1);
            check!(window.phys(at).map(|it| it.get()) == Some(phys(frames, offset + at)));
        }
        check!(window.phys(len).is_none());
        Ok(())
    })
}

pub(crate) fn segments_keep_their_limits() -> Result {
    each(|numbers, frames, list| {
        let (offset, len) = part(numbers, list);
        let window = list.window(offset, len)?;
        let (longest, boundary) = (1 + numbers.below(1 << 17), 1 << (9 + numbers.below(10)));
        let limits = SegmentLimits::NONE
            .max_len(longest)
            .and_then(|limits| limits.boundary(boundary))
            .map_err(|_| EIO)?;
        let (mut at, mut count) = (offset, 0);
        for segment in window.segments(&limits).map_err(|_| EIO)? {
            let (first, bytes) = (segment.phys.get(), segment.len);
            check!(bytes != 0 && bytes <= longest);
            check!(first / boundary == (first + bytes - 1) / boundary);
            check!(first == phys(frames, at));
            check!(first + bytes - 1 == phys(frames, at + bytes - 1));
            (at, count) = (at + bytes, count + 1);
        }
        check!(at == offset + len && count == window.segment_count(&limits));
        Ok(())
    })
}

pub(crate) fn tiles_are_exact() -> Result {
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_64K | PageSizes::SIZE_2M;
    each(|numbers, frames, list| {
        let start = numbers.below(1 << 20) * PAGE;
        let mut at = 0;
        for tile in list.whole()?.tiles(sizes, Iova::new(start)).map_err(|_| EIO)? {
            let (iova, size) = (tile.iova.get(), tile.page_size);
            check!(sizes.has(size) && iova == start + at);
            check!(iova % size.bytes() == 0 && tile.phys.get() % size.bytes() == 0);
            for page in (0..tile.len()).step_by(PAGE as usize) {
                check!(tile.phys.get() + page == phys(frames, at + page));
            }
            at += tile.len();
        }
        check!(at == list.byte_len());
        Ok(())
    })
}
