// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups of devices that come and go, and with them the domains and the addresses that can be used.

use crate::{
    abi,
    container::{Domain, State},
    domain::{GroupDomain, GroupPtr},
    ffi,
    ranges::Ranges,
};
use kernel::{bindings, prelude::*, sync::UniqueArc};
use pinned_sgl::{
    iommu::{DomainId, IovaRange},
    Iova,
};

/// A group of devices in the container.
pub(crate) struct Group {
    pub(crate) raw: GroupPtr,
    /// Its domain; none if its devices are emulated.
    pub(crate) domain: Option<DomainId>,
    /// Whether its devices write only to pages that they have pinned.
    pub(crate) pins_what_it_writes: bool,
}

impl State {
    /// Attaches a group of devices.
    pub(crate) fn attach(&mut self, raw: GroupPtr, emulated: bool) -> Result {
        if self.moving > 0 {
            return Err(EBUSY);
        }
        if self.groups.iter().any(|group| group.raw == raw) {
            return Err(EINVAL);
        }
        self.groups.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let mut group = Group { raw, domain: None, pins_what_it_writes: emulated };
        if !emulated {
            let mut domain = UniqueArc::new(GroupDomain::new(raw)?, GFP_KERNEL_ACCOUNT)?;
            domain.attach(raw)?;
            let joined = match self.fit(raw, &mut domain) {
                Ok(fit) => self.join(raw, domain, fit),
                Err(error) => {
                    domain.detach(raw);
                    Err(error)
                }
            };
            group.domain = Some(joined?);
        }
        self.groups.push(group, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// The addresses that are left when a group is added, and where its interrupts go.
    fn fit(&self, raw: GroupPtr, domain: &mut GroupDomain) -> Result<(Ranges, Option<u64>)> {
        let aperture = pinned_sgl::iommu::Domain::aperture(domain);
        let (first, last) = (aperture.first().get(), aperture.last().get());
        // Whether there is a mapping between two addresses, if there are addresses between them.
        let used = |first: u64, last: u64| {
            let range = IovaRange::inclusive(Iova::new(first), Iova::new(last));
            range.is_ok_and(|range| self.first_in(range).is_some())
        };
        if let Some((start, end)) = self.ranges.ends() {
            // Nothing in common, or mappings outside of what they have in common.
            let lost_before = first.checked_sub(1).is_some_and(|before| used(start, before));
            let lost_behind = last.checked_add(1).is_some_and(|behind| used(behind, end));
            if first > end || last < start || lost_before || lost_behind {
                return Err(EINVAL);
            }
        }
        let reserved = reserved(raw)?;
        let strict = || reserved.iter().filter(|region| region.kind != abi::RESERVED_RELAXABLE);
        if strict().any(|region| used(region.first, region.last)) {
            return Err(EINVAL);
        }
        let mut ranges = self.ranges.try_clone()?;
        ranges.restrict(first, last)?;
        for region in strict() {
            ranges.exclude(region.first, region.last)?;
        }
        if ranges.is_empty() {
            return Err(EINVAL);
        }
        // SAFETY: vfio keeps the group while it is attached.
        let isolated = unsafe { bindings::iommu_group_has_isolated_msi(raw.0) };
        if !ffi::vfio_type1_unsafe_interrupts() && !isolated {
            pr_warn!("interrupts are not remapped: see the parameter allow_unsafe_interrupts\n");
            return Err(EPERM);
        }
        domain.enforce_coherency();
        let of_kind = |kind| reserved.iter().filter(move |region| region.kind == kind);
        let msi = match of_kind(abi::RESERVED_MSI).next() {
            Some(_) => None,
            None => of_kind(abi::RESERVED_SOFTWARE_MSI).next_back().map(|region| region.first),
        };
        Ok((ranges, msi))
    }

    /// Moves a group to a domain that is there, if it can be in it; or adds the domain, in which the
    /// group is.
    fn join(
        &mut self,
        raw: GroupPtr,
        domain: UniqueArc<GroupDomain>,
        (ranges, msi): (Ranges, Option<u64>),
    ) -> Result<DomainId> {
        let mut joined = None;
        for (id, known) in self.ioas.domains() {
            if !known.is_like(&domain) {
                continue;
            }
            domain.detach(raw);
            if known.attach(raw).is_ok() {
                joined = Some(id);
                break;
            }
            domain.attach(raw)?;
        }
        let id = match joined {
            Some(id) => id,
            None => self.add_domain(raw, domain, msi)?,
        };
        self.ranges = ranges;
        Ok(id)
    }

    fn add_domain(
        &mut self,
        raw: GroupPtr,
        domain: UniqueArc<GroupDomain>,
        msi: Option<u64>,
    ) -> Result<DomainId> {
        let is_first = !self.is_paged();
        let domain: Domain = domain.into();
        let undo = |error: Error| {
            domain.detach(raw);
            error
        };
        let id = self.ioas.attach(domain.clone()).map_err(|error| undo(error.into()))?;
        let mut outcome = Ok(());
        if is_first {
            outcome = self.each_in(IovaRange::ALL, |ioas, dma| Self::install(ioas, dma));
        }
        if let (Ok(()), Some(base)) = (&outcome, msi) {
            outcome = domain.reserve_msi(base);
        }
        match outcome {
            Ok(()) => Ok(id),
            Err(error) => {
                if is_first {
                    self.ioas.unmap_all();
                }
                let _ = self.ioas.detach(id);
                Err(undo(error))
            }
        }
    }

    /// Takes a group out of its domain.
    pub(crate) fn leave(&mut self, group: &Group) {
        if let Some((_, domain)) = self.ioas.domains().find(|(id, _)| Some(*id) == group.domain) {
            domain.detach(group.raw);
        }
    }

    /// Detaches a group. The last one takes all mappings with it; the last whose devices are real
    /// takes the pins.
    pub(crate) fn detach(&mut self, raw: GroupPtr) {
        let Some(index) = self.groups.iter().position(|group| group.raw == raw) else {
            return;
        };
        let Ok(group) = self.groups.remove(index) else { return };
        self.leave(&group);
        let used = |id| self.groups.iter().any(|group| group.domain == Some(id));
        match group.domain {
            Some(id) if !used(id) => {
                let is_last = self.ioas.domains().count() == 1;
                if is_last && !self.has_emulated() {
                    kernel::warn_on!(self.devices != 0);
                    self.remove_all();
                } else if is_last {
                    self.ioas.unmap_all();
                }
                if let Err(error) = self.ioas.detach(id) {
                    pr_err!("a domain of the IOMMU: {:?}\n", error);
                }
                let apertures = self
                    .ioas
                    .domains()
                    .map(|(_, domain)| pinned_sgl::iommu::Domain::aperture(&**domain));
                let whole = apertures.fold((0, u64::MAX), |(first, last), aperture| {
                    (first.max(aperture.first().get()), last.min(aperture.last().get()))
                });
                self.refresh(Some(whole));
            }
            Some(_) => self.refresh(None),
            None if self.groups.is_empty() => {
                kernel::warn_on!(self.devices != 0);
                self.remove_all();
            }
            None => {}
        }
        if !group.pins_what_it_writes && self.tracking {
            let _ = self.each_in(IovaRange::ALL, |_, dma| {
                dma.all_written();
                Ok(())
            });
        }
    }

    /// Works out anew which addresses can be used. Where that fails, it stays as it was: too strict.
    fn refresh(&mut self, whole: Option<(u64, u64)>) {
        let fresh = || -> Result<Ranges> {
            let (first, last) = whole.or(self.ranges.ends()).ok_or(EINVAL)?;
            let mut ranges = Ranges::new();
            ranges.restrict(first, last)?;
            for group in self.groups.iter().filter(|group| group.domain.is_some()) {
                for region in reserved(group.raw)? {
                    if region.kind != abi::RESERVED_RELAXABLE {
                        ranges.exclude(region.first, region.last)?;
                    }
                }
            }
            if ranges.is_empty() {
                Err(EINVAL)
            } else {
                Ok(ranges)
            }
        };
        if self.ranges.is_empty() {
            return;
        }
        if let Ok(ranges) = fresh() {
            self.ranges = ranges;
        }
    }

    /// The domain of a group.
    pub(crate) fn domain_of(&self, raw: GroupPtr) -> Result<*mut bindings::iommu_domain> {
        let group = self.groups.iter().find(|group| group.raw == raw).ok_or(ENODEV)?;
        let mut domains = self.ioas.domains();
        let (_, domain) = domains.find(|(id, _)| Some(*id) == group.domain).ok_or(ENODEV)?;
        Ok(domain.as_ptr())
    }
}

/// What a group keeps for itself.
fn reserved(group: GroupPtr) -> Result<KVec<ffi::Reserved>> {
    let mut regions = KVec::new();
    loop {
        let room = i32::try_from(regions.len()).map_err(|_| EINVAL)?;
        // SAFETY: vfio keeps the group while it is attached, and there is room for as many.
        let count = unsafe { ffi::vfio_type1_reserved(group.0, regions.as_mut_ptr(), room) };
        let needed = usize::try_from(count).map_err(|_| Error::from_errno(count))?;
        if needed <= regions.len() {
            regions.truncate(needed);
            return Ok(regions);
        }
        regions.resize(needed, ffi::Reserved::default(), GFP_KERNEL)?;
    }
}
