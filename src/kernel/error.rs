// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as errno: here, and nowhere else.
//!
//! | what went wrong | errno |
//! |---|---|
//! | numbers that describe nothing: empty, misaligned, outside of the aperture | `EINVAL` |
//! | more than 64 bits | `EOVERFLOW` |
//! | no memory, or `RLIMIT_MEMLOCK` reached | `ENOMEM` |
//! | the memory or the mapping does not allow it | `EPERM` |
//! | addresses that are in use; no room for more; nothing there | `EEXIST`, `ENOSPC`, `ENOENT` |
//! | too many attachments | `EBUSY` |
//! | the progress function said to stop | `EINTR` |
//! | a domain, or a pinner, broke its contract | `EIO` |
//! | the kernel failed | what it answered |
#![forbid(unsafe_code)]

use super::kernel;
use crate::addr::RangeError;
use crate::granule::{SegmentError, TileError};
use crate::iommu::{
    Breach, CutError, CutErrorKind, DomainHolder, IoasAccessError, IoasAccessErrorKind,
    IoasAttachError, IoasError, IoasMapError, MapError, MapErrorKind, UnmapError, UnmapRangeError,
};
use crate::sgl::{BuildError, FinishError, WindowError};
use crate::store::{AllocError, Storage};
use crate::umem::{
    AccessError, AccessErrorKind, AttachError, ChargeError, PinError, PinErrorKind, PinnerHolder,
    RegionHolder,
};
use kernel::error::{code, Error};

