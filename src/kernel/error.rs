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
//! | the progress function said to stop; the thread was killed while it waited for a counter | `EINTR` |
//! | a domain, or a pinner, broke its contract | `EIO` |
//! | the kernel failed | what it answered |
#![forbid(unsafe_code)]

use super::kernel;
use crate::addr::RangeError;
use crate::descriptor::DescriptorError;
use crate::failed::Failed;
use crate::granule::{SegmentError, TileError};
use crate::iommu::{Breach, CutError, IoasError, MapError, StreamError};
use crate::page_size::ParsePageSizeError;
use crate::rdma::RegisterError;
use crate::sgl::{BuildError, ParseKindError, WindowError};
use crate::store::AllocError;
use crate::umem::{AccessError, AttachError, ChargeError, PinError, PinErrorKind, SplitError};
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
    Breach: _ => code::EIO;
    WindowError: _ => code::EINVAL;
    SegmentError: _ => code::EINVAL;
    ParsePageSizeError: _ => code::EINVAL;
    ParseKindError: _ => code::EINVAL;
    DescriptorError: error => match error {
        DescriptorError::Room { .. } => code::ENOSPC,
        _ => code::EINVAL,
    };
    RangeError: error => match error {
        RangeError::Empty => code::EINVAL,
        RangeError::Wraps => code::EOVERFLOW,
    };
    ChargeError: error => match error {
        ChargeError::Limit { .. } => code::ENOMEM,
        ChargeError::Killed => code::EINTR,
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
    SplitError: error => match error {
        SplitError::Attached { .. } => code::EBUSY,
        SplitError::List(error) => error.into(),
        SplitError::Outside { .. } | SplitError::InsidePage { .. } => code::EINVAL,
    };
    CutError: error => match error {
        CutError::Attach(error) => error.into(),
        CutError::Breach(breach) => breach.into(),
        CutError::Outside { .. } | CutError::InsideEntry { .. } | CutError::Indivisible => {
            code::EINVAL
        }
    };
}

/// What comes back is let go of.
impl<E: Into<Error>, V> From<Failed<E, V>> for Error {
    fn from(failed: Failed<E, V>) -> Self {
        failed.into_error().into()
    }
}

impl<E: Into<Error>> From<PinError<E>> for Error {
    fn from(error: PinError<E>) -> Self {
        error.kind.into()
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

impl<E: Into<Error>> From<MapError<E>> for Error {
    fn from(error: MapError<E>) -> Self {
        match error {
            MapError::NoAccess | MapError::UnknownProt { .. } | MapError::Aperture { .. } => {
                code::EINVAL
            }
            MapError::Attach(error) => error.into(),
            MapError::Window(error) => error.into(),
            MapError::Tiles(error) => error.into(),
            MapError::Domain { error, .. } => error.into(),
            MapError::Breach(breach) => breach.into(),
        }
    }
}

impl<E: Into<Error>> From<RegisterError<E>> for Error {
    fn from(error: RegisterError<E>) -> Self {
        match error {
            RegisterError::UnknownAccess { .. } | RegisterError::NoPageSize { .. } => code::EINVAL,
            RegisterError::Attach(error) => error.into(),
            RegisterError::Window(error) => error.into(),
            RegisterError::Blocks(error) => error.into(),
            RegisterError::Nic(error) => error.into(),
        }
    }
}

impl<E: Into<Error>, F: Into<Error>> From<StreamError<E, F>> for Error {
    fn from(error: StreamError<E, F>) -> Self {
        match error {
            StreamError::Pin(error) => error.into(),
            StreamError::Map(error) => error.into(),
            StreamError::NotRam { .. } => code::EINVAL,
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
            IoasError::NoRoom { .. } | IoasError::MappingLimit { .. } => code::ENOSPC,
            IoasError::OutOfMemory => code::ENOMEM,
            IoasError::NotMapped { .. } => code::ENOENT,
            IoasError::CutsMapping { .. } | IoasError::CutsEntry { .. } => code::EINVAL,
            IoasError::Map(error) | IoasError::Replay { error, .. } => error.into(),
            IoasError::Domain(error) => error.into(),
            IoasError::NoSuchDomain => code::ENOENT,
            IoasError::Breach(breach) => breach.into(),
            IoasError::Poisoned { .. } => code::EIO,
        }
    }
}

impl<E: Into<Error>, A> From<AccessError<E, A>> for Error {
    fn from(error: AccessError<E, A>) -> Self {
        match error {
            AccessError::Window { error, .. } => error.into(),
            AccessError::NotMapped { .. } => code::ENOENT,
            AccessError::NotPermitted { .. } => code::EPERM,
            AccessError::Wraps { .. } => code::EOVERFLOW,
            AccessError::Page { error, .. } => error.into(),
        }
    }
}
