// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of all command lines: strictly, where the standard library would take a sign.

use pinned_sgl::PageSize;
use std::fmt;

/// Why a text is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// There are no digits, or others than these.
    Malformed,
    /// What stands behind the digits is not a unit.
    Unit,
    /// The number needs more than 64 bits.
    TooLarge,
}

impl fmt::Display for NoNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "expected a number, like 4096, 64K, 2MiB or 0x200000",
            Self::Unit => {
                "expected one of the units K, M, G, T, P, E, alone or with B or iB behind it"
            }
            Self::TooLarge => "expected a number of at most 64 bits",
        })
    }
}

impl std::error::Error for NoNumber {}

/// What stands behind `0x`.
pub(crate) fn strip_hex(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

/// As [`u64::from_str_radix`], but without a sign.
pub(crate) fn from_digits(digits: &str, radix: u32) -> Result<u64, NoNumber> {
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NoNumber::Malformed);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NoNumber::TooLarge)
}

/// A number of the command line: `4096`, `4K`, `4KiB`, `4 MB`, `0x1000`, ...
pub(crate) fn parse(text: &str) -> Result<u64, NoNumber> {
    if let Some(digits) = strip_hex(text) {
        return from_digits(digits, 16);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let count = from_digits(digits, 10)?;
    // The units are those of page sizes.
    let unit = format!("1{}", text.strip_prefix(digits).unwrap_or_default());
    let unit: PageSize = unit.parse().map_err(|_| NoNumber::Unit)?;
    count.checked_mul(unit.bytes()).ok_or(NoNumber::TooLarge)
}
