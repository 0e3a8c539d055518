// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinError`]: why a region is not pinned, how far it got, and the pinner.
#![forbid(unsafe_code)]

use super::charge::ChargeError;
use super::pinner::PinnerHolder;
use crate::addr::UserAddr;
use crate::sgl::BuildError;
use crate::store::AllocError;
use core::fmt;

/// A region could not be pinned: nothing of it is pinned or charged any more.
///
/// The pinner comes back: see [`into_pinner`](Self::into_pinner).
pub struct PinError<P: PinnerHolder> {
    pub(super) kind: PinErrorKind<P::Error>,
    pub(super) at: UserAddr,
    pub(super) pinned: u64,
    pub(super) pinner: P,
}

impl<P: PinnerHolder> PinError<P> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &PinErrorKind<P::Error> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> PinErrorKind<P::Error> {
        self.kind
    }

    /// The user page at which it went wrong.
    #[must_use]
    pub const fn at(&self) -> UserAddr {
        self.at
    }

    /// How many bytes, of whole pages, were pinned before it went wrong. They have been unpinned.
    #[must_use]
    pub const fn pinned(&self) -> u64 {
        self.pinned
    }

    /// The pinner.
    #[must_use]
    pub fn into_pinner(self) -> P {
        self.pinner
    }
}

impl<P: PinnerHolder> fmt::Debug for PinError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinError")
            .field("kind", &self.kind)
            .field("at", &self.at)
            .field("pinned", &self.pinned)
            .finish_non_exhaustive()
    }
}

impl<P: PinnerHolder<Error: fmt::Display>> fmt::Display for PinError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot pin the page at {}", self.at)?;
        if self.pinned > 0 {
            write!(f, ", {:#x} bytes in", self.pinned)?;
        }
        f.write_str(": ")?;
        self.kind.fmt(f)
    }
}

impl<P: PinnerHolder<Error: core::error::Error + 'static>> core::error::Error for PinError<P> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Why a region could not be pinned; `E` is the error of the pinner.
#[derive(Debug)]
#[non_exhaustive]
pub enum PinErrorKind<E> {
    /// It would exceed the limit of the accountant. Nothing was pinned.
    Charge(ChargeError),
    /// The pinner failed.
    Pinner(E),
    /// The pinner pinned nothing and gave no reason: it broke its contract.
    NoProgress,
    /// The list could not take what was pinned.
    List(BuildError),
    /// There was no memory, for the batch or for the last runs of the list.
    OutOfMemory,
    /// Some bits of the flags are none.
    UnknownFlags {
        /// All bits that were given.
        bits: u32,
    },
    /// The caller's progress function said to stop.
    Cancelled,
    /// A thread could not be started.
    #[cfg(feature = "std")]
    Thread(std::io::Error),
}

impl<E> From<ChargeError> for PinErrorKind<E> {
    fn from(error: ChargeError) -> Self {
        Self::Charge(error)
    }
}

impl<E> From<AllocError> for PinErrorKind<E> {
    fn from(_: AllocError) -> Self {
        Self::OutOfMemory
    }
}

impl<E: fmt::Display> fmt::Display for PinErrorKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Charge(error) => error.fmt(f),
            Self::Pinner(error) => error.fmt(f),
            Self::NoProgress => f.write_str("the pinner pinned nothing and gave no reason"),
            Self::List(error) => error.fmt(f),
            Self::OutOfMemory => AllocError.fmt(f),
            Self::UnknownFlags { bits } => write!(f, "unknown flags in {bits:#x}"),
            Self::Cancelled => f.write_str("cancelled"),
            #[cfg(feature = "std")]
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for PinErrorKind<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Charge(error) => Some(error),
            Self::Pinner(error) => Some(error),
            Self::List(error) => Some(error),
            #[cfg(feature = "std")]
            Self::Thread(error) => Some(error),
            Self::NoProgress | Self::OutOfMemory | Self::UnknownFlags { .. } | Self::Cancelled => {
                None
            }
        }
    }
}
