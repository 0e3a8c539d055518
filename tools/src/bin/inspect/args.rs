// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use crate::number::{from_digits, parse as number, strip_hex, NoNumber};
use clap::{error::ErrorKind, CommandFactory, Parser, ValueEnum};
use pinned_sgl::linux::Pages;
use pinned_sgl::Iova;
use std::{num::NonZeroUsize, ops::Range, path::PathBuf};

/// The exit status, which `--help` explains behind the options.
const STATUS: &str = "\
EXAMPLES
  inspect --pages base --threads 2 --svg layout.svg   256 MiB of base pages, and their picture
  inspect --mock --size 300G --json                   made-up memory, which takes no privilege
  inspect --pid 4321                                  what a running QEMU is made of
  inspect --pid 4321 --range 7f3a00000000-7f3b00000000 --svg guest.svg

EXIT STATUS
  0 if there is something to see, 1 if not or if it could not be written,
  2 if the arguments are bad.";

/// Pins a buffer, or looks at a process, and shows where its pages lie in physical memory
///
/// The buffer is pinned as a driver would pin it, its frame numbers are read, and the list of its
/// physically contiguous runs is built and looked at. Frame numbers are a secret of the kernel:
/// knowing them takes root (CAP_SYS_ADMIN). With --mock there is nothing to know.
///
/// With --pid nothing is pinned: the memory of that process is looked at, mapping by mapping, and
/// the kernel may move or swap any page of it at any time.
#[derive(Debug, Parser)]
#[command(name = "inspect", max_term_width = 100, after_help = STATUS, allow_negative_numbers = true)]
pub(crate) struct Args {
    /// Bytes to pin: 256M, 1G, 0x200000, ...
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = bytes)]
    pub(crate) size: u64,

    /// What the buffer is made of
    #[arg(long, value_enum, default_value_t = Kind::Thp)]
    pub(crate) pages: Kind,

    /// Threads that pin, each a part of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = threads)]
    pub(crate) threads: NonZeroUsize,

    /// Where a device would see the buffer
    #[arg(long, value_name = "ADDR", default_value = "0x100000000", value_parser = address)]
    pub(crate) iova: Iova,

    /// Look at the memory of this process, which is not pinned
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..),
        conflicts_with_all = ["size", "pages", "threads", "iova", "mock", "seed"])]
    pub(crate) pid: Option<i32>,

    /// Only these addresses of the process, in hex, as /proc/PID/maps has them
    #[arg(long, value_name = "FROM-TO", requires = "pid", value_parser = range)]
    pub(crate) range: Option<Range<u64>>,

    /// Show all mappings of the process
    #[arg(long, requires = "pid", conflicts_with = "json")]
    pub(crate) all: bool,

    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw the layout: virtual offset against physical address, run by run. With -, that is what
    /// goes to standard output, and nothing else does
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Make the memory up: fragmented, and the same for each seed
    #[arg(long)]
    pub(crate) mock: bool,

    /// What the made-up memory grows from [default: 1]
    #[arg(long, value_name = "N", requires = "mock", value_parser = number)]
    pub(crate) seed: Option<u64>,
}

/// The kinds of pages, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Base pages, of 4 KiB on x86-64, and nothing else
    #[value(name = "base", alias = "4k")]
    Base,
    /// Transparent huge pages, as far as the kernel has them
    #[value(name = "thp")]
    Thp,
    /// Reserved huge pages of 2 MiB
    #[value(name = "2m")]
    Huge2M,
    /// Reserved huge pages of 1 GiB
    #[value(name = "1g")]
    Huge1G,
}

impl Kind {
    pub(crate) fn pages(self) -> Pages {
        match self {
            Self::Base => Pages::Base,
            Self::Thp => Pages::Transparent,
            Self::Huge2M => Pages::Huge(pinned_sgl::PageSize::SIZE_2M),
            Self::Huge1G => Pages::Huge(pinned_sgl::PageSize::SIZE_1G),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base pages",
            Self::Thp => "transparent huge pages",
            Self::Huge2M => "2 MiB huge pages",
            Self::Huge1G => "1 GiB huge pages",
        }
    }
}

impl Args {
    /// Whether standard output is where the picture goes.
    pub(crate) fn draws_to_stdout(&self) -> bool {
        self.svg
            .as_deref()
            .is_some_and(|path| ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name))
    }

    /// Checks what takes more than one argument to see; exits with status 2 if it does not fit.
    pub(crate) fn check(&self) {
        if let Some(Range { start, end }) = &self.range {
            let page = procfs::page_size();
            if (start | end) % page != 0 {
                self.reject(format!(
                    "--range {start:x}-{end:x} is not made of pages of {page} bytes"
                ));
            }
        }
        // Made-up memory is the same on every machine.
        let page = if self.mock { 4096 } else { procfs::page_size() };
        let unit = self.pages.pages().huge_page_size().map_or(page, |huge| huge.bytes());
        if self.size % unit != 0 {
            let kind = self.pages.name();
            self.reject(format!(
                "--size {} is not a multiple of {unit} bytes, as {kind} need",
                self.size
            ));
        }
        if self.iova.get() % page != 0 {
            self.reject(format!("--iova {} is not a multiple of {page}", self.iova));
        }
        if self.iova.checked_add(self.size - 1).is_none() {
            self.reject(format!(
                "--iova {} and --size {} reach beyond 64 bits",
                self.iova, self.size
            ));
        }
        if self.json && self.draws_to_stdout() {
            self.reject("--json and --svg - cannot both have the standard output".into());
        }
        if self.mock && self.size > MOCK_LIMIT {
            self.reject(format!("--size {} is more than --mock can make up: 1T", self.size));
        }
    }

    fn reject(&self, message: String) -> ! {
        Self::command().error(ErrorKind::ValueValidation, message).exit()
    }
}

/// What is known of the free memory of such a machine takes 25 MiB.
const MOCK_LIMIT: u64 = 1 << 40;

fn bytes(text: &str) -> Result<u64, String> {
    match number(text) {
        Ok(0) => Err("a buffer has at least one page".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let hex = |text: &str| from_digits(strip_hex(text).unwrap_or(text), 16).ok();
    match text.split_once('-').map(|(from, to)| (hex(from), hex(to))) {
        Some((Some(from), Some(to))) if from < to => Ok(from..to),
        Some((Some(_), Some(_))) => Err("expected a range that ends behind its start".into()),
        _ => Err("expected two addresses in hex, like 7f3a1c000000-7f3a1c200000".into()),
    }
}

fn address(text: &str) -> Result<Iova, NoNumber> {
    number(text).map(Iova::new)
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= 1024 => Ok(threads),
        _ => Err("expected a number of threads, from 1 to 1024".into()),
    }
}
