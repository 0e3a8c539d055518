// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Prot`]: what a device may do with the memory of a mapping.
#![forbid(unsafe_code)]

use crate::flags::{self, flags};
use core::fmt;

flags! {
    /// What a device may do with memory, and how: Linux's `IOMMU_READ` and its siblings.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Prot(u32) {
        /// The device may read.
        const READ = 1 << 0;
        /// The device may write; the region must have been pinned for that.
        const WRITE = 1 << 1;
        /// Accesses take part in the coherence of the CPU caches.
        const CACHE = 1 << 2;
        /// The device may not fetch instructions.
        const NOEXEC = 1 << 3;
        /// The memory is that of a device: no speculation, no gathering.
        const MMIO = 1 << 4;
        /// Only for privileged accesses.
        const PRIVILEGED = 1 << 5;
    }
}

impl fmt::Debug for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        flags::write("Prot", self, f)
    }
}
