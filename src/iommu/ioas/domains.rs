// SPDX-License-Identifier: MIT OR Apache-2.0
//! The domains of an [`Ioas`]: each has every mapping. Attaching one replays them, detaching one
//! takes them all out again.

use super::area::{Area, Mapped};
use super::error::{IoasAttachError, IoasError};
use super::space::Ioas;
use super::store::IoasStore;
use super::tree::{IovaTree, Node};
use crate::iommu::domain::{Domain, DomainHolder};
use crate::iommu::entries::{self, Breach, MapErrorKind, NotMapped};
use crate::iommu::range::IovaRange;
use crate::page_size::{PageSize, PageSizes};
use crate::store::{Slab, Slabs};
use crate::umem::{Region as _, RegionExt as _, RegionHolder};
use core::{
    fmt,
    marker::PhantomData,
    pin::{pin, Pin},
};

/// Names a domain of one address space, for as long as it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DomainId(u32);

/// A domain and the next one in the list.
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
pub(super) struct Domains<D, S: Slabs<DomainLink<D>>> {
    links: S::Slab,
    first: Option<u32>,
    domains: PhantomData<D>,
}

impl<D, S: Slabs<DomainLink<D>>> Domains<D, S> {
    pub(super) const fn new_in(links: S::Slab) -> Self {
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

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push(&mut self, domain: D) -> Result<DomainId, D> {
        let link = DomainLink { domain, next: self.first };
        let key = self.links.insert(link).map_err(|link| link.domain)?;
        self.first = Some(key);
        Ok(DomainId(key))
    }

    fn remove(&mut self, id: DomainId) -> Option<D> {
        // A key is a number, which another address space may have given.
        self.iter().find(|(known, _)| *known == id)?;
        let before = self.iter().map(|(known, _)| known).take_while(|known| *known != id).last();
        let link = self.links.remove(id.0)?;
        match before.and_then(|before| self.links.get_mut(before.0)) {
            Some(before) => before.next = link.next,
            None => self.first = link.next,
        }
        Some(link.domain)
    }
}

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Attaches a domain: maps in it all that is mapped here. O(tiles of all mappings).
    ///
    /// Where it is noted what devices write, the domain is told to do so first, and goes on if anything
    /// fails later.
    ///
    /// # Errors
    ///
    /// [`IoasAttachError`], with the domain; nothing is mapped in it then, and the address space is
    /// as before. A domain is refused that [is attached](IoasError::Attached), or with which nothing could
    /// be mapped: [without pages](IoasError::NoPageSizes), or
    /// [without addresses](IoasError::NoCommonAperture) that the others have, too. After [`IoasError::Breach`] nobody knows what is mapped in the domain, and the mapping
    /// at which it happened is poisoned.
    pub fn attach(&mut self, domain: D) -> Result<DomainId, IoasAttachError<D, D::Error>> {
        let failed = |kind, at, domain| IoasAttachError { kind, at, domain };
        if let Err(kind) = self.check_domain(&domain) {
            return Err(failed(kind, None, domain));
        }
        // Before anything is mapped that a device could write.
        if let Some(Err(error)) = self.tracking.as_ref().map(|tracking| (tracking.start)(&domain)) {
            return Err(failed(IoasError::Domain(error), None, domain));
        }
        if let Err((range, NotMapped { kind, breach, .. })) = self.replay(&*domain) {
            // Books first: neither the domain nor the end of the region must be relied on to come back.
            let mut leaked = None;
            if breach {
                self.areas.for_each_mut(range, |_, area| leaked = area.poison());
            }
            let kind = match self.withdraw_before(&*domain, range) {
                Ok(()) => kind.into(),
                Err(breach) => IoasError::Breach(breach),
            };
            drop(leaked);
            return Err(failed(kind, Some(range), domain));
        }
        self.domains.push(domain).map_err(|domain| {
            let kind = match self.withdraw(&*domain, IovaRange::ALL) {
                Ok(()) => IoasError::OutOfMemory,
                Err(breach) => IoasError::Breach(breach),
            };
            failed(kind, None, domain)
        })
    }

