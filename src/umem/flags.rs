// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinFlags`]: how pages are to be pinned.
#![forbid(unsafe_code)]

use crate::flags::{self, flags};
use core::fmt;

flags! {
    /// How pages are to be pinned: what callers of Linux's GUP choose (`FOLL_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct PinFlags(u32) {
        /// The device will write: copies on write are broken now, read-only memory is refused.
        const WRITE = 1 << 0;
        /// For long, as a device does: pages move out of movable memory before they are pinned.
        const LONGTERM = 1 << 1;
        /// Also where the process itself may not write (a debugger's right).
        const FORCE = 1 << 2;
        /// Take what is there, fault nothing in.
        const NOFAULT = 1 << 3;
        /// Pages of a device's memory are welcome (peer to peer); never together with `LONGTERM`.
        const PCI_P2PDMA = 1 << 4;
    }
}

impl fmt::Debug for PinFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        flags::write("PinFlags", self, f)
    }
}
