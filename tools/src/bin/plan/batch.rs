// SPDX-License-Identifier: MIT OR Apache-2.0
//! One JSON request a line, one JSON answer a line.

use crate::answer::Plan;
use crate::lines::{self, Line};
use crate::request::{Request, RequestError};
use serde::Serialize;
use std::io::{self, BufRead, Write};

/// The bytes of the longest request: an input without lines is not read into memory.
const LONGEST: u64 = 64 << 20;

/// The answer to a request that has none.
#[derive(Serialize)]
struct Refusal {
    error: String,
}

/// Why a batch ends before its input does.
#[derive(Debug)]
pub(crate) enum BatchError {
    Read(io::Error),
    Write(io::Error),
}

/// Answers all requests. Each answer is on its way before the next request is read, so that a
/// program can hold a conversation.
pub(crate) fn answer_all(
    mut input: impl BufRead,
    mut out: impl Write,
    max_entries: u64,
) -> Result<(), BatchError> {
    let mut line = Vec::new();
    loop {
        let read = lines::read(&mut input, &mut line, LONGEST).map_err(BatchError::Read)?;
        // Without its end, or a position at the end would be one on the next line.
        let request = line.trim_ascii_end();
        let answered = match read {
            Line::End => return Ok(()),
            Line::Whole if request.is_empty() => continue,
            Line::Whole => answer(request, &mut out, max_entries),
            Line::TooLong => refuse(&mut out, RequestError::TooLong),
        };
        answered
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(BatchError::Write)?;
        if matches!(read, Line::TooLong) {
            input.skip_until(b'\n').map_err(BatchError::Read)?;
        }
    }
}

fn refuse(out: &mut impl Write, error: RequestError) -> io::Result<()> {
    Ok(serde_json::to_writer(out, &Refusal { error: error.to_string() })?)
}

fn answer(line: &[u8], out: &mut impl Write, max_entries: u64) -> io::Result<()> {
    let asked = Request::from_json(line).and_then(|request| Ok((request.list()?, request.view())));
    let (sgl, view) = match asked {
        Ok(asked) => asked,
        Err(error) => return refuse(out, error),
    };
    let plan = Plan::new(&sgl, view).and_then(|plan| {
        plan.check_entries(max_entries)?;
        Ok(plan)
    });
    match plan {
        Ok(plan) => serde_json::to_writer(out, &plan)?,
        Err(error) => refuse(out, error.into())?,
    }
    Ok(())
}
