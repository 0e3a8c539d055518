// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answer as tables, for people.

use super::{why::Why, Trace};
use crate::table::{counted, Bytes, Tables};
use pinned_sgl::PageSize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Writes what a recording says; `all` rows of its tables, or the first.
pub(crate) fn write(out: &mut impl Write, trace: &Trace, all: bool) -> io::Result<()> {
    let mut tables = Tables::new(out, all);
    let maps = trace.total(|process| process.maps.saturating_add(process.failed));
    let (maps, unmaps) =
        (counted(maps, "map"), counted(trace.total(|process| process.unmaps), "unmap"));
    tables.prose(format_args!(
        "{maps} and {unmaps}; {} skipped\nthe domain has pages of {}\n",
        counted(trace.skipped, "other line"),
        trace.sizes
    ))?;
    if trace.lost > 0 {
        tables.none(format_args!(
            "the recording lacks at least {}: all of what follows is too little",
            counted(trace.lost, "event")
        ))?;
    }
    let failed = trace.total(|process| process.failed);
    if failed > 0 {
        tables.none(format_args!("{} failed and mapped nothing", counted(failed, "map")))?;
    }
    let continued = trace.total(|process| process.continued);
    if continued > 0 {
        tables.none(format_args!(
            "maps that begin where the one before ends, in IOVAs and in memory: {continued}; one call \
             for both might have larger pages"
        ))?;
    }
    processes(&mut tables, trace)?;
    runs(&mut tables, trace)?;
    entries(&mut tables, trace)?;
    whys(&mut tables, trace)?;
    mappings(&mut tables, trace)
}

fn processes<W: Write>(tables: &mut Tables<'_, W>, trace: &Trace) -> io::Result<()> {
    let count = trace.processes.len() as u64;
    tables.title(format_args!("Processes: {count}"))?;
    let rows = trace.processes.iter().map(|process| {
        [
            process.name(),
            process.maps.to_string(),
            Bytes(process.list.byte_len()).to_string(),
            process.unmaps.to_string(),
            Bytes(process.unmapped_bytes).to_string(),
            process.list.run_count().to_string(),
            process.entry_count().to_string(),
            Bytes(process.list.footprint() as u64).to_string(),
        ]
    });
    let heads = ["<process", "maps", "bytes", "unmaps", "bytes", "runs", "entries", "list"];
    tables.table(heads, rows, count)
}

fn runs<W: Write>(tables: &mut Tables<'_, W>, trace: &Trace) -> io::Result<()> {
    let bytes = |pages: u64| Bytes(pages.wrapping_shl(trace.page.shift())).to_string();
    let rows: Vec<_> = trace
        .processes
        .iter()
        .flat_map(|process| {
            process.run_lengths().into_iter().map(|(shift, (runs, pages))| {
                let from = bytes(1u64.wrapping_shl(shift));
                [process.name(), from, runs.to_string(), bytes(pages)]
            })
        })
        .collect();
    let total = rows.len() as u64;
    tables.title(format_args!("Run lengths"))?;
    tables.table(["<process", "from", "runs", "bytes"], rows.into_iter(), total)
}

fn entries<W: Write>(tables: &mut Tables<'_, W>, trace: &Trace) -> io::Result<()> {
    let rows: Vec<_> = trace
        .processes
        .iter()
        .flat_map(|process| {
            process.entries.iter().rev().map(|(size, count)| {
                let bytes = Bytes(count.wrapping_shl(size.shift())).to_string();
                [process.name(), size.to_string(), count.to_string(), bytes]
            })
        })
        .collect();
    let total = rows.len() as u64;
    tables.title(format_args!("Page table entries"))?;
    tables.table(["<process", "page size", "entries", "bytes"], rows.into_iter(), total)
}

fn whys<W: Write>(tables: &mut Tables<'_, W>, trace: &Trace) -> io::Result<()> {
    let rows: Vec<_> = trace
        .processes
        .iter()
        .flat_map(|process| {
            process.whys.iter().map(|(why, (mappings, bytes))| {
                let bytes = Bytes(*bytes).to_string();
                [process.name(), mappings.to_string(), bytes, largest(why), why.to_string()]
            })
        })
        .collect();
    let total = rows.len() as u64;
    tables.title(format_args!("Why pages are not larger"))?;
    let heads = ["<process", "maps", "bytes", "largest page", "<why not larger"];
    tables.table(heads, rows.into_iter(), total)
}

fn largest(why: &Why) -> String {
    why.largest.map_or("none fits".to_owned(), |size| size.to_string())
}

fn mappings<W: Write>(tables: &mut Tables<'_, W>, trace: &Trace) -> io::Result<()> {
    let count = trace.mappings.len() as u64;
    tables.title(format_args!("Mappings: {count}"))?;
    let rows = trace.mappings.iter().map(|mapping| {
        let entries = mapping.entries(trace.sizes);
        [
            mapping.line.to_string(),
            trace.processes.get(mapping.process).map_or(String::new(), super::Process::name),
            mapping.iova.to_string(),
            mapping.memory.phys.to_string(),
            Bytes(mapping.memory.len).to_string(),
            pages(&entries),
            Why::of(mapping, trace.sizes).to_string(),
        ]
    });
    let heads = ["line", "<process", "IOVA", "physical", "bytes", "<pages", "<why not larger"];
    tables.table(heads, rows, count)
}

/// `1 x 2M + 3 x 4K`
fn pages(entries: &BTreeMap<PageSize, u64>) -> String {
    let pages: Vec<_> =
        entries.iter().rev().map(|(size, count)| format!("{count} x {size}")).collect();
    if pages.is_empty() {
        "none fits".to_owned()
    } else {
        pages.join(" + ")
    }
}
