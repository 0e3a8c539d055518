// SPDX-License-Identifier: MIT OR Apache-2.0
//! Putting a window into the page table of a domain, and taking it out again: the two calls behind
//! every mapping.
//!
//! All or nothing: where a window cannot be mapped whole, exactly what was mapped of it is unmapped
//! and flushed. Teardown reads the list, not the page table.

use super::domain::Domain;
use super::prot::Prot;
use super::range::IovaRange;
use crate::addr::Iova;
use crate::exact::Exact as _;
use crate::granule::{Tile, TileError};
use crate::sgl::{Storage, Window, WindowError};
use crate::umem::AttachError;
use core::{
    fmt,
    pin::{pin, Pin},
};

/// A domain broke its contract: it reported another number of bytes than it can have (un)mapped.
///
/// What a device can reach now is not known. The memory stays pinned for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breach {
    /// The addresses that the call was about.
    pub range: IovaRange,
    /// The bytes that the domain reported.
    pub reported: u64,
}

impl Breach {
    /// Nothing was reported, where something must be.
    pub(super) const fn new(range: IovaRange) -> Self {
        Self { range, reported: 0 }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, reported } = self;
        write!(f, "the domain broke its contract: it reported {reported:#x} bytes for {range}")
    }
}

impl core::error::Error for Breach {}

/// A window is not mapped, and nothing of it is; or, after a breach, who knows.
pub(super) struct NotMapped<E> {
    pub(super) kind: MapErrorKind<E>,
    /// The bytes that were mapped before it failed.
    pub(super) mapped: u64,
    /// Whether a device may reach some of the memory still.
    pub(super) breach: bool,
}

impl<E> NotMapped<E> {
    /// Whether a device could reach some of the memory for a while.
    pub(super) const fn was_reached(&self) -> bool {
        self.mapped > 0 || self.breach
    }
}

impl<E> From<MapErrorKind<E>> for NotMapped<E> {
    fn from(kind: MapErrorKind<E>) -> Self {
        Self { kind, mapped: 0, breach: false }
    }
}

/// Whether a window can be mapped at all: what can be known before a domain is asked.
pub(super) fn check<D: Domain + ?Sized>(
    domain: &D,
    len: u64,
    iova: Iova,
    prot: Prot,
) -> Result<IovaRange, MapErrorKind<D::Error>> {
    if !prot.intersects(Prot::READ | Prot::WRITE) {
        return Err(MapErrorKind::NoAccess);
    }
    let wraps = MapErrorKind::Tiles(TileError::Wraps { iova, len });
    let range = IovaRange::new(iova, len).map_err(|_| wraps)?;
    let aperture = domain.aperture();
    if !aperture.covers(&range) {
        return Err(MapErrorKind::Aperture { range, aperture });
    }
    Ok(range)
}

/// Maps `window` at `iova`.
///
/// # Safety
///
/// The memory of the window is attached, and stays so until it was [removed](remove) and flushed, or
/// for ever after a breach. Nobody else uses these addresses of the domain.
pub(super) unsafe fn install<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: Window<'_, S>,
    iova: Iova,
    prot: Prot,
) -> Result<(), NotMapped<D::Error>> {
    let range = check(domain, window.len(), iova, prot)?;
    let tiles = window.tiles(domain.page_sizes(), iova).map_err(MapErrorKind::Tiles)?;
    let mut mapped = 0u64;
    // SAFETY: the caller's promise is handed on.
    let outcome = unsafe { map_tiles(domain, tiles, prot, &mut mapped) };
    let outcome = outcome.and_then(|()| domain.sync_map(range).map_err(TileFault::Domain));
    let Err(fault) = outcome else {
        return Ok(());
    };
    // SAFETY: these bytes are mapped; the last tile may be mapped in part.
    let undone = unsafe { roll_back(domain, &window, iova, mapped) };
    Err(match (fault, undone) {
        (TileFault::Domain(error), Ok(())) => {
            NotMapped { kind: MapErrorKind::Domain(error), mapped, breach: false }
        }
        (TileFault::Breach(breach), _) | (_, Err(breach)) => {
            NotMapped { kind: MapErrorKind::Breach(breach), mapped, breach: true }
        }
    })
}

/// Why a tile is not mapped.
pub(super) enum TileFault<E> {
    Domain(E),
    /// What is mapped of this tile is not known.
    Breach(Breach),
}

