// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answer as tables, for people.

use crate::answer::Plan;
use crate::width;
use anstyle::{AnsiColor, Style};
use pinned_sgl::PageSize;
use std::fmt;
use std::io::{self, Write};

const TITLE: Style = Style::new().bold();
const HEAD: Style = Style::new().dimmed();
const NONE: Style = AnsiColor::Yellow.on_default();

/// How many rows of a table are shown unless all are asked for.
const ROWS: usize = 20;

/// Writes a plan; `all` rows of its tables, or the first.
pub(crate) fn write(out: &mut impl Write, plan: &Plan<'_>, all: bool) -> io::Result<()> {
    let (sgl, window, view) = (plan.sgl, &plan.window, &plan.view);
    let (pages, runs) = (counted(sgl.page_count(), "page"), counted(sgl.run_count(), "run"));
    let (page, bytes) = (sgl.page_size(), Bytes(sgl.byte_len()));
    let mut tables = Tables::new(out, all);
    tables.prose(format_args!("{TITLE}{pages} of {page} in {runs}: {bytes}{TITLE:#}\n"))?;
    let (bytes, offset, iova, sizes) =
        (Bytes(window.len()), window.offset(), view.iova, view.page_sizes);
    tables.prose(format_args!(
        "the device sees {bytes} from offset {offset:#x}, at IOVA {iova}, with pages of {sizes}\n"
    ))?;

    tables.runs(plan)?;
    tables.segments(plan)?;
    tables.blocks(plan)?;
    tables.tiles(plan)
}

/// Tables, one below the other, as wide as the terminal at most.
pub(crate) struct Tables<'a, W> {
    out: &'a mut W,
    rows: usize,
    columns: usize,
}

impl<'a, W: Write> Tables<'a, W> {
    /// Shows `all` rows of each, or the first.
    pub(crate) fn new(out: &'a mut W, all: bool) -> Self {
        let rows = if all { usize::MAX } else { ROWS };
        Self { out, rows, columns: width::columns() }
    }

    fn runs(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        let (count, shift) = (plan.sgl.run_count(), plan.sgl.page_size().shift());
        self.title(format_args!("Runs: {count}"))?;
        let rows = plan.sgl.runs().map(|run| {
            let (pages, bytes) = (run.count(), Bytes(run.count().wrapping_shl(shift)));
            [run.start().to_string(), pages.to_string(), bytes.to_string(), run.kind().to_string()]
        });
        self.table(["first PFN", "pages", "bytes", "kind"], rows, count)
    }

    fn segments(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        let count = plan.segment_count();
        let max = plan.view.max_seg.map(|max| format!(", none longer than {}", Bytes(max)));
        let boundary = plan.view.boundary;
        let boundary = boundary.map(|size| format!(", none across a multiple of {}", Bytes(size)));
        let (max, boundary) = (max.unwrap_or_default(), boundary.unwrap_or_default());
        self.title(format_args!("Segments: {count}{max}{boundary}"))?;
        let rows = plan.segments().map(|segment| {
            let (len, bytes) = (format!("{:#x}", segment.len), Bytes(segment.len));
            [segment.phys.to_string(), len, bytes.to_string(), segment.kind.to_string()]
        });
        self.table(["physical", "length", "bytes", "kind"], rows, count)
    }

    fn blocks(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        let view = &plan.view;
        let Some(best) = plan.best else {
            self.title(format_args!("Best page size: none"))?;
            let smallest = view.page_sizes.smallest().unwrap_or(PageSize::SIZE_4K);
            return self.none(format_args!(
                "memory and IOVA do not agree in the bits below {smallest}, the smallest page \
                 size, or a run ends inside such a page"
            ));
        };
        let (size, count) = (best.page_size(), plan.block_count());
        let blocks = counted(count, "block");
        self.title(format_args!("Best page size: {size}, which makes {blocks}"))?;
        let first = view.iova.align_down(size);
        let iovas = std::iter::successors(Some(first), |iova| iova.checked_add(size.bytes()));
        let rows =
            iovas.zip(plan.blocks()).map(|(iova, phys)| [iova.to_string(), phys.to_string()]);
        self.table(["IOVA", "physical"], rows, count)
    }

    fn tiles(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        if let Err(error) = &plan.tiles {
            self.title(format_args!("Tiles: none"))?;
            return self.none(format_args!("{error}"));
        }
        let count = plan.tile_count();
        self.title(format_args!("Tiles: {}", counted(count, "map call")))?;
        let rows = plan.tiles().map(|tile| {
            let (size, count, bytes) = (tile.page_size, tile.count, Bytes(tile.len()));
            let (iova, phys) = (tile.iova.to_string(), tile.phys.to_string());
            [iova, phys, size.to_string(), count.to_string(), bytes.to_string()]
        });
        self.table(["IOVA", "physical", "page size", "count", "bytes"], rows, count)
    }

    pub(crate) fn title(&mut self, title: fmt::Arguments<'_>) -> io::Result<()> {
        self.prose(format_args!("\n{TITLE}{title}{TITLE:#}\n"))
    }

    pub(crate) fn none(&mut self, reason: fmt::Arguments<'_>) -> io::Result<()> {
        self.prose(format_args!("  {NONE}{reason}{NONE:#}\n"))
    }

    /// Writes lines, broken between words.
    pub(crate) fn prose(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.out.write_all(width::wrap(&text.to_string(), self.columns).as_bytes())
    }

    /// Writes a table of `total` rows. They are made twice, once for their widths, rather than kept.
    /// Columns are aligned to the right, or to the left under a head that begins with `<`.
    pub(crate) fn table<const N: usize>(
        &mut self,
        heads: [&str; N],
        rows: impl Iterator<Item = [String; N]> + Clone,
        total: u64,
    ) -> io::Result<()> {
        let rows = rows.take(self.rows);
        let left = heads.map(|head| head.starts_with('<'));
        let heads = heads.map(|head| head.trim_start_matches('<'));
        let mut widths = heads.map(str::len);
        let mut shown = 0u64;
        for row in rows.clone() {
            shown = shown.saturating_add(1);
            for (width, cell) in widths.iter_mut().zip(&row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, width), left) in cells.zip(&widths).zip(left) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, behind) = if left { ("", &*padding) } else { (&*padding, "") };
                line.extend(["  ", before, cell, behind]);
            }
            width::cut(line.trim_end(), self.columns)
        };
        writeln!(self.out, "{HEAD}{}{HEAD:#}", line(&mut heads.into_iter()))?;
        for row in rows {
            writeln!(self.out, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        match total.saturating_sub(shown) {
            0 => Ok(()),
            more => writeln!(self.out, "  {HEAD}... and {more} more (--all shows them){HEAD:#}"),
        }
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes in the largest unit that they reach: exactly, or with one decimal, rounded down.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let reached = units.into_iter().find_map(|(shift, unit)| {
            let size = PageSize::from_shift(shift)?;
            (self.0 >= size.bytes()).then_some((size, unit))
        });
        let Some((size, unit)) = reached else {
            return write!(f, "{} B", self.0);
        };
        let (whole, part) = (self.0.wrapping_shr(size.shift()), self.0 & size.mask());
        if part == 0 {
            return write!(f, "{whole} {unit}");
        }
        // Ten bits of the part are enough for one decimal, and keep the product small.
        let tenth = part.wrapping_shr(size.shift().saturating_sub(10)).wrapping_mul(10) >> 10;
        write!(f, "{whole}.{tenth} {unit}")
    }
}
