// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Dma`]: what a program has mapped, and which of its pages are written.

use crate::{
    abi::{self, UserBitmap},
    dirty,
    memory::{Memory, PAGE, PAGE_SIZE},
};
use kernel::{prelude::*, sync::Arc};
use pinned_sgl::{
    iommu::{DirtyBitmap, IovaRange, Prot},
    PageSize,
};

/// What a program has mapped.
pub(crate) struct Dma {
    pub(crate) range: IovaRange,
    pub(crate) prot: Prot,
    /// Whether the program has said that its memory will lie elsewhere.
    pub(crate) moving: bool,
    pub(crate) memory: Arc<Memory>,
    /// A bit for each page of the CPU, while pages are tracked. The program's pages are larger if those
    /// of the IOMMU are, which may change.
    pub(crate) dirty: Option<KVVec<u64>>,
}

impl Dma {
    pub(crate) fn first(&self) -> u64 {
        self.range.first().get()
    }

    pub(crate) fn last(&self) -> u64 {
        self.range.last().get()
    }

    /// How many bytes; as many as 64 bits can count.
    pub(crate) fn len(&self) -> u64 {
        self.range.len().unwrap_or(u64::MAX)
    }

    /// Begins to track: pages that emulated devices have pinned count as written.
    pub(crate) fn track(&mut self, page: PageSize) -> Result {
        if self.len() >> page.shift() > abi::BITMAP_PAGES {
            return Err(EINVAL);
        }
        self.dirty = Some(blank(self.range, PAGE_SIZE)?);
        self.pinned_is_written();
        Ok(())
    }

    pub(crate) fn pinned_is_written(&mut self) {
        let memory = self.memory.clone();
        memory.each_external(|offset| self.written(offset, PAGE));
    }

    /// Marks bytes as written, if pages are tracked.
    pub(crate) fn written(&mut self, offset: u64, len: u64) {
        let Some(words) = &mut self.dirty else { return };
        let first = self.range.first().checked_add(offset);
        let written = first.and_then(|first| IovaRange::new(first, len).ok());
        if let (Ok(mut bits), Some(written)) =
            (DirtyBitmap::new(words, self.range, PAGE_SIZE), written)
        {
            bits.set(written);
        }
    }

    pub(crate) fn all_written(&mut self) {
        self.written(0, self.len());
    }

    /// The bits for pages of another size.
    fn in_pages_of(&self, page: PageSize) -> Result<KVVec<u64>> {
        let fine = self.dirty.as_ref().ok_or(EINVAL)?;
        let mut words = blank(self.range, page)?;
        let mut bits = DirtyBitmap::new(&mut words, self.range, page).map_err(|_| EINVAL)?;
        dirty::coarsen(fine, PAGE_SIZE, &mut bits);
        Ok(words)
    }

    /// Writes the bits to the program, whose bitmap begins at `base`. Bits of other mappings in the
    /// first word stay.
    pub(crate) fn report(&self, page: PageSize, base: u64, user: &UserBitmap) -> Result {
        let larger = if page == PAGE_SIZE { None } else { Some(self.in_pages_of(page)?) };
        let words = larger.as_ref().or(self.dirty.as_ref()).ok_or(EINVAL)?;
        let bit = self.first().checked_sub(base).ok_or(EINVAL)? >> page.shift();
        let shift = u32::try_from(bit & 63)?;
        let at = (bit >> 6).checked_mul(8).and_then(|offset| user.data.checked_add(offset));
        let mut at = at.and_then(|at| usize::try_from(at).ok()).ok_or(EFAULT)?;
        let bits = (self.len() >> page.shift()).checked_add(shift.into()).ok_or(EINVAL)?;
        let mut left = usize::try_from(bits.div_ceil(64)).map_err(|_| EFAULT)?;
        let mut carry = if shift == 0 { 0 } else { abi::Words::<2>::read(at)?.u64(0) };
        let mut words = words.iter();
        let mut bytes = KVec::with_capacity(left.min(512).saturating_mul(8), GFP_KERNEL)?;
        while left > 0 {
            let some = left.min(512);
            bytes.clear();
            for _ in 0..some {
                let word = words.next().copied().unwrap_or(0);
                let (low, high) = dirty::split(word, shift);
                bytes.extend_from_slice(&(low | carry).to_ne_bytes(), GFP_KERNEL)?;
                carry = high;
            }
            abi::write(at, &bytes)?;
            at = at.checked_add(bytes.len()).ok_or(EFAULT)?;
            left = left.saturating_sub(some);
        }
        Ok(())
    }
}

/// A bitmap for the pages of a range, none of which is written.
fn blank(range: IovaRange, page: PageSize) -> Result<KVVec<u64>> {
    let words = usize::try_from(DirtyBitmap::words_for(range, page)).map_err(|_| ENOMEM)?;
    Ok(KVVec::from_elem(0, words, GFP_KERNEL)?)
}
