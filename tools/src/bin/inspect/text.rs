// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report for people. Colours are taken out again where they are not shown.

use crate::facts::{Bucket, Facts, Footprint};
use crate::process::{Looked, Made};
use crate::units::{bytes, grouped, percent, time};
use crate::width;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;
use std::path::Path;

const HEAD: Style = Style::new().bold();
const NOTE: Style = Style::new().dimmed();
const BAR: Style = AnsiColor::Cyan.on_default();
const OURS: Style = AnsiColor::Green.on_default().bold();
/// The longest bar, in characters, where there is room for it.
const WIDTH: usize = 32;
/// What stands beside a bar.
const BESIDE: usize = 38;
/// How many mappings are shown unless all are asked for.
const ROWS: usize = 40;

/// Everything, as lines.
pub(crate) fn report(facts: &Facts, svg: Option<&Path>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = memory(&mut out, facts)
        .and_then(|()| run_lengths(&mut out, &facts.run_lengths, facts.page_size))
        .and_then(|()| footprint(&mut out, &facts.footprint, facts.runs))
        .and_then(|()| devices(&mut out, facts))
        .and_then(|()| steps(&mut out, facts));
    end(out, svg)
}

/// The last line, and all lines as wide as the terminal.
fn end(mut out: String, svg: Option<&Path>) -> String {
    if let Some(path) = svg {
        let _ = writeln!(out, "\nThe picture is in {}", path.display());
    }
    width::wrap(&out, width::columns())
}

/// What a process is made of; `all` of its mappings, or the first.
pub(crate) fn process(looked: &Looked, svg: Option<&Path>, all: bool) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = whole_process(&mut out, looked)
        .and_then(|()| run_lengths(&mut out, &looked.run_lengths, looked.page_size))
        .and_then(|()| footprint(&mut out, &looked.footprint, looked.total.runs))
        .and_then(|()| mappings(&mut out, looked, all));
    end(out, svg)
}

fn whole_process(out: &mut String, looked: &Looked) -> std::fmt::Result {
    let (total, size) = (&looked.total, looked.page_size);
    writeln!(out, "{HEAD}Memory of process {}{HEAD:#} ({})", looked.pid, looked.name)?;
    writeln!(
        out,
        "{NOTE}Looked at, not pinned: the kernel may move or swap any page at any time.{NOTE:#}"
    )?;
    for (name, pages) in [
        ("mapped", total.pages),
        ("present", total.present_pages),
        ("swapped", total.swapped_pages),
        ("not present", total.absent_pages),
    ] {
        let pages_text = grouped(pages);
        let bytes = if pages == 0 { "0 B".to_owned() } else { bytes(pages * size) };
        writeln!(out, "  {name:<12} {bytes:>10} {pages_text:>17} pages")?;
    }
    let mean = total.present_pages * size / total.runs.max(1);
    writeln!(
        out,
        "  {:<12} {:>10} {:>17} on average, {} the longest; {} holes",
        "runs",
        grouped(total.runs),
        if mean == 0 { "0 B".to_owned() } else { bytes(mean) },
        bytes(total.longest_run_pages * size),
        grouped(total.holes)
    )
}

/// How many pages of each size there would be in an IOMMU at the addresses of the process: `2 x 2M`.
fn pages(made: &Made) -> String {
    let sizes = made.entries.iter().rev();
    sizes.map(|(size, count)| format!("{count} x {size}")).collect::<Vec<_>>().join(" + ")
}

fn mappings(out: &mut String, looked: &Looked, all: bool) -> std::fmt::Result {
    let size = looked.page_size;
    let of = |pages| if pages == 0 { "-".to_owned() } else { bytes(pages * size) };
    let rows = looked.mappings.iter().take(if all { usize::MAX } else { ROWS }).map(|mapping| {
        let made = &mapping.made;
        [
            format!("{:x}-{:x}", mapping.start, mapping.end),
            mapping.permissions.clone(),
            of(made.present_pages),
            of(made.swapped_pages),
            of(made.absent_pages),
            grouped(made.runs),
            of(made.longest_run_pages),
            pages(made),
            mapping.name.clone(),
        ]
    });
    let heads =
        ["addresses", "", "present", "swapped", "absent", "runs", "longest", "in pages of", "name"];
    let rows: Vec<_> = std::iter::once(heads.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    writeln!(out, "\n{HEAD}Mappings: {}{HEAD:#}", looked.mappings.len())?;
    let columns = width::columns();
    for row in &rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers to the right.
            if (2..7).contains(&index) {
                write!(line, "  {cell:>width$}")?;
            } else {
                write!(line, "  {cell:<width$}")?;
            }
        }
        writeln!(out, "{}", width::cut(line.trim_end(), columns))?;
    }
    match looked.mappings.len().saturating_sub(rows.len() - 1) {
        0 => Ok(()),
        more => writeln!(out, "  {NOTE}... and {more} more (--all shows them){NOTE:#}"),
    }
}

