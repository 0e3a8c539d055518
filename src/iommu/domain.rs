// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Domain`]: an IOMMU address space, as a driver of an IOMMU offers it.

use super::prot::Prot;
use super::range::IovaRange;
use crate::addr::{Iova, PhysAddr};
use crate::granule::Tile;
use crate::page_size::PageSizes;
use core::{fmt, pin::Pin};

/// An IOMMU address space: a page table, the cache of it in the hardware, and the devices behind it.
///
/// A domain is shared: its methods take `&self`. Calls for disjoint ranges may come from several
/// threads at a time if the domain is `Sync`.
///
/// # Implementation safety
///
/// - after [`map`](Self::map) has reported `n` bytes, the devices reach exactly the first `n` bytes
///   of the tile, as `prot` allows, at its IOVA; it never replaces an entry that is there, and
///   reports no byte that it did not map itself;
/// - after [`unmap`](Self::unmap) or [`unmap_range`](Self::unmap_range) has reported `n` bytes,
///   exactly the entries of the first `n` bytes are gone; the hardware may remember them until
///   [`flush`](Self::flush) has been called with the same gather;
/// - after [`flush`](Self::flush), no device reaches what was unmapped through that gather;
/// - when a domain is dropped, no device reaches anything through it any more;
/// - [`page_sizes`](Self::page_sizes), [`aperture`](Self::aperture) and
///   [`can_split`](Self::can_split) never change.
///
/// The crate checks the numbers that a domain reports as far as they can be checked. One that is
/// caught lying makes values leak their pins; what a device may still write is never freed.
///
/// # Safety
///
/// `map`, `unmap` and `unmap_range` have contracts; a `Mapping` and an
/// `Ioas` keep them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no domain",
    note = "a domain is passed by its holder: an `Arc`, a `Box` or a reference of it; not a reference of an `Arc`"
)]
pub unsafe trait Domain {
    /// Why a tile could not be mapped: in a kernel, the errno.
    type Error: fmt::Debug;

    /// What collects unmapped ranges until they are flushed together: [`RangeGather`], or a
    /// kernel's own. It does not move between its first use and its drop.
    type Gather: Default;

    /// The sizes of its pages.
    fn page_sizes(&self) -> PageSizes;

    /// The addresses that it can translate.
    fn aperture(&self) -> IovaRange;

    /// Whether it can unmap a part of a page table entry, leaving the rest as smaller entries.
    fn can_split(&self) -> bool {
        false
    }

    /// Maps a tile; reports how many bytes of it are mapped now, whether or not it failed.
    ///
    /// A success reports all bytes; a failure some of them, whole pages of the tile, from its
    /// beginning on.
    ///
    /// # Safety
    ///
    /// The memory of the tile stays what it is until the bytes were unmapped and flushed. No other
    /// part of the program uses these IOVAs of this domain.
    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<(), Self::Error>);

    /// Called once behind the last `map` of a mapping, for hardware that must be told.
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
    /// The tile was mapped by the caller, as one or as part of larger ones whose page table entries
    /// it does not cut (unless the domain can split).
    unsafe fn unmap(&self, tile: Tile, gather: Pin<&mut Self::Gather>) -> u64;

    /// Unmaps a range, whose tiles are told too: for page tables that must be told the size of an
    /// entry. Domains that need only the range do better to ignore the tiles, which are then never
    /// computed.
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
            // SAFETY: the caller promises it for each of the tiles.
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

/// A domain whose page table can be read: for those who store no list.
///
/// # Implementation safety
///
/// What [`read`](Self::read) tells is what a device reaches. It decides what is unpinned.
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
/// is lost to whoever relies on the answer, as a virtual machine does that is being moved.
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

    /// Tells the pages of `range` that were written, as ranges of whole page table entries in
    /// ascending order; forgets that they were if `clear`. To clear, a caller gives a range whose ends
    /// lie inside no entry.
    ///
    /// Where it clears, what the hardware may remember goes into `gather`, and later writes may be
    /// missed until that was flushed.
    ///
    /// # Errors
    ///
    /// The domain's own; some pages may have been told then.
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
