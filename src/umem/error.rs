// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PinError`]: why a region is not pinned, where, and how far it got.
#![forbid(unsafe_code)]

use super::charge::ChargeError;
use crate::addr::UserAddr;
use crate::sgl::BuildError;
use crate::store::AllocError;
use core::{error::Error, fmt};

/// A region could not be pinned: nothing of it is pinned or charged any more.
#[derive(Debug)]
#[non_exhaustive]
pub struct PinError<E> {
    /// What went wrong.
    pub kind: PinErrorKind<E>,
    /// The user page at which it went wrong.
    pub at: UserAddr,
    /// How many bytes, of whole pages, were pinned before it went wrong. They have been unpinned.
    pub pinned: u64,
}

impl<E> PinError<E> {
    /// It went wrong at once.
    pub(crate) fn new(kind: impl Into<PinErrorKind<E>>, at: UserAddr) -> Self {
        Self { kind: kind.into(), at, pinned: 0 }
    }
}

impl<E> fmt::Display for PinError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot pin the page at {}", self.at)?;
        match self.pinned {
            0 => Ok(()),
            pinned => write!(f, ", {pinned:#x} bytes in"),
        }
    }
}

impl<E: Error + 'static> Error for PinError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.kind)
    }
}

/// Why a region could not be pinned; `E` is the error of the pinner.
#[derive(Debug)]
#[non_exhaustive]
pub enum PinErrorKind<E> {
    /// The accountant refused, most often because of its limit. Nothing was pinned.
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
            Self::Thread(_) => f.write_str("cannot start a thread"),
        }
    }
}

impl<E: Error + 'static> Error for PinErrorKind<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pinner(error) => error.source(),
            #[cfg(feature = "std")]
            Self::Thread(error) => Some(error),
            _ => None,
        }
    }
}
