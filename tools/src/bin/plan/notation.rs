// SPDX-License-Identifier: MIT OR Apache-2.0
//! The notation of a run, `PFN[+COUNT][:KIND]`, for the lines of a file and for JSON requests.

use crate::number::{from_digits, strip_hex, NoNumber};
use pinned_sgl::{BuildError, Heap, MemoryKind, PageRun, Pfn, RangeError, SglBuilder};
use std::fmt;

const PFN: &str = "a page frame number in hex";
const COUNT: &str = "a page count, decimal or 0x hex";
const KIND: &str = "a memory kind: ram, mmio, device or device:NUMBER";
const ADDRESSES: &str = "pages whose byte addresses fit 64 bits";

/// What stands in a text is not what should stand there.
#[derive(Debug)]
pub(crate) struct Unexpected {
    /// Counted in characters from 1.
    pub(crate) column: usize,
    pub(crate) expected: &'static str,
    pub(crate) found: String,
}

impl Unexpected {
    /// `found` is shown as it stands in the text, shortened if it is long.
    pub(crate) fn new(column: usize, expected: &'static str, found: &str) -> Self {
        const SHOWN: usize = 40;
        let found = match found.char_indices().nth(SHOWN).and_then(|(end, _)| found.get(..end)) {
            _ if found.is_empty() => "nothing".to_owned(),
            Some(start) => format!("\"{}...\"", start.escape_debug()),
            None => format!("\"{}\"", found.escape_debug()),
        };
        Self { column, expected, found }
    }
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

/// Adds the run that `text` describes to a list.
pub(crate) fn push_run(builder: &mut SglBuilder<Heap>, text: &str) -> Result<(), Unexpected> {
    let mut scanner = Scanner { rest: text, column: 1 };
    scanner.skip_space();
    let column = scanner.column;
    let run = scanner.run()?;
    builder.push_run(run).map_err(|error| {
        let expected = match error {
            BuildError::AddressTooLarge { .. } => ADDRESSES,
            BuildError::TooManyPages { .. } => "a list whose bytes can be counted in 64 bits",
            _ => "a list that fits in memory",
        };
        Unexpected::new(column, expected, text.trim())
    })
}

struct Scanner<'a> {
    rest: &'a str,
    column: usize,
}

impl<'a> Scanner<'a> {
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.column = self.column.saturating_add(taken.chars().count());
        taken
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// A number or what stands in its place, and its column.
    fn word(&mut self) -> (usize, &'a str) {
        self.skip_space();
        (self.column, self.take_while(|c| c != '+' && c != ':' && !c.is_whitespace()))
    }

    fn eat(&mut self, wanted: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(wanted);
        if let Some(rest) = rest {
            self.rest = rest;
            self.column = self.column.saturating_add(1);
        }
        rest.is_some()
    }

    fn run(&mut self) -> Result<PageRun, Unexpected> {
        let whole = self.rest.trim();
        let (pfn_column, pfn_text) = self.word();
        let pfn = from_digits(strip_hex(pfn_text).unwrap_or(pfn_text), 16)
            .map_err(|error| wrong(error, pfn_column, PFN, pfn_text))?;
        let (mut count, mut count_column, mut count_text) = (1, self.column, "");
        let mut what_else = "\"+\", \":\" or the end";
        if self.eat('+') {
            (count_column, count_text) = self.word();
            count = match strip_hex(count_text) {
                Some(digits) => from_digits(digits, 16),
                None => from_digits(count_text, 10),
            }
            .map_err(|error| wrong(error, count_column, COUNT, count_text))?;
            what_else = "\":\" or the end";
        }
        let mut kind = MemoryKind::Ram;
        if self.eat(':') {
            self.skip_space();
            let (column, text) = (self.column, self.take_while(|_| true).trim_end());
            kind = text.parse().map_err(|_| Unexpected::new(column, KIND, text))?;
        }
        if !self.rest.is_empty() {
            return Err(Unexpected::new(self.column, what_else, self.rest.trim_end()));
        }
        PageRun::new(Pfn::new(pfn), count, kind).map_err(|error| match error {
            RangeError::Empty => Unexpected::new(count_column, "at least one page", count_text),
            _ => Unexpected::new(pfn_column, ADDRESSES, whole),
        })
    }
}

fn wrong(error: NoNumber, column: usize, expected: &'static str, found: &str) -> Unexpected {
    let expected = match error {
        NoNumber::TooLarge => "a number of at most 64 bits",
        NoNumber::Malformed | NoNumber::Unit => expected,
    };
    Unexpected::new(column, expected, found)
}
