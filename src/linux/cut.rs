// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a buffer is cut: into parts, one for each thread, and these into slots of a ring's table.
//!
//! Both end where a huge page ends. The kernel charges a huge page once for each ring that holds a
//! piece of it, and counts it whole: two rings that shared one would be charged twice.
#![forbid(unsafe_code)]

use super::error::PinErrorKind;
use super::ring::{MAX_SLOTS, MAX_SLOT_BYTES};
use crate::page_size::PageSize;
use core::{mem, num::NonZeroUsize, ops::Range};
use std::vec::Vec;

/// What is pinned at a time: often enough to show progress, seldom enough to cost nothing.
const SLOT_BYTES: u64 = 64 << 20;

/// The bytes that each thread is to pin, of `len` in all: about the same for each.
pub(super) fn parts(len: u64, huge: PageSize, threads: NonZeroUsize) -> Vec<Range<u64>> {
    let units = len.div_ceil(huge.bytes());
    let threads = (threads.get() as u64).min(units).max(1);
    let each = units.checked_div(threads).unwrap_or(units);
    let more = units.checked_rem(threads).unwrap_or(0);
    let mut start = 0u64;
    (0..threads)
        .map(|index| {
            let units = each.wrapping_add(u64::from(index < more));
            let end = start.saturating_add(units.wrapping_shl(huge.shift())).min(len);
            mem::replace(&mut start, end)..end
        })
        .collect()
}

/// How large the slots of a part of `len` bytes are, and how many it has.
pub(super) fn slots(len: u64, huge: PageSize) -> Result<(u64, u32), PinErrorKind> {
    let mut slot = SLOT_BYTES.max(huge.bytes()).min(MAX_SLOT_BYTES);
    while slot < MAX_SLOT_BYTES && len.div_ceil(slot) > u64::from(MAX_SLOTS) {
        slot = slot.wrapping_shl(1);
    }
    match u32::try_from(len.div_ceil(slot)) {
        Ok(slots) if slots <= MAX_SLOTS => Ok((slot, slots)),
        _ => {
            let limit = MAX_SLOT_BYTES.wrapping_mul(u64::from(MAX_SLOTS));
            Err(PinErrorKind::TooLarge { len, limit })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_buffer_and_cut_no_huge_page() {
        let huge = PageSize::SIZE_2M;
        for len in [4096, 2 << 20, (2 << 20) + 4096, 7 << 21, (100 << 20) - 4096] {
            for threads in [1, 2, 3, 16, 1000] {
                let parts = parts(len, huge, NonZeroUsize::new(threads).unwrap());
                assert!(parts.len() <= threads);
                let mut next = 0;
                for part in &parts {
                    assert_eq!(part.start, next);
                    assert!(part.start < part.end && part.start & huge.mask() == 0);
                    next = part.end;
                }
                assert_eq!(next, len);
                let longest = parts.iter().map(|part| part.end - part.start).max().unwrap();
                assert!(longest <= len.div_ceil(threads as u64).next_multiple_of(huge.bytes()));
            }
        }
    }

    #[test]
    fn slots_are_as_many_as_a_ring_has() {
        assert_eq!(slots(4096, PageSize::SIZE_4K).unwrap(), (64 << 20, 1));
        assert_eq!(slots(65 << 20, PageSize::SIZE_2M).unwrap(), (64 << 20, 2));
        assert_eq!(slots(3 << 30, PageSize::SIZE_1G).unwrap(), (1 << 30, 3));
        // One terabyte fits in slots of 64 MiB, and one byte more does not.
        assert_eq!(slots(1 << 40, PageSize::SIZE_4K).unwrap(), (64 << 20, 1 << 14));
        assert_eq!(slots((1 << 40) + 4096, PageSize::SIZE_4K).unwrap(), (128 << 20, (1 << 13) + 1));
        assert_eq!(slots(1 << 44, PageSize::SIZE_4K).unwrap(), (1 << 30, 1 << 14));
        let error = slots((1 << 44) + 1, PageSize::SIZE_4K).unwrap_err();
        assert!(matches!(error, PinErrorKind::TooLarge { limit: 0x1000_0000_0000, .. }));
    }
}
