// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bitmaps of dirty pages as a program gets them: for pages of its size, from a bit of its choice on.
//! Nothing of the kernel is needed here, so that `tests/vfio_type1.rs` tests it.

use pinned_sgl::{
    iommu::{DirtyBitmap, IovaRange},
    PageSize,
};

/// Sets the bits of all pages in `coarse` in which a smaller page is dirty: `words` has a bit for each page of
/// size `fine` from the beginning of the same range on, which is a multiple of that size.
pub(crate) fn coarsen(words: &[u64], fine: PageSize, coarse: &mut DirtyBitmap<'_>) {
    let first = coarse.range().first();
    let address = |word: usize, bit: u32| {
        let page = u64::try_from(word).ok()?.checked_mul(64)?.checked_add(bit.into())?;
        first.checked_add(page.checked_mul(fine.bytes())?)
    };
    for (index, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            let page = address(index, left.trailing_zeros());
            if let Some(page) = page.and_then(|page| IovaRange::new(page, 1).ok()) {
                coarse.set(page);
            }
            left &= left.saturating_sub(1);
        }
    }
}

/// A word that is moved up by less than 64 bits, and what of it belongs to the next one.
pub(crate) fn split(word: u64, shift: u32) -> (u64, u64) {
    let low = word.checked_shl(shift).unwrap_or(0);
    let high = 64u32.checked_sub(shift).and_then(|down| word.checked_shr(down));
    (low, high.unwrap_or(0))
}
