// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PagingDomain`]: an address space of the IOMMU that a driver fills by itself.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::foundation::iommu_domain::{AttachedDevice, Gather, IommuDomain};
use super::{
    kernel,
    turn::{Room, Turn},
};
use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::granule::Tile;
use crate::iommu::{Domain, Entry, IovaRange, Prot, ReadDomain};
use crate::page_size::PageSizes;
use crate::sgl::Segment;
use core::{fmt, iter, pin::Pin, ptr::NonNull};
use kernel::{
    alloc::{Flags, KBox, KVec},
    bindings,
    device::{Bound, Device},
    error::{Error, Result},
    new_mutex,
    prelude::InPlaceInit,
    sync::Mutex,
};

/// A paging domain of the IOMMU, which is kept elsewhere: what a [`PagingDomain`] is made of, and
/// what a subsystem uses that attaches groups of devices by itself, as vfio does.
///
/// Linux leaves it to the callers that no two of them touch the same addresses at once, and frees a
/// table that is empty while another thread may be walking it. So there is a lock here, for all that
/// changes or walks the page table: calls may come from any threads, and may sleep. Memory is
/// allocated under the lock, so that no call may come from where memory is reclaimed (a shrinker, an
/// MMU notifier).
///
/// Where a page table has no entry that can be written and not read, as those of Arm and the first
/// stage of Intel and AMD, the device may read what it may write.
///
/// # Invariants
///
/// `raw` is a paging domain that is there as long as this is used, and its page table is changed and walked
/// through this value only, under `lock`.
pub struct RawDomain {
    raw: NonNull<bindings::iommu_domain>,
    pub(super) lock: Pin<KBox<Mutex<Room>>>,
    pub(super) flags: Flags,
}

// SAFETY: the pointer is used for calls that any thread may make, and the lock may be sent.
unsafe impl Send for RawDomain {}
// SAFETY: by the invariant all calls that change or walk the page table take turns; what else is read
// of the domain does not change.
unsafe impl Sync for RawDomain {}

// `Prot` is passed to the IOMMU as it is.
#[cfg(pinned_sgl_kbuild)]
crate::asserts::static_assert!(
    Prot::READ.bits() == bindings::IOMMU_READ
        && Prot::WRITE.bits() == bindings::IOMMU_WRITE
        && Prot::CACHE.bits() == bindings::IOMMU_CACHE
        && Prot::NOEXEC.bits() == bindings::IOMMU_NOEXEC
        && Prot::MMIO.bits() == bindings::IOMMU_MMIO
        && Prot::PRIVILEGED.bits() == bindings::IOMMU_PRIV
);

impl RawDomain {
    /// The domain at `raw`. Its lock and its page tables are allocated with `flags`: `GFP_KERNEL_ACCOUNT` where
    /// user space decides how much is mapped, charged to the memory cgroup of the thread that maps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the lock is allocated.
    ///
    /// # Safety
    ///
    /// - It is a paging domain, and is freed when this is used no more: to drop this does not touch it;
    /// - before this is dropped, no device is in it any more;
    /// - until then, nothing else maps or unmaps in it, or reads its page table.
    pub unsafe fn new(raw: NonNull<bindings::iommu_domain>, flags: Flags) -> Result<Self> {
        // INVARIANT: as the caller promises.
        Ok(Self { raw, lock: Self::new_lock(flags)?, flags })
    }

    fn new_lock(flags: Flags) -> Result<Pin<KBox<Mutex<Room>>>> {
        KBox::pin_init(new_mutex!(Room::new(flags)?, "pinned_sgl::RawDomain"), flags)
    }

    /// As [`map_runs`](Domain::map_runs); before others have their turn, and before each call for memory that
    /// takes long, `go_on` says whether to go on, and whether with pages larger than the smallest, too. It is
    /// called without the lock.
    ///
    /// # Safety
    ///
    /// That of [`map_runs`](Domain::map_runs).
    pub unsafe fn map_runs_while(
        &self,
        iova: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
        go_on: impl FnMut() -> Result<bool>,
    ) -> (u64, Result) {
        let mut turn = Turn::new(self, iova.get(), prot, go_on);
        // SAFETY: that of `map_runs`, "for this run": as the caller promises for all of them.
        runs.for_each(|run| unsafe { turn.take(run) });
        turn.finish()
    }

    pub(super) fn raw(&self) -> &IommuDomain {
        // SAFETY: "it is a paging domain, and is there as long as the reference": by the invariant.
        unsafe { IommuDomain::from_raw(self.raw) }
    }

    /// The domain of the kernel: to attach devices to it. Only this value maps in it or unmaps.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.raw.as_ptr()
    }
}

