// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`RegionBus`]: the physical memory of pinned regions, for mock devices: of real ones, too.
#![forbid(unsafe_code)]

use super::bus::{Bus, BusError};
use pinned_sgl::store::Storage;
use pinned_sgl::umem::{Accountant, AddressKind, Holder, PageAccess, Region, RegionExt as _, Umem};
use pinned_sgl::PhysAddr;
use std::{fmt, ops::Range};

/// A [`Bus`] that has the memory of some pinned regions, and no other.
///
/// A physical address is looked for in the lists of the regions, and accessed through their pinner.
/// So a mock device does DMA to really pinned memory: to `linux::Buffer`, for example, where each
/// frame is known from the page map, and is reached at the buffer's own address. The regions stay
/// pinned as long as the bus holds them. One whose list has [user addresses](AddressKind::User) has no
/// memory here.
///
/// Nothing is kept but the regions: an access is O(runs).
///
/// ```
/// use pinned_sgl_mock::{Vma, Bus, Memory, Process, RegionBus};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
/// use pinned_sgl::UserAddr;
///
/// let memory = Memory::with_frames(64);
/// let process = std::sync::Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
/// process.map(range, Vma::read_write())?;
/// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Umem::pin(process, &Unaccounted, request)?;
///
/// let mut bus = RegionBus::new();
/// bus.push(&umem);
/// let phys = umem.whole()?.phys(0xffe).expect("it has more bytes");
/// bus.write(phys, b"over a page border")?;
/// let mut bytes = [0; 18];
/// umem.read(0xffe, &mut bytes)?;
/// assert_eq!(&bytes, b"over a page border");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RegionBus<U> {
    regions: Vec<U>,
}

impl<U> RegionBus<U> {
    /// A bus without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { regions: Vec::new() }
    }

    /// Adds the memory of a region.
    pub fn push(&mut self, region: U) {
        self.regions.push(region);
    }
}

impl<U> Default for RegionBus<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<U, P, A, S> RegionBus<U>
where
    U: Holder<Target = Umem<P, A, S>>,
    P: Holder<Target: PageAccess>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    /// Calls `copy` for each piece of the `len` bytes from `phys` on that is contiguous in a region:
    /// the region, the offset in it, and which of the bytes the piece has.
    fn for_each_part<E>(
        &self,
        phys: PhysAddr,
        len: usize,
        mut copy: impl FnMut(&U::Target, u64, Range<usize>) -> Result<(), E>,
    ) -> Result<(), BusError> {
        let mut done = 0usize;
        while done < len {
            let at = phys.checked_add(done as u64);
            let at = at.ok_or(BusError::NoMemory(phys))?;
            let found = self.regions.iter().find_map(|region| find(region, at));
            let (region, offset, left) = found.ok_or(BusError::NoMemory(at))?;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let end = done.saturating_add(left).min(len);
            copy(region, offset, done..end).map_err(|_| BusError::NoAccess(at))?;
            done = end;
        }
        Ok(())
    }
}

/// Where the region that `holder` holds has the byte at `phys`, and how many contiguous bytes from
/// there on.
fn find<U: Holder<Target: Region>>(holder: &U, phys: PhysAddr) -> Option<(&U::Target, u64, u64)> {
    if holder.address_kind() != AddressKind::Physical {
        return None;
    }
    let mut offset = 0u64;
    for run in holder.whole().ok()?.iter() {
        if let Some(inside) = phys.checked_offset_from(run.phys).filter(|inside| *inside < run.len)
        {
            let left = run.len - inside;
            return Some((&**holder, (offset + inside), left));
        }
        offset += run.len;
    }
    None
}

impl<U, P, A, S> Bus for RegionBus<U>
where
    U: Holder<Target = Umem<P, A, S>>,
    P: Holder<Target: PageAccess>,
    A: Holder<Target: Accountant>,
    S: Storage,
{
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        self.for_each_part(phys, bytes.len(), |region, offset, piece| {
            region.read(offset, bytes.get_mut(piece).unwrap_or_default())
        })
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        self.for_each_part(phys, bytes.len(), |region, offset, piece| {
            region.write(offset, bytes.get(piece).unwrap_or_default())
        })
    }
}

impl<U> fmt::Debug for RegionBus<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionBus").field("regions", &self.regions.len()).finish()
    }
}
