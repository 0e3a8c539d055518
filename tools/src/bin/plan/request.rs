// SPDX-License-Identifier: MIT OR Apache-2.0
//! A JSON request, and the list that it describes.

use crate::answer::{PlanError, View};
use crate::notation::{push_run, Unexpected};
use crate::number::{from_digits, strip_hex};
use pinned_sgl::{AllocError, Heap, Iova, PageSize, PageSizes, Sgl, SglBuilder};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::{fmt, ops::RangeInclusive};

/// One request of a batch.
///
/// An unknown field is an error: a typo must not silently become a default.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    runs: Vec<String>,
    page_shift: Option<Number>,
    offset: Option<Number>,
    length: Option<Number>,
    iova: Option<Number>,
    page_sizes: Option<Number>,
    max_seg: Option<Number>,
    boundary: Option<Number>,
}

/// A JSON integer or a string of hex.
#[derive(Clone, Copy, Debug)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;

        impl Visitor<'_> for Digits {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of 0 to 64 bits or a hex string \"0x...\"")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                strip_hex(text)
                    .and_then(|digits| from_digits(digits, 16).ok())
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Digits)
    }
}

/// A number that is not the base-2 logarithm of the bytes of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BadShift(u64);

impl fmt::Display for BadShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 10 to 30, the base-2 logarithm of the bytes of a page")?;
        let fits = |size: &PageSize| SHIFTS.contains(&size.shift());
        let bytes = self.0;
        if let Some(size) = PageSize::new(bytes).filter(fits) {
            write!(f, ": {}, not the size {bytes:#x}", size.shift())
        } else if let Some(size) = PageSize::from_mask(bytes).filter(fits) {
            write!(f, ": {}, not the mask {bytes:#x}", size.shift())
        } else {
            write!(f, ", found {bytes}")
        }
    }
}

impl std::error::Error for BadShift {}

/// The base-2 logarithms of the page sizes that lists have.
const SHIFTS: RangeInclusive<u32> = 10..=30;

/// The page size of `2^shift` bytes.
pub(crate) fn page_of_shift(shift: u64) -> Result<PageSize, BadShift> {
    let allowed = u32::try_from(shift).ok().filter(|shift| SHIFTS.contains(shift));
    allowed.and_then(PageSize::from_shift).ok_or(BadShift(shift))
}

/// Why there is no answer to a request.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The line is not JSON, or not a request.
    Json(serde_json::Error),
    /// The line is longer than a request may be.
    TooLong,
    /// A request is an object, not a list of its fields.
    NotAnObject { column: usize },
    /// No list has pages of this size.
    PageShift(BadShift),
    /// There are no runs.
    NoRuns,
    /// A run, counted from 0, is not one.
    Run { index: usize, unexpected: Unexpected },
    /// There is no memory for the list.
    Memory(AllocError),
    /// The numbers do not fit the list.
    Plan(PlanError),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => {
                // A request is one line: only the column says something.
                let text = error.to_string();
                let position = format!(" at line {} column {}", error.line(), error.column());
                let reason = text.strip_suffix(&position).unwrap_or(&text);
                write!(f, "column {}: {reason}", error.column())
            }
            Self::TooLong => f.write_str("expected a line of at most 64 MiB"),
            Self::NotAnObject { column } => write!(f, "column {column}: expected a JSON object"),
            Self::PageShift(error) => write!(f, "page_shift: {error}"),
            Self::NoRuns => f.write_str("runs: expected at least one run, found none"),
            Self::Run { index, unexpected } => {
                write!(f, "runs[{index}]: column {}: {unexpected}", unexpected.column)
            }
            Self::Memory(error) => error.fmt(f),
            Self::Plan(error) => write!(f, "{}: {error}", error.field()),
        }
    }
}

impl From<PlanError> for RequestError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl Request {
    /// Reads one line.
    pub(crate) fn from_json(line: &[u8]) -> Result<Self, RequestError> {
        // What serde derives would take `[["10+4"],12,...]` as well.
        let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
        if line.get(start) != Some(&b'{') {
            return Err(RequestError::NotAnObject { column: start.saturating_add(1) });
        }
        serde_json::from_slice(line).map_err(RequestError::Json)
    }

    /// The list of its runs.
    pub(crate) fn list(&self) -> Result<Sgl<Heap>, RequestError> {
        let shift = self.page_shift.map_or(12, |number| number.0);
        let page = page_of_shift(shift).map_err(RequestError::PageShift)?;
        let mut builder =
            SglBuilder::new(page).map_err(|_| RequestError::PageShift(BadShift(shift)))?;
        for (index, run) in self.runs.iter().enumerate() {
            push_run(&mut builder, run)
                .map_err(|unexpected| RequestError::Run { index, unexpected })?;
        }
        if builder.page_count() == 0 {
            return Err(RequestError::NoRuns);
        }
        builder.finish().map_err(|error| RequestError::Memory(error.into_error()))
    }

    /// What the device is asked to see of the list.
    pub(crate) fn view(&self) -> View {
        let value = |number: Number| number.0;
        let default = View::default();
        View {
            offset: self.offset.map_or(default.offset, value),
            length: self.length.map(value),
            iova: self.iova.map_or(default.iova, |number| Iova::new(number.0)),
            page_sizes: self
                .page_sizes
                .map_or(default.page_sizes, |number| PageSizes::from_bits_retain(number.0)),
            max_seg: self.max_seg.map(value),
            boundary: self.boundary.map(value),
        }
    }
}
