// SPDX-License-Identifier: MIT OR Apache-2.0
//! The laws of the core, against an oracle of one entry a page, compiled as a kernel compiles: no
//! `alloc`, overflow checks on, and memory from `kmalloc()`.

use kernel::prelude::*;
use pinned_sgl::{
    iommu::Slab,
    kernel::{PieceSlab, Pieces},
    Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, SegmentLimits, Sgl, SglBuilder, Storage,
};

/// Fails the test, and says where.
macro_rules! check {
    ($what:expr) => {
        if !$what {
            pr_err!("{}:{}: {}\n", file!(), line!(), stringify!($what));
            return Err(EIO);
        }
    };
}

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn build(pages: &[u64]) -> Result<Sgl<Pieces>> {
    let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Pieces::new(GFP_KERNEL))?;
    for pfn in pages {
        builder.push_page(Pfn::new(*pfn), MemoryKind::Ram)?;
    }
    Ok(builder.finish()?)
}

/// Merge, round trip and lookup: the runs are those of the pages, and every page is found.
fn same(sgl: &Sgl<Pieces>, pages: &[u64]) -> Result {
    let mut runs = sgl.runs();
    let mut rest = pages;
    while let Some(first) = rest.first() {
        let mut count = 1;
        while rest.get(count).is_some_and(|next| *next == first + count as u64) {
            count += 1;
        }
        let expected = PageRun::ram(Pfn::new(*first), count as u64)?;
        check!(runs.next() == Some(expected));
        rest = rest.get(count..).unwrap_or_default();
    }
    check!(runs.next().is_none());
    check!(sgl.page_count() == pages.len() as u64);
    if let Ok(window) = sgl.whole() {
        for (index, pfn) in pages.iter().enumerate() {
            let offset = index as u64 * 4096 + 0x123;
            check!(window.phys(offset).map(|phys| phys.get()) == Some(pfn * 4096 + 0x123));
        }
        check!(window.phys(window.len()).is_none());
    }
    Ok(())
}

/// Up to `most` pages in runs of all lengths.
fn pages(numbers: &mut Numbers, most: u64) -> Result<KVec<u64>> {
    let mut pages = KVec::new();
    let (count, longest) = (1 + numbers.below(most), 1 + numbers.below(600));
    while (pages.len() as u64) < count {
        let start = numbers.below(1 << 28);
        for next in 0..1 + numbers.below(longest) {
            pages.push(start + next, GFP_KERNEL)?;
        }
    }
    Ok(pages)
}

#[kunit_tests(pinned_sgl)]
mod tests {
    use super::*;

    /// Every list of up to five pages out of five.
    #[test]
    fn every_small_list_has_its_runs() -> Result {
        for len in 1..=5u32 {
            for number in 0..5u64.pow(len) {
                let mut list = [0; 5];
                let mut rest = number;
                for page in list.iter_mut().take(len as usize) {
                    *page = 7 + rest % 5;
                    rest /= 5;
                }
                let list = list.get(..len as usize).ok_or(EINVAL)?;
                same(&build(list)?, list)?;
            }
        }
        Ok(())
    }

    #[test]
    fn large_lists_have_their_runs() -> Result {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..40 {
            let pages = pages(&mut numbers, 5000)?;
            same(&build(&pages)?, &pages)?;
        }
        Ok(())
    }

    #[test]
    fn tiles_are_the_window() -> Result {
        let mut numbers = Numbers(0x1234_5678_9abc_def1);
        let sizes = PageSizes::from_bits_truncate(1 << 12 | 1 << 21 | 1 << 30);
        for _ in 0..60 {
            let mut builder = SglBuilder::new_in(PageSize::SIZE_4K, Pieces::new(GFP_KERNEL))?;
            for _ in 0..1 + numbers.below(20) {
                let shift = numbers.below(10);
                let start = numbers.below(1 << 20) << shift;
                builder.push_run(PageRun::ram(Pfn::new(start), 1 + numbers.below(3000))?)?;
            }
            let sgl = builder.finish()?;
            let window = sgl.whole()?;
            let iova = Iova::new(numbers.below(1 << 20) << 12);
            let mut done = 0;
            for tile in window.tiles(sizes, iova)? {
                check!(tile.iova.get() == iova.get() + done);
                check!(window.phys(done) == Some(tile.phys));
                check!((tile.iova.get() | tile.phys.get()) & tile.page_size.mask() == 0);
                done += tile.len();
            }
            check!(done == window.len());
        }
        Ok(())
    }

    #[test]
    fn segments_add_up() -> Result {
        let mut numbers = Numbers(0xdead_beef_0bad_cafe);
        let limits = SegmentLimits::NONE.max_len(0x1_0000).map_err(|_| EINVAL)?;
        for _ in 0..40 {
            let pages = pages(&mut numbers, 2000)?;
            let sgl = build(&pages)?;
            let offset = numbers.below(4096);
            let window = sgl.window(offset, sgl.page_count() * 4096 - offset)?;
            let mut done = 0;
            for segment in window.segments(&limits).map_err(|_| EINVAL)? {
                check!(window.phys(done) == Some(segment.phys) && segment.len <= 0x1_0000);
                done += segment.len;
            }
            check!(done == window.len());
        }
        Ok(())
    }

    /// Far enough for tables of tables.
    #[test]
    fn pieces_keep_what_was_written() -> Result {
        const COUNT: usize = 4 + 64 + 16 * 128 + 128 * 3 + 5;
        let mut pieces = Pieces::new(GFP_KERNEL);
        check!(pieces.footprint() == 0);
        for index in 0..COUNT {
            pieces.grow(8)?;
            pieces.piece_mut(index).copy_from_slice(&(index as u64).to_le_bytes());
        }
        for index in 0..COUNT {
            check!(pieces.piece(index) == (index as u64).to_le_bytes());
        }
        check!(pieces.pieces() == COUNT && pieces.piece(COUNT).is_empty());
        for _ in 0..=COUNT {
            pieces.shrink();
        }
        check!(pieces.pieces() == 0 && pieces.piece(0).is_empty());
        Ok(())
    }

    #[test]
    fn slabs_use_places_again() -> Result {
        let mut slab = PieceSlab::new(GFP_KERNEL);
        let mut keys = KVec::new();
        for value in 0..4000u64 {
            keys.push(slab.insert(value).map_err(|_| ENOMEM)?, GFP_KERNEL)?;
        }
        for (value, key) in keys.iter().enumerate() {
            check!(slab.get(*key) == Some(&(value as u64)));
        }
        for key in keys.iter().step_by(3) {
            check!(slab.remove(*key).is_some() && slab.remove(*key).is_none());
        }
        for _ in keys.iter().step_by(3) {
            check!(slab.insert(7).is_ok_and(|key| keys.contains(&key)));
        }
        check!(slab.len() == keys.len() && slab.get(u32::MAX).is_none());
        Ok(())
    }
}

struct Laws;

impl kernel::Module for Laws {
    fn init(_: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

module! {
    type: Laws,
    name: "laws",
    authors: ["The authors of pinned-sgl"],
    description: "The laws of pinned-sgl under KUnit",
    license: "Dual MIT/GPL",
}
