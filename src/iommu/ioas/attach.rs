// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains come and go: attaching one replays all mappings in it, detaching one takes them all out again.

use super::domains::DomainId;
use super::error::IoasError;
use super::install::{install, uninstall, PoisonOnUnwind};
use super::space::Ioas;
use super::store::IoasStore;
use crate::failed::Failed;
use crate::iommu::domain::{Domain as _, DomainHolder};
use crate::iommu::error::{Breach, MapError};
use crate::iova_range::IovaRange;
use crate::umem::RegionHolder;

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Attaches a domain: maps in it all that is mapped here. O(tiles of all mappings).
    ///
    /// Where it is noted what devices write, the domain is made to do so first, and goes on if anything
    /// fails later.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// // A domain that comes later has all that is mapped.
    /// let later = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// space.attach(later.clone())?;
    /// memory.device(later).write(place.first(), b"by the later one")?;
    /// assert!(space.attach(iommu).is_err()); // it is attached
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError`], with the domain; nothing is mapped in it then, and the address space is
    /// as before. A domain is refused that [is attached](IoasError::Attached), or with which nothing could
    /// be mapped: [without pages](IoasError::NoPageSizes), or
    /// [without addresses](IoasError::NoCommonAperture) that the others have, too. After
    /// [`IoasError::Breach`] it is unknown what is mapped in the domain, and the mapping at which it
    /// happened is poisoned.
    pub fn attach(&mut self, domain: D) -> Result<DomainId, Failed<IoasError<D::Error>, D>> {
        if let Err(error) = self.check_domain(&domain) {
            return Err(Failed::new(error, domain));
        }
        // Before anything is mapped that a device could write.
        if let Some(Err(error)) = self.tracking.as_ref().map(|tracking| (tracking.start)(&domain)) {
            return Err(Failed::new(IoasError::Domain(error), domain));
        }
        if let Err((range, error)) = self.replay(&*domain) {
            // Books first: neither the domain nor the end of the region must be relied on to come back.
            let mut leaked = None;
            if error.is_breach() {
                self.areas.for_each_mut(range, |_, area| leaked = area.poison());
            }
            let error = match (self.uninstall_before(&*domain, range), error) {
                (Err(breach), _) | (Ok(()), MapError::Breach(breach)) => IoasError::Breach(breach),
                (Ok(()), error) => IoasError::Replay { range, error },
            };
            drop(leaked);
            return Err(Failed::new(error, domain));
        }
        self.domains.push(domain).map_err(|domain| {
            let error = match self.uninstall_from(&*domain, IovaRange::ALL) {
                Ok(()) => IoasError::OutOfMemory,
                Err(breach) => IoasError::Breach(breach),
            };
            Failed::new(error, domain)
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
        match self.domains.common_aperture() {
            Some(others) if others.intersection(&aperture).is_none() => {
                Err(IoasError::NoCommonAperture { aperture, others })
            }
            _ => Ok(()),
        }
    }

    /// Maps all mappings in a domain that is not attached; stops at the first that fails.
    fn replay(&mut self, domain: &D::Target) -> Result<(), (IovaRange, MapError<D::Error>)> {
        let guard = PoisonOnUnwind { areas: &mut self.areas, range: IovaRange::ALL };
        let outcome = guard.areas.iter().try_for_each(|(range, area)| {
            let Some(mapped) = area.memory() else {
                return Ok(());
            };
            // SAFETY: "the memory is attached, for writing if it is mapped for that, until it was uninstalled
            // and flushed; for ever after a breach, or if this unwinds": the attachment is let go only
            // behind an uninstall from all domains, of which the caller makes this one; otherwise the
            // area is poisoned, which leaks it.
            unsafe { install(domain, range, mapped) }.map_err(|error| (range, error))
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
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// let mut space = HeapIoas::new();
    /// let id = space.attach(iommu)?;
    /// let place = space.map(Placement::Anywhere, umem, Prot::READ)?;
    /// let iommu = space.detach(id)?;
    /// assert!(memory.device(iommu).read(place.first(), &mut [0]).is_err());
    /// assert_eq!(space.len(), 1); // for the domains to come
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`IoasError::NoSuchDomain`]; or [`IoasError::Breach`] if the domain broke its contract: then
    /// it is detached and dropped, and the mapping that it did not unmap is poisoned.
    pub fn detach(&mut self, id: DomainId) -> Result<D, IoasError<D::Error>> {
        self.keep_dirty(id);
        let domain = self.domains.remove(id).ok_or(IoasError::NoSuchDomain)?;
        let uninstalled = self.uninstall_from(&*domain, IovaRange::ALL);
        uninstalled.map(|()| domain).map_err(IoasError::Breach)
    }

    /// Unmaps in one domain, in which all of them are mapped, all mappings that overlap `range`, and
    /// flushes once. After a breach, the mapping is poisoned; those behind it are unmapped all the same.
    fn uninstall_from(&mut self, domain: &D::Target, range: IovaRange) -> Result<(), Breach> {
        let found = self.areas.within(range);
        // SAFETY: "that was installed in the domain and has not been uninstalled since": by `replay`, or
        // while the domain was attached; "areas were cut only where the domain can cut": `check_cut`
        // asks all domains; "which can also be done where `range` begins and ends": no area lies across.
        unsafe { uninstall(domain, &mut self.areas, range, found) }
    }

    /// The same for all mappings before `range`.
    fn uninstall_before(&mut self, domain: &D::Target, range: IovaRange) -> Result<(), Breach> {
        let Some(last) = range.first().checked_sub(1) else {
            return Ok(());
        };
        let before = IovaRange::inclusive(crate::Iova::new(0), last);
        self.uninstall_from(domain, before.map_err(|_| Breach::new(range))?)
    }

    /// The attached domains, the latest first.
    ///
    /// ```
    /// # use pinned_sgl::iommu::{HeapIoas, IovaRange, Placement, Prot};
    /// # use pinned_sgl::{umem::UserRange, Iova, PageSizes, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(64);
    /// # let umem = memory.pinned(UserRange::new(UserAddr::new(0x10_0000), 0x4000)?)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// # let mut space = HeapIoas::new();
    /// # space.attach(iommu.clone())?;
    /// # let place = space.map(Placement::At(Iova::new(0x8000)), umem.clone(), Prot::READ | Prot::WRITE)?;
    /// let names: Vec<_> = space.domains().map(|(id, _)| id).collect();
    /// for id in names {
    ///     space.detach(id)?;
    /// }
    /// assert_eq!(space.domains().count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn domains(&self) -> impl Iterator<Item = (DomainId, &D)> + Clone {
        self.domains.iter()
    }
}
