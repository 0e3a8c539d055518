// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Exact`]: arithmetic whose result is known to fit.
//!
//! A kernel must not panic and an address must not be wrong, so a sum that may overflow is checked
//! and becomes an error. Where it cannot overflow, one of these operations says so: debug builds and
//! the fuzzers check the claim, and panic where it is false; release builds and kernels do not pay
//! for it. What is meant to wrap is written `wrapping_*`.
#![forbid(unsafe_code)]

/// Arithmetic whose result is known to fit.
pub(crate) trait Exact: Sized {
    /// `self + other`.
    fn plus(self, other: Self) -> Self;
    /// `self - other`.
    fn minus(self, other: Self) -> Self;
    /// `self * other`.
    fn times(self, other: Self) -> Self;
    /// `self * 2^bits`: no bit is lost.
    fn shifted_up(self, bits: u32) -> Self;
    /// `self / 2^bits`, rounded down; `bits` is less than the width of the type.
    fn shifted_down(self, bits: u32) -> Self;
}

/// Whether claims are checked: never in a kernel, where a panic is an oops.
const CHECKED: bool = cfg!(all(debug_assertions, not(pinned_sgl_kbuild)));

/// The operations of each type, as functions, which constants can use, and as methods.
macro_rules! exact {
    ($number:ident) => {
        pub(crate) mod $number {
            use super::CHECKED;

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            pub(crate) const fn plus(a: $number, b: $number) -> $number {
                assert!(!CHECKED || a.checked_add(b).is_some(), "a sum does not fit");
                a.wrapping_add(b)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            pub(crate) const fn minus(a: $number, b: $number) -> $number {
                assert!(!CHECKED || a >= b, "a difference lies below zero");
                a.wrapping_sub(b)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            pub(crate) const fn times(a: $number, b: $number) -> $number {
                assert!(!CHECKED || a.checked_mul(b).is_some(), "a product does not fit");
                a.wrapping_mul(b)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            pub(crate) const fn shifted_up(a: $number, bits: u32) -> $number {
                assert!(
                    !CHECKED || (bits < $number::BITS && a.leading_zeros() >= bits) || a == 0,
                    "a shift loses bits"
                );
                a.wrapping_shl(bits)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            pub(crate) const fn shifted_down(a: $number, bits: u32) -> $number {
                assert!(!CHECKED || bits < $number::BITS, "a shift by all bits");
                a.wrapping_shr(bits)
            }
        }

        impl Exact for $number {
            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            fn plus(self, other: Self) -> Self {
                $number::plus(self, other)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            fn minus(self, other: Self) -> Self {
                $number::minus(self, other)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            fn times(self, other: Self) -> Self {
                $number::times(self, other)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            fn shifted_up(self, bits: u32) -> Self {
                $number::shifted_up(self, bits)
            }

            #[inline]
            #[cfg_attr(debug_assertions, track_caller)]
            fn shifted_down(self, bits: u32) -> Self {
                $number::shifted_down(self, bits)
            }
        }
    };
}

exact!(u32);
exact!(u64);
exact!(usize);

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::Exact;
    use std::panic::catch_unwind;

    #[test]
    fn what_fits_is_what_the_operators_give() {
        assert_eq!((u64::MAX.minus(1).plus(1), 5u32.minus(5), 3usize.times(7)), (u64::MAX, 0, 21));
        assert_eq!((1u64.shifted_up(63), u64::MAX.shifted_down(63)), (1 << 63, 1));
        assert_eq!((0u64.shifted_up(63), 7u32.shifted_up(29)), (0, 7 << 29));
    }

    #[test]
    fn a_false_claim_is_seen() {
        assert!(catch_unwind(|| u64::MAX.plus(1)).is_err());
        assert!(catch_unwind(|| 0usize.minus(1)).is_err());
        assert!(catch_unwind(|| (1u32 << 31).times(2)).is_err());
        assert!(catch_unwind(|| 2u64.shifted_up(63)).is_err());
        assert!(catch_unwind(|| 1u64.shifted_down(64)).is_err());
    }
}
