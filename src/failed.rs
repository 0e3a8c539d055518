// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Failed`]: an error, and the values that the operation did not keep.
#![forbid(unsafe_code)]

use core::fmt;

/// An operation that takes values failed: the error, and the values, given back.
///
/// `V` is the value, or a tuple of the values in the order of the arguments.
///
/// # What it holds
///
/// What is given back lives as long as this does: a region stays pinned and charged, a borrowed domain
/// stays borrowed. When this is dropped, the error goes first, then the values in their order.
/// [`into_value`](Self::into_value) is for a caller that tries again, and
/// [`into_error`](Self::into_error) for one that gives up, as before a `?`:
///
/// ```
/// use pinned_sgl::iommu::{Mapping, Prot};
/// use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
/// use pinned_sgl::{Failed, Iova, PageSizes, UserAddr};
/// use pinned_sgl_mock::{Vma, Memory, Process};
/// use std::error::Error;
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(64);
/// let process = Arc::new(Process::new(&memory));
/// let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
/// process.map(range, Vma::read_write())?;
/// let account = Arc::new(Account::new(16));
/// let iommu = memory.iommu(PageSizes::SIZE_4K);
///
/// let show = || -> Result<(), Box<dyn Error>> {
///     let request = PinRequest::new(range, PinFlags::LONGTERM);
///     let umem = Umem::pin(process.clone(), account.clone(), request).map_err(Failed::into_error)?;
///     // The region is let go of here, and the domain needs to live no longer than this function.
///     let mapping = Mapping::map(Arc::new(umem), &iommu, Iova::new(0x1234), Prot::READ)
///         .map_err(Failed::into_error)?;
///     Ok(mapping.unmap().map(drop).map_err(Failed::into_error)?)
/// };
/// assert_eq!(
///     show().unwrap_err().to_string(),
///     "IOVA 0x1234 is not a multiple of 4K, the smallest page size",
/// );
/// assert_eq!((memory.pinned_pages(), account.charged()), (0, 0));
/// # Ok::<(), Box<dyn Error>>(())
/// ```
///
/// It reads as its error does: [`Display`](fmt::Display) and [`source`](core::error::Error::source) are
/// those of `E`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Failed<E, V> {
    error: E,
    value: V,
}

impl<E, V> Failed<E, V> {
    /// What went wrong, and what comes back.
    #[must_use]
    pub const fn new(error: E, value: V) -> Self {
        Self { error, value }
    }

    /// What went wrong.
    #[must_use]
    pub const fn error(&self) -> &E {
        &self.error
    }

    /// What went wrong; what came back is dropped.
    #[must_use]
    pub fn into_error(self) -> E {
        self.error
    }

    /// What came back.
    #[must_use]
    pub fn into_value(self) -> V {
        self.value
    }

    /// Both.
    #[must_use]
    pub fn into_parts(self) -> (E, V) {
        (self.error, self.value)
    }

    /// The same values, with another error made of this one.
    #[must_use]
    pub fn map_error<F>(self, make: impl FnOnce(E) -> F) -> Failed<F, V> {
        Failed::new(make(self.error), self.value)
    }

    /// The same error, with something else made of the values.
    #[must_use]
    pub fn map_value<W>(self, make: impl FnOnce(V) -> W) -> Failed<E, W> {
        Failed::new(self.error, make(self.value))
    }
}

impl<E: fmt::Debug, V> fmt::Debug for Failed<E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<E: fmt::Display, V> fmt::Display for Failed<E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: core::error::Error, V> core::error::Error for Failed<E, V> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.error.source()
    }
}
