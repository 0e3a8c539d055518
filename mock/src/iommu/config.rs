// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IommuConfig`]: what a mock IOMMU can do.
#![forbid(unsafe_code)]

use crate::{Memory, Plan, Witness};
use pinned_sgl::iommu::{Cuts, IovaRange};
use pinned_sgl::PageSizes;

/// What an [`Iommu`](super::Iommu) can do; made by [`Iommu::config`](super::Iommu::config).
#[derive(Clone, Debug)]
#[must_use = "it makes a domain when it is built"]
pub struct IommuConfig {
    pub(super) sizes: PageSizes,
    pub(super) aperture: IovaRange,
    pub(super) cuts: Cuts,
    pub(super) strict_overlap: bool,
    pub(super) tlb_entries: Option<usize>,
    pub(super) plan: Plan,
    pub(super) witness: Witness,
    pub(super) memory: Option<Memory>,
}

impl IommuConfig {
    /// A domain with pages of `sizes`: any set. With an empty one nothing can be mapped.
    pub fn new(sizes: PageSizes) -> Self {
        Self {
            sizes,
            aperture: IovaRange::ALL,
            cuts: Cuts::Entries,
            strict_overlap: false,
            tlb_entries: None,
            plan: Plan::new(),
            witness: Witness::new(),
            memory: None,
        }
    }

    /// The addresses that the domain translates: by default all of 64 bits.
    pub const fn aperture(mut self, aperture: IovaRange) -> Self {
        self.aperture = aperture;
        self
    }

    /// Where memory that was mapped can be cut: by default at page table entries.
    ///
    /// Where that is anywhere, the rest of an entry that is cut stays as entries of the next smaller
    /// page size, all of which are made at once; where that could be more than 2^18 for one page, as
    /// with 1 TiB and 4 KiB, it is at entries after all. Where it is nowhere, what one call of
    /// [`map`](pinned_sgl::iommu::Domain::map) has mapped is unmapped whole, and a call that fails maps
    /// nothing.
    pub const fn cuts(mut self, cuts: Cuts) -> Self {
        self.cuts = cuts;
        self
    }

    /// Whether mapping over a mapping is a [`MapOverMap`] beside being refused: by
    /// default not, as that is how some find out that a range is taken.
    ///
    /// [`MapOverMap`]: crate::ViolationKind::MapOverMap
    pub const fn strict_overlap(mut self, strict: bool) -> Self {
        self.strict_overlap = strict;
        self
    }

    /// Limits the IOTLB to so many entries, of which the oldest goes when a new one comes. By
    /// default there is no limit, so that nothing is forgotten before it is flushed.
    pub const fn tlb_entries(mut self, entries: usize) -> Self {
        self.tlb_entries = Some(entries);
        self
    }

    /// Makes the domain a part of a machine: of that which has `memory`. Calls fail by its plan,
    /// violations are reported to its witness, and what the domain leads to may not be unpinned. By
    /// default it stands by itself, with a plan and a witness of its own.
    pub fn memory(mut self, memory: &Memory) -> Self {
        self.memory = Some(memory.clone());
        self.witness = memory.witness().clone();
        self.plan(memory.plan())
    }

    /// Which calls fail: by default none.
    pub fn plan(mut self, plan: &Plan) -> Self {
        self.plan = plan.clone();
        self
    }
}
