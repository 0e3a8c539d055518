// SPDX-License-Identifier: MIT OR Apache-2.0
//! Putting a window into the page table of a domain, and taking it out again: the two calls behind
//! every mapping.
//!
//! All or nothing: where a window cannot be mapped whole, exactly what was mapped of it is unmapped
//! and flushed. Teardown reads the list, not the page table.

use super::domain::{Cuts, Domain};
use super::error::{Breach, MapError};
use super::prot::Prot;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::granule::{Tile, TileError};
use crate::iova_range::IovaRange;
use crate::sgl::{Segment, Window};
use crate::store::Storage;
use core::{
    iter,
    pin::{pin, Pin},
};

/// Whether `prot` says what a device may do, in bits that are known.
pub(super) fn check_prot<E>(prot: Prot) -> Result<(), MapError<E>> {
    if !Prot::all().contains_all(prot) {
        return Err(MapError::UnknownProt { bits: prot.bits() });
    }
    if !prot.contains_any(Prot::READ | Prot::WRITE) {
        return Err(MapError::NoAccess);
    }
    Ok(())
}

/// Whether a window can be mapped at all: what can be known before a domain is asked.
pub(super) fn check<D: Domain + ?Sized>(
    domain: &D,
    len: u64,
    iova: Iova,
    prot: Prot,
) -> Result<IovaRange, MapError<D::Error>> {
    check_prot(prot)?;
    let wraps = MapError::Tiles(TileError::Wraps { iova, len });
    let range = IovaRange::new(iova, len).map_err(|_| wraps)?;
    let aperture = domain.aperture();
    if !aperture.covers(&range) {
        return Err(MapError::Aperture { range, aperture });
    }
    Ok(range)
}

/// Maps `window` at `iova`.
///
/// # Safety
///
/// The memory of the window is attached, for writing if `prot` has [`Prot::WRITE`], and stays so until
/// it was [uninstalled](uninstall) and flushed; for ever after a breach, or if this unwinds.
pub(super) unsafe fn install<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: Window<'_, S>,
    iova: Iova,
    prot: Prot,
) -> Result<(), MapError<D::Error>> {
    let range = check(domain, window.len(), iova, prot)?;
    let (sizes, mut mapped) = (domain.page_sizes(), 0u64);
    let outcome = match only(&window) {
        Some(run) => {
            let tiles = run.tiles(sizes, iova).map_err(MapError::Tiles)?;
            // SAFETY: as below: the window is this run.
            unsafe { map_at(domain, range, iter::once(run), tiles, prot, &mut mapped) }
        }
        None => {
            let tiles = window.tiles(sizes, iova).map_err(MapError::Tiles)?;
            // SAFETY: "the memory of the tiles stays what it is, and may be accessed as `prot` says, until ..":
            // it is attached, as the caller promises; "they make up `range`, and so do the runs": both are the
            // window's.
            unsafe { map_at(domain, range, tiles.runs(), tiles, prot, &mut mapped) }
        }
    };
    let outcome = outcome.and_then(|()| domain.sync_map(range).map_err(TileFault::Domain));
    let Err(fault) = outcome else {
        return Ok(());
    };
    // SAFETY: "`mapped` bytes were reported to the caller": by the tiles so far, and whole pages of the
    // last one.
    let undone = unsafe { roll_back(domain, &window, iova, mapped) };
    Err(match (fault, undone) {
        (TileFault::Domain(error), Ok(())) => MapError::Domain { error, mapped },
        (TileFault::Breach(breach), _) | (_, Err(breach)) => MapError::Breach(breach),
    })
}

/// The bytes of a window whose list is one run. O(1).
#[inline]
fn only<S: Storage>(window: &Window<'_, S>) -> Option<Segment> {
    let run = window.sgl().only()?;
    Some(Segment::new(window.phys(0)?, window.len(), run.kind()))
}

/// Why a tile is not mapped.
pub(super) enum TileFault<E> {
    Domain(E),
    /// What is mapped of this tile is not known.
    Breach(Breach),
}

/// Maps tiles until one fails, or the runs that they make up, if the domain takes runs; adds to `mapped` what
/// is mapped for certain, whole pages of the last tile included.
///
/// # Safety
///
/// The memory of the tiles stays what it is, and may be accessed as `prot` says, until what is in `mapped`
/// has been unmapped and flushed; for ever, after a breach or if this unwinds. They make up `range`, and so
/// do the runs, of the same memory.
pub(super) unsafe fn map_at<D: Domain + ?Sized>(
    domain: &D,
    range: IovaRange,
    runs: impl Iterator<Item = Segment>,
    tiles: impl Iterator<Item = Tile>,
    prot: Prot,
    mapped: &mut u64,
) -> Result<(), TileFault<D::Error>> {
    if D::MAPS_RUNS {
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until
        // the bytes that were reported have been unmapped and flushed; for ever, if the call unwinds or
        // reports what it cannot have mapped": the caller promises it for all of the runs.
        let (reported, outcome) = unsafe { domain.map_runs(range.first(), runs, prot) };
        let honest = match outcome {
            Ok(()) => range.len() == Some(reported),
            Err(_) => can_have_stopped(domain.cuts(), tiles, reported),
        };
        if !honest {
            return Err(TileFault::Breach(Breach { range, reported }));
        }
        *mapped = mapped.plus(reported);
        return outcome.map_err(TileFault::Domain);
    }
    for tile in tiles {
        // SAFETY: "the memory of the tile stays what it is, and may be accessed as `prot` says, until
        // the bytes that were reported have been unmapped and flushed; for ever, if the call unwinds or
        // reports what it cannot have mapped": the caller promises it for all of the tiles.
        let (bytes, outcome) = unsafe { domain.map(tile, prot) };
        if !can_have_mapped(domain.cuts(), &tile, bytes, outcome.is_ok()) {
            return Err(breach_of(&tile, bytes));
        }
        *mapped = mapped.plus(bytes);
        outcome.map_err(TileFault::Domain)?;
    }
    Ok(())
}

