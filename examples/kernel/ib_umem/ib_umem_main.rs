// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory registration of RDMA, on scatterlists: `ib_umem` with the interface that drivers know. See README.md.

// Nothing overflows unseen, and nothing panics: the kernel checks arithmetic, and what it finds ends it.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::integer_division
)]

mod abi;
mod dma;
mod ffi;
mod many;
mod one;
mod page_size;
mod registration;
mod request;

use abi::{IbDevice, IbUmem, Recent};
use kernel::{error::from_result, ffi::c_ulong, prelude::*};
use pinned_sgl::PageSizes;
use request::Request;

module! {
    type: IbUmemModule,
    name: "ib_umem",
    authors: ["The pinned-sgl project"],
    description: "Memory registration of RDMA on scatterlists",
    license: "GPL",
}

struct IbUmemModule;

impl kernel::Module for IbUmemModule {
    fn init(_: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

/// Pins memory of the calling process: where all ways to describe it lead to, but dma-bufs.
///
/// # Safety
///
/// The device is there until the memory is released, and does not reach it any more then.
#[no_mangle]
unsafe extern "C" fn __ib_umem_get_va(
    device: *mut IbDevice,
    addr: c_ulong,
    size: usize,
    access: c_int,
) -> *mut IbUmem {
    // SAFETY: "the device is there as long as the call takes": and longer, as the caller promises.
    let made = unsafe { Request::new(device, addr, size, access) }.and_then(|request| {
        // SAFETY: "the device is there until the registration is dropped, and does not reach the memory any more
        // then": as the caller promises, for it is dropped when it is released.
        unsafe { registration::register(&request) }
    });
    made.unwrap_or_else(|error| error.to_ptr())
}

/// The run that holds byte `at` of a list, as `glue.h` has it; how many runs these are. In any context.
///
/// # Safety
///
/// `umem` was returned by `__ib_umem_get_va`, and is not released meanwhile. `found` is zero, and nothing else uses it.
#[no_mangle]
unsafe extern "C" fn ib_umem_find(
    umem: *mut IbUmem,
    at: u64,
    go_on: bool,
    found: *mut Recent,
) -> usize {
    // SAFETY:
    // - of `find`, "`umem` was returned by `register`": which `__ib_umem_get_va` calls; "and is not released meanwhile": as
    //   the caller promises;
    // - of the borrow, "a valid pointer to an initialised value, not aliased": it is zero, and nothing else uses it, as
    //   the caller promises.
    unsafe { registration::find(umem, at, go_on, &mut *found) }
}

/// The address at which the device sees byte `offset`, and how many bytes from there on continue it.
///
/// # Safety
///
/// `umem` was returned by any of `ib_umem_get_*()`, and is not released meanwhile; `len` can be written.
#[no_mangle]
unsafe extern "C" fn ib_umem_dma_run(umem: *mut IbUmem, offset: usize, len: *mut u64) -> u64 {
    // SAFETY: "`umem` was returned by `register`, or made by the kernel's C": there are no others; "and is not released
    // meanwhile": as the caller promises.
    let (at, bytes) = unsafe { registration::dma_run(umem, offset) }.unwrap_or((u64::MAX, 0));
    // SAFETY: "valid for writes": as the caller promises.
    unsafe { *len = bytes };
    at
}

/// Releases what any of `ib_umem_get_*()` has returned, errors included.
///
/// # Safety
///
/// It is the first call for it. The device does not reach it any more, and nothing uses it.
#[no_mangle]
unsafe extern "C" fn ib_umem_release(umem: *mut IbUmem) {
    if umem.is_null() || kernel::error::from_err_ptr(umem).is_err() {
        return;
    }
    // SAFETY: "`umem` was returned by `register`, or made by the kernel's C": there are no others, and it is no error; "this
    // is the first call for it, nothing uses it, and no device reaches the memory": as the caller promises.
    unsafe { registration::release(umem) };
}

/// Copies bytes of what was registered.
///
/// # Safety
///
/// There is room for `length` bytes at `dst`, which nothing else uses meanwhile; `umem` was returned by any of
/// `ib_umem_get_*()`, and is not released meanwhile.
#[no_mangle]
unsafe extern "C" fn ib_umem_copy_from(
    dst: *mut c_void,
    umem: *mut IbUmem,
    offset: usize,
    length: usize,
) -> c_int {
    // SAFETY: "valid for reads, initialised": it is a `struct ib_umem` that is there, as the caller promises; "no data race":
    // its length never changes.
    let has = unsafe { (*umem).length };
    if has.checked_sub(offset).is_none_or(|left| length > left) {
        pr_err!("{} bytes from {} on are not in a registration of {} bytes\n", length, offset, has);
        return EINVAL.to_errno();
    }
    // SAFETY: "`umem` was returned by `register`, or made by the kernel's C": there are no others; "and is not released
    // meanwhile; there is room for as many bytes at `to`, which nothing else uses meanwhile": as the caller promises.
    from_result(|| unsafe { registration::read(umem, offset, dst.cast(), length) }.map(|()| 0))
}

/// The largest of the page sizes `sizes` in which the device can translate the memory at `virt`; 0 if there is none.
///
/// # Safety
///
/// `umem` was returned by any of `ib_umem_get_*()`, and is neither released nor asked about elsewhere meanwhile.
#[no_mangle]
unsafe extern "C" fn ib_umem_find_best_pgsz(
    umem: *mut IbUmem,
    sizes: c_ulong,
    virt: u64,
) -> c_ulong {
    // SAFETY: "`umem` was returned by `register`, or made by the kernel's C": there are no others; "and is not released
    // meanwhile", "nothing else writes its `iova` meanwhile": as the caller promises.
    unsafe { page_size::best(umem, PageSizes::from_bits_retain(sizes as u64), virt) as c_ulong }
}
