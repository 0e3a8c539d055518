// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`TransferLimits`]: what a controller says of the memory that a command may have.
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::{DeviceAddr, Extent};
use crate::exact::{self, Exact as _};

/// What a controller takes in one command, in any format. Where nothing is said there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransferLimits {
    max_len: u64,
    /// The bytes of a sector, less one.
    sector_mask: u64,
    last: u64,
}

impl TransferLimits {
    /// No limits.
    pub const NONE: Self = Self { max_len: u64::MAX, sector_mask: 0, last: u64::MAX };

    /// At most `bytes` in one command; of NVMe it is `2^MDTS` pages.
    #[must_use]
    pub const fn max_len(self, bytes: u64) -> Self {
        Self { max_len: bytes, ..self }
    }

    /// Whole sectors of `bytes` only.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if it is no power of two.
    pub const fn sector(self, bytes: u64) -> Result<Self, DescriptorError> {
        if !bytes.is_power_of_two() {
            return Err(DescriptorError::Format);
        }
        Ok(Self { sector_mask: exact::u64::minus(bytes, 1), ..self })
    }

    /// No address above `last`: of memory, and of lists.
    #[must_use]
    pub const fn last_addr(self, last: u64) -> Self {
        Self { last, ..self }
    }

    /// Whether the device takes so many bytes.
    pub(super) fn check_len(&self, len: u64) -> Result<(), DescriptorError> {
        if len == 0 {
            return Err(DescriptorError::Empty);
        }
        if len > self.max_len || len & self.sector_mask != 0 {
            let sector = self.sector_mask.saturating_add(1);
            return Err(DescriptorError::Length { len, max: self.max_len, sector });
        }
        Ok(())
    }

    /// Whether the device reaches all bytes of an extent, which begins at `offset`.
    pub(super) fn check_extent<A: DeviceAddr>(
        &self,
        offset: u64,
        extent: &Extent<A>,
    ) -> Result<(), DescriptorError> {
        let last = self.last;
        if extent.last() <= last {
            return Ok(());
        }
        let fine = last.checked_add(1).and_then(|next| next.checked_sub(extent.first()));
        let fine = fine.unwrap_or(0);
        let addr = extent.first().plus(fine);
        Err(DescriptorError::Unreachable { offset: offset.saturating_add(fine), addr, last })
    }

    /// Whether the device reaches a list of `bytes` at a multiple of `align`.
    pub(super) fn check_list(
        &self,
        index: usize,
        addr: u64,
        bytes: u64,
        align: u64,
    ) -> Result<(), DescriptorError> {
        if addr & align.minus(1) != 0 {
            return Err(DescriptorError::List { index, addr, align, slots: 0 });
        }
        let end = addr.checked_add(bytes.saturating_sub(1));
        if end.is_none_or(|end| end > self.last) {
            return Err(DescriptorError::ListUnreachable { index, addr, last: self.last });
        }
        Ok(())
    }
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self::NONE
    }
}
