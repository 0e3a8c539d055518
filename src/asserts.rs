// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that names what assertions of the compiler are: those of the crate `static_assertions`, or of
//! the Linux kernel.
#![forbid(unsafe_code)]

#[cfg(pinned_sgl_kbuild)]
pub(crate) use ::kernel::static_assert;
#[cfg(not(pinned_sgl_kbuild))]
pub(crate) use static_assertions::const_assert as static_assert;
