// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ranges`]: the addresses that a program may use.

use kernel::prelude::*;

/// Ranges of addresses, in order, none of which touch. Without any, there is no restriction: no group
/// of real devices has been attached yet.
pub(crate) struct Ranges(KVec<(u64, u64)>);

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        let mut ranges = KVec::with_capacity(self.0.len(), GFP_KERNEL_ACCOUNT)?;
        ranges.extend_from_slice(&self.0, GFP_KERNEL_ACCOUNT)?;
        Ok(Self(ranges))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First and last address of all of them.
    pub(crate) fn ends(&self) -> Option<(u64, u64)> {
        Some((self.0.first()?.0, self.0.last()?.1))
    }

    /// The ranges.
    pub(crate) fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Whether all addresses from `first` to `last` may be used.
    pub(crate) fn allow(&self, first: u64, last: u64) -> bool {
        self.is_empty() || self.0.iter().any(|range| range.0 <= first && last <= range.1)
    }

    /// Keeps only what lies from `first` to `last`.
    pub(crate) fn restrict(&mut self, first: u64, last: u64) -> Result {
        if self.is_empty() {
            self.0.push((first, last), GFP_KERNEL_ACCOUNT)?;
        }
        self.0.retain(|range| {
            *range = (range.0.max(first), range.1.min(last));
            range.0 <= range.1
        });
        Ok(())
    }

    /// Takes out what lies from `first` to `last`.
    pub(crate) fn exclude(&mut self, first: u64, last: u64) -> Result {
        let mut left = KVec::with_capacity(self.0.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        for &(start, end) in &self.0 {
            // What is before, and what is behind; all of it where nothing is taken out.
            let before = first.checked_sub(1).map(|before| (start, end.min(before)));
            let behind = last.checked_add(1).map(|behind| (start.max(behind), end));
            for part in [before, behind].into_iter().flatten().filter(|part| part.0 <= part.1) {
                left.push(part, GFP_KERNEL_ACCOUNT)?;
            }
        }
        self.0 = left;
        Ok(())
    }
}
