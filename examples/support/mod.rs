// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the examples of devices share: the command line, and memory that can be pinned.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::integer_division,
    reason = "numbers for people, about memory that fits a machine"
)]

mod number;

use clap::{CommandFactory, FromArgMatches, Parser};
use pinned_sgl::linux::{Buffer, Pages};
use pinned_sgl::mock::{Area, Memory, Process};
use pinned_sgl::umem::{Account, PageAccess, Umem, UserRange};
use pinned_sgl::{Heap, UserAddr};
use std::io::{self, Write};
use std::{error::Error, process::ExitCode, sync::Arc};

/// Anything that can go wrong.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The command line of an example.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
pub(crate) struct Args {
    /// Bytes of memory, a multiple of 4M from 8M to 1G
    #[arg(long, value_name = "BYTES", default_value = "8M", value_parser = bytes, allow_negative_numbers = true)]
    pub(crate) size: u64,

    /// Really pin memory of this process: takes root, to know where it lies
    #[arg(long)]
    pub(crate) real: bool,
}

/// Reads the command line of an example that does what `about` says.
pub(crate) fn args(about: &'static str) -> Args {
    let matches = Args::command().about(about).get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn bytes(text: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let bytes = number::parse(text)?;
    let fits = bytes % (4 << 20) == 0 && (8 << 20..=1 << 30).contains(&bytes);
    fits.then_some(bytes).ok_or("it is a multiple of 4M, from 8M to 1G".into())
}

/// Memory of a process that can be pinned, and that the CPU can copy from and to.
pub(crate) trait UserMemory:
    PageAccess<Error: Error + 'static, AccessError: Error + 'static> + 'static
{
}

impl<P> UserMemory for P where
    P: PageAccess<Error: Error + 'static, AccessError: Error + 'static> + 'static
{
}

/// Memory of `P` that was pinned, charged to an account.
pub(crate) type Pinned<P> = Arc<Umem<Arc<P>, Arc<Account>, Heap>>;

/// Where the memory comes from.
pub(crate) enum Source {
    /// A process of a mock machine.
    Mock(Arc<Process>, UserRange),
    /// This process.
    Real(Arc<Buffer>, UserRange),
}

/// Makes the memory that `args` ask for, of huge pages; nothing is pinned yet.
pub(crate) fn memory(args: &Args) -> Outcome<Source> {
    if args.real {
        let buffer = Arc::new(Buffer::new(args.size, Pages::Transparent)?);
        let range = buffer.user_range();
        return Ok(Source::Real(buffer, range));
    }
    // A machine with twice as much.
    let machine = Memory::with_frames(args.size / 4096 * 2);
    let process = Arc::new(Process::new(&machine));
    let range = UserRange::new(UserAddr::new(0x7f00_0000_0000), args.size)?;
    process.map(range, Area::read_write().huge(9))?;
    Ok(Source::Mock(process, range))
}

/// Says how it went.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads this may have gone, too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line; whoever reads it may have gone.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}
pub(crate) use say;

/// `1 run`, `2 runs`.
pub(crate) fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A number of bytes, as people read it.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
