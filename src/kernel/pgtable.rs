// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PgTableDomain`]: a page table that a driver keeps for hardware of its own, as GPUs have it.
//!
//! C header: [`include/linux/io-pgtable.h`](srctree/include/linux/io-pgtable.h)

use super::kernel;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::granule::Tile;
use crate::iommu::{Domain, Entry, IovaRange, Prot, RangeGather, ReadDomain};
use crate::page_size::{PageSize, PageSizes};
use core::{fmt, ops::Range, pin::Pin};
use kernel::{
    alloc::Flags,
    bindings,
    error::{code, Error, Result},
    io::PhysAddr,
    iommu::pgtable::{IoPageTable, ARM64LPAES1},
    new_mutex,
    prelude::{pin_data, pin_init, PinInit},
    sync::Mutex,
};

/// `IO_PGTABLE_QUIRK_ARM_TTBR1`, a macro that bindgen does not see.
const TTBR1: usize = 1 << 5;

/// Makes the hardware forget what it remembers of a page table: the page table itself calls nothing
/// for that.
///
/// # Implementation safety
///
/// When [`flush`](Self::flush) returns, the hardware uses nothing any more that it has read out of
/// the page table for these addresses before the call. Hardware that does not answer must be
/// stopped: there is no error.
///
/// # Safety
///
/// Flushing is safe. The trait is unsafe to implement, not to use.
pub unsafe trait TlbFlush {
    /// Forgets what was read of the entries of `range`.
    fn flush(&self, range: IovaRange);
}

// SAFETY: "when `flush` returns, the hardware uses nothing any more that it has read out of the page table
// for these addresses before the call": so promises the `T` that is called.
unsafe impl<T: TlbFlush + ?Sized> TlbFlush for &T {
    fn flush(&self, range: IovaRange) {
        T::flush(self, range);
    }
}

/// A domain that is an `IoPageTable`, in the format of Arm's 64-bit LPAE, and the flush of what
/// walks it: the firmware of a GPU, for one.
///
/// Nothing walks the table until its owner points the hardware at it, by `ttbr()`, and so promises that
/// the hardware has stopped when the domain is dropped. One flush is asked for when memory was unmapped,
/// over all of it, and one when it was mapped.
///
/// The format has no entry that can be written and not read: the device may read what it may write. An
/// address that is in use is refused with `EEXIST`; Linux warns loudly unless the table was made with
/// `IO_PGTABLE_QUIRK_NO_WARN`.
///
/// Linux leaves it to the callers that no two of them touch the same addresses at once: there is a lock
/// here, for all that changes or walks the table. Calls may sleep, and come from any threads but those
/// that reclaim memory: tables are allocated under the lock, and charged to the memory cgroup of the
/// thread that maps.
#[cfg(not(pinned_sgl_kbuild))]
pub struct PgTableDomain<'a, T>(IoPageTable<'a, ARM64LPAES1>, T, Flags, Mutex<()>);

/// The domain as a kernel has it: outside of one, its attributes are not known.
#[cfg(pinned_sgl_kbuild)]
#[pin_data]
pub struct PgTableDomain<'a, T> {
    table: IoPageTable<'a, ARM64LPAES1>,
    tlb: T,
    flags: Flags,
    /// Held while the table is changed or walked.
    #[pin]
    lock: Mutex<()>,
}

impl<'a, T: TlbFlush> PgTableDomain<'a, T> {
    /// A domain of `table`. What is mapped there already stays. (To map and unmap by the table's own
    /// methods is unsafe: a caller that does so promises that nothing else uses these addresses.)
    ///
    /// Tables below it are allocated with `flags`: `GFP_KERNEL_ACCOUNT` where user space decides how much is mapped.
    pub fn new(table: IoPageTable<'a, ARM64LPAES1>, tlb: T, flags: Flags) -> impl PinInit<Self> {
        pin_init!(Self { table, tlb, flags, lock <- new_mutex!((), "pinned_sgl::PgTableDomain") })
    }
}

