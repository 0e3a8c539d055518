// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Domain`]: an IOMMU address space, as a driver of an IOMMU offers it.

use super::prot::Prot;
use crate::addr::{Iova, PhysAddr};
use crate::granule::Tile;
use crate::iova_range::IovaRange;
use crate::page_size::PageSizes;
use crate::sgl::Segment;
use crate::umem::{AddressKind, Holder};
use core::{fmt, pin::Pin};

/// An IOMMU address space: a page table, the cache of it in the hardware, and the devices behind it.
///
/// A domain is shared: its methods take `&self`. What is mapped in it is known to the values that map
/// there, a [`Mapping`](super::Mapping), a [`Stream`](super::Stream) or an [`Ioas`](super::Ioas), and
/// none of these knows of the others. So it is the domain that refuses addresses which are in use.
///
/// # Implementation safety
///
/// - [`map`](Self::map) may be asked for any addresses at any time, also for some that are mapped, and,
///   where the domain is `Sync`, by several threads at once. It never replaces an entry that is there,
///   and reports no byte that this call did not map; of two calls that want one address, at most one
///   gets it. A domain whose page table leaves this to its callers takes a lock;
/// - after `map` has reported `n` bytes, the devices reach exactly the first `n` bytes of the tile at
///   its IOVA, and never write to them without [`Prot::WRITE`]. (Where a format has no entry that can
///   be written and not read, memory that may be written may be read, too.);
/// - after [`unmap`](Self::unmap) or [`unmap_range`](Self::unmap_range) has reported `n` bytes,
///   exactly the entries of the first `n` bytes are gone, and all others are there; the hardware may
///   remember them until [`flush`](Self::flush) has been called with the same gather. Two calls for
///   ranges that do not overlap may come at once where the domain is `Sync`, also if both lie in one
///   entry of a domain that [cuts anywhere](Cuts::Anywhere);
/// - after `flush` has returned, no device reaches what was unmapped through that gather. A flush with
///   a gather that this domain has not filled does no harm;
/// - when a domain is dropped, no device reaches anything through it any more;
/// - [`page_sizes`](Self::page_sizes), [`aperture`](Self::aperture) and [`cuts`](Self::cuts) never
///   change;
/// - any method may unwind. Then anything that it was asked for may have been done in part: the crate
///   takes the addresses for reached, and leaks the pins of the memory.
///
/// The crate checks the numbers that a domain reports as far as they can be checked. Where one
/// misreports, values leak their pins rather than free what a device may still write.
///
/// # Safety
///
/// `map`, `unmap`, and what does either for several tiles, have contracts; a `Mapping` and an
/// `Ioas` keep them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Domain`",
    note = "a domain is passed by its holder: an `Arc`, a `Box` or a reference of it; \
            not a reference of an `Arc`"
)]
pub unsafe trait Domain {
    /// Why a tile could not be mapped: in a kernel, the errno.
    type Error: fmt::Debug;

    /// What collects unmapped ranges until they are flushed together: [`RangeGather`], or a
    /// kernel's own. It does not move between its first use and its drop.
    type Gather: Default;

    /// Whether [`map_runs`](Self::map_runs) does more than to call [`map`](Self::map) for each tile.
    const MAPS_RUNS: bool = false;

    /// What the addresses of tiles are. A domain over calls that take user memory and pin it themselves, as
    /// those of VFIO do, finds the user address in [`Tile::user`]. One that forwards to another has its kind.
    const ADDRESS_KIND: AddressKind = AddressKind::Physical;

    /// The sizes of its pages.
    fn page_sizes(&self) -> PageSizes;

    /// The addresses that it can translate.
    fn aperture(&self) -> IovaRange;

    /// Where memory that was mapped may be cut, so that a part of it can be unmapped.
    fn cuts(&self) -> Cuts {
        Cuts::Entries
    }

