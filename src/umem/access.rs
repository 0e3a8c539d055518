// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageAccess`]: how the CPU reaches memory through the pinner that pinned it: a kernel maps the page
//! for a moment, a program uses its own address, a mock looks into its frames. [`CpuRegion`]: a region
//! that is reached so.

use super::holder::Holder;
use super::pinner::{Pinner, PinnerHolder};
use super::region::{Region, RegionExt as _, RegionHolder};
use crate::addr::{PhysAddr, UserAddr};
use crate::exact::Exact as _;
use crate::sgl::{MemoryKind, WindowError};
use core::{error::Error, fmt, ops::Range};

/// Where bytes lie: contiguous in memory and, where they belong to a process, in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// Their physical address.
    pub phys: PhysAddr,
    /// What the memory is made of.
    pub kind: MemoryKind,
    /// Their address in the process that they were pinned for.
    pub user: Option<UserAddr>,
}

impl Location {
    /// A location, for callers that use a [`PageAccess`] directly.
    #[must_use]
    pub const fn new(phys: PhysAddr, kind: MemoryKind, user: Option<UserAddr>) -> Self {
        Self { phys, kind, user }
    }
}

/// Copies bytes to and from the memory that a [`Pinner`] has pinned.
///
/// A device may read and write the same bytes at the same time, so an implementation makes no
/// references to them: it copies with volatile accesses, or lets a kernel do so.
pub trait PageAccess: Pinner {
    /// Why bytes could not be copied.
    type AccessError: fmt::Debug;

    /// Copies the bytes at `from` out of memory.
    ///
    /// # Errors
    ///
    /// The implementation's own; the contents of `bytes` do not matter then.
    ///
    /// # Safety
    ///
    /// The bytes are those of pages that this pinner has pinned, at the user address that the location
    /// has, and stay pinned as long as the call takes.
    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), Self::AccessError>;

    /// Copies `bytes` to the memory at `to`.
    ///
    /// # Errors
    ///
    /// The implementation's own; some of the bytes may have been written then.
    ///
    /// # Safety
    ///
    /// The bytes are those of pages that this pinner has pinned, for writing, at the user address that
    /// the location has, and stay pinned as long as the call takes.
    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), Self::AccessError>;
}

/// A region whose bytes the CPU can copy: a [`Umem`](super::Umem) whose pinner has [`PageAccess`].
///
/// The region knows how it is reached, so that it cannot be reached through the access of another
/// machine.
pub trait CpuRegion: Region {
    /// Why a page could not be reached.
    type AccessError: fmt::Debug;

    /// Copies bytes of the region from `offset` on.
    ///
    /// # Errors
    ///
    /// [`AccessError`], with the offset at which it stopped.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError<Self::AccessError>>;

    /// Copies bytes into the region from `offset` on; it counts as written.
    ///
    /// # Errors
    ///
    /// [`AccessError`], with the offset at which it stopped; the bytes before it have been written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AccessError<Self::AccessError>>;
}

/// A [`Holder`] of what has [`PageAccess`]. There is nothing to implement.
pub trait AccessHolder: PinnerHolder<Target: PageAccess<AccessError = Self::AccessError>> {
    /// Why bytes could not be copied.
    type AccessError: fmt::Debug;
}

impl<P: Holder<Target: PageAccess>> AccessHolder for P {
    type AccessError = <P::Target as PageAccess>::AccessError;
}

/// A [`Holder`] of a [`CpuRegion`]. There is nothing to implement.
pub trait CpuRegionHolder:
    RegionHolder<Target: CpuRegion<AccessError = Self::AccessError>>
{
    /// Why bytes could not be copied.
    type AccessError: fmt::Debug;
}

impl<U: Holder<Target: CpuRegion>> CpuRegionHolder for U {
    type AccessError = <U::Target as CpuRegion>::AccessError;
}

/// Calls `copy` with each contiguous part of the bytes `offset..offset + len` of `region`: where it
/// lies, and which of the bytes it has.
fn for_each_part<R: Region + ?Sized, E>(
    region: &R,
    offset: u64,
    len: usize,
    mut copy: impl FnMut(Location, Range<usize>) -> Result<(), E>,
) -> Result<(), AccessError<E>> {
    if len == 0 && offset <= region.len() {
        return Ok(());
    }
    let window = region
        .whole()
        .and_then(|whole| whole.window(offset, len as u64))
        .map_err(|error| AccessError::Window { at: offset, error })?;
    let mut done = 0usize;
    for segment in window {
        let at = offset.plus(done as u64);
        let user = region.user_addr().and_then(|start| start.checked_add(at));
        let place = Location { phys: segment.phys, kind: segment.kind, user };
        // A part of `len` bytes, which a `usize` counts.
        let end = done.saturating_add(usize::try_from(segment.len).unwrap_or(usize::MAX)).min(len);
        copy(place, done..end).map_err(|error| AccessError::Page { at, error })?;
        done = end;
    }
    Ok(())
}