macro_rules! errno {
    ($($(#[$attr:meta])* $from:ty: $error:pat => $errno:expr;)*) => {$(
        $(#[$attr])*
        impl From<$from> for Error {
            fn from($error: $from) -> Self {
                $errno
            }
        }
    )*};
}

errno! {
    AllocError: _ => code::ENOMEM;
    ChargeError: _ => code::ENOMEM;
    Breach: _ => code::EIO;
    WindowError: _ => code::EINVAL;
    SegmentError: _ => code::EINVAL;
    RangeError: error => match error {
        RangeError::Empty => code::EINVAL,
        RangeError::Wraps => code::EOVERFLOW,
    };
    BuildError: error => match error {
        BuildError::OutOfMemory { .. } => code::ENOMEM,
        BuildError::PageSize { .. }
        | BuildError::OtherPageSize { .. }
        | BuildError::StorageInUse { .. } => code::EINVAL,
        BuildError::AddressTooLarge { .. } | BuildError::TooManyPages { .. } => code::EOVERFLOW,
    };
    TileError: error => match error {
        TileError::Wraps { .. } => code::EOVERFLOW,
        _ => code::EINVAL,
    };
    AttachError: error => match error {
        AttachError::ReadOnly => code::EPERM,
        AttachError::TooMany => code::EBUSY,
        AttachError::AddressKind { .. } => code::EINVAL,
    };
    CutErrorKind: error => match error {
        CutErrorKind::Attach(error) => error.into(),
        _ => code::EINVAL,
    };
}

impl<S: Storage> From<FinishError<S>> for Error {
    fn from(_: FinishError<S>) -> Self {
        code::ENOMEM
    }
}

impl<E: Into<Error>> From<PinErrorKind<E>> for Error {
    fn from(kind: PinErrorKind<E>) -> Self {
        match kind {
            PinErrorKind::Charge(error) => error.into(),
            PinErrorKind::Pinner(error) => error.into(),
            PinErrorKind::NoProgress => code::EIO,
            PinErrorKind::List(error) => error.into(),
            PinErrorKind::OutOfMemory => code::ENOMEM,
            PinErrorKind::UnknownFlags { .. } => code::EINVAL,
            PinErrorKind::Cancelled => code::EINTR,
        }
    }
}

impl<P: PinnerHolder<Error: Into<Error>>> From<PinError<P>> for Error {
    fn from(error: PinError<P>) -> Self {
        error.into_kind().into()
    }
}

impl<E: Into<Error>> From<MapErrorKind<E>> for Error {
    fn from(kind: MapErrorKind<E>) -> Self {
        match kind {
            MapErrorKind::NoAccess
            | MapErrorKind::UnknownProt { .. }
            | MapErrorKind::Aperture { .. } => code::EINVAL,
            MapErrorKind::Attach(error) => error.into(),
            MapErrorKind::Window(error) => error.into(),
            MapErrorKind::Tiles(error) => error.into(),
            MapErrorKind::Domain(error) => error.into(),
            MapErrorKind::Breach(breach) => breach.into(),
        }
    }
}

impl<U, D: DomainHolder<Error: Into<Error>>> From<MapError<U, D>> for Error {
    fn from(error: MapError<U, D>) -> Self {
        error.into_kind().into()
    }
}

impl<U, D> From<UnmapError<U, D>> for Error {
    fn from(error: UnmapError<U, D>) -> Self {
        error.breach().into()
    }
}

impl<M> From<CutError<M>> for Error {
    fn from(error: CutError<M>) -> Self {
        error.kind().into()
    }
}

impl<U: RegionHolder, D: DomainHolder> From<UnmapRangeError<U, D>> for Error {
    fn from(error: UnmapRangeError<U, D>) -> Self {
        match error {
            UnmapRangeError::Cut(error) => error.into(),
            UnmapRangeError::Breach { error, .. } => error.into(),
        }
    }
}

impl<E: Into<Error>> From<IoasError<E>> for Error {
    fn from(error: IoasError<E>) -> Self {
        match error {
            IoasError::Range(error) => error.into(),
            IoasError::Overlap { .. } | IoasError::Reserved { .. } | IoasError::Attached { .. } => {
                code::EEXIST
            }
            IoasError::NoPageSizes | IoasError::NoCommonAperture { .. } => code::EINVAL,
            IoasError::NoRoom { .. } | IoasError::EntryLimit { .. } => code::ENOSPC,
            IoasError::OutOfMemory => code::ENOMEM,
            IoasError::NotMapped { .. } => code::ENOENT,
            IoasError::CutsMapping { .. } | IoasError::CutsEntry { .. } => code::EINVAL,
            IoasError::Map(kind) => kind.into(),
            IoasError::Domain(error) => error.into(),
            IoasError::NoSuchDomain => code::ENOENT,
            IoasError::Breach(breach) => breach.into(),
            IoasError::Poisoned { .. } => code::EIO,
        }
    }
}

impl<U, E: Into<Error>> From<IoasMapError<U, E>> for Error {
    fn from(error: IoasMapError<U, E>) -> Self {
        error.into_kind().into()
    }
}

impl<D, E: Into<Error>> From<IoasAttachError<D, E>> for Error {
    fn from(error: IoasAttachError<D, E>) -> Self {
        error.into_kind().into()
    }
}

impl<E: Into<Error>> From<AccessError<E>> for Error {
    fn from(error: AccessError<E>) -> Self {
        error.kind.into()
    }
}

impl<E: Into<Error>> From<IoasAccessError<E>> for Error {
    fn from(error: IoasAccessError<E>) -> Self {
        match error.kind {
            IoasAccessErrorKind::NotMapped => code::ENOENT,
            IoasAccessErrorKind::NotPermitted => code::EPERM,
            IoasAccessErrorKind::Wraps => code::EOVERFLOW,
            IoasAccessErrorKind::Access(kind) => kind.into(),
        }
    }
}

impl<E: Into<Error>> From<AccessErrorKind<E>> for Error {
    fn from(kind: AccessErrorKind<E>) -> Self {
        match kind {
            AccessErrorKind::Window(error) => error.into(),
            AccessErrorKind::ReadOnly => code::EPERM,
            AccessErrorKind::Page(error) => error.into(),
        }
    }
}
