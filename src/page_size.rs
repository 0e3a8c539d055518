// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageSize`], a power of two, and [`PageSizes`], a set of them as an IOMMU reports it.
#![forbid(unsafe_code)]

use core::{fmt, str::FromStr};

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
        1u64.wrapping_shl(self.shift as u32)
    }

    /// The bits of an address that lie inside a page: `bytes() - 1`.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.bytes().wrapping_sub(1)
    }
}

impl fmt::Display for PageSize {
    /// Writes `512`, `4K`, `2M`, `1G`, ...: the largest binary unit that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.shift().checked_div(10).unwrap_or(0);
        let count = 1u64.wrapping_shl(self.shift().wrapping_sub(unit.wrapping_mul(10)));
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

    /// Reads `4096`, `0x1000`, `4K`, `4k`, `4KiB`, `2M`, `1G`, ...
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(bytes) = hex(text)? {
            return Self::new(bytes).ok_or(ParsePageSizeError::NotAPowerOfTwo);
        }
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.strip_prefix(digits).unwrap_or("").trim();
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(ParsePageSizeError::Number);
        }
        let unit = unit.strip_suffix("iB").filter(|unit| !unit.is_empty()).unwrap_or(unit);
        let shift = match unit {
            "" | "B" => 0u32,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            "P" | "p" => 50,
            "E" | "e" => 60,
            _ => return Err(ParsePageSizeError::Unit),
        };
        let count: u64 = digits.parse().map_err(|_| ParsePageSizeError::Number)?;
        let bytes = count.wrapping_shl(shift);
        if bytes.wrapping_shr(shift) != count {
            return Err(ParsePageSizeError::Number);
        }
        Self::new(bytes).ok_or(ParsePageSizeError::NotAPowerOfTwo)
    }
}

/// A number in hex, if the text says that it is one.
fn hex(text: &str) -> Result<Option<u64>, ParsePageSizeError> {
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return Ok(None);
    };
    // The library would take a sign.
    if digits.starts_with(['+', '-']) {
        return Err(ParsePageSizeError::Number);
    }
    u64::from_str_radix(digits, 16).map(Some).map_err(|_| ParsePageSizeError::Number)
}

bitflags::bitflags! {
    /// A set of page sizes: bit `n` stands for pages of `2^n` bytes.
    ///
    /// This is the `pgsize_bitmap` of an IOMMU driver, so every bit is meaningful, named or not.
    ///
    /// ```
    /// use pinned_sgl::{PageSize, PageSizes};
    /// let sizes: PageSizes = "4K|2M|1G".parse()?;
    /// assert_eq!(sizes.bits(), 0x4020_1000);
    /// assert_eq!(sizes.smallest(), Some(PageSize::SIZE_4K));
    /// assert_eq!("0x40201000".parse(), Ok(sizes));
    /// assert_eq!(sizes.to_string(), "4K|2M|1G");
    /// # Ok::<(), pinned_sgl::ParsePageSizeError>(())
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct PageSizes: u64 {
        /// 4 KiB.
        const SIZE_4K = 1 << 12;
        /// 16 KiB.
        const SIZE_16K = 1 << 14;
        /// 64 KiB.
        const SIZE_64K = 1 << 16;
        /// 2 MiB.
        const SIZE_2M = 1 << 21;
        /// 1 GiB.
        const SIZE_1G = 1 << 30;
        const _ = !0;
    }
}

impl PageSizes {
    /// The smallest size of the set, or `None` if the set is empty.
    #[inline]
    #[must_use]
    pub const fn smallest(self) -> Option<PageSize> {
        PageSize::from_shift(self.bits().trailing_zeros())
    }

    /// The largest size of the set, or `None` if the set is empty.
    #[inline]
    #[must_use]
    pub const fn largest(self) -> Option<PageSize> {
        PageSize::from_shift(63u32.wrapping_sub(self.bits().leading_zeros()))
    }

    /// The sizes up to and including `limit`.
    #[inline]
    #[must_use]
    pub const fn up_to(self, limit: PageSize) -> Self {
        Self::from_bits_retain(self.bits() & (limit.mask() | limit.bytes()))
    }

    /// The sizes from `limit` on, including it.
    #[inline]
    #[must_use]
    pub const fn at_least(self, limit: PageSize) -> Self {
        Self::from_bits_retain(self.bits() & !limit.mask())
    }

    /// Whether `size` is one of the set.
    #[inline]
    #[must_use]
    pub const fn has(self, size: PageSize) -> bool {
        self.bits() & size.bytes() != 0
    }

    /// The sizes of the set, ascending.
    pub fn sizes(self) -> impl Iterator<Item = PageSize> + Clone {
        let mut left = self;
        core::iter::from_fn(move || {
            let size = left.smallest()?;
            left.remove(size.into());
            Some(size)
        })
    }
}

