// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is: pages of processes, pinned regions, and what is mapped of them.

use super::{Payer, Pinned, PAGES};
use pinned_sgl::iommu::{Mapping, Prot, Stream};
use pinned_sgl::umem::RunSlot;
use pinned_sgl_mock::{Iommu, Process};
use std::sync::Arc;

pub(super) type Mapped = Mapping<Arc<Pinned>, Arc<Iommu>>;
pub(super) type Slots = Box<[RunSlot]>;

/// A page of a process.
#[derive(Clone, Copy)]
pub(super) struct Page {
    pub(super) cell: usize,
    pub(super) writable: bool,
    pub(super) shared: bool,
}

pub(super) struct Proc {
    pub(super) real: Arc<Process>,
    pub(super) pages: [Option<Page>; PAGES],
    pub(super) interrupted: bool,
}

/// A pinned region: of a list, or of a stream.
pub(super) struct Region {
    pub(super) cells: Vec<usize>,
    pub(super) frames: Vec<u64>,
    pub(super) page_offset: u64,
    pub(super) len: u64,
    pub(super) writable: bool,
    pub(super) payer: usize,
    pub(super) handle: Option<Arc<Pinned>>,
    pub(super) maps: usize,
    pub(super) dirty: bool,
}

impl Region {
    pub(super) fn is_alive(&self) -> bool {
        self.handle.is_some() || self.maps != 0
    }
}

pub(super) enum Real {
    Mapping(Mapped),
    Stream(Stream<Arc<Process>, Payer, Arc<Iommu>, Slots>),
}

/// Bytes of a region that are mapped.
pub(super) struct Live {
    pub(super) real: Real,
    pub(super) region: usize,
    pub(super) iommu: usize,
    pub(super) iova: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) prot: Prot,
}

/// What all parts of a mapping that is cut have in common.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) region: usize,
    pub(super) iommu: usize,
    pub(super) iova: u64,
    pub(super) offset: u64,
    pub(super) prot: Prot,
}

impl Parts {
    /// The part that begins `from` bytes behind the first byte of the whole.
    pub(super) fn live(self, mapping: Mapped, from: u64, len: u64) -> Live {
        let Self { region, iommu, iova, offset, prot } = self;
        let (iova, offset) = (iova + from, offset + from);
        Live { real: Real::Mapping(mapping), region, iommu, iova, offset, len, prot }
    }
}
