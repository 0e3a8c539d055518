// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageAccess`]: how the CPU reaches memory through the pinner that pinned it: a kernel maps the page
//! for a moment, a program uses its own address, a mock looks into its frames. [`CpuRegion`]: a region
//! that is reached so.

use super::pinner::Pinner;
use super::region::{Region, RegionExt as _};
use crate::addr::{PhysAddr, UserAddr};
use crate::exact::Exact as _;
use crate::sgl::{MemoryKind, WindowError};
use core::{fmt, ops::Range};

/// Where bytes lie: contiguous in memory and, where they belong to a process, in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Their physical address.
    pub phys: PhysAddr,
    /// What the memory is made of.
    pub kind: MemoryKind,
    /// Their address in the process that they were pinned for.
    pub user: Option<UserAddr>,
}

impl Place {
    /// A place, for whoever calls a [`PageAccess`] by himself.
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
    /// The bytes are those of pages that this pinner has pinned, at the user address that the place
    /// has, and stay pinned for as long as the call takes.
    unsafe fn read(&self, from: Place, bytes: &mut [u8]) -> Result<(), Self::AccessError>;

    /// Copies `bytes` to the memory at `to`.
    ///
    /// # Errors
    ///
    /// The implementation's own; some of the bytes may have been written then.
    ///
    /// # Safety
    ///
    /// The bytes are those of pages that this pinner has pinned, for writing, at the user address that
    /// the place has, and stay pinned for as long as the call takes.
    unsafe fn write(&self, to: Place, bytes: &[u8]) -> Result<(), Self::AccessError>;
}

/// A region whose bytes the CPU can copy: a [`Umem`](super::Umem) whose pinner has [`PageAccess`].
///
/// The region knows how it is reached, so that nobody can reach it through the access of another
/// machine.
pub trait CpuRegion: Region {
    /// Why a page could not be reached.
    type AccessError: fmt::Debug;

    /// Copies bytes of the region from `offset` on.
    ///
    /// # Errors
    ///
    /// [`AccessError`] with the offset at which it stopped.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError<Self::AccessError>>;

    /// Copies bytes into the region from `offset` on; it counts as written.
    ///
    /// # Errors
    ///
    /// [`AccessError`] with the offset at which it stopped; the bytes before it have been written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AccessError<Self::AccessError>>;
}

/// Calls `copy` with each contiguous piece of the bytes `offset..offset + len` of `region`: where it
/// lies, and which of the bytes it has.
fn for_each_piece<R: Region + ?Sized, E>(
    region: &R,
    offset: u64,
    len: usize,
    mut copy: impl FnMut(Place, Range<usize>) -> Result<(), E>,
) -> Result<(), AccessError<E>> {
    if len == 0 && offset <= region.len() {
        return Ok(());
    }
    let window = region
        .whole()
        .and_then(|whole| whole.window(offset, len as u64))
        .map_err(|error| AccessError { offset, kind: AccessErrorKind::Window(error) })?;
    let mut done = 0usize;
    for segment in window {
        let at = offset.plus(done as u64);
        let user = region.user_addr().and_then(|start| start.checked_add(at));
        let place = Place { phys: segment.phys, kind: segment.kind, user };
        // A piece of `len` bytes, which a `usize` counts.
        let end = done.saturating_add(usize::try_from(segment.len).unwrap_or(usize::MAX)).min(len);
        copy(place, done..end)
            .map_err(|error| AccessError { offset: at, kind: AccessErrorKind::Page(error) })?;
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
    for_each_piece(region, offset, bytes.len(), |place, range| {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, at the user address that
        // the place has, and stay pinned": as the caller promises, as the place lies in the region.
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
        return Err(AccessError { offset, kind: AccessErrorKind::ReadOnly });
    }
    region.mark_dirty();
    for_each_piece(region, offset, bytes.len(), |place, range| {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, for writing, at the user
        // address that the place has, and stay pinned": as the caller promises, as the place lies in
        // the region, which is writable.
        unsafe { access.write(place, bytes.get(range).unwrap_or_default()) }
    })
}

/// Bytes could not be copied; those before `offset` have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessError<E> {
    /// Where it stopped: counted as the offset of the call was.
    pub offset: u64,
    /// Why.
    pub kind: AccessErrorKind<E>,
}

/// Why bytes could not be copied; `E` is the error of the [`PageAccess`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessErrorKind<E> {
    /// They reach beyond the region.
    Window(WindowError),
    /// The memory may not be written.
    ReadOnly,
    /// The page could not be reached.
    Page(E),
}

impl<E: fmt::Display> fmt::Display for AccessError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot copy at offset {:#x}: ", self.offset)?;
        self.kind.fmt(f)
    }
}

impl<E: core::error::Error + 'static> core::error::Error for AccessError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.kind.source()
    }
}

impl<E: fmt::Display> fmt::Display for AccessErrorKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(error) => error.fmt(f),
            Self::ReadOnly => f.write_str("the memory may not be written"),
            Self::Page(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for AccessErrorKind<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Window(error) => Some(error),
            Self::ReadOnly => None,
            Self::Page(error) => Some(error),
        }
    }
}
