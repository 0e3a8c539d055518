// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device would see of a page list that comes from a driver's log.
//!
//! ```text
//! $ printf '10+4\n20\n' | plan --json -
//! {"page_shift":12,"pages":5,"runs":[[16,4,"ram"],[32,1,"ram"]],"offset":0,"length":20480, ...}
//! ```
//!
//! `--help` explains the input, the output and the exit status.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::integer_division,
    clippy::float_arithmetic,
    reason = "nothing that it reads may make it panic, or answer with bits that are lost"
)]

mod answer;
mod args;
mod batch;
mod input;
mod json;
mod lines;
mod notation;
#[path = "../../number.rs"]
mod number;
mod request;
mod table;
mod trace;
#[path = "../../width.rs"]
mod width;

use answer::{Plan, PlanError};
use args::Args;
use batch::BatchError;
use clap::Parser;
use pinned_sgl::granule::TileError;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, StdoutLock, Write};
use std::process::ExitCode;
use trace::Trace;

/// Why the program ends without an answer.
enum Failure {
    /// The arguments or the input are bad; the message for the user.
    Bad(String),
    /// The answer cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    /// Only output fails with a bare error: what is read fails with the name of its file.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let field = match error {
            PlanError::TooManyEntries { list, .. } => list.to_owned(),
            _ => format!("--{}", error.field().replace('_', "-")),
        };
        Self::Bad(format!("error: {field}: {error}"))
    }
}

fn main() -> ExitCode {
    let (message, status) = match run(&Args::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        // The reader has seen enough: `plan FILE | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => (format!("error: cannot write: {error}"), 1),
        Err(Failure::Bad(message)) => (message, 2),
    };
    // The reader may have gone.
    let _ = writeln!(anstream::stderr(), "{message}");
    ExitCode::from(status)
}

fn run(args: &Args) -> Result<(), Failure> {
    let name = args.file().map_or("<stdin>".to_owned(), |file| file.display().to_string());
    let input: Box<dyn BufRead> = match args.file() {
        None => Box::new(io::stdin().lock()),
        Some(file) => {
            let file = File::open(file)
                .map_err(|error| Failure::Bad(format!("{name}: cannot open: {error}")))?;
            Box::new(BufReader::new(file))
        }
    };
    let out = io::stdout().lock();
    if args.batch {
        let out = BufWriter::new(out);
        return batch::answer_all(input, out, args.max_entries).map_err(|error| match error {
            BatchError::Read(error) => Failure::Bad(format!("{name}: cannot read: {error}")),
            BatchError::Write(error) => Failure::Output(error),
        });
    }
    if args.trace.is_some() {
        return run_trace(args, input, &name, out);
    }
    let sgl = input::read_runs(input, args.page_size())
        .map_err(|error| Failure::Bad(format!("{name}{error}")))?;
    let plan = Plan::new(&sgl, args.view())?;
    if args.json || args.all {
        plan.check_entries(args.max_entries)?;
    }
    if args.json {
        let mut out = BufWriter::new(out);
        serde_json::to_writer(&mut out, &plan).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    // Colours reach a terminal and nothing else.
    let mut out = BufWriter::new(anstream::AutoStream::auto(out));
    table::write(&mut out, &plan, args.all)?;
    Ok(out.flush()?)
}

/// Answers what a recording asks.
fn run_trace(
    args: &Args,
    input: impl BufRead,
    name: &str,
    out: StdoutLock<'static>,
) -> Result<(), Failure> {
    let (page, sizes) = (args.page_size(), args.view().page_sizes);
    if sizes.is_empty() {
        return Err(PlanError::Blocks(TileError::NoPageSizes).into());
    }
    let trace =
        Trace::read(input, page, sizes).map_err(|error| Failure::Bad(format!("{name}{error}")))?;
    if args.json || args.all {
        trace.check_entries(args.max_entries)?;
    }
    if args.json {
        let mut out = BufWriter::new(out);
        serde_json::to_writer(&mut out, &trace).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let mut out = BufWriter::new(anstream::AutoStream::auto(out));
    trace::table::write(&mut out, &trace, args.all)?;
    Ok(out.flush()?)
}
