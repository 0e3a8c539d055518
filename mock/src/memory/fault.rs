// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults: a page that is not as it is wanted is brought in, copied, or moved. All under the lock of
//! the memory.
//!
//! ```text
//!  absent ── fault in ──► present ── not exclusive? unshare ──► exclusive ── movable? move ──► ready
//! ```
#![forbid(unsafe_code)]

use super::folios::{State, Unmoved};
use super::machine::Inner;
use super::page_table::Entry;
use super::vma::{Backing, Found};
use super::zone::Zone;
use pinned_sgl::umem::PinFlags;
use pinned_sgl::UserAddr;
use std::fmt;

/// Why a page of a process cannot be pinned, touched, or moved: the address of the page, and why.
///
/// An address that was asked for inside a page is named as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinFault {
    /// Nothing is mapped there (`EFAULT`).
    NotMapped(UserAddr),
    /// The page would be written, and may only be read (`EFAULT`).
    AccessDenied(UserAddr),
    /// The page is absent, or would have to be copied, and nothing is to be faulted in
    /// ([`PinFlags::NOFAULT`]).
    NotPresent(UserAddr),
    /// There is no free frame for it (`ENOMEM`): for a page that is pinned for long, none in a
    /// normal zone.
    NoMemory(UserAddr),
    /// The page would have to move, and is pinned (`EBUSY`).
    Busy(UserAddr),
    /// The page is memory of a device, which was not asked for ([`PinFlags::PCI_P2PDMA`]).
    DeviceMemory(UserAddr),
    /// A signal came ([`Process::interrupt`](super::Process::interrupt), `EINTR`).
    Interrupted(UserAddr),
    /// The flags rule each other out (`EINVAL`).
    Invalid(UserAddr),
    /// It was to fail: see [`Plan`](crate::Plan).
    Injected(UserAddr),
}

impl PinFault {
    /// The address.
    #[must_use]
    pub const fn at(self) -> UserAddr {
        match self {
            Self::NotMapped(at)
            | Self::AccessDenied(at)
            | Self::NotPresent(at)
            | Self::NoMemory(at)
            | Self::Busy(at)
            | Self::DeviceMemory(at)
            | Self::Interrupted(at)
            | Self::Invalid(at)
            | Self::Injected(at) => at,
        }
    }
}

impl fmt::Display for PinFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMapped(_) => "nothing is mapped",
            Self::AccessDenied(_) => "memory that may only be read",
            Self::NotPresent(_) => "a page that is not there, and is not to be faulted in",
            Self::NoMemory(_) => "no free frame",
            Self::Busy(_) => "a page that cannot be moved because it is pinned",
            Self::DeviceMemory(_) => "memory of a device, which was not asked for",
            Self::Interrupted(_) => "interrupted by a signal",
            Self::Invalid(_) => "flags that rule each other out",
            Self::Injected(_) => "failed as planned",
        })?;
        write!(f, ", at {}", self.at())
    }
}

impl std::error::Error for PinFault {}

/// How a page is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) write: bool,
    /// Something other than the process will look at the page for a while: it must be its own.
    pub(super) pin: bool,
    pub(super) long: bool,
    force: bool,
    nofault: bool,
    peer: bool,
}

impl Want {
    /// What the CPU of the process wants.
    pub(super) const fn cpu(write: bool) -> Self {
        Self { write, pin: false, long: false, force: false, nofault: false, peer: true }
    }

    pub(super) const fn pinned(flags: PinFlags) -> Self {
        Self {
            write: flags.contains(PinFlags::WRITE),
            pin: true,
            long: flags.contains(PinFlags::LONGTERM),
            force: flags.contains(PinFlags::FORCE),
            nofault: flags.contains(PinFlags::NOFAULT),
            peer: flags.contains(PinFlags::PCI_P2PDMA),
        }
    }

    /// Whether the page may be as shared as it is. As in Linux, a page is pinned only if it is the
    /// process' own, lest the process and the device see different pages after the next write. The
    /// frame of zeros may be read, but not for long.
    const fn allows_sharing(self, entry: Entry) -> bool {
        !self.write && (!self.pin || (entry.is_zero() && !self.long))
    }
}

impl Inner {
    /// Whether a page is as it is wanted. Needs no lock.
    pub(super) fn is_ready(&self, found: &Found, entry: Entry, want: Want) -> bool {
        let zone = entry.pfn().and_then(|pfn| self.zone_of(pfn));
        zone.is_some_and(|zone| match zone {
            Zone::Device(_) => want.peer,
            zone => !(want.long && zone.is_left_for_long_pins()),
        }) && (found.vma.writable || !want.write)
            && (entry.is_exclusive() || want.allows_sharing(entry))
    }

