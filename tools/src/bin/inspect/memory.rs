// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that is looked at: really pinned, or made up.

use crate::args::Args;
use crate::number;
use crate::privilege::{Capability, IPC_LOCK, SYS_ADMIN};
use crate::units::bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinned_sgl::linux::{Buffer, BufferError, PageError, Steps};
use pinned_sgl::umem::{PinError, PinErrorKind, PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Failed, Heap, Sgl};
use std::error::Error;
use std::time::{Duration, Instant};
use std::{fmt, fs, ops::ControlFlow};

/// Anything that can go wrong, in any thread.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// A list, and where it comes from.
pub(crate) enum Memory {
    /// Pinned, and how long that took.
    Real(Umem<Box<Buffer>, &'static Unaccounted, Heap>, Duration),
    Mock {
        sgl: Sgl<Heap>,
        seed: u64,
        build: Duration,
        join: Duration,
    },
}

impl Memory {
    /// Pins a buffer, with a progress bar if that takes longer than a second.
    pub(crate) fn pin(args: &Args) -> Result<Self, NoMemory> {
        // Pages of a pool are not taken from another user.
        if args.pages.pages().huge_page_size().is_none() {
            if let Some(available) = available().filter(|available| *available < args.size) {
                return Err(NoMemory::TooMuch { asked: args.size, available });
            }
        }
        let buffer = Box::new(Buffer::new(args.size, args.pages.pages())?);
        let bar = ProgressBar::with_draw_target(Some(args.size), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(
            "pinning [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}",
        ) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        let started = Instant::now();
        let request = PinRequest::new(buffer.user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
        let progress = |pinned: u64| {
            if bar.is_hidden() && started.elapsed() > Duration::from_secs(1) {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_position(pinned);
            ControlFlow::Continue(())
        };
        let request = request.with_progress(progress);
        // The kernel accounts for what it pins.
        let umem = Umem::pin_parallel(buffer, &Unaccounted, request, args.threads);
        let took = started.elapsed();
        bar.finish_and_clear();
        Ok(Self::Real(umem.map_err(Failed::into_error)?, took))
    }

    pub(crate) fn sgl(&self) -> &Sgl<Heap> {
        match self {
            Self::Real(umem, _) => umem.sgl(),
            Self::Mock { sgl, .. } => sgl,
        }
    }

    /// How long it took, and how much of that the threads spent, added up, in steps: made-up memory
    /// is neither pinned nor read.
    pub(crate) fn steps(&self) -> Vec<(&'static str, Duration)> {
        match self {
            Self::Real(umem, took) => {
                let Steps { pin, read, .. } = umem.pinner().steps();
                vec![("pin", pin), ("read frames", read), ("in all", *took)]
            }
            Self::Mock { build, join, .. } => vec![("build", *build), ("join", *join)],
        }
    }
}

/// The bytes that could be pinned without taking memory from others.
fn available() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    number::parse(bytes.trim()).ok()
}

/// Why there is nothing to look at.
#[derive(Debug)]
pub(crate) enum NoMemory {
    /// Pinning cannot be undone while it goes on: the kernel would kill processes for the memory.
    TooMuch {
        asked: u64,
        available: u64,
    },
    Buffer(BufferError),
    Pin(PinError<PageError>),
}

impl NoMemory {
    /// The capability that is missing, if it is one.
    pub(crate) fn missing(&self) -> Option<Capability> {
        match self {
            _ if self.is_hidden() => Some(SYS_ADMIN),
            Self::Pin(PinError {
                kind: PinErrorKind::Pinner(PageError::MemlockLimit { .. }),
                ..
            }) => Some(IPC_LOCK),
            _ => None,
        }
    }

    fn is_hidden(&self) -> bool {
        let Self::Pin(error) = self else { return false };
        matches!(error.kind, PinErrorKind::Pinner(PageError::Hidden { .. }))
    }
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuch { asked, available } => write!(
                f,
                "{} are more than the {} of memory that are available",
                bytes(*asked),
                bytes(*available)
            ),
            Self::Buffer(error) => error.fmt(f),
            // Which page it was does not matter here: all of them are hidden.
            Self::Pin(_) if self.is_hidden() => f.write_str(
                "the kernel hides physical addresses from this process, as from all without \
                 CAP_SYS_ADMIN",
            ),
            Self::Pin(error) => error.fmt(f),
        }
    }
}

impl Error for NoMemory {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Buffer(error) => error.source(),
            Self::Pin(error) if !self.is_hidden() => error.source(),
            Self::TooMuch { .. } | Self::Pin(_) => None,
        }
    }
}

impl From<BufferError> for NoMemory {
    fn from(error: BufferError) -> Self {
        Self::Buffer(error)
    }
}

impl From<PinError<PageError>> for NoMemory {
    fn from(error: PinError<PageError>) -> Self {
        Self::Pin(error)
    }
}
