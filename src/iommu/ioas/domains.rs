// SPDX-License-Identifier: MIT OR Apache-2.0
//! The domains of an [`Ioas`]: each has every mapping. Attaching one replays them, detaching one
//! takes them all out again.

use super::super::domain::Domain;
use super::super::entries::{self, Breach, MapErrorKind, NotMapped};
use super::super::range::IovaRange;
use super::super::slab::Slab;
use super::super::tree::{IovaTree, Node};
use super::area::{Area, Mapped};
use super::error::{IoasAttachError, IoasError};
use super::space::{DomainError, Ioas};
use crate::page_size::{PageSize, PageSizes};
use crate::umem::{Holder, Region};
use core::{
    fmt,
    marker::PhantomData,
    pin::{pin, Pin},
};

/// Names a domain of one address space, for as long as it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DomainId(u32);

/// A domain and the next one in the list: what the slab of an address space keeps.
///
/// Its parts are its own; it is public so that a slab of them can be named.
pub struct DomainLink<D> {
    domain: D,
    next: Option<u32>,
}

impl<D> fmt::Debug for DomainLink<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainLink").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A list of domains, linked through a slab, newest first.
pub(super) struct Domains<D, N: Slab<DomainLink<D>>> {
    links: N,
    first: Option<u32>,
    domains: PhantomData<D>,
}

impl<D, N: Slab<DomainLink<D>>> Domains<D, N> {
    pub(super) const fn new_in(links: N) -> Self {
        Self { links, first: None, domains: PhantomData }
    }

    /// The domains and their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DomainId, &D)> + Clone {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let key = next?;
            let link = self.links.get(key)?;
            next = link.next;
            Some((DomainId(key), &link.domain))
        })
    }

    pub(super) fn get(&self, id: DomainId) -> Option<&D> {
        // A key is a number, which somebody else's slab may have given.
        self.iter().find(|(known, _)| *known == id).map(|(_, domain)| domain)
    }

    fn push(&mut self, domain: D) -> Result<DomainId, D> {
        let link = DomainLink { domain, next: self.first };
        let key = self.links.insert(link).map_err(|link| link.domain)?;
        self.first = Some(key);
        Ok(DomainId(key))
    }

    fn remove(&mut self, id: DomainId) -> Option<D> {
        let before = self.iter().map(|(known, _)| known).take_while(|known| *known != id).last();
        let link = self.links.remove(id.0)?;
        match before.and_then(|before| self.links.get_mut(before.0)) {
            Some(before) => before.next = link.next,
            None => self.first = link.next,
        }
        Some(link.domain)
    }
}

impl<U, D, M, N> Ioas<U, D, M, N>
where
    U: Holder<Target: Region>,
    D: Holder<Target: Domain>,
    M: Slab<Node<Area<U>>>,
    N: Slab<DomainLink<D>>,
{
    /// Attaches a domain: maps in it all that is mapped here. O(tiles of all mappings).
    ///
    /// # Errors
    ///
    /// [`IoasAttachError`], with the domain; nothing is mapped in it then, and the address space is
    /// as before. After [`IoasError::Breach`] nobody knows what is mapped in the domain, and the mapping
    /// at which it happened is poisoned.
    pub fn attach(&mut self, domain: D) -> Result<DomainId, IoasAttachError<D, DomainError<D>>> {
        let failed = |kind, at, domain| IoasAttachError { kind, at, domain };
        let id = match self.domains.push(domain) {
            Ok(id) => id,
            Err(domain) => return Err(failed(IoasError::OutOfMemory, None, domain)),
        };
        let Err((range, NotMapped { kind, breach, .. })) = self.replay(id) else {
            return Ok(id);
        };
        // What was replayed before it failed.
        let before = range.first().checked_sub(1).map_or(Ok(None), |last| {
            let replayed = IovaRange::inclusive(crate::Iova::new(0), last).ok();
            replayed.map_or(Ok(None), |replayed| self.withdraw(id, replayed).map(Some))
        });
        if breach {
            self.areas.for_each_mut(range, |_, area| drop(area.poison()));
        }
        let kind = match before {
            Ok(_) => kind.into(),
            Err(breach) => IoasError::Breach(breach),
        };
        match self.domains.remove(id) {
            Some(domain) => Err(failed(kind, Some(range), domain)),
            // It was put there above.
            None => Ok(id),
        }
    }

    /// Maps all mappings in the domain; stops at the first that fails.
    fn replay(&self, id: DomainId) -> Result<(), (IovaRange, NotMapped<DomainError<D>>)> {
        let Some(domain) = self.domains.get(id) else {
            return Ok(());
        };
        for (range, area) in self.areas.iter() {
            let Some(mapped) = area.memory() else {
                continue;
            };
            // SAFETY: the memory is attached for as long as it lies here, and it goes only after it
            // was removed from all domains; the domain is used by this address space.
            unsafe { install(&**domain, range, mapped) }.map_err(|failure| (range, failure))?;
        }
        Ok(())
    }

    /// Detaches a domain: unmaps all mappings in it, flushes once, and gives it back.
    ///
    /// # Errors
    ///
    /// [`IoasError::NoSuchDomain`]; or [`IoasError::Breach`] if the domain broke its contract: then
    /// it is detached and dropped, and the mapping that it did not unmap is poisoned.
    pub fn detach(&mut self, id: DomainId) -> Result<D, IoasError<DomainError<D>>> {
        if self.domains.get(id).is_none() {
            return Err(IoasError::NoSuchDomain);
        }
        let withdrawn = self.withdraw(id, IovaRange::ALL);
        let domain = self.domains.remove(id).ok_or(IoasError::NoSuchDomain)?;
        withdrawn.map(|()| domain).map_err(IoasError::Breach)
    }

    /// Unmaps in one domain all mappings that overlap `range`, and flushes once. After a breach, the
    /// mapping is poisoned; those behind it are unmapped all the same.
    fn withdraw(&mut self, id: DomainId, range: IovaRange) -> Result<(), Breach> {
        let Self { domains, areas, .. } = self;
        match domains.get(id) {
            // SAFETY: what lies here is mapped in the domain, by this address space.
            Some(domain) => unsafe { remove_all(&**domain, areas, range) },
            None => Ok(()),
        }
    }

    /// The attached domains, the latest first.
    pub fn domains(&self) -> impl Iterator<Item = (DomainId, &D)> + Clone {
        self.domains.iter()
    }

    /// The page sizes that all domains have; if there is no domain, those that one may have.
    pub(super) fn common_page_sizes(&self) -> PageSizes {
        let likely = PageSizes::all().at_least(PageSize::SIZE_4K).up_to(PageSize::SIZE_1G);
        if self.domains.iter().next().is_none() {
            return likely;
        }
        let all = PageSizes::all();
        self.domains.iter().fold(all, |common, (_, domain)| common & domain.page_sizes())
    }

    /// The addresses that all domains translate.
    pub(super) fn common_aperture(&self) -> Option<IovaRange> {
        let all = Some(IovaRange::ALL);
        self.domains.iter().fold(all, |common, (_, domain)| {
            common.and_then(|common| common.intersection(&domain.aperture()))
        })
    }
}