/// Copies the bytes of `region` from `offset` on out of memory.
///
/// # Safety
///
/// All pages of the region are pinned by `access`, at the user addresses that the region has, as long
/// as the call takes.
pub(super) unsafe fn read<R, A>(
    region: &R,
    access: &A,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), AccessError<A::AccessError>>
where
    R: Region + ?Sized,
    A: PageAccess + ?Sized,
{
    for_each_part(region, offset, bytes.len(), |place, range| {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, at the user address that
        // the location has, and stay pinned": as the caller promises, as the place lies in the region.
        unsafe { access.read(place, bytes.get_mut(range).unwrap_or_default()) }
    })
}

/// Copies `bytes` into `region` from `offset` on; it counts as written.
///
/// # Safety
///
/// That of [`read`]; and where the region is writable, its pages are pinned for writing.
pub(super) unsafe fn write<R, A>(
    region: &R,
    access: &A,
    offset: u64,
    bytes: &[u8],
) -> Result<(), AccessError<A::AccessError>>
where
    R: Region + ?Sized,
    A: PageAccess + ?Sized,
{
    if !region.is_writable() {
        return Err(AccessError::NotPermitted { at: offset });
    }
    region.mark_dirty();
    for_each_part(region, offset, bytes.len(), |place, range| {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, for writing, at the user
        // address that the location has, and stay pinned": as the caller promises, as the place lies in
        // the region, which is writable.
        unsafe { access.write(place, bytes.get(range).unwrap_or_default()) }
    })
}

/// Why bytes could not be copied; `E` is the error of the [`PageAccess`].
///
/// `A` counts the bytes as the call did: `at` is an offset in a region, or an address of an
/// [`Ioas`](crate::iommu::Ioas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessError<E, A = u64> {
    /// The bytes from there on are not all in the region.
    Window {
        /// The first byte.
        at: A,
        /// Why.
        error: WindowError,
    },
    /// Nothing is mapped there.
    NotMapped {
        /// The first such byte.
        at: A,
    },
    /// The memory was not pinned, or is not mapped, for that.
    NotPermitted {
        /// The first such byte.
        at: A,
    },
    /// There are no addresses for the rest of the bytes.
    Wraps {
        /// The last address, or the first byte if the range is empty.
        at: A,
    },
    /// The page could not be reached. The bytes before have been copied.
    Page {
        /// Where it stopped.
        at: A,
        /// Why.
        error: E,
    },
}

impl<E, A: Copy> AccessError<E, A> {
    /// Where it is not possible.
    #[must_use]
    pub const fn at(&self) -> A {
        match self {
            Self::Window { at, .. }
            | Self::NotMapped { at }
            | Self::NotPermitted { at }
            | Self::Wraps { at }
            | Self::Page { at, .. } => *at,
        }
    }

    /// The same, counted in another way.
    pub(crate) fn with_at<B>(self, at: B) -> AccessError<E, B> {
        match self {
            Self::Window { error, .. } => AccessError::Window { at, error },
            Self::NotMapped { .. } => AccessError::NotMapped { at },
            Self::NotPermitted { .. } => AccessError::NotPermitted { at },
            Self::Wraps { .. } => AccessError::Wraps { at },
            Self::Page { error, .. } => AccessError::Page { at, error },
        }
    }
}

impl<E, A: fmt::LowerHex> fmt::Display for AccessError<E, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { at, .. } => write!(f, "cannot copy the bytes from {at:#x} on"),
            Self::NotMapped { at } => write!(f, "nothing is mapped at {at:#x}"),
            Self::NotPermitted { at } => write!(f, "the memory at {at:#x} may not be accessed so"),
            Self::Wraps { at } => write!(f, "there are no addresses behind {at:#x}"),
            Self::Page { at, .. } => write!(f, "cannot reach the memory at {at:#x}"),
        }
    }
}

impl<E, A> Error for AccessError<E, A>
where
    E: Error + 'static,
    A: fmt::Debug + fmt::LowerHex,
{
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Window { error, .. } => Some(error),
            Self::Page { error, .. } => Some(error),
            Self::NotMapped { .. } | Self::NotPermitted { .. } | Self::Wraps { .. } => None,
        }
    }
}
