// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`PageSizes`]: a set of sizes, as an IOMMU reports it.
#![forbid(unsafe_code)]

use super::parse::{hex, size_at, trimmed, ParsePageSizeError};
use super::PageSize;
use crate::flags::flags;
use core::{fmt, str::FromStr};

/// How the empty set is written.
const NONE: &str = "none";

flags! {
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
    pub struct PageSizes(u64) {
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
            left &= !Self::from(size);
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
        sizes.into_iter().fold(Self::empty(), |set, size| set | Self::from(size))
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
            sizes |= Self::from(size_at(size, at)?);
            // Behind the separator.
            at = at.saturating_add(size.len()).saturating_add(1);
            rest = more;
        }
        Ok(sizes | Self::from(size_at(rest, at)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