impl<'a, T> PgTableDomain<'a, T> {
    /// The table.
    #[must_use]
    pub const fn table(&self) -> &IoPageTable<'a, ARM64LPAES1> {
        &self.table
    }

    /// The flush.
    #[must_use]
    pub const fn tlb(&self) -> &T {
        &self.tlb
    }

    fn sizes(&self) -> PageSizes {
        let (bits, ias, ..) = self.config();
        // A page as large as all that the table translates has no level to lie in.
        let smaller = 1u64.checked_shl(ias).map_or(u64::MAX, |end| end.minus(1));
        PageSizes::from_bits_retain(bits as u64 & smaller)
    }

    fn reach(&self) -> IovaRange {
        let (_, ias, _, quirks) = self.config();
        let mask = 1u64.checked_shl(ias).map_or(u64::MAX, |end| end.minus(1));
        let (low, high) = ((0, mask), (!mask, u64::MAX));
        let (first, last) = if quirks & TTBR1 == 0 { low } else { high };
        IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap_or(IovaRange::ALL)
    }

    /// What never changes: the bits of the page sizes, the bits of an address on either side, quirks.
    fn config(&self) -> (usize, u32, u32, usize) {
        let config = self.table.raw_cfg();
        // SAFETY: the table is there as long as `self`, and its configuration is not written to once it
        // was made.
        unsafe { ((*config).pgsize_bitmap, (*config).ias, (*config).oas, (*config).quirks) }
    }

    /// Whether the addresses of a tile fit in the table, on either side: it looks at the first byte
    /// only, and only to warn.
    fn fits(&self, tile: &Tile) -> bool {
        let (.., oas, _) = self.config();
        let last = tile.len().checked_sub(1).and_then(|more| tile.phys.checked_add(more));
        last.is_some_and(|last| last.get().checked_shr(oas).is_none_or(|beyond| beyond == 0))
            && IovaRange::new(tile.iova, tile.len()).is_ok_and(|range| self.reach().covers(&range))
    }

    /// The largest page, of `most` at most, that goes at `iova` into the tables that are there; where
    /// something is mapped, the size of its entry.
    ///
    /// A table, even an empty one, is never replaced by a larger page, or unmapped as one. That would
    /// take out what others have mapped there; and it would free the table at once, when the
    /// hardware may still remember where it is.
    ///
    /// Called under the lock.
    fn size_at(&self, iova: Iova, most: PageSize) -> PageSize {
        let sizes = self.sizes();
        let smallest = match sizes.smallest() {
            Some(smallest) if smallest < most => smallest,
            _ => return most,
        };
        let ops = self.table.raw_ops();
        // SAFETY: the table is there as long as `self`, and its functions do not change.
        let (Some(walk), Ok(at)) =
            (unsafe { (*ops).pgtable_walk }, usize::try_from(iova.get() & !smallest.mask()))
        else {
            return smallest;
        };
        let mut walked = bindings::arm_lpae_io_pgtable_walk_data { ptes: [0; 4] };
        // SAFETY: the table is there as long as `self`; this is what it fills in, for this format. It is
        // locked, and tables are freed with the domain only.
        // (An error says that nothing is mapped. The entries on the way are reported all the same.)
        let _ = unsafe { walk(ops, at, (&raw mut walked).cast()) };
        // Tables lead to tables, up to the third level. Each has one entry for 8 bytes of a page.
        let is_table = |entry: &u64| entry & 3 == 3;
        let Some(deepest) = walked.ptes.iter().take(3).rposition(is_table) else {
            return most;
        };
        let bits = smallest.shift().saturating_sub(3);
        let above = 2usize.saturating_sub(deepest);
        let shift = (0..above).fold(smallest.shift(), |shift, _| shift.saturating_add(bits));
        let limit = PageSize::from_shift(shift).unwrap_or(smallest).min(most);
        sizes.up_to(limit).largest().unwrap_or(smallest)
    }

    /// The arguments of one call for what comes first of these bytes of a tile: address, page size,
    /// pages.
    ///
    /// Of the smallest pages there may be any number, as a call never goes beyond one table. Of
    /// larger ones it is one, because there may be a table at the next.
    fn step(&self, tile: &Tile, bytes: Range<u64>) -> Option<(usize, usize, usize)> {
        let iova = tile.iova.checked_add(bytes.start)?;
        let size = self.size_at(iova, tile.page_size);
        let is_smallest = self.sizes().smallest() == Some(size);
        let rest = bytes.end.checked_sub(bytes.start)?;
        let count = if is_smallest { rest.checked_shr(size.shift())? } else { 1 };
        let (iova, size) = (usize::try_from(iova.get()), usize::try_from(size.bytes()));
        Some((iova.ok()?, size.ok()?, usize::try_from(count).ok()?))
    }

    /// Maps a tile; returns how many bytes it could, which may end inside a page of the tile.
    ///
    /// # Safety
    ///
    /// That of [`Domain::map`], under the lock.
    unsafe fn map_pages(&self, tile: &Tile, prot: Prot) -> (u64, Result<()>) {
        let (mut done, len) = (0u64, tile.len());
        while done < len {
            let (Some((iova, size, count)), Some(phys)) =
                (self.step(tile, done..len), tile.phys.checked_add(done))
            else {
                return (done, Err(code::ERANGE));
            };
            // SAFETY:
            // - "no other io-pgtable operation may access the range .. while this `map_pages` operation
            //   executes": it is locked;
            // - "this page table must not contain any mapping that overlaps with the mapping created by
            //   this call": where there is one, the format writes nothing and returns `EEXIST`; and no
            //   table is replaced by a page: see `size_at`;
            // - "it's okay to access the physical address being mapped for the duration in which it is
            //   mapped": as the caller promises.
            let (bytes, outcome) = unsafe {
                let phys = phys.get() as PhysAddr;
                self.table.map_pages(iova, phys, size, count, prot.bits(), self.flags)
            };
            done = done.saturating_add(bytes as u64);
            match outcome {
                Ok(()) if bytes == 0 => return (done, Err(code::EIO)),
                Ok(()) => {}
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    /// Unmaps these bytes of a tile; returns where it has stopped.
    ///
    /// # Safety
    ///
    /// That of [`Domain::unmap`], for these bytes, under the lock.
    unsafe fn unmap_pages(&self, tile: &Tile, bytes: Range<u64>) -> u64 {
        let mut done = bytes.start;
        while done < bytes.end {
            let Some((iova, size, count)) = self.step(tile, done..bytes.end) else {
                break;
            };
            // SAFETY:
            // - "no other io-pgtable operation may access the range .. while this `unmap_pages` operation
            //   executes": it is locked;
            // - "this page table must contain one or more consecutive mappings starting at `iova` whose
            //   total size is `pgcount * pgsize`": the caller promises that the bytes were mapped, and
            //   not unmapped since; `step` finds the size of their entries, and ends where a table does.
            let unmapped = unsafe { self.table.unmap_pages(iova, size, count) };
            if unmapped == 0 {
                break;
            }
            done = done.saturating_add(unmapped as u64);
        }
        done
    }
}

// SAFETY:
// - "`map` .. never replaces an entry that is there, and reports no byte that this call did not map; of two
//   calls that want one address, at most one gets it": calls take turns by the lock; the format refuses a
//   page that is in use, no table is replaced by a page, and what is reported is what the table counts;
// - "after `map` has reported `n` bytes, the devices reach exactly the first `n` bytes of the tile .., and
//   never write to them without `Prot::WRITE`": the table maps in ascending order, as the bits say, which
//   are those of `Prot`;
// - "after `unmap` or `unmap_range` has reported `n` bytes, exactly the entries of the first `n` bytes are
//   gone": the table counts them, in ascending order; "two calls .. may come at once": they take turns;
// - "after `flush` has returned, no device reaches what was unmapped through that gather": so promises
//   `TlbFlush`; an empty gather flushes nothing;
// - "when a domain is dropped, no device reaches anything through it any more": a caller that shows a
//   device the table, by `ttbr()`, promises that it has stopped when the table is dropped, with the domain;
// - "`page_sizes`, `aperture` and `cuts` never change": they come from a configuration that does not;
// - "any method may unwind": none does.
unsafe impl<T: TlbFlush> Domain for PgTableDomain<'_, T> {
    type Error = Error;
    type Gather = RangeGather;

    fn page_sizes(&self) -> PageSizes {
        self.sizes()
    }

    fn aperture(&self) -> IovaRange {
        self.reach()
    }

    unsafe fn map(&self, tile: Tile, prot: Prot) -> (u64, Result<()>) {
        if !self.fits(&tile) {
            return (0, Err(code::ERANGE));
        }
        if !Prot::all().contains_all(prot) {
            return (0, Err(code::EINVAL));
        }
        let guard = self.lock.lock();
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until the
        // bytes that were reported have been unmapped and flushed": as the caller promises. It is locked.
        let (done, outcome) = unsafe { self.map_pages(&tile, prot) };
        let whole = done & !tile.page_size.mask();
        if done == whole {
            return (done, outcome);
        }
        // A page of the tile that was made of smaller ones, and not to its end: it goes again.
        // SAFETY: "the bytes .. were reported by `map` to the caller and have not been unmapped since":
        // they were mapped here, just now, and it was locked since. They begin and end at entries.
        let undone = unsafe { self.unmap_pages(&tile, whole..done) };
        drop(guard);
        let from = tile.iova.checked_add(whole);
        let range = from.map(|from| IovaRange::new(from, done.minus(whole)));
        if let Some(Ok(range)) = range {
            self.tlb.flush(range);
        }
        // If that fails, the number is not a multiple of the page, which is taken for a breach.
        (if undone == done { whole } else { done }, outcome)
    }

    fn sync_map(&self, range: IovaRange) -> Result<()> {
        // The hardware may remember that there was nothing.
        self.tlb.flush(range);
        Ok(())
    }

    unsafe fn unmap(&self, tile: Tile, mut gather: Pin<&mut RangeGather>) -> u64 {
        let guard = self.lock.lock();
        // SAFETY: "the bytes of the tile were reported by `map` to the caller and have not been unmapped
        // since; and what is unmapped begins and ends where the domain can cut": as the caller promises.
        // It is locked.
        let done = unsafe { self.unmap_pages(&tile, 0..tile.len()) };
        drop(guard);
        if let Ok(range) = IovaRange::new(tile.iova, done) {
            gather.add(range);
        }
        done
    }

    fn flush(&self, mut gather: Pin<&mut RangeGather>) {
        if let Some(range) = gather.take() {
            self.tlb.flush(range);
        }
    }
}

// SAFETY:
// - "`read` .. never looks at a table that is being freed": tables are freed with the domain only;
// - "for an address that `map` has reported as mapped, and that is not being unmapped, it returns the entry
//   that leads to the memory of that tile, and counts no byte that lies outside of the entry": it is the
//   table that the hardware walks, it is locked, and `size_at` finds the size of the entry.
unsafe impl<T: TlbFlush> ReadDomain for PgTableDomain<'_, T> {
    fn read(&self, iova: Iova) -> Option<Entry> {
        // Beyond, the table would answer for another address.
        if !self.reach().contains(iova) {
            return None;
        }
        let sizes = self.sizes();
        let _guard = self.lock.lock();
        let (inside, size) = (sizes.smallest()?.mask(), self.size_at(iova, sizes.largest()?));
        let at = usize::try_from(iova.get() & !inside).ok()?;
        let ops = self.table.raw_ops();
        // SAFETY: the table is there as long as `self`, and its functions do not change.
        let iova_to_phys = unsafe { (*ops).iova_to_phys }?;
        // SAFETY: the table is there as long as `self`; it is locked, and tables are freed with the domain
        // only.
        let page = unsafe { iova_to_phys(ops, at) };
        // Zero means nothing, and no frame that is pinned begins there.
        #[allow(clippy::useless_conversion, reason = "on 32 bits it may be shorter")]
        let phys = crate::PhysAddr::new(page.into()).checked_add(iova.get() & inside)?;
        let len = size.bytes().minus(iova.get() & size.mask());
        (page != 0).then_some(Entry::new(phys, len))
    }
}

impl<T> fmt::Debug for PgTableDomain<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTableDomain")
            .field("page_sizes", &self.sizes())
            .field("aperture", &self.reach())
            .finish_non_exhaustive()
    }
}