/// A paging domain of the IOMMU with one device in it, which was taken out of the domain of the DMA
/// API. It goes back there when the domain is dropped: with `iommu=pt` it reaches all memory from then
/// on, so that a device which has not stopped, as far as its driver knows, is better left here for good
/// (`mem::forget`).
///
/// The device is its driver's alone: for a driver that manages DMA by itself (`driver_managed_dma`), it is claimed, as
/// vfio and iommufd do; for all others the DMA API owns it as long as the driver is bound. Either way nothing else
/// moves it, and no second device joins its group.
///
/// Where the platform maps message-signalled interrupts by software, as Arm's do, those are mapped in the domain that are
/// allocated while the device is in it: allocate interrupts after this, and free them before it is dropped. Those
/// allocated before do not arrive meanwhile. Where hardware maps them, as on x86, all arrive.
///
/// It borrows the bound device, so it is gone before the driver is unbound. One that is forgotten
/// keeps the device until then: no other domain takes it, and what is mapped stays mapped and pinned.
/// When the driver is unbound, a PCI device is stopped (its bus mastering is switched off). Then the device is blocked
/// by the IOMMU, and stays so until it is removed from its bus: no driver is bound to it any more, nor
/// does vfio take it. (A device on another bus cannot be stopped like that: on its way to be blocked it passes
/// through the domain of the DMA API, where nothing is mapped for it any more.)
///
/// All accesses are coherent with the caches of the CPU: [`Prot::CACHE`] is added to what is mapped,
/// and an IOMMU that cannot do that is refused. (A PCI device may still ask for accesses that are not,
/// by the attribute "no snoop": its driver knows.)
///
/// Calls may sleep.
///
/// # Invariants
///
/// `domain` is that of `attached`.
pub struct PagingDomain<'a> {
    // Dropped in this order: nothing uses the domain any more when it is freed.
    domain: RawDomain,
    attached: AttachedDevice<'a>,
}

impl<'a> PagingDomain<'a> {
    /// Makes a domain for `device` and moves it there. Its page tables are allocated with `flags`:
    /// `GFP_KERNEL_ACCOUNT` where user space decides how much is mapped, charged to the memory cgroup of the thread
    /// that maps.
    ///
    /// The device must not use the DMA API while it is in it: what it maps leads nowhere.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no IOMMU before the device, `EOPNOTSUPP` if the device's accesses through
    /// it are not coherent (`IOMMU_CAP_CACHE_COHERENCY`), or if it is not on the PCI bus and reaches all memory
    /// outside of the domain (`iommu=pt`); `EINVAL` if it shares a group with others,
    /// `EBUSY` if it is another owner's, or in another domain already; `ENOMEM`.
    pub fn attach(device: &'a Device<Bound>, flags: Flags) -> Result<Self> {
        let lock = RawDomain::new_lock(flags)?;
        let attached = AttachedDevice::new(device, flags)?;
        // INVARIANT: it is a paging domain that nothing else knows, which is there as long as `attached`.
        let domain = RawDomain { raw: attached.domain(), lock, flags };
        Ok(Self { domain, attached })
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &'a Device<Bound> {
        self.attached.device()
    }

    /// The addresses that the device cannot use, although the domain translates them: the window of
    /// message-signalled interrupts, and what the firmware keeps for itself. An `Ioas` takes
    /// them by `reserve`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `E2BIG` if there are more than 16 of them.
    pub fn reserved(&self, flags: Flags) -> Result<KVec<IovaRange>> {
        let ranges = self.attached.reserved(flags)?;
        let mut reserved = KVec::with_capacity(ranges.len(), flags)?;
        for [first, last] in &ranges {
            let range = IovaRange::inclusive(Iova::new(*first), Iova::new(*last))?;
            reserved.push(range, flags)?;
        }
        Ok(reserved)
    }
}

// SAFETY:
// - "`map` .. never replaces an entry that is there, and reports no byte that this call did not map; of
//   two calls that want one address, at most one gets it": calls take turns by the lock, and C
//   refuses what is in use: Linux's common page tables do, and for others it looks
//   first. What it has mapped when it meets such an address it unmaps and flushes, and nothing is
//   reported;
// - "after `map` has reported `n` bytes, the devices reach exactly the first `n` bytes of the tile at
//   its IOVA, and never write to them without `Prot::WRITE`": `iommu_map()` maps all of the range, as
//   the bits say, which are those of `Prot`;
// - "after `unmap` or `unmap_range` has reported `n` bytes, exactly the entries of the first `n` bytes
//   are gone": `iommu_unmap_fast()` returns how many bytes it has unmapped, from the beginning on;
//   "two calls .. may come at once": they take turns;
// - "after `flush` has returned, no device reaches what was unmapped through that gather": that is what
//   `iommu_iotlb_sync()` is for; a gather that is empty flushes nothing. The tables that it frees are found by
//   nothing: they were unlinked under the lock, under which all readers walk;
// - "when a domain is dropped, no device reaches anything through it any more": `RawDomain::new` was
//   promised that no device is in it;
// - "`page_sizes`, `aperture` and `cuts` never change": a driver sets them when it makes a domain;
// - "any method may unwind": none does.
unsafe impl Domain for RawDomain {
    type Error = Error;
    type Gather = Gather;

    const MAPS_RUNS: bool = true;

    fn page_sizes(&self) -> PageSizes {
        PageSizes::from_bits_retain(self.raw().page_sizes() as u64)
    }

