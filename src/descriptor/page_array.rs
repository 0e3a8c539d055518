// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageArray`]: the translation tables of RDMA NICs: an address for each block, flags in its low bits.
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::DeviceAddr;
use super::list::Slot;
use crate::exact::Exact as _;
use crate::page_size::PageSize;

/// An array of blocks of one size, as a card takes it: an MTT of mlx5 (big-endian, the rights in the low bits), a
/// page list of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageArray {
    block: PageSize,
    flags: u64,
    big_endian: bool,
}

impl PageArray {
    /// Entries for blocks of this size, little-endian, each with these flags.
    ///
    /// ```
    /// use pinned_sgl::descriptor::PageArray;
    /// use pinned_sgl::{Iova, PageSize, PageSizes, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 3].map(Pfn::new))?;
    /// let window = sgl.whole()?;
    /// let size = window.best_page_size(PageSizes::SIZE_4K, Iova::new(0))?;
    /// let size = size.expect("pages are aligned");
    ///
    /// let array = PageArray::new(size.page_size(), 0b11)?.big_endian();
    /// let mut entries = [[0; 8]; 2];
    /// assert_eq!(array.write(size.blocks(), &mut entries)?, 2);
    /// assert_eq!(entries, [0x7003_u64, 0x3003].map(u64::to_be_bytes));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if the flags reach into the address of a block.
    pub const fn new(block: PageSize, flags: u64) -> Result<Self, DescriptorError> {
        if flags & !block.mask() != 0 {
            return Err(DescriptorError::Format);
        }
        Ok(Self { block, flags, big_endian: false })
    }

    /// The same with the highest byte first.
    #[must_use]
    pub const fn big_endian(self) -> Self {
        Self { big_endian: true, ..self }
    }

    /// Writes an entry for each of the next blocks, as long as there are slots; returns how many. The blocks
    /// that are left can be written later: pass `&mut blocks`. O(slots).
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Start`] for a block that lies at no multiple of its size. The entries before it are written.
    pub fn write<A: DeviceAddr>(
        &self,
        blocks: impl IntoIterator<Item = A>,
        slots: &mut [Slot<8>],
    ) -> Result<usize, DescriptorError> {
        let mut written = 0usize;
        // The slots come first, so that no block is taken for which there is none.
        for (slot, block) in slots.iter_mut().zip(blocks) {
            let addr = block.number();
            if addr & self.block.mask() != 0 {
                let offset = (written as u64).shifted_up(self.block.shift());
                return Err(DescriptorError::Start { offset, addr, align: self.block.bytes() });
            }
            let entry = addr | self.flags;
            *slot = if self.big_endian { entry.to_be_bytes() } else { entry.to_le_bytes() };
            written = written.plus(1);
        }
        Ok(written)
    }
}
