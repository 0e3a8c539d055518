// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of `include/uapi/linux/vfio.h` (`glue.c` checks them), and what programs pass.

use kernel::{
    bindings,
    prelude::*,
    uaccess::{UserPtr, UserSlice},
};
use pinned_sgl::{iommu::IovaRange, Iova};

pub(crate) const CHECK_EXTENSION: u32 = 0x3b65;
pub(crate) const GET_INFO: u32 = 0x3b70;
pub(crate) const MAP_DMA: u32 = 0x3b71;
pub(crate) const UNMAP_DMA: u32 = 0x3b72;
pub(crate) const DIRTY_PAGES: u32 = 0x3b75;

/// The kinds of container, and what can be asked for.
pub(crate) const TYPE1: usize = 1;
pub(crate) const TYPE1_V2: usize = 3;
pub(crate) const COHERENT: usize = 4;
pub(crate) const NESTING: usize = 6;
pub(crate) const CAN_UNMAP_ALL: usize = 9;
pub(crate) const CAN_UPDATE_VADDR: usize = 10;

pub(crate) mod map {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const VADDR: u32 = 4;
}

pub(crate) mod unmap {
    pub(crate) const DIRTY: u32 = 1;
    pub(crate) const ALL: u32 = 2;
    pub(crate) const VADDR: u32 = 4;
}

pub(crate) mod dirty {
    pub(crate) const START: u32 = 1;
    pub(crate) const STOP: u32 = 2;
    pub(crate) const GET: u32 = 4;
}

pub(crate) mod info {
    pub(crate) const PAGE_SIZES: u32 = 1;
    pub(crate) const CAPS: u32 = 2;
    pub(crate) const CAP_RANGES: u16 = 1;
    pub(crate) const CAP_MIGRATION: u16 = 2;
    pub(crate) const CAP_AVAIL: u16 = 3;
}

/// Which reserved regions a program may use all the same, and which say where interrupts go.
pub(crate) const RESERVED_RELAXABLE: u32 = 1;
pub(crate) const RESERVED_MSI: u32 = 3;
pub(crate) const RESERVED_SOFTWARE_MSI: u32 = 4;

/// Words of 32 bits, as a program passes them.
pub(crate) struct Words<const N: usize>([[u8; 4]; N]);

impl<const N: usize> Words<N> {
    /// Reads them.
    pub(crate) fn read(at: usize) -> Result<Self> {
        let mut words = [[0; 4]; N];
        let bytes = words.as_flattened_mut();
        UserSlice::new(UserPtr::from_addr(at), bytes.len()).reader().read_slice(bytes)?;
        Ok(Self(words))
    }

    /// The 32 bits at a word.
    pub(crate) fn u32(&self, word: usize) -> u32 {
        self.0.get(word).copied().map_or(0, u32::from_ne_bytes)
    }

    /// The 64 bits that begin at a word, as the machine has them.
    pub(crate) fn u64(&self, word: usize) -> u64 {
        let mut bytes = [0; 8];
        for (to, from) in bytes.chunks_exact_mut(4).zip(self.0.iter().skip(word)) {
            to.copy_from_slice(from);
        }
        u64::from_ne_bytes(bytes)
    }
}

/// A number that a program passes, if the kernel's type for it has it.
fn fitting<T: TryFrom<u64>>(number: u64) -> Result<u64> {
    T::try_from(number).map(|_| number).map_err(|_| EOVERFLOW)
}

/// An address of a device.
pub(crate) fn address(iova: u64) -> Result<u64> {
    fitting::<bindings::dma_addr_t>(iova)
}

/// A size, or an address of a program.
pub(crate) fn size(size: u64) -> Result<u64> {
    fitting::<usize>(size)
}

/// Addresses of a device.
pub(crate) fn range(iova: u64, size: u64) -> Result<IovaRange> {
    let range = IovaRange::new(Iova::new(iova), size);
    let range = range.map_err(|_| if size == 0 { EINVAL } else { EOVERFLOW })?;
    address(range.last().get())?;
    Ok(range)
}

/// The bytes of a structure, from those of its members; zero behind the last one.
pub(crate) fn structure<const N: usize>(members: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(members.iter().copied().flatten()) {
        *to = *from;
    }
    bytes
}

/// Writes bytes to a program.
pub(crate) fn write(at: usize, bytes: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(at), bytes.len()).writer().write_slice(bytes)
}

/// A bitmap that a program passes: the size of its pages, its bytes, and where it lies.
#[derive(Clone, Copy)]
pub(crate) struct UserBitmap {
    pub(crate) page: u64,
    pub(crate) bytes: u64,
    pub(crate) data: u64,
}

/// As many pages as one bitmap may have, and the bytes of such a bitmap.
pub(crate) const BITMAP_PAGES: u64 = i32::MAX as u64;
pub(crate) const BITMAP_BYTES: u64 = BITMAP_PAGES.next_multiple_of(64) >> 3;

impl UserBitmap {
    /// The bitmap in the six words from `word` on.
    pub(crate) fn new<const N: usize>(words: &Words<N>, word: usize) -> Self {
        let [page, bytes, data] = [0usize, 2, 4].map(|at| words.u64(word.saturating_add(at)));
        Self { page, bytes, data }
    }

    /// Whether it has room for the pages of `len` bytes, where a program may write.
    pub(crate) fn check(&self, len: u64) -> Result {
        let at = usize::try_from(self.data).map_err(|_| EINVAL)?;
        let bytes = usize::try_from(self.bytes).map_err(|_| EINVAL)?;
        if self.page == 0 || !crate::ffi::vfio_type1_access_ok(at, bytes) {
            return Err(EINVAL);
        }
        let pages = len >> self.page.trailing_zeros();
        let needed = pages.checked_next_multiple_of(64).unwrap_or(0) >> 3;
        if pages == 0 || self.bytes == 0 || self.bytes > BITMAP_BYTES || self.bytes < needed {
            return Err(EINVAL);
        }
        Ok(())
    }
}
