// SPDX-License-Identifier: MIT OR Apache-2.0
//! Columns of numbers are moved to the front, or to the back.
#![forbid(unsafe_code)]

use crate::exact::Exact as _;

/// Moves what stands from place `by` on to the front. (`copy_within` could panic.)
pub(super) fn shift_down(column: &mut [u64], by: usize) {
    let mut to = 0usize;
    while let Some(&value) = column.get(to.plus(by)) {
        if let Some(place) = column.get_mut(to) {
            *place = value;
        }
        to = to.plus(1);
    }
}

/// Moves all to the back by `by` places; the last `by` are gone.
pub(super) fn shift_up(column: &mut [u64], by: usize) {
    let mut to = column.len();
    while let Some(from) = to.checked_sub(1).and_then(|last| last.checked_sub(by)) {
        to = to.minus(1);
        let value = column.get(from).copied().unwrap_or(0);
        if let Some(place) = column.get_mut(to) {
            *place = value;
        }
    }
}
