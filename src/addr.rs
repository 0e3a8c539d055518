// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are never mixed up: [`Pfn`], [`PhysAddr`], [`Iova`], [`DmaAddr`], [`UserAddr`].
//!
//! Each is a `u64` underneath. There is no arithmetic between them and none that can wrap: a sum
//! that leaves 64 bits is `None`. A frame number becomes a byte address only with a page size,
//! because the page size is a value that is chosen at run time.
#![deny(unsafe_code)]

use crate::exact;
use crate::page_size::PageSize;
use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number.
            #[inline]
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number.
            #[inline]
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `distance` further up, or `None` where 64 bits end.
            #[inline]
            #[must_use]
            pub const fn checked_add(self, distance: u64) -> Option<Self> {
                match self.0.checked_add(distance) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The address `distance` further down, or `None` below zero.
            #[inline]
            #[must_use]
            pub const fn checked_sub(self, distance: u64) -> Option<Self> {
                match self.0.checked_sub(distance) {
                    Some(difference) => Some(Self(difference)),
                    None => None,
                }
            }

            /// How far this address lies above `origin`, or `None` if it lies below.
            #[inline]
            #[must_use]
            pub const fn checked_offset_from(self, origin: Self) -> Option<u64> {
                self.0.checked_sub(origin.0)
            }
        }

        impl From<u64> for $name {
            #[inline]
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            #[inline]
            fn from(address: $name) -> u64 {
                address.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::UpperHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::UpperHex::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! byte_address {
    ($name:ident) => {
        impl $name {
            /// Whether the address is a multiple of `size`.
            #[inline]
            #[must_use]
            pub const fn is_aligned(self, size: PageSize) -> bool {
                self.0 & size.mask() == 0
            }

            /// The offset of the address inside its page of `size`.
            #[inline]
            #[must_use]
            pub const fn offset_in(self, size: PageSize) -> u64 {
                self.0 & size.mask()
            }

            /// The nearest multiple of `size` at or below the address.
            #[inline]
            #[must_use]
            pub const fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !size.mask())
            }

            /// The nearest multiple of `size` at or above the address, or `None` where 64 bits
            /// end.
            #[inline]
            #[must_use]
            pub const fn checked_align_up(self, size: PageSize) -> Option<Self> {
                match self.0.checked_add(size.mask()) {
                    Some(sum) => Some(Self(sum & !size.mask())),
                    None => None,
                }
            }
        }
    };
}

address! {
    /// The number of a physical page frame.
    ///
    /// Its byte address depends on the size of a page: see [`Pfn::phys`].
    Pfn
}

address! {
    /// A physical byte address, as the memory bus sees it.
    PhysAddr
}

address! {
    /// A byte address as a device sees it: the input of an IOMMU.
    Iova
}

address! {
    /// A virtual byte address of a user process.
    UserAddr
}

address! {
    /// A byte address that a kernel's DMA API has given a device for memory: neither a physical address nor one
    /// that a driver has chosen.
    DmaAddr
}

byte_address!(PhysAddr);
byte_address!(DmaAddr);
byte_address!(Iova);
byte_address!(UserAddr);

impl Pfn {
    /// Takes numbers for frame numbers, without a copy.
    ///
    /// ```
    /// use pinned_sgl::Pfn;
    /// assert_eq!(Pfn::from_slice(&[7, 8]), [Pfn::new(7), Pfn::new(8)]);
    /// ```
    #[must_use]
    #[expect(unsafe_code, reason = "a slice of one type cannot be seen as one of another without")]
    pub const fn from_slice(numbers: &[u64]) -> &[Self] {
        // SAFETY: "`data` is valid for reads for `len * size_of::<T>()` bytes, which are one allocation":
        // they are those of `numbers`, as `Pfn` is `repr(transparent)` over `u64`. "`data` is aligned, and
        // points to `len` initialised values of type `T`": for the same reason, and any number is a frame
        // number. "The memory is not mutated for the lifetime 'a": it is borrowed for as long. "The size
        // is no larger than `isize::MAX`": it is that of `numbers`.
        unsafe { core::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
    }

    /// The address of the first byte of the frame, or `None` if it needs more than 64 bits.
    ///
    /// ```
    /// use pinned_sgl::{PageSize, Pfn, PhysAddr};
    /// assert_eq!(Pfn::new(3).phys(PageSize::SIZE_4K), Some(PhysAddr::new(0x3000)));
    /// assert_eq!(Pfn::new(1 << 52).phys(PageSize::SIZE_4K), None);
    /// ```
    #[inline]
    #[must_use]
    pub const fn phys(self, page: PageSize) -> Option<PhysAddr> {
        if self.0 > exact::u64::shifted_down(u64::MAX, page.shift()) {
            return None;
        }
        Some(PhysAddr(exact::u64::shifted_up(self.0, page.shift())))
    }
}

impl PhysAddr {
    /// The frame that holds this byte.
    #[inline]
    #[must_use]
    pub const fn pfn(self, page: PageSize) -> Pfn {
        Pfn(exact::u64::shifted_down(self.0, page.shift()))
    }
}

/// Why numbers do not make a range of addresses or a run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeError {
    /// A range has at least one byte, a run at least one page.
    Empty,
    /// The last byte of the range, or the end of the run, needs more than 64 bits.
    Wraps,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the range is empty",
            Self::Wraps => "the range ends beyond 64 bits",
        })
    }
}

impl core::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_display_are_hex() {
        assert_eq!(format!("{:?}", Pfn::new(0x1f)), "Pfn(0x1f)");
        assert_eq!(format!("{:?} {}", Iova::new(16), Iova::new(16)), "Iova(0x10) 0x10");
        assert_eq!(format!("{:x} {:#X}", PhysAddr::new(0xab), UserAddr::new(0xab)), "ab 0xAB");
    }

    #[test]
    fn arithmetic_never_wraps() {
        let top = Iova::new(u64::MAX);
        assert_eq!(top.checked_add(1), None);
        assert_eq!(Iova::new(0).checked_sub(1), None);
        assert_eq!(top.checked_align_up(PageSize::SIZE_4K), None);
        assert_eq!(top.align_down(PageSize::SIZE_4K), Iova::new(u64::MAX - 4095));
        assert_eq!(Iova::new(5).checked_offset_from(Iova::new(6)), None);
        assert_eq!(Iova::new(6).checked_offset_from(Iova::new(5)), Some(1));
        let odd = PhysAddr::new(0x1fff);
        assert!(!odd.is_aligned(PageSize::SIZE_4K));
        assert_eq!(odd.offset_in(PageSize::SIZE_4K), 0xfff);
        assert_eq!(odd.checked_align_up(PageSize::SIZE_4K), Some(PhysAddr::new(0x2000)));
        assert_eq!(odd.pfn(PageSize::SIZE_4K), Pfn::new(1));
    }
}
