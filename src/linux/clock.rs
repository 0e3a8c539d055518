// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Steps`]: how long the kernel took.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

/// How long the steps of pinning took, since the buffer was made: summed over all calls, and over
/// threads that worked at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Steps {
    /// Faulting in and pinning.
    pub pin: Duration,
    /// Reading frame numbers from the page map, and joining them to runs.
    pub read: Duration,
}

/// Adds up [`Steps`].
#[derive(Debug, Default)]
pub(super) struct Clock {
    // In nanoseconds: enough for 584 years.
    pin: AtomicU64,
    read: AtomicU64,
}

impl Clock {
    /// Counts the time since `started` as pinning.
    pub(super) fn pinned(&self, started: Instant) {
        add(&self.pin, started);
    }

    /// Counts the time since `started` as reading.
    pub(super) fn has_read(&self, started: Instant) {
        add(&self.read, started);
    }

    pub(super) fn steps(&self) -> Steps {
        let time = |sum: &AtomicU64| Duration::from_nanos(sum.load(Ordering::Relaxed));
        Steps { pin: time(&self.pin), read: time(&self.read) }
    }
}

fn add(sum: &AtomicU64, started: Instant) {
    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    sum.fetch_add(nanos, Ordering::Relaxed);
}
