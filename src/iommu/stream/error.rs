// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`StreamError`]: why memory could not be streamed, and every value that was given.
#![forbid(unsafe_code)]

use super::super::domain::DomainHolder;
use super::super::entries::{Breach, MapErrorKind};
use crate::sgl::MemoryKind;
use crate::umem::{PinErrorKind, PinnerHolder};
use core::fmt;

/// Why a stream failed: the errors of the pinner that `P` holds and of the domain that `D` holds.
pub(super) type Kind<P, D> =
    StreamErrorKind<<P as PinnerHolder>::Error, <D as DomainHolder>::Error>;

/// Memory could not be streamed into a domain; nothing of it is mapped, pinned or charged.
///
/// The pinner and the domain come back. After a [`Breach`] the pages stay pinned and charged for
/// ever.
pub struct StreamError<P: PinnerHolder, D: DomainHolder> {
    pub(super) kind: Kind<P, D>,
    pub(super) mapped: u64,
    pub(super) pinner: P,
    pub(super) domain: D,
}

impl<P: PinnerHolder, D: DomainHolder> StreamError<P, D> {
    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &Kind<P, D> {
        &self.kind
    }

    /// What went wrong, for callers who have no use for the rest.
    #[must_use]
    pub fn into_kind(self) -> Kind<P, D> {
        self.kind
    }

    /// How many bytes, of whole runs, were mapped before it went wrong. They have been unmapped.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The pinner and the domain.
    #[must_use]
    pub fn into_parts(self) -> (P, D) {
        (self.pinner, self.domain)
    }
}

impl<P: PinnerHolder, D: DomainHolder> fmt::Debug for StreamError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamError")
            .field("kind", &self.kind)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

impl<P, D> fmt::Display for StreamError<P, D>
where
    P: PinnerHolder<Error: fmt::Display>,
    D: DomainHolder<Error: fmt::Display>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot stream, {:#x} bytes in: {}", self.mapped, self.kind)
    }
}

impl<P, D> core::error::Error for StreamError<P, D>
where
    P: PinnerHolder<Error: core::error::Error>,
    D: DomainHolder<Error: core::error::Error>,
{
}

/// Why memory could not be streamed; `E` is the error of the pinner, `F` that of the domain.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamErrorKind<E, F> {
    /// It could not be charged or pinned.
    Pin(PinErrorKind<E>),
    /// It could not be mapped.
    Map(MapErrorKind<F>),
    /// Some of it is not RAM.
    Kind(MemoryKind),
}

impl<E: fmt::Display, F: fmt::Display> fmt::Display for StreamErrorKind<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(kind) => kind.fmt(f),
            Self::Map(kind) => kind.fmt(f),
            Self::Kind(kind) => write!(f, "only RAM can be streamed, not {kind}"),
        }
    }
}

/// The domain broke its contract while a stream was taken down. What was not unmapped stays pinned
/// and charged for ever.
pub struct StreamUnmapError<P, D> {
    pub(super) breach: Breach,
    pub(super) pinner: P,
    pub(super) domain: D,
}

impl<P, D> StreamUnmapError<P, D> {
    /// What the domain did.
    #[must_use]
    pub const fn breach(&self) -> Breach {
        self.breach
    }

    /// The pinner and the domain.
    #[must_use]
    pub fn into_parts(self) -> (P, D) {
        (self.pinner, self.domain)
    }
}

impl<P, D> fmt::Debug for StreamUnmapError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamUnmapError").field("breach", &self.breach).finish_non_exhaustive()
    }
}

impl<P, D> fmt::Display for StreamUnmapError<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot unmap: {}; the memory stays pinned for ever", self.breach)
    }
}

impl<P, D> core::error::Error for StreamUnmapError<P, D> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.breach)
    }
}