    /// Whether something could be mapped here and in a domain that is not attached.
    fn check_domain(&self, domain: &D) -> Result<(), IoasError<D::Error>> {
        let same = |known: &D| core::ptr::eq::<D::Target>(&**known, &**domain);
        if let Some((id, _)) = self.domains.iter().find(|(_, known)| same(known)) {
            return Err(IoasError::Attached { id });
        }
        if domain.page_sizes().is_empty() {
            return Err(IoasError::NoPageSizes);
        }
        let aperture = domain.aperture();
        match self.common_aperture() {
            Some(others) if others.intersection(&aperture).is_none() => {
                Err(IoasError::NoCommonAperture { aperture, others })
            }
            _ => Ok(()),
        }
    }

    /// Maps all mappings in a domain that is not attached; stops at the first that fails.
    fn replay(&mut self, domain: &D::Target) -> Result<(), (IovaRange, NotMapped<D::Error>)> {
        let guard = PoisonOnUnwind { areas: &mut self.areas, range: IovaRange::ALL };
        let outcome = guard.areas.iter().try_for_each(|(range, area)| {
            let Some(mapped) = area.memory() else {
                return Ok(());
            };
            // SAFETY: "the memory is attached, for writing if it is mapped for that, until it was removed
            // and flushed; for ever after a breach, or if this unwinds": the attachment is let go only
            // behind a removal from all domains, of which the caller makes this one; otherwise the
            // area is poisoned, which leaks it.
            unsafe { install(domain, range, mapped) }.map_err(|failure| (range, failure))
        });
        guard.defuse();
        outcome
    }

    /// Detaches a domain: unmaps all mappings in it, flushes once, and gives it back.
    ///
    /// Where it is noted what devices write, what the domain has noted is kept, for
    /// [`read_dirty`](Self::read_dirty) to show. Its devices should have stopped by then: what they write
    /// while it is being read and unmapped may be missed.
    ///
    /// # Errors
    ///
    /// [`IoasError::NoSuchDomain`]; or [`IoasError::Breach`] if the domain broke its contract: then
    /// it is detached and dropped, and the mapping that it did not unmap is poisoned.
    pub fn detach(&mut self, id: DomainId) -> Result<D, IoasError<D::Error>> {
        self.keep_dirty(id);
        let domain = self.domains.remove(id).ok_or(IoasError::NoSuchDomain)?;
        let withdrawn = self.withdraw(&*domain, IovaRange::ALL);
        withdrawn.map(|()| domain).map_err(IoasError::Breach)
    }

    /// Unmaps in one domain all mappings that overlap `range`, in which all of them are mapped, and
    /// flushes once. After a breach, the mapping is poisoned; those behind it are unmapped all the same.
    fn withdraw(&mut self, domain: &D::Target, range: IovaRange) -> Result<(), Breach> {
        // SAFETY: "that was installed in the domain and has not been removed since": by `replay`, or
        // while the domain was attached; "areas were cut only where the domain can cut": `check_cut`
        // asks all domains; "which can also be done where `range` begins and ends": no area lies across.
        unsafe { remove_all(domain, &mut self.areas, range) }
    }

    /// The same for all mappings before `range`.
    fn withdraw_before(&mut self, domain: &D::Target, range: IovaRange) -> Result<(), Breach> {
        let Some(last) = range.first().checked_sub(1) else {
            return Ok(());
        };
        let before = IovaRange::inclusive(crate::Iova::new(0), last);
        self.withdraw(domain, before.map_err(|_| Breach::new(range))?)
    }

    /// The attached domains, the latest first.
    pub fn domains(&self) -> impl Iterator<Item = (DomainId, &D)> + Clone {
        self.domains.iter()
    }

