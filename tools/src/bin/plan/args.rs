// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use crate::answer::View;
use crate::number::parse as number;
use crate::request::page_of_shift;
use clap::Parser;
use pinned_sgl::{Iova, PageSize, PageSizes};
use std::{error::Error, path::PathBuf};

/// The input formats, which `--help` explains behind the options.
const FORMATS: &str = "\
NUMBERS
  BYTES, ADDR and N are decimal, decimal with a binary unit behind it (64K, 64KiB, 64kB;
  K, M, G, T, P, E), or 0x hex.
  SIZES are sizes with commas between them, or 0x hex in which bit n stands for 2^n.

INPUT
  One run a line: PFN[+COUNT][:KIND]
    PFN    the first page frame, in hex (0x may stand before it)
    COUNT  how many pages, decimal or 0x hex; 1 if it is absent
    KIND   ram (the default), mmio, device or device:NUMBER; kinds never merge
  Blank lines are skipped; # begins a comment. A line has at most 64 KiB.

      # huge page, then two pages of a device
      0x7f200+512
      1c040+2:device:3

OUTPUT
  --json writes one object on one line; numbers are integers of up to 64 bits, kinds
  are strings, as in the input:
    page_shift      the base-2 logarithm of the bytes of a page
    pages           pages of the list
    runs            [[pfn, count, kind], ...]: the maximal runs of the list
    offset, length, iova, page_sizes, max_seg, boundary
                    what was asked, as a request of a batch says it; null: no limit
    segments        [[phys, len, kind], ...]: the window, under --max-seg and --boundary
    best_page_size  the size of the blocks in bytes, or null
    blocks          [phys, ...]: the window in aligned blocks of that size; the device
                    sees the first at iova, rounded down to that size
    tiles           [[iova, phys, page_size, count, kind], ...]: the map calls of an
                    IOMMU, or instead tiles_error: why there are none

TRACE
  --trace reads text as /sys/kernel/tracing/trace, trace-cmd report and perf script
  write it. Lines without an event are skipped, and counted. Record with one of
    echo 1 > /sys/kernel/tracing/events/iommu/enable; cat /sys/kernel/tracing/trace
    perf record -a -e iommu:map,iommu:unmap; perf script
  Everything that was mapped is counted, also what was unmapped later; the events do
  not say in which domain. --page-sizes are those of the domain. A mapping has no
  larger pages because of, as --json says it,
    length   it holds no whole page of that size
    iova     its memory begins at such a page, its IOVA inside of one
    memory   its IOVA begins at such a page, its memory inside of one
    both     they begin inside of such pages, at different distances
    domain   the domain has no larger page; fits is the largest that one could use

BATCH
  --batch answers one JSON request a line with one JSON line, in order:
    {\"runs\":[\"10+4\",\"20\"],\"page_shift\":12,\"offset\":0,\"length\":16384,
     \"iova\":4096,\"page_sizes\":2101248,\"max_seg\":65536,\"boundary\":4294967296}
  All but runs may be absent or null, and then mean what they mean on the command
  line. Numbers are integers or hex strings (\"0x1000\"); page_sizes is a bitmap. A
  bad request is answered with {\"error\": ...} and does not end the batch. Blank
  lines get no answer. A line has at most 64 MiB.

EXAMPLES
  printf '10+4\\n20\\n' | plan --iova 2M -         what a device sees of five pages
  plan --max-seg 64K --boundary 4G --json runs.txt
  perf script | plan --trace - --page-sizes 4K,2M

EXIT STATUS
  0 if there is an answer (a batch: even if some of its requests were bad),
  2 if the arguments or the input are bad, 1 if the answer could not be written.";

/// What a device would see of a list of physical pages: its runs, the segments of a
/// scatter-gather engine, the blocks of an RDMA NIC, the map calls of an IOMMU.
#[derive(Debug, Parser)]
#[command(name = "plan", after_help = FORMATS, allow_negative_numbers = true)]
pub(crate) struct Args {
    /// The base-2 logarithm of the bytes of a page, 10 to 30
    #[arg(long, value_name = "N", default_value = "12", value_parser = page_shift)]
    page_shift: PageSize,

    /// Where the window, the bytes that the device sees, begins in the first page
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = number)]
    offset: u64,

    /// The bytes of the window [default: the rest of the list]
    #[arg(long, value_name = "BYTES", value_parser = number)]
    length: Option<u64>,

    /// The address at which the device sees the first byte of the window
    #[arg(long, value_name = "ADDR", default_value = "0", value_parser = number)]
    iova: u64,

    /// The page sizes of the device
    #[arg(long, value_name = "SIZES", default_value = "4K,2M,1G")]
    page_sizes: PageSizes,

    /// No segment is longer [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = number)]
    max_seg: Option<u64>,

    /// No segment crosses a multiple of this power of two [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = number)]
    boundary: Option<u64>,

    /// Write JSON, not tables
    #[arg(long)]
    pub(crate) json: bool,

    /// Show all rows of the tables
    #[arg(long, conflicts_with = "json")]
    pub(crate) all: bool,

    /// Refuse to list more segments, blocks, tiles or mappings than this
    #[arg(long, value_name = "N", default_value = "1M", value_parser = number)]
    pub(crate) max_entries: u64,

    /// Answer JSON requests, one a line
    #[arg(long, conflicts_with_all = [
        "page_shift", "offset", "length", "iova", "page_sizes", "max_seg", "boundary", "all",
    ])]
    pub(crate) batch: bool,

    /// Read the map and unmap events of IOMMUs that a kernel has recorded, and say what they make:
    /// runs, page table entries, bytes of list, and why pages are not larger. - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "file", "batch", "offset", "length", "iova", "max_seg", "boundary",
    ])]
    pub(crate) trace: Option<PathBuf>,

    /// The file to read; - is standard input, which --batch reads if there is no file
    #[arg(value_name = "FILE", required_unless_present_any = ["batch", "trace"])]
    file: Option<PathBuf>,
}

impl Args {
    /// The file to read, unless it is standard input.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.trace.as_ref().or(self.file.as_ref()).filter(|file| file.as_os_str() != "-")
    }

    /// The size of the pages of the list.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_shift
    }

    /// What the device is asked to see of the list.
    pub(crate) fn view(&self) -> View {
        View {
            offset: self.offset,
            length: self.length,
            iova: Iova::new(self.iova),
            page_sizes: self.page_sizes,
            max_seg: self.max_seg,
            boundary: self.boundary,
        }
    }
}

fn page_shift(text: &str) -> Result<PageSize, Box<dyn Error + Send + Sync>> {
    Ok(page_of_shift(number(text)?)?)
}
