// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Extent`]: bytes that are contiguous for a device, at an address that it uses.
#![forbid(unsafe_code)]

use crate::addr::{DmaAddr, Iova, PhysAddr, RangeError, UserAddr};
use crate::exact::Exact as _;
use crate::sgl::Segment;

mod sealed {
    pub trait Sealed {
        /// The address with this number.
        fn of(number: u64) -> Self;
    }
}

/// An address that a device uses: a physical one, an IOVA of a domain that a driver fills by itself, what the DMA
/// API of a kernel gives, or, for what is no hardware, that of a process. A descriptor list has addresses of one of
/// these types. There is nothing to implement.
pub trait DeviceAddr: Copy + sealed::Sealed {
    /// The number, as the device has it.
    fn number(self) -> u64;
}

macro_rules! device_addr {
    ($($address:ty),*) => {$(
        impl sealed::Sealed for $address {
            #[inline]
            fn of(number: u64) -> Self {
                Self::new(number)
            }
        }

        impl DeviceAddr for $address {
            #[inline]
            fn number(self) -> u64 {
                self.get()
            }
        }
    )*};
}

device_addr!(PhysAddr, Iova, DmaAddr, UserAddr);

/// Bytes that are contiguous for a device. The last one has an address; the one behind it may have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent<A> {
    addr: A,
    /// Invariant: not zero, and `addr + (len - 1)` fits.
    len: u64,
}

impl<A: DeviceAddr> Extent<A> {
    /// `len` bytes from `addr` on.
    ///
    /// ```
    /// use pinned_sgl::{descriptor::Extent, Iova};
    /// assert_eq!(Extent::new(Iova::new(0x1000), 0x800)?.len(), 0x800);
    /// assert!(Extent::new(Iova::new(0x1000), 0).is_err());
    /// # Ok::<(), pinned_sgl::RangeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RangeError`] if there are no bytes, or if the last one has no address.
    pub fn new(addr: A, len: u64) -> Result<Self, RangeError> {
        let beyond_first = len.checked_sub(1).ok_or(RangeError::Empty)?;
        addr.number().checked_add(beyond_first).ok_or(RangeError::Wraps)?;
        Ok(Self { addr, len })
    }

    /// What is left of `len` bytes where they are bytes that have addresses: one at least.
    #[inline]
    pub(crate) fn clamped(addr: A, len: u64) -> Self {
        // At address zero this says nothing.
        if len.wrapping_sub(1) < addr.number().wrapping_neg() {
            return Self { addr, len };
        }
        let most = u64::MAX.minus(addr.number()).saturating_add(1);
        Self { addr, len: len.clamp(1, most) }
    }

    /// The address of the first byte.
    #[inline]
    #[must_use]
    pub const fn addr(&self) -> A {
        self.addr
    }

    /// How many bytes: never zero.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an extent is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The number of the first address.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.addr.number()
    }

    /// The number of the last address.
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.first().plus(self.len.minus(1))
    }

    /// The first `len` bytes, of which there are not more than it has, and one at least; and those behind.
    pub(super) fn split(self, len: u64) -> (Self, Option<Self>) {
        debug_assert!((1..=self.len).contains(&len), "not as many bytes");
        let rest = self.len.saturating_sub(len);
        let behind = || Self { addr: A::of(self.first().plus(len)), len: rest };
        (Self { addr: self.addr, len }, (rest > 0).then(behind))
    }

    /// Both as one, where they touch; but all addresses together are a byte more than 64 bits count.
    #[inline]
    fn joined(&self, next: Self) -> Option<Self> {
        // Behind the last address of all comes zero, where nothing continues.
        let touches = self.first().wrapping_add(self.len) == next.first() && next.first() != 0;
        // Where they touch it is zero for all addresses, and fits otherwise.
        let len = self.len.wrapping_add(next.len);
        (touches && len != 0).then_some(Self { addr: self.addr, len })
    }

    /// Addresses and lengths of parts of at most `2^shift` bytes.
    #[inline]
    pub(super) fn for_each_part(&self, shift: u32, mut f: impl FnMut(u64, u64)) {
        let (mut addr, mut left, most) = (self.first(), self.len, 1u64.shifted_up(shift));
        while left > most {
            f(addr, most);
            (addr, left) = (addr.plus(most), left.minus(most));
        }
        f(addr, left);
    }

    /// How many parts there are.
    pub(super) fn part_count(&self, shift: u32) -> u64 {
        self.len.minus(1).shifted_down(shift).plus(1)
    }
}

/// What a window has is addressed physically.
impl From<Segment> for Extent<PhysAddr> {
    #[inline]
    fn from(segment: Segment) -> Self {
        // A caller may have changed the fields.
        Self::clamped(segment.phys, segment.len)
    }
}

/// Extents, of which those that touch are one.
#[derive(Clone, Debug)]
pub(super) struct Joined<I, A> {
    extents: I,
    ahead: Option<Extent<A>>,
}

impl<I, A> Joined<I, A> {
    pub(super) fn new(extents: I) -> Self {
        Self { extents, ahead: None }
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>>> Iterator for Joined<I, A> {
    type Item = Extent<A>;

    #[inline]
    fn next(&mut self) -> Option<Extent<A>> {
        let mut extent = self.ahead.take().or_else(|| self.extents.next().map(Into::into))?;
        for next in self.extents.by_ref() {
            let next = next.into();
            match extent.joined(next) {
                Some(longer) => extent = longer,
                None => {
                    self.ahead = Some(next);
                    break;
                }
            }
        }
        Some(extent)
    }

    #[inline]
    fn fold<B, F: FnMut(B, Extent<A>) -> B>(mut self, init: B, mut f: F) -> B {
        let Some(first) = self.ahead.or_else(|| self.extents.next().map(Into::into)) else {
            return init;
        };
        let (acc, last) = self.extents.fold((init, first), |(acc, open), next| {
            let next = next.into();
            match open.joined(next) {
                Some(longer) => (acc, longer),
                None => (f(acc, open), next),
            }
        });
        f(acc, last)
    }
}
