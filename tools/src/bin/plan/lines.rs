// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of an input that may have none.

use std::io::{self, BufRead, Read};

/// What was read.
pub(crate) enum Line {
    /// A line with its end, or the last one without.
    Whole,
    /// The start of a line that is longer than it may be.
    TooLong,
    /// Nothing: the input is at its end.
    End,
}

/// Reads a line of at most `longest` bytes, and its end, into `line`.
pub(crate) fn read(input: &mut impl BufRead, line: &mut Vec<u8>, longest: u64) -> io::Result<Line> {
    line.clear();
    let most = longest.saturating_add(1);
    let len = input.take(most).read_until(b'\n', line)? as u64;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole,
        Some(_) if len == most => Line::TooLong,
        Some(_) => Line::Whole,
    })
}