    fn aperture(&self) -> IovaRange {
        let (first, last) = self.raw().aperture();
        // Where a driver has none, it translates all addresses.
        IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap_or(IovaRange::ALL)
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        // SAFETY: "that of `map`, for all of the runs": as the caller promises for the tile.
        unsafe { self.map_runs(tile.iova, iter::once(tile.into()), prot) }
    }

    unsafe fn map_runs(
        &self,
        iova: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
    ) -> (u64, Result<()>) {
        // SAFETY: "that of `map_runs`": as the caller promises.
        unsafe { self.map_runs_while(iova, runs, prot, || Ok(true)) }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        match IovaRange::new(tile.iova, tile.len()) {
            // SAFETY: "the bytes of the tile were reported by `map` to the caller and have not been
            // unmapped since; and what is unmapped begins and ends where the domain can cut": as the
            // caller promises, for this one tile, which is the range.
            Ok(range) => unsafe { self.unmap_range(range, [tile].into_iter(), gather) },
            Err(_) => 0,
        }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        _: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        let iova = usize::try_from(range.first().get());
        let len = range.len().and_then(|len| usize::try_from(len).ok());
        let (Ok(iova), Some(len)) = (iova, len) else {
            return 0;
        };
        let _guard = self.lock.lock();
        // SAFETY: "nothing else maps, unmaps or reads at these addresses meanwhile": by the invariant it is changed and
        // walked under the lock only; "they are the caller's, and begin and end where what was mapped may be cut":
        // "the bytes of the tile were reported by `map` to the caller and have not been unmapped since; and what is
        // unmapped begins and ends where the domain can cut", as the caller promises.
        unsafe { self.raw().unmap(iova, len, Some(gather)) as u64 }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        self.raw().sync(gather);
    }
}

// SAFETY:
// - "`read` .. never looks at a table that is being freed": it walks under the lock. A table is unlinked
//   under the lock, and freed then or by a later `flush`;
// - "for an address that `map` has reported as mapped, and that is not being unmapped, it returns the
//   entry that leads to the memory of that tile, and counts no byte that lies outside of the entry":
//   the driver of the IOMMU reads the page table that the device uses. No entry is smaller than the
//   smallest page, to the end of which the bytes are counted.
unsafe impl ReadDomain for RawDomain {
    fn read(&self, iova: Iova) -> Option<Entry> {
        let smallest = self.page_sizes().smallest()?;
        let guard = self.lock.lock();
        // SAFETY: "nothing else unmaps meanwhile": by the invariant that takes the lock.
        let phys = unsafe { self.raw().phys(iova.get()) };
        drop(guard);
        // That zero means nothing is right: no frame that is pinned begins there.
        let len = smallest.bytes().minus(iova.get() & smallest.mask());
        phys.map(|phys| Entry::new(PhysAddr::new(phys), len))
    }
}

impl fmt::Debug for RawDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawDomain")
            .field("page_sizes", &self.page_sizes())
            .field("aperture", &self.aperture())
            .finish_non_exhaustive()
    }
}

// SAFETY: each promise is kept by the domain inside, to which all calls go, but one: "when a domain is
// dropped, no device reaches anything through it any more". `Drop` takes the device out before it frees
// the domain.
unsafe impl Domain for PagingDomain<'_> {
    type Error = Error;
    type Gather = Gather;

    const MAPS_RUNS: bool = true;

    fn page_sizes(&self) -> PageSizes {
        self.domain.page_sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.domain.aperture()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until
        // the bytes that were reported have been unmapped and flushed": as the caller promises; how
        // the caches take part changes nothing of that.
        unsafe { self.domain.map(tile, prot | Prot::CACHE) }
    }

    unsafe fn map_runs(
        &self,
        iova: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
    ) -> (u64, Result<()>) {
        // SAFETY: "that of `map`, for all of the runs": as the caller promises; how the caches take part
        // changes nothing of that.
        unsafe { self.domain.map_runs(iova, runs, prot | Prot::CACHE) }
    }

    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Gather>) -> u64 {
        // SAFETY: "the bytes of the tile were reported by `map` to the caller and have not been
        // unmapped since; and what is unmapped begins and ends where the domain can cut": as the caller
        // promises; `map` reports what the domain inside has reported.
        unsafe { self.domain.unmap(tile, gather) }
    }

    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        gather: Pin<&mut Gather>,
    ) -> u64 {
        // SAFETY: that of `unmap`, "for all of the tiles, which make up the range": as the caller
        // promises; `map` reports what the domain inside has reported.
        unsafe { self.domain.unmap_range(range, tiles, gather) }
    }

    fn flush(&self, gather: Pin<&mut Gather>) {
        self.domain.flush(gather);
    }
}

// SAFETY: both promises are kept by the domain inside, to which all calls go.
unsafe impl ReadDomain for PagingDomain<'_> {
    fn read(&self, iova: Iova) -> Option<Entry> {
        self.domain.read(iova)
    }
}

impl fmt::Debug for PagingDomain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagingDomain")
            .field("page_sizes", &self.page_sizes())
            .field("aperture", &self.aperture())
            .finish_non_exhaustive()
    }
}
