// SPDX-License-Identifier: MIT OR Apache-2.0
//! One JSON request a line, one JSON answer a line.

use crate::answer::Plan;
use crate::request::{Request, RequestError};
use serde::Serialize;
use std::io::{self, BufRead, Write};

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
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(BatchError::Read)? == 0 {
            return Ok(());
        }
        // Without its end, or a position at the end would be one on the next line.
        let request = line.trim_ascii_end();
        if request.is_empty() {
            continue;
        }
        answer(request, &mut out, max_entries)
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(BatchError::Write)?;
    }
}

fn answer(line: &[u8], out: &mut impl Write, max_entries: u64) -> io::Result<()> {
    let refuse = |out, error: RequestError| {
        serde_json::to_writer(out, &Refusal { error: error.to_string() })
    };
    let asked = Request::from_json(line).and_then(|request| Ok((request.list()?, request.view())));
    let (sgl, view) = match asked {
        Ok(asked) => asked,
        Err(error) => return Ok(refuse(out, error)?),
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
