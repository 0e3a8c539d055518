// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the examples share: the command line, and memory that can be pinned.

use pinned_sgl::linux::{Buffer, Pages};
use pinned_sgl::umem::{Account, PageAccess, Umem, UserRange};
use pinned_sgl::{Heap, UserAddr};
use pinned_sgl_mock::{Memory, Process, Vma};
use std::io::{self, Write};
use std::{env, error::Error, process::ExitCode, sync::Arc};

/// Anything that can go wrong.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Bytes of memory.
const SIZE: u64 = 8 << 20;

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

/// Makes the memory that the command line asks for, of huge pages; nothing is pinned yet.
pub(crate) fn memory() -> Outcome<Source> {
    match env::args().nth(1).as_deref() {
        None => {}
        Some("--real") => {
            let buffer = Arc::new(Buffer::new(SIZE, Pages::Transparent)?);
            let range = buffer.user_range();
            return Ok(Source::Real(buffer, range));
        }
        Some(_) => return Err("the only argument is --real: really pin memory, as root".into()),
    }
    // A machine with twice as much.
    let machine = Memory::with_frames(2 * (SIZE >> 12));
    let process = Arc::new(Process::new(&machine));
    let range = UserRange::new(UserAddr::new(0x7f00_0000_0000), SIZE)?;
    process.map(range, Vma::read_write().huge(9))?;
    Ok(Source::Mock(process, range))
}

/// Says how it went.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The reader of this may have gone, too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line; the reader may have gone.
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