    /// Maps a tile; reports how many bytes of it are mapped now, whether or not it failed.
    ///
    /// A success reports all bytes; a failure some of them, whole pages of the tile, from its
    /// beginning on: none, where a domain [never cuts](Cuts::Never).
    ///
    /// # Safety
    ///
    /// The memory of the tile stays what it is, and may be accessed as `prot` says, until the bytes
    /// that were reported have been unmapped and flushed; for ever, if the call unwinds or reports what
    /// it cannot have mapped.
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), Self::Error>);

    /// Maps runs of memory one behind the other, from `iova` on; reports how many bytes of all of them are
    /// mapped now, whether or not it failed. A domain that has something to do once for many runs, as to take
    /// a lock, or that breaks a run up by itself, does it here, and [says so](Self::MAPS_RUNS).
    ///
    /// The smallest page divides all addresses, and the length of each run. A success reports all bytes of all
    /// runs; a failure those before a [tile](Segment::tiles) of a run, and of that one as many as
    /// [`map`](Self::map) reports where it fails. Larger or smaller pages than those of the tiles may be used,
    /// if what was mapped can be unmapped as these are.
    ///
    /// # Safety
    ///
    /// That of [`map`](Self::map), for all of the runs.
    unsafe fn map_runs(
        &self,
        iova: Iova,
        runs: impl Iterator<Item = Segment>,
        prot: Prot,
    ) -> (u64, Result<(), Self::Error>) {
        let (sizes, mut done) = (self.page_sizes(), 0u64);
        for run in runs {
            let Ok(tiles) = run.tiles(sizes, Iova::new(iova.get().wrapping_add(done))) else {
                // What cannot be mapped is less than a success reports.
                return (done, Ok(()));
            };
            for tile in tiles {
                // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until
                // ..": as the caller promises for all of the runs.
                let (bytes, outcome) = unsafe { self.map(tile, prot) };
                done = done.saturating_add(bytes);
                if outcome.is_err() || bytes != tile.len() {
                    return (done, outcome);
                }
            }
        }
        (done, Ok(()))
    }

    /// Called once behind the last `map` of a mapping, for hardware that may remember that there was
    /// nothing.
    ///
    /// # Errors
    ///
    /// The domain's own; the mapping is undone then.
    fn sync_map(&self, range: IovaRange) -> Result<(), Self::Error> {
        let _ = range;
        Ok(())
    }

    /// Unmaps a tile; reports how many bytes of it were unmapped: all of them, unless the contract
    /// was broken. Must not allocate in a way that can fail.
    ///
    /// # Safety
    ///
    /// The bytes of the tile were reported by [`map`](Self::map) to the caller and have not been
    /// unmapped since; and what is unmapped begins and ends where the domain [can cut](Self::cuts).
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Self::Gather>) -> u64;

    /// Unmaps a range. Its tiles are passed, too, for page tables that need the size of an entry; a
    /// domain that needs only the range ignores them, and then they are never computed.
    ///
    /// # Safety
    ///
    /// That of [`unmap`](Self::unmap), for all of the tiles, which make up the range.
    unsafe fn unmap_range(
        &self,
        range: IovaRange,
        tiles: impl Iterator<Item = Tile>,
        mut gather: Pin<&mut Self::Gather>,
    ) -> u64 {
        let _ = range;
        let mut done = 0u64;
        for tile in tiles {
            // SAFETY: "the bytes of the tile were reported by `map` to the caller and have not been
            // unmapped since; and ..": as the caller promises for all of the tiles.
            let bytes = unsafe { self.unmap(tile, gather.as_mut()) };
            done = done.saturating_add(bytes);
            if bytes != tile.len() {
                break;
            }
        }
        done
    }

    /// Makes the hardware forget what was unmapped through `gather`. Cannot fail.
    fn flush(&self, gather: Pin<&mut Self::Gather>);
}

/// A [`Holder`] of a domain. There is nothing to implement.
pub trait DomainHolder: Holder<Target: Domain<Error = <Self as DomainHolder>::Error>> {
    /// The error of the domain.
    type Error: fmt::Debug;
}

impl<D: Holder<Target: Domain>> DomainHolder for D {
    type Error = <D::Target as Domain>::Error;
}

/// Where a domain can cut memory that was mapped, to unmap a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cuts {
    /// At every multiple of its smallest page: an entry that lies across becomes several smaller ones.
    Anywhere,
    /// Between page table entries.
    Entries,
    /// Nowhere: what was mapped as one is unmapped as one, as by the calls of VFIO and iommufd that map
    /// user memory.
    Never,
}

/// A domain whose page table can be read: for callers that store no list.
///
/// # Implementation safety
///
/// - [`read`](Self::read) may be called at any time, and, where the domain is `Sync`, while other
///   threads map and unmap: it never looks at a table that is being freed;
/// - for an address that [`map`](Domain::map) has reported as mapped, and that is not being unmapped, it
///   returns the entry that leads to the memory of that tile, and counts no byte that lies outside of
///   the entry. What is unpinned is decided by that.
///
/// Nothing follows for other addresses: a device may still reach what is unmapped and not flushed,
/// although nothing is found there.
///
/// # Safety
///
/// Reading is safe. The trait is unsafe to implement, not to use.
pub unsafe trait ReadDomain: Domain {
    /// The entry that translates `iova`, or `None` if there is none.
    fn read(&self, iova: Iova) -> Option<Entry>;
}

/// What a page table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Where the address leads.
    pub phys: PhysAddr,
    /// The bytes from there to the end of the entry: never zero.
    pub len: u64,
}

impl Entry {
    /// What a page table says: `len` contiguous bytes from `phys` on.
    #[must_use]
    pub const fn new(phys: PhysAddr, len: u64) -> Self {
        Self { phys, len }
    }
}

/// A domain whose hardware notes which pages devices have written.
///
/// # Implementation safety
///
/// A page that a device has written since it was last cleared is reported: otherwise what it wrote
/// is lost to all that rely on the answer, such as the migration of a virtual machine.
///
/// # Safety
///
/// Using it is safe. The trait is unsafe to implement, not to use.
pub unsafe trait DirtyDomain: Domain {
    /// Starts or stops noting. Where the hardware must be flushed for that, the domain does it.
    ///
    /// # Errors
    ///
    /// The domain's own.
    fn set_dirty_tracking(&self, on: bool) -> Result<(), Self::Error>;

    /// Reports the pages of `range` that were written, as ranges of whole page table entries in
    /// ascending order; forgets that they were if `clear`. To clear, a caller gives a range whose ends
    /// lie inside no entry.
    ///
    /// Where it clears, what the hardware may remember goes into `gather`, and later writes may be
    /// missed until that was flushed.
    ///
    /// # Errors
    ///
    /// The domain's own; some pages may have been reported then.
    fn read_dirty(
        &self,
        range: IovaRange,
        clear: bool,
        gather: Pin<&mut Self::Gather>,
        written: impl FnMut(IovaRange),
    ) -> Result<(), Self::Error>;
}

/// A gather for hardware that flushes one range: it grows to span all that was unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeGather {
    range: Option<IovaRange>,
}

impl RangeGather {
    /// Adds a range.
    pub fn add(&mut self, range: IovaRange) {
        let grown = self.range.map_or(Ok(range), |known| {
            IovaRange::inclusive(known.first().min(range.first()), known.last().max(range.last()))
        });
        self.range = grown.ok();
    }

    /// What was gathered; it is empty afterwards.
    #[must_use]
    pub fn take(&mut self) -> Option<IovaRange> {
        self.range.take()
    }
}