/// Maps the memory of an area at `range` in a domain.
///
/// # Safety
///
/// That of [`entries::install`].
pub(super) unsafe fn install<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
) -> Result<(), NotMapped<D::Error>>
where
    U: Holder<Target: Region>,
    D: Domain + ?Sized,
{
    let region = mapped.attachment.region();
    let bytes = mapped.bytes(range).unwrap_or(0..0);
    let window = region.window(bytes).map_err(MapErrorKind::Window)?;
    // SAFETY: the caller's promise is handed on.
    let installed = unsafe { entries::install(domain, window, range.first(), mapped.prot) };
    let reached = installed.as_ref().map_or_else(NotMapped::was_reached, |()| true);
    if reached && mapped.prot.contains(super::super::prot::Prot::WRITE) {
        region.mark_dirty();
    }
    installed
}

/// Unmaps the memory of an area at `range` in a domain, and flushes.
///
/// # Safety
///
/// That of [`remove`].
pub(super) unsafe fn uninstall<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
) -> Result<(), Breach>
where
    U: Holder<Target: Region>,
    D: Domain + ?Sized,
{
    let mut gather = pin!(D::Gather::default());
    // SAFETY: the caller's promise is handed on.
    let removed = unsafe { remove(domain, range, mapped, gather.as_mut()) };
    domain.flush(gather);
    removed
}

/// Unmaps the memory of an area at `range` in a domain.
///
/// # Safety
///
/// It is mapped in the domain, by the address space that the area is from.
unsafe fn remove<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
    gather: Pin<&mut D::Gather>,
) -> Result<(), Breach>
where
    U: Holder<Target: Region>,
    D: Domain + ?Sized,
{
    let window = mapped.window(range).ok_or(Breach::new(range))?;
    // SAFETY: the caller's promise is handed on.
    unsafe { entries::remove(domain, &window, range.first(), gather) }
}

/// Unmaps in a domain all areas of memory that overlap `range`, then flushes once. An area that the
/// domain does not unmap is poisoned; the first breach is told.
///
/// # Safety
///
/// All of them are mapped in the domain, by the address space that the areas are from.
pub(super) unsafe fn remove_all<U, D, M>(
    domain: &D,
    areas: &mut IovaTree<Area<U>, M>,
    range: IovaRange,
) -> Result<(), Breach>
where
    U: Holder<Target: Region>,
    D: Domain + ?Sized,
    M: Slab<Node<Area<U>>>,
{
    let mut gather = pin!(D::Gather::default());
    let mut first = Ok(());
    areas.for_each_mut(range, |range, area| {
        let Some(mapped) = area.memory() else {
            return;
        };
        // SAFETY: the caller's promise is handed on.
        if let Err(breach) = unsafe { remove(domain, range, mapped, gather.as_mut()) } {
            drop(area.poison());
            if first.is_ok() {
                first = Err(breach);
            }
        }
    });
    domain.flush(gather);
    first
}
