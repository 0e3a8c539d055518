// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the pages of a mapping are not larger.

use super::Mapping;
use pinned_sgl::{PageSize, PageSizes};
use std::fmt;

/// What keeps a mapping from pages larger than its largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Why {
    /// The largest page; none if no page of the domain fits.
    pub(crate) largest: Option<PageSize>,
    /// The next size of the domain, the one that does not fit.
    pub(crate) next: Option<PageSize>,
    pub(crate) reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// There is no whole page of that size in the mapping.
    Length,
    /// The memory begins at such a page, the IOVA does not.
    Iova,
    /// The IOVA begins at such a page, the memory does not.
    Memory,
    /// They begin inside of such pages, at different distances.
    Both,
    /// The domain has no larger page.
    Domain,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Iova => "iova",
            Self::Memory => "memory",
            Self::Both => "both",
            Self::Domain => "domain",
        }
    }
}

impl Why {
    pub(super) fn of(mapping: &Mapping, sizes: PageSizes) -> Self {
        let (iova, phys) = (mapping.iova.get(), mapping.memory.phys.get());
        let largest = mapping.entries(sizes).into_keys().next_back();
        let next = sizes.sizes().find(|size| largest.is_none_or(|largest| *size > largest));
        let reason = match next {
            None => Reason::Domain,
            Some(next) => match (iova & next.mask(), phys & next.mask()) {
                // Whatever its addresses, it would not be long enough; or it begins too late.
                _ if mapping.memory.len < next.bytes() => Reason::Length,
                (iova, phys) if iova == phys && (iova == 0 || largest.is_some()) => Reason::Length,
                (_, 0) => Reason::Iova,
                (0, _) => Reason::Memory,
                _ => Reason::Both,
            },
        };
        Self { largest, next, reason }
    }
}

/// The largest power of two that has a whole page in the mapping, at the same distance in IOVAs and
/// in memory: what a domain with all sizes would use.
pub(super) fn largest_that_fits(mapping: &Mapping) -> Option<PageSize> {
    let every = PageSizes::from_bits_retain(u64::MAX);
    mapping.entries(every).into_keys().next_back()
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.next.map_or(String::new(), |next| next.to_string());
        match (self.reason, self.largest) {
            (Reason::Length, None) => write!(f, "length: not a multiple of {next}"),
            (Reason::Length, _) => write!(f, "length: holds no whole {next}"),
            (Reason::Iova, _) => {
                write!(f, "IOVA: inside a page of {next}, the memory at its start")
            }
            (Reason::Memory, _) => {
                write!(f, "memory: inside a page of {next}, the IOVA at its start")
            }
            (Reason::Both, _) => write!(f, "IOVA and memory: differently inside pages of {next}"),
            (Reason::Domain, _) => f.write_str("domain: this is its largest"),
        }
    }
}
