// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file of runs, one a line, as a list.

use crate::lines::{self, Line};
use crate::notation::{push_run, Unexpected};
use pinned_sgl::{AllocError, BuildError, Heap, PageSize, Sgl, SglBuilder};
use std::{fmt, io, io::BufRead};

/// The bytes of the longest line: files without lines, such as `/dev/zero`, are not read into memory.
pub(crate) const LONGEST: u64 = 64 << 10;

/// Why a file is not a list of runs.
#[derive(Debug)]
pub(crate) enum InputError {
    /// It cannot be read.
    Read(io::Error),
    /// A line, counted from 1, is not a run.
    Line { line: u64, unexpected: Unexpected },
    /// There is no list of such pages.
    Build(BuildError),
    /// There is no memory for the list.
    Memory(AllocError),
}

impl InputError {
    pub(crate) fn too_long(line: u64) -> Self {
        let (column, found) = (1, "a longer one".to_owned());
        let unexpected = Unexpected { column, expected: "a line of at most 64 KiB", found };
        Self::Line { line, unexpected }
    }
}

impl fmt::Display for InputError {
    /// Writes what stands behind the name of the file: `: reason` or `:LINE:COLUMN: reason`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, ": cannot read: {error}"),
            Self::Line { line, unexpected } => {
                write!(f, ":{line}:{}: {unexpected}", unexpected.column)
            }
            Self::Build(error) => write!(f, ": {error}"),
            Self::Memory(error) => write!(f, ": {error}"),
        }
    }
}

/// Reads runs of pages of the size `page`. Only the list is held in memory, never the text.
pub(crate) fn read_runs(mut input: impl BufRead, page: PageSize) -> Result<Sgl<Heap>, InputError> {
    let mut builder = SglBuilder::new(page).map_err(InputError::Build)?;
    let mut bytes = Vec::new();
    let mut line = 0u64;
    loop {
        line = line.saturating_add(1);
        match lines::read(&mut input, &mut bytes, LONGEST).map_err(InputError::Read)? {
            Line::End => break,
            Line::TooLong => return Err(InputError::too_long(line)),
            Line::Whole => {}
        }
        let pushed = match run_of(&bytes) {
            Ok("") => Ok(()),
            Ok(run) => push_run(&mut builder, run),
            Err(unexpected) => Err(unexpected),
        };
        pushed.map_err(|unexpected| InputError::Line { line, unexpected })?;
    }
    if builder.page_count() == 0 {
        let unexpected =
            Unexpected { column: 1, expected: "at least one run", found: "the end".to_owned() };
        return Err(InputError::Line { line, unexpected });
    }
    builder.finish().map_err(|error| InputError::Memory(error.into_error()))
}

/// The part of a line that should be a run; empty if there is none. What stands in a comment does
/// not matter, not even its encoding.
fn run_of(line: &[u8]) -> Result<&str, Unexpected> {
    let run = line.split(|byte| *byte == b'#').next().unwrap_or(line);
    match std::str::from_utf8(run) {
        // Space before the run stays: columns are counted from the start of the line.
        Ok(run) if run.trim().is_empty() => Ok(""),
        Ok(run) => Ok(run.trim_end()),
        Err(error) => {
            let (good, bad) = run.split_at(error.valid_up_to());
            let column = String::from_utf8_lossy(good).chars().count().saturating_add(1);
            let bad = bad.first().copied().unwrap_or_default();
            let found = format!("the byte {bad:#04x}");
            Err(Unexpected { column, expected: "text in UTF-8", found })
        }
    }
}
