// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that is looked at: really pinned, or made up.

use crate::args::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinned_sgl::linux::{Buffer, BufferError, FrameError, PinError, PinErrorKind, Pinned, Steps};
use pinned_sgl::{Heap, Sgl};
use std::time::{Duration, Instant};
use std::{fmt, ops::ControlFlow};

/// A list, and where it comes from.
pub(crate) enum Memory {
    Real(Pinned),
    Mock { sgl: Sgl<Heap>, seed: u64, build: Duration, join: Duration },
}

impl Memory {
    /// Pins a buffer, with a progress bar if that takes longer than a second.
    pub(crate) fn pin(args: &Args) -> Result<Self, NoMemory> {
        let buffer = Buffer::new(args.size, args.pages.pages())?;
        let bar = ProgressBar::with_draw_target(Some(args.size), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(
            "pinning [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}",
        ) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        let started = Instant::now();
        let pinned = buffer.pin_parallel(args.threads, |pinned| {
            if bar.is_hidden() && started.elapsed() > Duration::from_secs(1) {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_position(pinned);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        Ok(Self::Real(pinned?))
    }

    pub(crate) fn sgl(&self) -> &Sgl<Heap> {
        match self {
            Self::Real(pinned) => pinned.sgl(),
            Self::Mock { sgl, .. } => sgl,
        }
    }

    /// How long the steps took: made-up memory is neither pinned nor read.
    pub(crate) fn steps(&self) -> Vec<(&'static str, Duration)> {
        match self {
            Self::Real(pinned) => {
                let Steps { pin, read, build, join, .. } = pinned.steps();
                vec![("pin", pin), ("read frames", read), ("build", build), ("join", join)]
            }
            Self::Mock { build, join, .. } => vec![("build", *build), ("join", *join)],
        }
    }
}

/// Why there is nothing to look at.
#[derive(Debug)]
pub(crate) enum NoMemory {
    Buffer(BufferError),
    Pin(PinError),
}

impl NoMemory {
    pub(crate) fn is_about_privilege(&self) -> bool {
        match self {
            Self::Buffer(_) => false,
            Self::Pin(error) => matches!(
                error.kind(),
                PinErrorKind::Frames(FrameError::Hidden { .. }) | PinErrorKind::MemlockLimit { .. }
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
                PinErrorKind::Frames(FrameError::Hidden { .. }) => f.write_str(
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

impl From<PinError> for NoMemory {
    fn from(error: PinError) -> Self {
        Self::Pin(error)
    }
}
