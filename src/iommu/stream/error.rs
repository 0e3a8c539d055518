// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`StreamError`]: why memory could not be streamed, where, and how far it got.
#![forbid(unsafe_code)]

use super::super::domain::DomainHolder;
use super::super::error::MapError;
use crate::addr::UserAddr;
use crate::sgl::MemoryKind;
use crate::umem::{PinError, PinnerHolder};
use core::{error::Error, fmt};

/// Why a stream failed: the errors of the pinner that `P` holds and of the domain that `D` holds.
pub(super) type Failure<P, D> = StreamError<<P as PinnerHolder>::Error, <D as DomainHolder>::Error>;

/// Memory could not be streamed into a domain; `E` is the error of the pinner, `F` that of the domain.
///
/// Nothing of it is mapped, pinned or charged then, unless it is a [breach](MapError::Breach): after that
/// the pages stay pinned and charged for ever.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamError<E, F> {
    /// It could not be charged or pinned.
    Pin(PinError<E>),
    /// It could not be mapped.
    Map(MapError<F>),
    /// Some of it is not RAM.
    NotRam {
        /// The first page that is not.
        at: UserAddr,
        /// What it is.
        kind: MemoryKind,
    },
}

impl<E, F> From<PinError<E>> for StreamError<E, F> {
    fn from(error: PinError<E>) -> Self {
        Self::Pin(error)
    }
}

impl<E, F> fmt::Display for StreamError<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::NotRam { at, kind } => {
                write!(f, "only RAM can be streamed, not {kind} as the page at {at} is")
            }
        }
    }
}

impl<E: Error + 'static, F: Error + 'static> Error for StreamError<E, F> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pin(error) => error.source(),
            Self::Map(error) => error.source(),
            Self::NotRam { .. } => None,
        }
    }
}
