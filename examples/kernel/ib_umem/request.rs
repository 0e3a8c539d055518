// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Request`]: what a driver asks for, and the errno for what is refused before anything is pinned.

use crate::{
    abi::{self, IbDevice},
    ffi,
};
use kernel::prelude::*;
use pinned_sgl::{
    kernel::PAGE_SIZE,
    umem::{PinFlags, UserRange},
    UserAddr,
};

/// The bytes of a page.
pub(crate) const PAGE: usize = PAGE_SIZE.bytes() as usize;

/// Bytes of the calling process, for a device.
pub(crate) struct Request {
    pub(crate) device: *mut IbDevice,
    pub(crate) addr: usize,
    pub(crate) size: usize,
    pub(crate) access: c_int,
    /// The pages that hold the bytes. No bytes inside of a page are a page.
    pub(crate) pages: UserRange,
}

impl Request {
    /// # Safety
    ///
    /// The device is there as long as the call takes.
    pub(crate) unsafe fn new(
        device: *mut IbDevice,
        addr: usize,
        size: usize,
        access: c_int,
    ) -> Result<Self> {
        // SAFETY: "pointers are to what their types say, which is there": the device, as the caller promises; "nothing else
        // changes meanwhile": the bit that is read is written before drivers register anything.
        if unsafe { ffi::ib_umem_bounces(device) } {
            return Err(EOPNOTSUPP);
        }
        let end = addr.checked_add(size).and_then(|end| end.checked_next_multiple_of(PAGE));
        let end = end.ok_or(EINVAL)?;
        if !ffi::ib_umem_may_lock() {
            return Err(EPERM);
        }
        if access & abi::ON_DEMAND != 0 {
            return Err(EOPNOTSUPP);
        }
        let start = addr & PAGE.wrapping_neg();
        let len = end.checked_sub(start).ok_or(EINVAL)?;
        let pages = UserRange::new(UserAddr::new(start as u64), len as u64).map_err(|_| EINVAL)?;
        // Tables count their entries so.
        if u32::try_from(len.checked_div(PAGE).ok_or(EINVAL)?).is_err() {
            return Err(EINVAL);
        }
        Ok(Self { device, addr, size, access, pages })
    }

    /// Whether the driver reads no table.
    pub(crate) fn is_listed(&self) -> bool {
        self.access & abi::LIST != 0
    }

    pub(crate) fn is_writable(&self) -> bool {
        ffi::ib_umem_writable(self.access)
    }

    pub(crate) fn flags(&self) -> PinFlags {
        if self.is_writable() {
            PinFlags::LONGTERM | PinFlags::WRITE
        } else {
            PinFlags::LONGTERM
        }
    }
}
