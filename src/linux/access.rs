// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the CPU reaches the bytes of a [`Buffer`]: by copies, as a device may write at any time.

use super::{buffer::Buffer, copy, error::PageError};
use crate::umem::{Location, PageAccess};
use core::ptr::NonNull;
use std::sync::PoisonError;

impl Buffer {
    /// Copies bytes from `offset` on out of the buffer, each read once and volatile.
    ///
    /// Where a device writes at the same time, each byte is an old or a new one. Threads that
    /// [write](Self::write) wait, so that no copy sees half of another.
    ///
    /// # Errors
    ///
    /// [`PageError::Beyond`] if they reach beyond the buffer; nothing was read then.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), PageError> {
        let from = self.check(offset, bytes.len())?;
        let _guard = self.copies.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `check` found all bytes in the mapping, which is readable; nothing ever has a
        // reference to them; this process writes only in `write`, which the guard keeps out.
        unsafe { copy::read(from.as_ptr(), bytes) };
        Ok(())
    }

    /// Copies bytes into the buffer from `offset` on, each written once and volatile.
    ///
    /// Other threads that [read](Self::read) or write wait.
    ///
    /// # Errors
    ///
    /// [`PageError::Beyond`] if they reach beyond the buffer; nothing was written then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PageError> {
        let to = self.check(offset, bytes.len())?;
        let _guard = self.copies.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `check` found all bytes in the mapping, which is writable; nothing ever has a
        // reference to them; this process reads and writes only here and in `read`, and the guard
        // keeps all others out.
        unsafe { copy::write(to.as_ptr(), bytes) };
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> Result<NonNull<u8>, PageError> {
        let end = offset.checked_add(len as u64);
        match usize::try_from(offset) {
            Ok(start) if end.is_some_and(|end| end <= self.len()) => Ok(self.at(start)),
            _ => Err(PageError::Beyond { offset, len: len as u64, available: self.len() }),
        }
    }

    /// The offset of `place`.
    fn offset_of(&self, place: Location) -> Result<u64, PageError> {
        let at = place.user.ok_or(PageError::NoUserAddress)?;
        at.checked_offset_from(self.user_addr()).ok_or(PageError::NotInBuffer { at })
    }
}

impl PageAccess for Buffer {
    type AccessError = PageError;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), PageError> {
        self.read(self.offset_of(from)?, bytes)
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), PageError> {
        self.write(self.offset_of(to)?, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pages;
    use super::*;
    use crate::addr::PhysAddr;
    use crate::sgl::MemoryKind;

    #[test]
    fn a_place_is_found_by_its_user_address() {
        let buffer = Buffer::new(1 << 20, Pages::Base).unwrap();
        let place = |user| Location { phys: PhysAddr::new(0), kind: MemoryKind::Ram, user };
        let start = buffer.user_addr();
        let mut bytes = [0; 3];
        let mut copy = |user| {
            // SAFETY: a buffer checks what it is given.
            unsafe {
                PageAccess::write(&buffer, place(user), b"abc")?;
                PageAccess::read(&buffer, place(user), &mut bytes)
            }
        };
        copy(start.checked_add(5)).unwrap();
        assert!(matches!(copy(None), Err(PageError::NoUserAddress)));
        let before = start.checked_sub(1).unwrap();
        assert!(matches!(copy(Some(before)), Err(PageError::NotInBuffer { at }) if at == before));
        let offset = (1 << 20) - 2;
        assert!(matches!(
            copy(start.checked_add(offset)),
            Err(PageError::Beyond { offset: at, len: 3, available: 0x10_0000 }) if at == offset
        ));
        assert_eq!(bytes, *b"abc");
        buffer.read(5, &mut bytes).unwrap();
        assert_eq!(bytes, *b"abc");
    }
}
