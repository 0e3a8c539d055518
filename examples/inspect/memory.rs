// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that is looked at: really pinned, or made up.

use crate::args::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinned_sgl::linux::{Buffer, BufferError, FrameError, PinFault, Steps};
use pinned_sgl::umem::{PinError, PinErrorKind, PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Heap, Sgl};
use std::time::{Duration, Instant};
use std::{fmt, ops::ControlFlow};

/// Anything that can go wrong, in any thread.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

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
        Ok(Self::Real(umem?, took))
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

/// Why there is nothing to look at.
#[derive(Debug)]
pub(crate) enum NoMemory {
    Buffer(BufferError),
    Pin(PinError<Box<Buffer>>),
}

impl NoMemory {
    pub(crate) fn is_about_privilege(&self) -> bool {
        match self {
            Self::Buffer(_) => false,
            Self::Pin(error) => matches!(
                error.kind(),
                PinErrorKind::Pinner(
                    PinFault::Frames(FrameError::Hidden { .. }) | PinFault::MemlockLimit { .. }
                )
            ),
        }
    }
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(error) => error.fmt(f),
            // Which page it was does not matter here: all of them are hidden.
            Self::Pin(error) => match error.kind() {
                PinErrorKind::Pinner(PinFault::Frames(FrameError::Hidden { .. })) => f.write_str(
                    "the kernel hides physical addresses from this process, \
                     which lacks CAP_SYS_ADMIN",
                ),
                _ => error.fmt(f),
            },
        }
    }
}

impl std::error::Error for NoMemory {}

impl From<BufferError> for NoMemory {
    fn from(error: BufferError) -> Self {
        Self::Buffer(error)
    }
}

impl From<PinError<Box<Buffer>>> for NoMemory {
    fn from(error: PinError<Box<Buffer>>) -> Self {
        Self::Pin(error)
    }
}
