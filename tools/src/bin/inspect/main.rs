// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins a buffer and shows where its pages lie in physical memory.
//!
//! ```text
//! inspect
//! inspect --pages 4k --threads 2 --svg layout.svg
//! inspect --mock --size 300G --json
//! ```
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::integer_division,
    reason = "numbers for people, about lists that fit memory"
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
mod text;
mod units;

use args::Args;
use clap::Parser;
use facts::Facts;
use memory::{Fault, Memory, NoMemory};
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    args.check();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            let mut out = anstream::stderr();
            // Whoever reads may have gone.
            let _ = writeln!(out, "{style}error:{style:#} {error}");
            if let Some(hint) = hint(error.as_ref()) {
                let _ = writeln!(out, "{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Fault> {
    let memory = if args.mock { mock::make(args)? } else { Memory::pin(args)? };
    let facts = Facts::of(&memory, args)?;
    let mut report = if args.json {
        serde_json::to_string_pretty(&facts)? + "\n"
    } else {
        text::report(&facts, args.svg.as_deref())
    };
    if let Some(path) = &args.svg {
        let picture = picture::draw(&facts, memory.sgl())?.to_string();
        if args.draws_to_stdout() {
            report = picture + "\n";
        } else {
            fs::write(path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    match anstream::stdout().write_all(report.as_bytes()) {
        // Whoever reads this has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write: {error}").into()),
    }
}

/// What to do about an error, where that is known.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<NoMemory>()?;
    Some(match error.missing() {
        Some(capability) => {
            format!("{}, or look at made-up memory instead: --mock", capability.advice())
        }
        None => "Or look at made-up memory instead: --mock".to_owned(),
    })
}