    /// The sizes that addresses may be multiples of: those of any domain, from the largest of the
    /// smallest sizes on, at which every domain can map. If there is no domain, those that one may have,
    /// from the granule on.
    pub(super) fn placement_sizes(&self) -> PageSizes {
        let sizes = self.domains.iter().map(|(_, domain)| domain.page_sizes());
        match sizes.clone().filter_map(PageSizes::smallest).max() {
            Some(smallest) => {
                sizes.fold(PageSizes::empty(), |all, one| all | one).at_least(smallest)
            }
            None => {
                let likely = PageSizes::all().at_least(self.granule).up_to(PageSize::SIZE_1G);
                likely | self.granule.into()
            }
        }
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
/// The memory is attached, for writing if it is mapped for that, until it was removed and flushed; for
/// ever after a breach, or if this unwinds.
pub(super) unsafe fn install<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
) -> Result<(), NotMapped<D::Error>>
where
    U: RegionHolder,
    D: Domain + ?Sized,
{
    let region = mapped.attachment.region();
    let bytes = mapped.bytes(range, range).ok_or(NotMapped::breach(Breach::new(range)))?;
    let window = region.window(bytes).map_err(MapErrorKind::Window)?;
    // SAFETY: "the memory of the window is attached, for writing if `prot` has `WRITE`, until ..": as the
    // caller promises.
    let installed = unsafe { entries::install(domain, window, range.first(), mapped.prot) };
    let reached = installed.as_ref().map_or_else(NotMapped::was_reached, |()| true);
    if reached && mapped.prot.contains(super::super::prot::Prot::WRITE) {
        region.mark_dirty();
    }
    installed
}

/// Unmaps the memory of a whole area at `range` in a domain, and flushes.
///
/// # Safety
///
/// It was [installed](install) in the domain, and has not been removed since.
pub(super) unsafe fn uninstall<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
) -> Result<(), Breach>
where
    U: RegionHolder,
    D: Domain + ?Sized,
{
    let mut gather = pin!(D::Gather::default());
    // SAFETY: "it was installed in the domain ..": as the caller promises.
    let removed = unsafe { remove(domain, range, range, mapped, gather.as_mut()) };
    domain.flush(gather);
    removed
}

/// Unmaps `part` of the memory of an area at `range` in a domain.
///
/// # Safety
///
/// It was [installed](install) in the domain, and has not been removed since; alone, or as a part of
/// what the domain can cut where the part begins and ends.
unsafe fn remove<U, D>(
    domain: &D,
    range: IovaRange,
    part: IovaRange,
    mapped: &Mapped<U>,
    gather: Pin<&mut D::Gather>,
) -> Result<(), Breach>
where
    U: RegionHolder,
    D: Domain + ?Sized,
{
    let window = mapped.part(range, part).ok_or(Breach::new(part))?;
    // SAFETY: "the window was installed by the caller and has not been removed since, as one or as part
    // of a larger one that the domain can cut where this one begins and ends": as the caller promises.
    unsafe { entries::remove(domain, &window, part.first(), gather) }
}

/// Unmaps in a domain what areas of memory have in `range`, then flushes once. An area of which the
/// domain does not unmap that is poisoned, whole; the first breach is returned.
///
/// # Safety
///
/// That was [installed](install) in the domain and has not been removed since; areas were cut only
/// where the domain can cut, which can also be done where `range` begins and ends.
pub(super) unsafe fn remove_all<U, D, S>(
    domain: &D,
    areas: &mut IovaTree<Area<U>, S>,
    range: IovaRange,
) -> Result<(), Breach>
where
    U: RegionHolder,
    D: Domain + ?Sized,
    S: Slabs<Node<Area<U>>>,
{
    let guard = PoisonOnUnwind { areas, range };
    let mut first = Ok(());
    {
        // Its end is the domain's code, too, and may unwind.
        let mut gather = pin!(D::Gather::default());
        guard.areas.for_each_mut(range, |whole, area| {
            let (Some(mapped), Some(part)) = (area.memory(), whole.intersection(&range)) else {
                return;
            };
            // SAFETY: "it was installed in the domain, and has not been removed since; alone, or as a part
            // of what the domain can cut where the part begins and ends": as the caller promises of the
            // areas and of the ends of the range.
            if let Err(breach) = unsafe { remove(domain, whole, part, mapped, gather.as_mut()) } {
                drop(area.poison());
                first = first.and(Err(breach));
            }
        });
        domain.flush(gather);
    }
    guard.defuse();
    first
}

/// Poisons all areas that overlap `range` when it is dropped: where a domain did not come back from a
/// call, nobody knows which of them devices reach.
struct PoisonOnUnwind<'a, U: RegionHolder, S: Slabs<Node<Area<U>>>> {
    areas: &'a mut IovaTree<Area<U>, S>,
    range: IovaRange,
}

impl<U: RegionHolder, S: Slabs<Node<Area<U>>>> PoisonOnUnwind<'_, U, S> {
    fn defuse(self) {
        core::mem::forget(self);
    }
}

impl<U: RegionHolder, S: Slabs<Node<Area<U>>>> Drop for PoisonOnUnwind<'_, U, S> {
    fn drop(&mut self) {
        self.areas.for_each_mut(self.range, |_, area| {
            if area.memory().is_some() {
                drop(area.poison());
            }
        });
    }
}
