// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Blocks**: the best page size is the best, and its blocks hold every byte where it belongs.

use super::{
    alloc::vec::Vec,
    input,
    oracle::{Atoms, Page},
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::granule::TileError;
use pinned_sgl::{Iova, PageSize, PageSizes, PhysAddr};

/// A window of a list, seen at an IOVA by a device with these page sizes.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub offset: u64,
    pub len: u64,
    pub iova: u64,
    pub sizes: PageSizes,
}

pub fn check(page: PageSize, pages: &[Page], case: Case) {
    let Case { offset, len, iova, sizes } = case;
    let sgl = input::build(page, pages);
    let window = sgl.window(offset, len).unwrap();
    let best = window.best_page_size(sizes, Iova::new(iova));
    if sizes.is_empty() {
        assert_eq!(best.unwrap_err(), TileError::NoPageSizes);
        return;
    }
    if iova.checked_add(len - 1).is_none() {
        assert_eq!(best.unwrap_err(), TileError::Wraps { iova: Iova::new(iova), len });
        return;
    }
    let Some(atoms) = Atoms::of(pages, page, offset, len, iova, &[]) else {
        return;
    };
    let best = best.unwrap();
    let size = best.map(|best| best.page_size());
    assert_eq!(size, atoms.best_page_size(sizes), "{pages:?} {case:?}");
    let Some(best) = best else {
        return;
    };
    // The best size, and smaller ones, down to where blocks become too many to look at.
    for shift in (0..=best.page_size().shift()).rev() {
        let size = PageSize::from_shift(shift).unwrap();
        if len >> shift > super::oracle::MOST_ATOMS {
            break;
        }
        let smaller = best.shrink(size).unwrap();
        let expected = atoms.blocks(size);
        assert_eq!(smaller.block_count(), expected.len() as u64, "{size} {pages:?} {case:?}");
        let blocks = smaller.blocks();
        assert_eq!(blocks.size_hint(), (expected.len(), Some(expected.len())));
        assert!(blocks.clone().eq(expected.iter().copied().map(PhysAddr::new)), "{size} {case:?}");
        for skip in [0, 1, 2, expected.len() / 2] {
            let mut rest = blocks.clone();
            let taken = rest.by_ref().take(skip).count();
            let folded = rest.fold(Vec::new(), |mut all, block| {
                all.push(block.get());
                all
            });
            assert_eq!(folded, expected[taken..]);
        }
        let mut blocks = blocks;
        assert_eq!(blocks.by_ref().count(), expected.len());
        assert_eq!((blocks.next(), blocks.size_hint()), (None, (0, Some(0))));
    }
    if let Some(larger) = PageSize::from_shift(best.page_size().shift() + 1) {
        assert!(best.shrink(larger).is_none());
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let input::Short { page, pages, offset, len, .. } = input::short(u)?;
    let sizes = input::page_sizes(u, page)?;
    check(page, &pages, Case { offset, len, iova: iova(u, page, &pages, offset)?, sizes });
    Ok(())
}

/// An IOVA: any, or one that agrees with memory in its lower bits.
pub fn iova(u: &mut Unstructured<'_>, page: PageSize, pages: &[Page], offset: u64) -> Result<u64> {
    let phys = (pages[0].0 << page.shift()) + offset;
    Ok(match u.arbitrary::<u8>()? % 4 {
        0 => input::number(u, u64::MAX)?,
        1 => phys,
        _ => {
            let low = (1u64 << u.int_in_range(8..=32)?) - 1;
            input::number(u, u64::MAX)? & !low | phys & low
        }
    })
}
