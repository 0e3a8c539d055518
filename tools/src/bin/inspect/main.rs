// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins a buffer, or looks at a process, and shows where its pages lie in physical memory.
//!
//! ```text
//! inspect
//! inspect --pages base --threads 2 --svg layout.svg
//! inspect --mock --size 300G --json
//! inspect --pid 4321 --svg layout.svg
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "what fails is reported; numbers for people, about lists that fit memory, may lose bits"
    )
)]

mod args;
mod bands;
mod facts;
mod memory;
mod mock;
#[path = "../../number.rs"]
mod number;
mod picture;
mod privilege;
mod process;
mod text;
mod units;
#[path = "../../width.rs"]
mod width;

use args::Args;
use clap::Parser;
use facts::Facts;
use memory::{Fault, Memory, NoMemory};
use picture::Words;
use privilege::SYS_ADMIN;
use process::{LookError, Looked};
use serde::Serialize;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::{fs, iter};
use svg::Document;

fn main() -> ExitCode {
    let args = Args::parse();
    args.check();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            let mut out = anstream::stderr();
            // The reader may have gone.
            let first: &dyn Error = error.as_ref();
            let chain = iter::successors(Some(first), |error| (*error).source());
            let texts: Vec<_> = chain.map(ToString::to_string).collect();
            let _ = writeln!(out, "{style}error:{style:#} {}", texts.join(": "));
            if let Some(hint) = hint(error.as_ref()) {
                let _ = writeln!(out, "{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Fault> {
    let svg = args.svg.as_deref();
    let report = if let Some(pid) = args.pid {
        let looked = Looked::at(pid, args.range.as_ref())?;
        if svg.is_some() && looked.list.byte_len() == 0 {
            return Err(LookError::NothingToDraw { pid }.into());
        }
        let draw = || {
            let words = Words::of_process(&looked);
            picture::draw(&words, looked.list.byte_len(), looked.list.runs())
        };
        answer(args, &looked, || text::process(&looked, svg, args.all), draw)?
    } else {
        let memory = if args.mock { mock::make(args)? } else { Memory::pin(args)? };
        let facts = Facts::of(&memory, args)?;
        let whole = memory.sgl().whole()?;
        let draw = || picture::draw(&Words::of(&facts), facts.bytes, whole.iter());
        answer(args, &facts, || text::report(&facts, svg), draw)?
    };
    match anstream::stdout().write_all(report.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write: {error}").into()),
    }
}

/// What goes to standard output; a picture for a file is written there.
fn answer(
    args: &Args,
    facts: &impl Serialize,
    text: impl FnOnce() -> String,
    draw: impl FnOnce() -> Document,
) -> Result<String, Fault> {
    if args.draws_to_stdout() {
        return Ok(draw().to_string() + "\n");
    }
    if let Some(path) = &args.svg {
        let written = fs::write(path, draw().to_string());
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if args.json { serde_json::to_string_pretty(facts)? + "\n" } else { text() })
}

/// What to do about an error, where that is known.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(LookError::Hidden { .. } | LookError::NotPermitted { .. }) => {
            return Some(format!("{}.", SYS_ADMIN.advice()));
        }
        Some(_) => return None,
        None => {}
    }
    let error = error.downcast_ref::<NoMemory>()?;
    Some(match error.missing() {
        Some(capability) => {
            format!("{}, or look at made-up memory instead: --mock", capability.advice())
        }
        None => "Or look at made-up memory instead: --mock".to_owned(),
    })
}