fn memory(out: &mut String, facts: &Facts) -> std::fmt::Result {
    let size = bytes(facts.bytes);
    match (facts.mock_seed, facts.user_addr) {
        (Some(seed), _) => writeln!(
            out,
            "{HEAD}Made-up memory{HEAD:#}    {size}, as if of {}, from seed {seed}",
            facts.kind
        )?,
        (None, addr) => writeln!(
            out,
            "{HEAD}Pinned memory{HEAD:#}     {size} of {} at {:#x}",
            facts.kind,
            addr.unwrap_or_default()
        )?,
    }
    writeln!(out, "  pages {:>17}   of {}", grouped(facts.pages), bytes(facts.page_size))?;
    writeln!(
        out,
        "  runs {:>18}   {} on average, {} the longest",
        grouped(facts.runs),
        bytes(facts.bytes / facts.runs.max(1)),
        bytes(facts.longest_run_pages * facts.page_size)
    )
}

fn run_lengths(out: &mut String, buckets: &[Bucket], page_size: u64) -> std::fmt::Result {
    writeln!(out, "\n{HEAD}Run lengths         runs   share of the memory{HEAD:#}")?;
    let largest = buckets.iter().map(|bucket| bucket.pages).max().unwrap_or(1);
    let all = buckets.iter().map(|bucket| bucket.pages).sum::<u64>();
    let width = WIDTH.min(width::columns().saturating_sub(BESIDE)).max(4);
    for bucket in buckets {
        let from = bytes(bucket.min_pages * page_size);
        let label = if bucket.max_pages == 1 { from } else { format!("from {from}") };
        let share = bucket.pages as f64 / all as f64;
        let length = bucket.pages as f64 / largest as f64 * width as f64;
        let bar = bar(length);
        let value = if bucket.runs == 0 { String::new() } else { format!(" {}", percent(share)) };
        writeln!(out, "  {label:<13} {:>8}   {BAR}{bar}{BAR:#}{value}", grouped(bucket.runs))?;
    }
    Ok(())
}

/// A bar of `length` characters, to an eighth of one; what is there is seen.
fn bar(length: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let mut eighths = (length * 8.0).round() as usize;
    if length > 0.0 {
        eighths = eighths.max(1);
    }
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

fn footprint(out: &mut String, print: &Footprint, runs: u64) -> std::fmt::Result {
    writeln!(
        out,
        "\n{HEAD}To remember it                   bytes     a run   of a page list{HEAD:#}"
    )?;
    for (name, size, style) in [
        ("page list, 8 B a page", print.page_list_bytes, Style::new()),
        ("scatterlist, 32 B a run", print.scatterlist_bytes, Style::new()),
        ("pinned-sgl", print.pinned_sgl_bytes, OURS),
    ] {
        let each = size as f64 / runs.max(1) as f64;
        let each = if each < 100.0 { format!("{each:.2}") } else { grouped(each.round() as u64) };
        writeln!(
            out,
            "  {style}{name:<23} {:>12} {each:>9} {:>16}{style:#}",
            grouped(size),
            percent(size as f64 / print.page_list_bytes.max(1) as f64)
        )?;
    }
    Ok(())
}

fn devices(out: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(out, "\n{HEAD}For a device at IOVA {:#x}{HEAD:#}", facts.iova)?;
    match (facts.best_page_size, facts.blocks) {
        (Some(size), Some(blocks)) => writeln!(
            out,
            "  {:<18} {:>11}   so {} DMA block{} {NOTE}(powers of two, 4 KiB to 1 GiB){NOTE:#}",
            "best page size",
            bytes(size),
            grouped(blocks),
            plural(blocks)
        )?,
        _ => writeln!(
            out,
            "  {:<18} {:>11}   for the memory does not fit",
            "best page size", "none"
        )?,
    }
    for calls in &facts.map_calls {
        writeln!(
            out,
            "  {:<18} {:>11}   map call{}, {} page table entr{}",
            format!("IOMMU, {}", calls.page_sizes),
            grouped(calls.calls),
            plural(calls.calls),
            grouped(calls.entries),
            if calls.entries == 1 { "y" } else { "ies" }
        )?;
    }
    Ok(())
}

fn plural(count: u64) -> &'static str {
    if count == 1 {
        ""
    } else {
        "s"
    }
}

fn steps(out: &mut String, facts: &Facts) -> std::fmt::Result {
    let threads = match facts.threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    writeln!(out, "\n{HEAD}Time with {threads:<14}    total        a page{HEAD:#}")?;
    // Real memory has no step to join lists, made-up memory may have.
    for step in facts.steps.iter().filter(|step| step.ns > 0) {
        let total = time(step.ns as f64);
        writeln!(out, "  {:<18} {total:>14} {:>13}", step.step, time(step.ns_per_page))?;
    }
    if facts.threads > 1 && facts.mock_seed.is_none() {
        writeln!(out, "  {NOTE}the steps are summed over the threads{NOTE:#}")?;
    }
    Ok(())
}
