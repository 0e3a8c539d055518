// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageSize`], a power of two, and [`PageSizes`], a set of them as an IOMMU reports it.
#![forbid(unsafe_code)]

mod parse;
mod set;

use crate::exact::{self, Exact};
use core::{fmt, str::FromStr};

pub use parse::ParsePageSizeError;
pub use set::PageSizes;

/// The size of a page: a power of two from 1 byte to 2^63 bytes.
///
/// One type serves CPU base pages, IOMMU pages and the blocks of a NIC's translation table; they
/// are sizes of the same kind and need not agree with each other.
///
/// ```
/// use pinned_sgl::PageSize;
/// let huge: PageSize = "2M".parse()?;
/// assert_eq!(huge.bytes(), 2 << 20);
/// assert_eq!(huge.to_string(), "2M");
/// assert_eq!(PageSize::new(3000), None);
/// # Ok::<(), pinned_sgl::ParsePageSizeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    /// Invariant: below 64.
    shift: u8,
}

impl PageSize {
    /// 4 KiB, the base page of x86 and of most others.
    pub const SIZE_4K: Self = Self { shift: 12 };
    /// 16 KiB.
    pub const SIZE_16K: Self = Self { shift: 14 };
    /// 64 KiB.
    pub const SIZE_64K: Self = Self { shift: 16 };
    /// 2 MiB, a huge page where the base page has 4 KiB.
    pub const SIZE_2M: Self = Self { shift: 21 };
    /// 1 GiB.
    pub const SIZE_1G: Self = Self { shift: 30 };

    /// The page size of `bytes` bytes, or `None` if that is not a power of two.
    #[inline]
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            Self::from_shift(bytes.trailing_zeros())
        } else {
            None
        }
    }

    /// The page size of `2^shift` bytes, or `None` if that needs more than 64 bits.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    pub const fn from_shift(shift: u32) -> Option<Self> {
        if shift < 64 {
            Some(Self { shift: shift as u8 })
        } else {
            None
        }
    }

    /// The base-2 logarithm of the size: below 64.
    #[inline]
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }

    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        exact::u64::shifted_up(1, self.shift as u32)
    }

    /// The bits of an address that lie inside a page: `bytes() - 1`.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        exact::u64::minus(self.bytes(), 1)
    }

    /// The page size whose [`mask`](Self::mask) is `mask`, or `None` if there is none.
    #[inline]
    #[must_use]
    pub const fn from_mask(mask: u64) -> Option<Self> {
        match mask.checked_add(1) {
            Some(bytes) => Self::new(bytes),
            None => None,
        }
    }
}

impl fmt::Display for PageSize {
    /// Writes `512`, `4K`, `2M`, `1G`, ...: the largest binary unit that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.shift().checked_div(10).unwrap_or(0);
        let count = 1u64.shifted_up(self.shift().minus(unit.times(10)));
        let name = ["", "K", "M", "G", "T", "P", "E"].get(unit as usize).unwrap_or(&"");
        write!(f, "{count}{name}")
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({self})")
    }
}

impl FromStr for PageSize {
    type Err = ParsePageSizeError;

