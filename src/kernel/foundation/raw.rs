// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers behind flags of the crate `kernel`, which are private there.

use super::kernel;
use core::mem;
use kernel::{
    alloc::Flags,
    bindings::gfp_t,
    dma::Attrs,
    ffi::{c_uint, c_ulong},
};

#[expect(clippy::wrong_self_convention, reason = "the name that it has there")]
pub(super) trait Raw {
    type Number;

    /// The number, as C has it.
    fn as_raw(self) -> Self::Number;
}

impl Raw for Flags {
    type Number = gfp_t;

    fn as_raw(self) -> gfp_t {
        // SAFETY: it is a structure of this one number, and as large.
        unsafe { mem::transmute(self) }
    }
}

impl Raw for Attrs {
    type Number = c_ulong;

    fn as_raw(self) -> c_ulong {
        // SAFETY: it is a transparent wrapper of this number.
        let bits: c_uint = unsafe { mem::transmute(self) };
        bits as c_ulong
    }
}
