// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report for people. Colours are taken out again where nobody sees them.

use crate::facts::Facts;
use crate::units::{bytes, grouped, percent, time};
use anstyle::{AnsiColor, Style};
use std::fmt::Write;
use std::path::Path;

const HEAD: Style = Style::new().bold();
const NOTE: Style = Style::new().dimmed();
const BAR: Style = AnsiColor::Cyan.on_default();
const OURS: Style = AnsiColor::Green.on_default().bold();
/// The longest bar, in characters.
const WIDTH: f64 = 32.0;

/// Everything, as lines.
pub(crate) fn report(facts: &Facts, svg: Option<&Path>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = memory(&mut out, facts)
        .and_then(|()| run_lengths(&mut out, facts))
        .and_then(|()| footprint(&mut out, facts))
        .and_then(|()| devices(&mut out, facts))
        .and_then(|()| steps(&mut out, facts));
    if let Some(path) = svg {
        let _ = writeln!(out, "\nThe picture is in {}", path.display());
    }
    out
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

fn run_lengths(out: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(out, "\n{HEAD}Run lengths         runs   share of the memory{HEAD:#}")?;
    let largest = facts.run_lengths.iter().map(|bucket| bucket.pages).max().unwrap_or(1);
    for bucket in &facts.run_lengths {
        let from = bytes(bucket.min_pages * facts.page_size);
        let label = if bucket.max_pages == 1 { from } else { format!("from {from}") };
        let share = bucket.pages as f64 / facts.pages as f64;
        let length = bucket.pages as f64 / largest as f64 * WIDTH;
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

fn footprint(out: &mut String, facts: &Facts) -> std::fmt::Result {
    let print = &facts.footprint;
    writeln!(
        out,
        "\n{HEAD}To remember it                   bytes     a run   of a page list{HEAD:#}"
    )?;
    for (name, size, style) in [
        ("page list, 8 B a page", print.page_list_bytes, Style::new()),
        ("scatterlist, 32 B a run", print.scatterlist_bytes, Style::new()),
        ("pinned-sgl", print.pinned_sgl_bytes, OURS),
    ] {
        let each = size as f64 / facts.runs.max(1) as f64;
        let each = if each < 100.0 { format!("{each:.2}") } else { grouped(each.round() as u64) };
        writeln!(
            out,
            "  {style}{name:<23} {:>12} {each:>9} {:>16}{style:#}",
            grouped(size),
            percent(size as f64 / print.page_list_bytes as f64)
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
