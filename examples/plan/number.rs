// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digits as numbers: strictly, where the standard library would take a sign.

/// Why digits are not a number.
#[derive(Debug)]
pub(crate) enum NoNumber {
    /// There are none, or others than these.
    Malformed,
    /// The number needs more than 64 bits.
    TooLarge,
}

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

/// A number of the command line: `4096`, `0x1000`, `4K`, `2M`, `1G`, `1T`.
pub(crate) fn parse(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "expected a number: decimal, with K, M, G or T behind it, or 0x hex";
    const TOO_LARGE: &str = "expected a number of at most 64 bits";
    let or_say = |error| match error {
        NoNumber::Malformed => EXPECTED,
        NoNumber::TooLarge => TOO_LARGE,
    };
    if let Some(digits) = strip_hex(text) {
        return from_digits(digits, 16).map_err(or_say);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.strip_prefix(digits) {
        Some("") => 1,
        Some("K" | "k") => 1 << 10,
        Some("M" | "m") => 1 << 20,
        Some("G" | "g") => 1 << 30,
        Some("T" | "t") => 1 << 40,
        _ => return Err(EXPECTED),
    };
    from_digits(digits, 10).map_err(or_say)?.checked_mul(unit).ok_or(TOO_LARGE)
}
