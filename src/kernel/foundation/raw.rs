// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is behind types of the crate `kernel`, which is private there.

use super::kernel;
use core::{mem, ptr};
use kernel::{
    alloc::Flags,
    bindings::{self, gfp_t},
    device::{Bound, Device},
    dma::Attrs,
    ffi::{c_uint, c_ulong},
};

#[expect(clippy::wrong_self_convention, reason = "the name that it has there")]
pub(super) trait Raw {
    type Raw;

    /// As C has it.
    fn as_raw(self) -> Self::Raw;
}

impl Raw for &Device<Bound> {
    type Raw = *mut bindings::device;

    fn as_raw(self) -> *mut bindings::device {
        // It is a transparent wrapper.
        ptr::from_ref(self).cast_mut().cast()
    }
}

impl Raw for Flags {
    type Raw = gfp_t;

    fn as_raw(self) -> gfp_t {
        // SAFETY: it is a structure of this one number, and as large.
        unsafe { mem::transmute(self) }
    }
}

impl Raw for Attrs {
    type Raw = c_ulong;

    fn as_raw(self) -> c_ulong {
        // SAFETY: it is a transparent wrapper of this number.
        let bits: c_uint = unsafe { mem::transmute(self) };
        bits as c_ulong
    }
}
