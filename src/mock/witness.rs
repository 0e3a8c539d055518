// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Witness`]: what the mocks have seen that must never happen.

use crate::addr::{Iova, Pfn};
use crate::sync::{lock, Mutex};
use core::fmt;
use std::{format, string::String, sync::Arc, vec::Vec};

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A page was unpinned that was not pinned.
    UnpinnedTwice {
        /// The page.
        pfn: Pfn,
    },
    /// A page is still pinned when nobody should hold it.
    Leak {
        /// The page.
        pfn: Pfn,
        /// How often it is pinned.
        pins: u64,
    },
    /// A device accessed a page that is not pinned: it was unpinned too early, or a flush is missing.
    DmaToUnpinned {
        /// The page.
        pfn: Pfn,
        /// Whether the device wrote.
        write: bool,
    },
    /// A kernel accessed a page on behalf of a device, and the page is not pinned.
    AccessToUnpinned {
        /// The page.
        pfn: Pfn,
        /// Whether it wrote.
        write: bool,
    },
    /// A page was written through a pin, and its last pin was taken back without marking it dirty.
    DirtyLost {
        /// The page.
        pfn: Pfn,
    },
    /// An address was mapped that is mapped already.
    MapOverMap {
        /// The address.
        iova: Iova,
    },
    /// An address was unmapped where nothing is mapped.
    UnmapOfNothing {
        /// The address.
        iova: Iova,
    },
    /// The edge of an unmapped range lies inside a page table entry.
    UnmapCuts {
        /// The edge.
        iova: Iova,
    },
    /// A call had arguments that its contract rules out.
    BadCall {
        /// What is wrong.
        what: &'static str,
        /// Where.
        iova: Iova,
    },
    /// A domain was dropped with pages still mapped.
    StillMapped {
        /// The first address of them.
        iova: Iova,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnpinnedTwice { pfn } => write!(f, "page {pfn} was unpinned and is not pinned"),
            Self::Leak { pfn, pins } => write!(f, "page {pfn} is still pinned {pins} times"),
            Self::DmaToUnpinned { pfn, write } => {
                let did = if *write { "wrote to" } else { "read" };
                write!(f, "a device {did} page {pfn}, which is not pinned")
            }
            Self::AccessToUnpinned { pfn, write } => {
                let did = if *write { "wrote to" } else { "read" };
                write!(f, "a kernel {did} page {pfn} for a device, which is not pinned")
            }
            Self::DirtyLost { pfn } => {
                write!(f, "page {pfn} was written for a device, and then unpinned as clean")
            }
            Self::MapOverMap { iova } => write!(f, "IOVA {iova} was mapped over a mapping"),
            Self::UnmapOfNothing { iova } => {
                write!(f, "IOVA {iova} was unmapped where nothing is mapped")
            }
            Self::UnmapCuts { iova } => {
                write!(f, "an unmapped range ends at IOVA {iova}, inside a page table entry")
            }
            Self::BadCall { what, iova } => write!(f, "{what}, at IOVA {iova}"),
            Self::StillMapped { iova } => {
                write!(f, "a domain was dropped with IOVA {iova} still mapped")
            }
        }
    }
}

/// Remembers every [`Violation`]: clones are the same witness.
///
/// The mocks go on after a violation as hardware would, so that a test sees all that follows from it.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    seen: Arc<Mutex<Vec<Violation>>>,
}

impl Witness {
    /// A witness that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a violation. Called by the mocks, and by whatever else watches.
    pub fn saw(&self, violation: Violation) {
        lock(&self.seen).push(violation);
    }

    /// All that was seen so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Violation> {
        lock(&self.seen).clone()
    }

    /// All that was seen so far; it is forgotten then. For tests that provoke a violation.
    #[must_use]
    pub fn take(&self) -> Vec<Violation> {
        core::mem::take(&mut *lock(&self.seen))
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        lock(&self.seen).is_empty()
    }

    /// Panics, with a line for each violation, if anything was seen.
    ///
    /// # Panics
    ///
    /// That is what it is for: it is called at the end of a test.
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub fn assert_clean(&self) {
        let seen = self.seen();
        if !seen.is_empty() {
            let lines: String = seen.iter().map(|violation| format!("\n  {violation}")).collect();
            panic!("what must never happen has happened:{lines}");
        }
    }
}
