// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Domains`]: those of an address space, and what they can do together.
#![forbid(unsafe_code)]

use crate::exact::Exact as _;
use crate::iommu::domain::{Domain as _, DomainHolder};
use crate::iova_range::IovaRange;
use crate::page_size::{PageSize, PageSizes};
use crate::store::{Slab, Slabs};
use core::{fmt, marker::PhantomData};

/// Names a domain of one address space, as long as it is attached: no later one has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DomainId(u64);

/// A domain and the next one in the list.
pub struct DomainLink<D> {
    domain: D,
    id: DomainId,
    next: Option<u32>,
}

impl<D> fmt::Debug for DomainLink<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainLink").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A list of domains, linked through a slab, newest first.
pub(super) struct Domains<D, S: Slabs<DomainLink<D>>> {
    links: S::Slab,
    first: Option<u32>,
    /// How many domains there have been.
    attached: u64,
    domains: PhantomData<D>,
}

impl<D, S: Slabs<DomainLink<D>>> Domains<D, S> {
    pub(super) const fn new_in(links: S::Slab) -> Self {
        Self { links, first: None, attached: 0, domains: PhantomData }
    }

    /// The domains and their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DomainId, &D)> + Clone {
        self.links().map(|(_, link)| (link.id, &link.domain))
    }

    /// The domains and their keys.
    fn links(&self) -> impl Iterator<Item = (u32, &DomainLink<D>)> + Clone {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let key = next?;
            let link = self.links.get(key)?;
            next = link.next;
            Some((key, link))
        })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, domain: D) -> Result<DomainId, D> {
        let id = DomainId(self.attached);
        let link = DomainLink { domain, id, next: self.first };
        let key = self.links.insert(link).map_err(|link| link.domain)?;
        self.first = Some(key);
        self.attached = self.attached.plus(1);
        Ok(id)
    }

    pub(super) fn remove(&mut self, id: DomainId) -> Option<D> {
        let (key, _) = self.links().find(|(_, link)| link.id == id)?;
        let before = self.links().map(|(known, _)| known).take_while(|known| *known != key).last();
        let link = self.links.remove(key)?;
        match before.and_then(|before| self.links.get_mut(before)) {
            Some(before) => before.next = link.next,
            None => self.first = link.next,
        }
        Some(link.domain)
    }
}

impl<D: DomainHolder, S: Slabs<DomainLink<D>>> Domains<D, S> {
    /// The sizes that addresses may be multiples of: those of any domain, from the largest of the
    /// smallest sizes on, at which every domain can map. If there is no domain, those that one may have,
    /// from `granule` on.
    pub(super) fn placement_sizes(&self, granule: PageSize) -> PageSizes {
        let sizes = self.iter().map(|(_, domain)| domain.page_sizes());
        match sizes.clone().filter_map(PageSizes::smallest).max() {
            Some(smallest) => {
                sizes.fold(PageSizes::empty(), |all, one| all | one).at_least(smallest)
            }
            None => {
                let likely = PageSizes::all().at_least(granule).up_to(PageSize::SIZE_1G);
                likely | PageSizes::from(granule)
            }
        }
    }

    /// The addresses that all domains translate.
    pub(super) fn common_aperture(&self) -> Option<IovaRange> {
        let all = Some(IovaRange::ALL);
        self.iter().fold(all, |common, (_, domain)| {
            common.and_then(|common| common.intersection(&domain.aperture()))
        })
    }
}
