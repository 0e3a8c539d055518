// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as text: with a unit, in bytes or in hex; and [`ParsePageSizeError`].
#![forbid(unsafe_code)]

use super::PageSize;
use core::fmt;

/// Parses a size; `at` is where `text` begins in what the caller has.
pub(super) fn size_at(text: &str, at: usize) -> Result<PageSize, ParsePageSizeError> {
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
pub(super) fn trimmed(text: &str, at: usize) -> (usize, &str) {
    let rest = text.trim_start();
    (at.saturating_add(text.len().saturating_sub(rest.len())), rest.trim_end())
}

/// A number in hex, if the text says that it is one.
pub(super) fn hex(text: &str, at: usize) -> Result<Option<u64>, ParsePageSizeError> {
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

/// Why a text is not a [`PageSize`] or not a set of [`PageSizes`](super::PageSizes). `at` is the byte of the text
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