impl From<PageSize> for PageSizes {
    fn from(size: PageSize) -> Self {
        Self::from_bits_retain(size.bytes())
    }
}

impl FromIterator<PageSize> for PageSizes {
    fn from_iter<I: IntoIterator<Item = PageSize>>(sizes: I) -> Self {
        sizes.into_iter().fold(Self::empty(), |set, size| set | size.into())
    }
}

impl fmt::Display for PageSizes {
    /// Writes the sizes, ascending, with `|` between them: `4K|2M|1G`; the empty set is `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut between = "";
        for size in self.sizes() {
            write!(f, "{between}{size}")?;
            between = "|";
        }
        Ok(())
    }
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSizes({self})")
    }
}

impl FromStr for PageSizes {
    type Err = ParsePageSizeError;

    /// Reads sizes with `|` or `,` between them (`4K|2M|1G`), or a bitmap in hex (`0x40201000`).
    ///
    /// # Errors
    ///
    /// An empty text, an empty part or a size that is none is an error: an IOMMU without a page
    /// size is a mistake, not a set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(bits) = hex(text)? {
            let sizes = Self::from_bits_retain(bits);
            return if sizes.is_empty() { Err(ParsePageSizeError::Empty) } else { Ok(sizes) };
        }
        if text.is_empty() {
            return Err(ParsePageSizeError::Empty);
        }
        // By hand: in `str::split`, some compilers leave a check of bounds that could panic.
        let mut sizes = Self::empty();
        let mut rest = text;
        while let Some((size, more)) = rest.split_once(['|', ',']) {
            sizes |= size.parse::<PageSize>()?.into();
            rest = more;
        }
        Ok(sizes | rest.parse::<PageSize>()?.into())
    }
}

/// Why a text is not a [`PageSize`] or not a set of [`PageSizes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParsePageSizeError {
    /// No size at all.
    Empty,
    /// The number is missing, malformed, or needs more than 64 bits.
    Number,
    /// The unit is none of K, M, G, T, P, E.
    Unit,
    /// The size is zero or not a power of two.
    NotAPowerOfTwo,
}

impl fmt::Display for ParsePageSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no page size given",
            Self::Number => "expected a number of at most 64 bits",
            Self::Unit => "expected one of the units K, M, G, T, P, E",
            Self::NotAPowerOfTwo => "a page size is a power of two",
        })
    }
}

impl core::error::Error for ParsePageSizeError {}

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
        assert_eq!("4KiB".parse(), Ok(PageSize::SIZE_4K));
    }

    #[test]
    fn bad_sizes_say_why() {
        use ParsePageSizeError::{Empty, NotAPowerOfTwo, Number, Unit};
        for (text, why) in [
            ("", Number),
            ("3K", NotAPowerOfTwo),
            ("0", NotAPowerOfTwo),
            ("K", Number),
            ("4X", Unit),
            ("16E", Number),
            ("-4K", Number),
            ("0x", Number),
            ("0x3", NotAPowerOfTwo),
            ("+4K", Number),
            ("0x+1000", Number),
            ("4iB", Unit),
        ] {
            assert_eq!(text.parse::<PageSize>(), Err(why), "{text:?}");
        }
        for (text, why) in [("", Empty), ("0x0", Empty), ("4K||2M", Number), ("4K|", Number)] {
            assert_eq!(text.parse::<PageSizes>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn sets() {
        let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_2M | PageSizes::SIZE_1G;
        assert_eq!("1G,4K,2M".parse(), Ok(sizes));
        assert_eq!(format!("{sizes:?}"), "PageSizes(4K|2M|1G)");
        assert_eq!(sizes.largest(), Some(PageSize::SIZE_1G));
        assert_eq!(sizes.up_to(PageSize::SIZE_2M).largest(), Some(PageSize::SIZE_2M));
        assert_eq!(sizes.at_least(PageSize::SIZE_64K).smallest(), Some(PageSize::SIZE_2M));
        assert!(sizes.has(PageSize::SIZE_4K) && !sizes.has(PageSize::SIZE_64K));
        assert_eq!(sizes.sizes().collect::<PageSizes>(), sizes);
        let none = PageSizes::empty();
        assert_eq!((none.smallest(), none.largest()), (None, None));
        assert_eq!(none.to_string(), "none");
        // Every bit is meaningful: nothing is cut off, whatever a driver reports.
        assert_eq!(PageSizes::from_bits(u64::MAX), Some(PageSizes::from_bits_retain(u64::MAX)));
        assert_eq!(PageSizes::all().sizes().count(), 64);
    }
}
