// SPDX-License-Identifier: MIT OR Apache-2.0
//! Into the page tables of the domains, and out of them: what is installed stays until it is uninstalled
//! and flushed, or is poisoned.

use super::area::{Area, Mapped};
use super::space::Ioas;
use super::store::IoasStore;
use super::tree::{IovaTree, TreeStore, Within};
use crate::iommu::domain::{Domain, DomainHolder};
use crate::iommu::entries;
use crate::iommu::error::{Breach, MapError};
use crate::iommu::prot::Prot;
use crate::iova_range::IovaRange;
use crate::umem::{Region as _, RegionExt as _, RegionHolder};
use core::pin::pin;

impl<U: RegionHolder, D: DomainHolder, S: IoasStore<U, D>> Ioas<U, D, S> {
    /// Maps memory at `range` in every domain, or in none. If there is no domain, one of the granule must
    /// be able to take it.
    pub(super) fn install_everywhere(
        &self,
        range: IovaRange,
        mapped: &Mapped<U>,
    ) -> Result<(), MapError<D::Error>> {
        if self.domains.is_empty() {
            let window = mapped.window(range).ok_or(MapError::Breach(Breach::new(range)))?;
            let checked = window.check_tiles(self.granule.into(), range.first(), window.iter());
            checked.map_err(MapError::Tiles)?;
        }
        // SAFETY: "the memory is attached, for writing if it is mapped for that, until it was uninstalled and
        // flushed; for ever after a breach, or if this unwinds": the caller lets go of the attachment
        // only behind a failure that is not a breach, and keeps it here otherwise, or leaks it.
        let install = |domain: &D| unsafe { install(&**domain, range, mapped) };
        let mut domains = self.domains.iter();
        let failure = domains.find_map(|(id, domain)| Some((id, install(domain).err()?)));
        let Some((failed, mut error)) = failure else {
            return Ok(());
        };
        for (_, domain) in self.domains.iter().take_while(|(id, _)| *id != failed) {
            let undone = mapped.window(range).ok_or(Breach::new(range)).and_then(|window| {
                // SAFETY: "the window was installed by the caller and has not been uninstalled since":
                // it was, above.
                unsafe { entries::uninstall(&**domain, &window, range.first()) }
            });
            if let Err(breach) = undone {
                error = MapError::Breach(breach);
            }
        }
        Err(error)
    }

    /// Unmaps in all domains what is mapped in `range`, where it was found, with one flush for each domain. Where a
    /// domain does not do that, the whole mapping is poisoned; the first breach is returned.
    ///
    /// All domains can cut where the range begins and ends, if a mapping lies across.
    pub(super) fn uninstall_everywhere(
        &mut self,
        range: IovaRange,
        found: Within,
    ) -> Result<(), Breach> {
        let Self { areas, domains, .. } = self;
        let mut first = Ok(());
        for (_, domain) in domains.iter() {
            // SAFETY: "that was installed in the domain and has not been uninstalled since": by the
            // invariant, and the range is uninstalled once from each domain, as the caller lets go of it
            // afterwards; "areas were cut only where the domain can cut, which can also be done where
            // `range` begins and ends": `check_cut` asks all domains, and so do the callers.
            let uninstalled = unsafe { uninstall(&**domain, areas, range, found) };
            first = first.and(uninstalled);
        }
        first
    }
}

/// Maps the memory of an area at `range` in a domain.
///
/// # Safety
///
/// The memory is attached, for writing if it is mapped for that, until it was uninstalled and flushed; for
/// ever after a breach, or if this unwinds.
pub(super) unsafe fn install<U, D>(
    domain: &D,
    range: IovaRange,
    mapped: &Mapped<U>,
) -> Result<(), MapError<D::Error>>
where
    U: RegionHolder,
    D: Domain + ?Sized,
{
    let region = mapped.attachment.region();
    let bytes = mapped.bytes(range, range).ok_or(MapError::Breach(Breach::new(range)))?;
    let window = region.window(bytes).map_err(MapError::Window)?;
    // SAFETY: "the memory of the window is attached, for writing if `prot` has `WRITE`, until ..": as the
    // caller promises.
    let installed = unsafe { entries::install(domain, window, range.first(), mapped.prot) };
    let reached = installed.as_ref().map_or_else(MapError::was_reached, |()| true);
    if reached && mapped.prot.contains_all(Prot::WRITE) {
        region.mark_dirty();
    }
    installed
}

/// Unmaps in a domain what areas of memory have in `range`, where these were found, then flushes once. An area of
/// which the domain does not unmap that is poisoned, whole; the first breach is returned.
///
/// # Safety
///
/// That was [installed](install) in the domain and has not been uninstalled since; areas were cut only
/// where the domain can cut, which can also be done where `range` begins and ends.
pub(super) unsafe fn uninstall<U, D, S>(
    domain: &D,
    areas: &mut IovaTree<Area<U>, S>,
    range: IovaRange,
    found: Within,
) -> Result<(), Breach>
where
    U: RegionHolder,
    D: Domain + ?Sized,
    S: TreeStore<Area<U>>,
{
    let guard = PoisonOnUnwind { areas, range };
    let mut first = Ok(());
    {
        // Its end is the domain's code, too, and may unwind.
        let mut gather = pin!(D::Gather::default());
        guard.areas.walk_mut(found, |whole, area| {
            let (Some(mapped), Some(part)) = (area.memory(), whole.intersection(&range)) else {
                return;
            };
            let uninstalled =
                mapped.part(whole, part).ok_or(Breach::new(part)).and_then(|window| {
                    // SAFETY: "the window was installed by the caller and has not been uninstalled since, as
                    // one or as part of a larger one that the domain can cut where this one begins and
                    // ends": as the caller promises of the areas and of the ends of the range.
                    unsafe {
                        entries::uninstall_into(domain, &window, part.first(), gather.as_mut())
                    }
                });
            if let Err(breach) = uninstalled {
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
/// call, it is unknown which of them devices reach.
pub(super) struct PoisonOnUnwind<'a, U: RegionHolder, S: TreeStore<Area<U>>> {
    pub(super) areas: &'a mut IovaTree<Area<U>, S>,
    pub(super) range: IovaRange,
}

impl<U: RegionHolder, S: TreeStore<Area<U>>> PoisonOnUnwind<'_, U, S> {
    pub(super) fn defuse(self) {
        core::mem::forget(self);
    }
}

impl<U: RegionHolder, S: TreeStore<Area<U>>> Drop for PoisonOnUnwind<'_, U, S> {
    fn drop(&mut self) {
        self.areas.for_each_mut(self.range, |_, area| {
            if area.memory().is_some() {
                drop(area.poison());
            }
        });
    }
}