/// Maps tiles until one fails; adds to `mapped` what is mapped for certain, whole pages of the last
/// tile included.
///
/// # Safety
///
/// That of [`Domain::map`], for each of them.
pub(super) unsafe fn map_tiles<D: Domain + ?Sized>(
    domain: &D,
    tiles: impl Iterator<Item = Tile>,
    prot: Prot,
    mapped: &mut u64,
) -> Result<(), TileFault<D::Error>> {
    for tile in tiles {
        // SAFETY: the caller's promise is handed on.
        let (bytes, outcome) = unsafe { domain.map(tile, prot) };
        let honest = bytes & tile.page_size.mask() == 0
            && if outcome.is_ok() { bytes == tile.len() } else { bytes <= tile.len() };
        if !honest {
            let range = IovaRange::new(tile.iova, tile.len()).unwrap_or(IovaRange::ALL);
            return Err(TileFault::Breach(Breach { range, reported: bytes }));
        }
        *mapped = mapped.plus(bytes);
        outcome.map_err(TileFault::Domain)?;
    }
    Ok(())
}

/// Unmaps and flushes the first `mapped` bytes of a window.
///
/// # Safety
///
/// They are mapped by the caller.
unsafe fn roll_back<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
    mapped: u64,
) -> Result<(), Breach> {
    // Nothing to undo is a window of zero bytes, which there is not.
    let Ok(window) = window.window(0, mapped) else {
        return Ok(());
    };
    let mut gather = pin!(D::Gather::default());
    // SAFETY: the caller's promise is handed on.
    let removed = unsafe { remove(domain, &window, iova, gather.as_mut()) };
    domain.flush(gather);
    removed
}

/// Unmaps `window`, which is mapped at `iova`; what the hardware may remember goes into `gather`.
///
/// # Safety
///
/// The window was [installed](install), as one or as part of a larger one of which it cuts no page
/// table entry (unless the domain can split).
pub(super) unsafe fn remove<D: Domain + ?Sized, S: Storage>(
    domain: &D,
    window: &Window<'_, S>,
    iova: Iova,
    gather: Pin<&mut D::Gather>,
) -> Result<(), Breach> {
    let len = window.len();
    let range = IovaRange::new(iova, len).unwrap_or(IovaRange::ALL);
    // What was installed can be tiled; if not, the page sizes have changed.
    let tiles = window.tiles(domain.page_sizes(), iova).map_err(|_| Breach::new(range))?;
    // SAFETY: the caller's promise is handed on; these are the tiles of the range.
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
    // SAFETY: the caller's promise is handed on.
    let reported = unsafe { domain.unmap_range(range, tiles, gather) };
    if range.len() == Some(reported) {
        Ok(())
    } else {
        Err(Breach { range, reported })
    }
}

/// Why memory is not mapped; `E` is the error of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapErrorKind<E> {
    /// Neither reading nor writing was asked for.
    NoAccess,
    /// The region cannot be attached: it is read-only, or there are too many attachments.
    Attach(AttachError),
    /// There are no such bytes in the region.
    Window(WindowError),
    /// The window cannot be cut into pages of the IOMMU at this address.
    Tiles(TileError),
    /// The domain does not translate all of these addresses.
    Aperture {
        /// Where the window was to be mapped.
        range: IovaRange,
        /// What the domain translates.
        aperture: IovaRange,
    },
    /// The domain failed.
    Domain(E),
    /// The domain broke its contract; the pins of the region are leaked.
    Breach(Breach),
}

impl<E: fmt::Display> fmt::Display for MapErrorKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccess => f.write_str("neither reading nor writing was asked for"),
            Self::Attach(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::Tiles(error) => error.fmt(f),
            Self::Aperture { range, aperture } => {
                write!(f, "{range} is not in the aperture of the domain, {aperture}")
            }
            Self::Domain(error) => error.fmt(f),
            Self::Breach(breach) => breach.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for MapErrorKind<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Attach(error) => Some(error),
            Self::Window(error) => Some(error),
            Self::Tiles(error) => Some(error),
            Self::Domain(error) => Some(error),
            Self::Breach(breach) => Some(breach),
            Self::NoAccess | Self::Aperture { .. } => None,
        }
    }
}
