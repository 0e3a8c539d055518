// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a recording of IOMMU events asks: how much was mapped, in which pages, and why not in larger
//! ones.

mod event;
mod json;
pub(crate) mod table;
mod why;

use crate::answer::PlanError;
use crate::input::{InputError, LONGEST};
use crate::lines::{self, Line};
use crate::notation::Unexpected;
use event::{Event, Lost, What};
use pinned_sgl::{Heap, Iova, PageRun, PageSize, PageSizes, PhysAddr, Segment, Sgl, SglBuilder};
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use why::Why;

/// A recording.
#[derive(Debug)]
pub(crate) struct Trace {
    page: PageSize,
    sizes: PageSizes,
    /// Lines without an event of ours.
    skipped: u64,
    /// Events that are known to be missing.
    lost: u64,
    /// In the order of their first events.
    processes: Vec<Process>,
    mappings: Vec<Mapping>,
}

/// What one thread did.
#[derive(Debug)]
struct Process {
    comm: String,
    pid: String,
    maps: u64,
    /// Calls that mapped nothing.
    failed: u64,
    /// Mappings that begin where the one before ends, in IOVAs and in memory.
    continued: u64,
    unmaps: u64,
    unmapped_bytes: u64,
    /// What it mapped, in that order.
    list: Sgl<Heap>,
    /// The page table entries of each size.
    entries: BTreeMap<PageSize, u64>,
    /// Why pages are not larger: how many mappings, and of how many bytes.
    whys: BTreeMap<Why, (u64, u64)>,
}

/// One map call.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    line: u64,
    process: usize,
    iova: Iova,
    memory: Segment,
}

impl Mapping {
    /// The entries of each size in a page table; none if no page fits.
    fn entries(&self, sizes: PageSizes) -> BTreeMap<PageSize, u64> {
        let mut entries = BTreeMap::new();
        for tile in self.memory.tiles(sizes, self.iova).into_iter().flatten() {
            let count: &mut u64 = entries.entry(tile.page_size).or_default();
            *count = count.saturating_add(tile.count);
        }
        entries
    }
}

/// A process whose list is not complete.
struct Growing {
    process: Process,
    builder: SglBuilder<Heap>,
    /// Where the mapping before ends.
    end: Option<(Iova, PhysAddr)>,
}

impl Trace {
    /// Reads a recording, of memory in units of `page`, by a domain with pages of `sizes`.
    pub(crate) fn read(
        mut input: impl BufRead,
        page: PageSize,
        sizes: PageSizes,
    ) -> Result<Self, InputError> {
        let mut trace =
            Self { page, sizes, skipped: 0, lost: 0, processes: vec![], mappings: vec![] };
        let mut growing = Vec::<Growing>::new();
        let mut known = HashMap::<String, usize>::new();
        let (mut bytes, mut line, mut lost_of_all) = (Vec::new(), 0u64, 0u64);
        loop {
            line = line.saturating_add(1);
            match lines::read(&mut input, &mut bytes, LONGEST).map_err(InputError::Read)? {
                Line::End => break,
                Line::TooLong => return Err(InputError::too_long(line)),
                Line::Whole => {}
            }
            let bad = |unexpected| InputError::Line { line, unexpected };
            // The names of threads are bytes.
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end();
            let Some(event) = event::parse(text).map_err(bad)? else {
                match event::lost(text) {
                    Lost::OfAll(lost) => lost_of_all = lost.max(lost_of_all),
                    Lost::Here(lost) => trace.lost = trace.lost.saturating_add(lost),
                }
                trace.skipped = trace.skipped.saturating_add(1);
                continue;
            };
            let index = match known.get(&format!("{}-{}", event.comm, event.pid)) {
                Some(index) => *index,
                None => {
                    growing.push(Growing::new(&event, page)?);
                    let index = growing.len().saturating_sub(1);
                    known.insert(format!("{}-{}", event.comm, event.pid), index);
                    index
                }
            };
            let Some(process) = growing.get_mut(index) else { continue };
            if let Some((iova, memory)) = process.add(&event, page, sizes).map_err(bad)? {
                trace.mappings.push(Mapping { line, process: index, iova, memory });
            }
        }
        // Lines say what is missing between events, the head what is missing at all.
        trace.lost = trace.lost.max(lost_of_all);
        if growing.is_empty() {
            let expected = "at least one event iommu:map or iommu:unmap";
            let unexpected = Unexpected { column: 1, expected, found: "the end".to_owned() };
            return Err(InputError::Line { line, unexpected });
        }
        trace.processes =
            growing.into_iter().map(Growing::finish).collect::<Result<_, InputError>>()?;
        Ok(trace)
    }