    /// Reads `4096`, `0x1000`, `4K`, `4k`, `4KB`, `4kB`, `4KiB`, `2M`, `1G`, ...
    ///
    /// All units are binary: `2048kB` is 2 MiB, as in `/proc/meminfo` and in the names of
    /// `/sys/kernel/mm/hugepages`, because no other size of a page can be meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::size_at(text, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_prints_and_parses() {
        for shift in 0..64 {
            let size = PageSize::from_shift(shift).unwrap();
            assert_eq!(size.bytes(), 1 << shift);
            assert_eq!(size.to_string().parse(), Ok(size));
            assert_eq!(format!("{:#x}", size.bytes()).parse(), Ok(size));
            assert_eq!(size.bytes().to_string().parse(), Ok(size));
        }
        assert_eq!(PageSize::from_shift(64), None);
        assert_eq!(PageSize::new(0), None);
    }

    #[test]
    fn a_mask_is_that_of_one_size() {
        for shift in 0..64 {
            let size = PageSize::from_shift(shift).unwrap();
            assert_eq!(PageSize::from_mask(size.mask()), Some(size));
        }
        assert_eq!([2, 4, 0xffe, u64::MAX - 1, u64::MAX].map(PageSize::from_mask), [None; 5]);
    }

    /// Every unit, as Linux, its tools and people write it.
    #[test]
    fn units_are_binary() {
        for (letter, exponent) in "KMGTPE".chars().zip([10, 20, 30, 40, 50, 60]) {
            let size = PageSize::from_shift(exponent + 3).unwrap();
            for letter in [letter, letter.to_ascii_lowercase()] {
                for unit in ["", "B", "iB"] {
                    assert_eq!(format!("8{letter}{unit}").parse(), Ok(size));
                    assert_eq!(format!("8 {letter}{unit}").parse(), Ok(size));
                }
            }
        }
        assert_eq!("2048kB".parse(), Ok(PageSize::SIZE_2M));
        assert_eq!("1048576 kB".parse(), Ok(PageSize::SIZE_1G));
        assert_eq!(" 4096B ".parse(), Ok(PageSize::SIZE_4K));
        assert_eq!("64kB,2MB | 1GiB".parse(), Ok(PageSizes::from_bits_retain(0x4021_0000)));
    }

    #[test]
    fn bad_sizes_say_where_and_why() {
        use ParsePageSizeError::{Empty, NotAPowerOfTwo, Number, Unit};
        let cases = [
            ("", Empty { at: 0 }),
            ("  ", Empty { at: 2 }),
            ("3K", NotAPowerOfTwo { at: 0, bytes: 3 << 10 }),
            ("0", NotAPowerOfTwo { at: 0, bytes: 0 }),
            ("K", Number { at: 0 }),
            ("none", Number { at: 0 }),
            ("4X", Unit { at: 1 }),
            (" 4 Kb", Unit { at: 3 }),
            ("4BB", Unit { at: 1 }),
            ("4iB", Unit { at: 1 }),
            ("4KiBB", Unit { at: 1 }),
            ("16E", Number { at: 0 }),
            ("18446744073709551616", Number { at: 0 }),
            (" -4K", Number { at: 1 }),
            ("+4K", Number { at: 0 }),
            ("4.5K", Number { at: 0 }),
            ("0x", Number { at: 0 }),
            ("0x+1000", Number { at: 0 }),
            ("0x3", NotAPowerOfTwo { at: 0, bytes: 3 }),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<PageSize>(), Err(why), "{text:?}");
        }
        let cases = [
            ("", Empty { at: 0 }),
            ("4K||2M", Empty { at: 3 }),
            (" 4K, ", Empty { at: 4 }),
            ("4K|2X|3K", Unit { at: 4 }),
            ("4K|2M| 3K", NotAPowerOfTwo { at: 7, bytes: 3 << 10 }),
            ("4K|none", Number { at: 3 }),
            ("0x1000000000000000f", Number { at: 0 }),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<PageSizes>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_mask_is_answered_with_the_size_that_was_meant() {
        for shift in 1..64 {
            let size = PageSize::from_shift(shift).unwrap();
            for mask in [size.mask(), !size.mask()].into_iter().filter(|m| !m.is_power_of_two()) {
                let error = format!("{mask:#x}").parse::<PageSize>().unwrap_err().to_string();
                let meant = format!("{:#x}, not the mask {mask:#x}", size.bytes());
                assert!(error.ends_with(&meant), "{error}");
            }
        }
        for other in ["0", "0xffffffffffffffff", "0x201000"] {
            let error = other.parse::<PageSize>().unwrap_err().to_string();
            assert!(error.contains("a power of two, not 0x"), "{error}");
        }
    }
}
