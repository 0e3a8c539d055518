// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageSize`], a power of two, and [`PageSizes`], a set of them as an IOMMU reports it.
#![forbid(unsafe_code)]

use crate::exact::{self, Exact};
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
        size_at(text, 0)
    }
}

/// Parses a size; `at` is where `text` begins in what the caller has.
fn size_at(text: &str, at: usize) -> Result<PageSize, ParsePageSizeError> {
    let (at, text) = trimmed(text, at);
    if text.is_empty() {
        return Err(ParsePageSizeError::Empty { at });
    }
    let bytes = match hex(text, at)? {
        Some(bytes) => bytes,
        None => decimal(text, at)?,
    };
    PageSize::new(bytes).ok_or(ParsePageSizeError::NotAPowerOfTwo { at, bytes })
}

/// Takes white space off both ends of a text that begins at `at`.
fn trimmed(text: &str, at: usize) -> (usize, &str) {
    let rest = text.trim_start();
    (at.saturating_add(text.len().saturating_sub(rest.len())), rest.trim_end())
}

/// A number in hex, if the text says that it is one.
fn hex(text: &str, at: usize) -> Result<Option<u64>, ParsePageSizeError> {
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return Ok(None);
    };
    // The library would take a sign.
    if digits.starts_with(['+', '-']) {
        return Err(ParsePageSizeError::Number { at });
    }
    u64::from_str_radix(digits, 16).map(Some).map_err(|_| ParsePageSizeError::Number { at })
}

/// A decimal number and perhaps a unit.
fn decimal(text: &str, at: usize) -> Result<u64, ParsePageSizeError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(ParsePageSizeError::Number { at });
    }
    let count: u64 = digits.parse().map_err(|_| ParsePageSizeError::Number { at })?;
    let unit = text.strip_prefix(digits).unwrap_or("");
    let (unit_at, unit) = trimmed(unit, at.saturating_add(digits.len()));
    let shift = unit_shift(unit).ok_or(ParsePageSizeError::Unit { at: unit_at })?;
    let bytes = count.wrapping_shl(shift);
    if bytes.wrapping_shr(shift) != count {
        return Err(ParsePageSizeError::Number { at });
    }
    Ok(bytes)
}

/// The base-2 logarithm of a unit: nothing or `B`, or a letter with `B`, `iB` or nothing behind it.
fn unit_shift(unit: &str) -> Option<u32> {
    let letter = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')).unwrap_or(unit);
    match letter {
        "" if unit != "iB" => Some(0),
        "K" | "k" => Some(10),
        "M" | "m" => Some(20),
        "G" | "g" => Some(30),
        "T" | "t" => Some(40),
        "P" | "p" => Some(50),
        "E" | "e" => Some(60),
        _ => None,
    }
}

/// How the empty set is written.
const NONE: &str = "none";

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
        match 63u32.checked_sub(self.bits().leading_zeros()) {
            Some(shift) => PageSize::from_shift(shift),
            None => None,
        }
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
            return f.write_str(NONE);
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

    /// Reads sizes with `|` or `,` between them (`4K|2M|1G`), a bitmap in hex (`0x40201000`), or
    /// `none`.
    ///
    /// # Errors
    ///
    /// An empty text, an empty part or a size that is none is an error: the empty set is written
    /// out, as `none` or `0x0`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, text) = trimmed(text, 0);
        if text == NONE {
            return Ok(Self::empty());
        }
        if let Some(bits) = hex(text, at)? {
            return Ok(Self::from_bits_retain(bits));
        }
        // By hand: in `str::split`, some compilers leave a check of bounds that could panic.
        let mut sizes = Self::empty();
        let (mut at, mut rest) = (at, text);
        while let Some((size, more)) = rest.split_once(['|', ',']) {
            sizes |= size_at(size, at)?.into();
            // Behind the separator.
            at = at.saturating_add(size.len()).saturating_add(1);
            rest = more;
        }
        Ok(sizes | size_at(rest, at)?.into())
    }
}

/// Why a text is not a [`PageSize`] or not a set of [`PageSizes`]. `at` is the byte of the text
/// where the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParsePageSizeError {
    /// There is no size.
    Empty {
        /// Where one should be.
        at: usize,
    },
    /// The number is missing, malformed, or needs more than 64 bits.
    Number {
        /// Where it begins.
        at: usize,
    },
    /// The unit is none of K, M, G, T, P, E, alone or with `B` or `iB` behind it.
    Unit {
        /// Where it begins.
        at: usize,
    },
    /// The size is zero or not a power of two.
    NotAPowerOfTwo {
        /// Where it begins.
        at: usize,
        /// The size.
        bytes: u64,
    },
}

impl fmt::Display for ParsePageSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty { at } => write!(f, "at byte {at}: expected a page size"),
            Self::Number { at } => write!(f, "at byte {at}: expected a number of at most 64 bits"),
            Self::Unit { at } => write!(
                f,
                "at byte {at}: expected one of the units K, M, G, T, P, E, alone or with B or iB \
                 behind it"
            ),
            Self::NotAPowerOfTwo { at, bytes } => {
                write!(f, "at byte {at}: a page size is a power of two")?;
                // Zero is the mask of nothing, and of a page of one byte.
                let masks = [bytes, !bytes].into_iter().filter(|mask| *mask != 0);
                match masks.filter_map(PageSize::from_mask).next() {
                    Some(meant) => write!(f, ": {:#x}, not the mask {bytes:#x}", meant.bytes()),
                    None => write!(f, ", not {bytes:#x}"),
                }
            }
        }
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

    /// Whatever is printed is read as the same set: the empty one, each of one or two sizes and of
    /// all but those, and some of every size.
    #[test]
    fn every_set_prints_and_parses() {
        let one = |shift| PageSize::from_shift(shift).map(PageSizes::from).unwrap();
        let pairs = (0..64).flat_map(|a| (a..64).map(move |b| one(a) | one(b)));
        let mut random = 1u64;
        let others = (0..4096).map(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            PageSizes::from_bits_retain(random ^ (random >> 31))
        });
        let none = PageSizes::empty();
        for set in pairs.flat_map(|set| [set, !set]).chain(others).chain([none, !none]) {
            assert_eq!(set.to_string().parse(), Ok(set));
            assert_eq!(set.to_string().replace('|', " , ").parse(), Ok(set));
            assert_eq!(format!("{set:#x}").parse(), Ok(set));
            assert_eq!(format!("{set:#X}").parse(), Ok(set));
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
