// SPDX-License-Identifier: MIT OR Apache-2.0
//! A [`Umem`] is a [`Region`], whose bytes the CPU can copy if its pinner can.

use super::Umem;
use crate::addr::UserAddr;
use crate::sgl::Sgl;
use crate::store::Storage;
use crate::sync::{update, Release};
use crate::umem::access::{AccessError, AccessHolder, CpuRegion};
use crate::umem::address_kind::AddressKind;
use crate::umem::charge::AccountantHolder;
use crate::umem::flags::PinFlags;
use crate::umem::pinner::{Pinner as _, PinnerHolder};
use crate::umem::region::{AttachError, Region};

// SAFETY:
// - "the frames of `sgl` are the memory of the region .. of the kind that the list says .. none of the
//   answers ever changes": the pinner promises it of the runs that were listed; list, range and flags
//   never change;
// - "between `attach` and `detach` the frames stay what they are, also if the region is dropped or
//   leaked": an attachment is counted, and as long as there is one, `drop` unpins nothing: the pins,
//   and the holder of the pinner, are leaked;
// - "where `is_writable` is false, an attachment for writing is refused": `attach` begins with that;
// - "a call of `attach` that unwinds has attached nothing": it does not unwind.
unsafe impl<P, A, S> Region for Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    type Storage = S;

    #[inline]
    fn sgl(&self) -> &Sgl<S> {
        &self.sgl
    }

    fn address_kind(&self) -> AddressKind {
        self.pinner.address_kind()
    }

    #[inline]
    fn page_offset(&self) -> u64 {
        Umem::page_offset(self)
    }

    #[inline]
    fn len(&self) -> u64 {
        Umem::len(self)
    }

    #[inline]
    fn is_writable(&self) -> bool {
        self.flags.contains_all(PinFlags::WRITE)
    }

    #[inline]
    fn user_addr(&self) -> Option<UserAddr> {
        Some(self.range.start())
    }

    fn mark_dirty(&self) {
        Umem::mark_dirty(self);
    }

    fn attach(&self, writable: bool) -> Result<(), AttachError> {
        if writable && !self.is_writable() {
            return Err(AttachError::ReadOnly);
        }
        let add = |count: usize| count.checked_add(1);
        let counted = update(&self.attachments, add);
        counted.map(|_| ()).map_err(|_| AttachError::TooMany)
    }

    unsafe fn detach(&self) {
        // What the device did comes before the count is seen to be zero.
        self.attachments.fetch_sub(1, Release);
    }
}

impl<P, A, S> CpuRegion for Umem<P, A, S>
where
    P: PinnerHolder + AccessHolder,
    A: AccountantHolder,
    S: Storage,
{
    type AccessError = P::AccessError;

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError<Self::AccessError>> {
        Umem::read(self, offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AccessError<Self::AccessError>> {
        Umem::write(self, offset, bytes)
    }
}