    /// Makes a page as it is wanted; its entry.
    pub(super) fn make_ready(
        &self,
        state: &mut State,
        found: &Found,
        want: Want,
        at: UserAddr,
    ) -> Result<Entry, PinFault> {
        let forced = want.force && found.vma.backing != Backing::Shared;
        if want.write && !found.vma.writable && !forced {
            return Err(PinFault::AccessDenied(at));
        }
        let load = || found.table.load(found.index);
        if !load().is_present() {
            if want.nofault {
                return Err(PinFault::NotPresent(at));
            }
            self.fault_in(state, found, want).ok_or(PinFault::NoMemory(at))?;
        }
        if !load().is_exclusive() && !want.allows_sharing(load()) {
            if want.nofault {
                return Err(PinFault::NotPresent(at));
            }
            self.unshare(state, found, want).ok_or(PinFault::NoMemory(at))?;
        }
        if let Some(pfn) = load().pfn() {
            match self.zone_of(pfn) {
                Some(Zone::Device(_)) if !want.peer => return Err(PinFault::DeviceMemory(at)),
                Some(zone) if want.long && zone.is_left_for_long_pins() => {
                    let head = self.head_of(pfn).unwrap_or(pfn);
                    self.migrate(state, head, Zone::Normal).map_err(|why| match why {
                        Unmoved::Busy => PinFault::Busy(at),
                        Unmoved::NoMemory => PinFault::NoMemory(at),
                    })?;
                }
                _ => {}
            }
        }
        Ok(load())
    }

    /// Takes a folio for a vma. For a long pin it is one that can stay where it is.
    fn alloc_for(&self, state: &mut State, found: &Found, want: Want, order: u32) -> Option<u64> {
        let zone = found.vma.zone;
        if !zone.is_left_for_long_pins() {
            return self.alloc(state, zone, order);
        }
        let preferred = if want.long { None } else { self.alloc(state, zone, order) };
        preferred.or_else(|| self.alloc(state, Zone::Normal, order))
    }

    /// Gives an absent page a frame.
    fn fault_in(&self, state: &mut State, found: &Found, want: Want) -> Option<()> {
        let Found { table, index, .. } = found;
        let slot = table.load(*index).slot();
        if slot.is_none() {
            if found.vma.backing == Backing::FromZero && want.allows_sharing(Entry::zero(0)) {
                table.set(*index, Entry::zero(self.zero(state)?));
                return Some(());
            }
            if self.fault_in_huge(state, found, want).is_some() {
                return Some(());
            }
        }
        let pfn = self.alloc_for(state, found, want, 0)?;
        if let Some(slot) = slot {
            let page = state.take_slot(slot);
            self.contents.put(pfn, page);
        }
        state.add_map(pfn, pfn, table, *index);
        table.set(*index, Entry::present(pfn, true));
        Some(())
    }

    /// Gives a page and those around it a folio, if all of them are mapped and never touched.
    fn fault_in_huge(&self, state: &mut State, found: &Found, want: Want) -> Option<()> {
        let order = found.vma.order;
        let pages = 1u64.checked_shl(order).filter(|_| order != 0)?;
        let before = found.page & (pages - 1);
        let after = pages.checked_sub(before)?;
        if before > found.before || after > found.left {
            return None;
        }
        let first = found.index.checked_sub(before)?;
        let end = first.checked_add(pages)?;
        if found.table.entries(first, end).next().is_some() {
            return None;
        }
        let head = self.alloc_for(state, found, want, order)?;
        state.add_maps(head, &found.table, first, pages);
        for page in 0..pages {
            let entry = Entry::present(head.saturating_add(page), true);
            found.table.set(first.saturating_add(page), entry);
        }
        Some(())
    }

    /// Makes a page the process's own: as it is, if no other process has it, or else by a copy.
    fn unshare(&self, state: &mut State, found: &Found, want: Want) -> Option<()> {
        let Found { table, index, .. } = found;
        let entry = table.load(*index);
        if let Some(head) = entry.own_pfn().and_then(|pfn| self.head_of(pfn)) {
            if state.is_only_in(head, table) {
                table.set(*index, entry.with_exclusive(true));
                return Some(());
            }
        }
        let copy = self.alloc_for(state, found, want, 0)?;
        if let Some(pfn) = entry.own_pfn() {
            self.copy_page(pfn, copy);
        }
        state.add_map(copy, copy, table, *index);
        table.set(*index, Entry::present(copy, true));
        if let Some(pfn) = entry.own_pfn() {
            self.drop_map(state, pfn, table, *index);
        }
        Some(())
    }
}