    /// Refuses a list of more than `max` mappings.
    pub(crate) fn check_entries(&self, max: u64) -> Result<(), PlanError> {
        let needed = self.mappings.len() as u64;
        if needed > max {
            return Err(PlanError::TooManyEntries { list: "mappings", needed, max });
        }
        Ok(())
    }

    fn total(&self, count: impl Fn(&Process) -> u64) -> u64 {
        self.processes.iter().fold(0, |total, process| total.saturating_add(count(process)))
    }
}

impl Growing {
    fn new(event: &Event<'_>, page: PageSize) -> Result<Self, InputError> {
        let builder = || SglBuilder::new(page).map_err(InputError::Build);
        let list = builder()?.finish().map_err(|error| InputError::Memory(error.into_error()))?;
        let process = Process {
            comm: event.comm.to_owned(),
            pid: event.pid.to_owned(),
            maps: 0,
            failed: 0,
            continued: 0,
            unmaps: 0,
            unmapped_bytes: 0,
            list,
            entries: BTreeMap::new(),
            whys: BTreeMap::new(),
        };
        Ok(Self { process, builder: builder()?, end: None })
    }

    /// What an event maps, if it does.
    fn add(
        &mut self,
        event: &Event<'_>,
        page: PageSize,
        sizes: PageSizes,
    ) -> Result<Option<(Iova, Segment)>, Unexpected> {
        let process = &mut self.process;
        let (iova, phys, len) = match event.what {
            What::Unmap { unmapped } => {
                process.unmaps = process.unmaps.saturating_add(1);
                process.unmapped_bytes = process.unmapped_bytes.saturating_add(unmapped);
                return Ok(None);
            }
            What::Map { size: 0, .. } => {
                process.failed = process.failed.saturating_add(1);
                return Ok(None);
            }
            What::Map { iova, phys, size } => (Iova::new(iova), PhysAddr::new(phys), size),
        };
        let unexpected =
            |expected| Unexpected { column: 1, expected, found: format!("{len} bytes at {phys}") };
        if (phys.get() | len) & page.mask() != 0 {
            return Err(unexpected("memory in whole pages (--page-shift)"));
        }
        let run = PageRun::ram(phys.pfn(page), len.wrapping_shr(page.shift()))
            .map_err(|_| unexpected("memory whose addresses fit 64 bits"))?;
        self.builder
            .push_run(run)
            .map_err(|_| unexpected("mappings whose bytes can be counted and listed"))?;
        let memory =
            segment(run, page).ok_or_else(|| unexpected("memory, and some more for its list"))?;
        let mapping = Mapping { line: 0, process: 0, iova, memory };
        process.maps = process.maps.saturating_add(1);
        if self.end == Some((iova, phys)) {
            process.continued = process.continued.saturating_add(1);
        }
        self.end = iova.checked_add(len).zip(phys.checked_add(len));
        for (size, count) in mapping.entries(sizes) {
            let entries = process.entries.entry(size).or_default();
            *entries = entries.saturating_add(count);
        }
        let (count, bytes) = process.whys.entry(Why::of(&mapping, sizes)).or_default();
        (*count, *bytes) = (count.saturating_add(1), bytes.saturating_add(len));
        Ok(Some((iova, memory)))
    }

    fn finish(self) -> Result<Process, InputError> {
        let list = self.builder.finish().map_err(|error| InputError::Memory(error.into_error()))?;
        Ok(Process { list, ..self.process })
    }
}

/// The bytes of a run.
fn segment(run: PageRun, page: PageSize) -> Option<Segment> {
    let mut builder = SglBuilder::<Heap>::new(page).ok()?;
    builder.push_run(run).ok()?;
    let list = builder.finish().ok()?;
    let segment = list.whole().ok()?.iter().next();
    segment
}

impl Process {
    fn name(&self) -> String {
        format!("{}-{}", self.comm, self.pid)
    }

    fn entry_count(&self) -> u64 {
        self.entries.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The runs of `2^n` up to `2^(n+1) - 1` pages, for each `n` that there is.
    fn run_lengths(&self) -> BTreeMap<u32, (u64, u64)> {
        let mut lengths = BTreeMap::new();
        for run in self.list.runs() {
            let (runs, pages): &mut (u64, u64) =
                lengths.entry(run.count().checked_ilog2().unwrap_or(0)).or_default();
            (*runs, *pages) = (runs.saturating_add(1), pages.saturating_add(run.count()));
        }
        lengths
    }
}