/// Whether a domain that failed can have mapped the first `bytes` of all tiles: up to one of them, and of that
/// one not all. O(tiles).
#[cold]
fn can_have_stopped(cuts: Cuts, tiles: impl Iterator<Item = Tile>, mut bytes: u64) -> bool {
    for tile in tiles {
        match bytes.checked_sub(tile.bytes()) {
            Some(more) => bytes = more,
            None => return can_have_mapped(cuts, &tile, bytes, false),
        }
    }
    bytes == 0
}

/// Whether a domain can have mapped so many bytes of a tile, all of it or not.
#[inline]
fn can_have_mapped(cuts: Cuts, tile: &Tile, bytes: u64, all: bool) -> bool {
    match (all, cuts) {
        (true, _) => bytes == tile.bytes(),
        (false, Cuts::Never) => bytes == 0,
        (false, Cuts::Anywhere | Cuts::Entries) => {
            bytes <= tile.bytes() && bytes & tile.page_size.mask() == 0
        }
    }
}

#[cold]
fn breach_of<E>(tile: &Tile, reported: u64) -> TileFault<E> {
    let range = IovaRange::new(tile.iova, tile.bytes()).unwrap_or(IovaRange::ALL);
    TileFault::Breach(Breach { range, reported })
}

/// Unmaps and flushes the first `mapped` bytes of a window.
///
/// # Safety
///
/// So many bytes were reported to the caller by [`map_at`].
unsafe fn roll_back<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
    mapped: u64,
) -> Result<(), Breach> {
    // A window of zero bytes there is not.
    if mapped == 0 {
        return Ok(());
    }
    let breach = IovaRange::new(iova, mapped).unwrap_or(IovaRange::ALL);
    let window = window.window(0, mapped).map_err(|_| Breach::new(breach))?;
    // SAFETY: "the window was installed ..": these bytes were reported to the caller, and end where a
    // call of `map` ended, or a page of its last tile.
    unsafe { uninstall(domain, &window, iova) }
}

/// Unmaps `window`, which is mapped at `iova`, and flushes.
///
/// # Safety
///
/// As [`uninstall_into`].
pub(super) unsafe fn uninstall<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
) -> Result<(), Breach> {
    let mut gather = pin!(D::Gather::default());
    // SAFETY: "the window was installed by the caller and has not been uninstalled since, as one or as
    // part of a larger one that the domain can cut where this one begins and ends": as the caller
    // promises.
    let uninstalled = unsafe { uninstall_into(domain, window, iova, gather.as_mut()) };
    domain.flush(gather);
    uninstalled
}

/// Unmaps `window`, which is mapped at `iova`; what the hardware may remember goes into `gather`.
///
/// # Safety
///
/// The window was [installed](install) by the caller and has not been uninstalled since, as one or as part
/// of a larger one that the domain can cut where this one begins and ends.
pub(super) unsafe fn uninstall_into<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
    gather: Pin<&mut D::Gather>,
) -> Result<(), Breach> {
    let range = IovaRange::new(iova, window.len()).map_err(|_| Breach::new(IovaRange::ALL))?;
    // Many domains never look at them. What was installed can be tiled; if not, the page sizes have changed,
    // and too little is unmapped.
    let tiles =
        iter::once(window).filter_map(|window| window.tiles(domain.page_sizes(), iova).ok());
    let tiles = tiles.flatten();
    // SAFETY: "the bytes of the tiles were reported .. and what is unmapped begins and ends where the
    // domain can cut; the tiles make up the range": as the caller promises of the window, whose tiles
    // these are.
    unsafe { unmap_tiles(domain, range, tiles, gather) }
}

/// Unmaps the tiles of `range`.
///
/// # Safety
///
/// That of [`Domain::unmap_range`].
pub(super) unsafe fn unmap_tiles<D: Domain + ?Sized>(
    domain: &D,
    range: IovaRange,
    tiles: impl Iterator<Item = Tile>,
    gather: Pin<&mut D::Gather>,
) -> Result<(), Breach> {
    // SAFETY: "that of `unmap`, for all of the tiles, which make up the range": as the caller promises.
    let reported = unsafe { domain.unmap_range(range, tiles, gather) };
    if range.len() == Some(reported) {
        Ok(())
    } else {
        Err(Breach { range, reported })
    }
}
