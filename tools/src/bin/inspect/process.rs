// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of a process, looked at and not pinned: each page may be elsewhere a moment later.

use crate::facts::{run_lengths, Bucket, Footprint};
use pinned_sgl::{
    AllocError, BuildError, Heap, Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, Segment,
    Sgl, SglBuilder,
};
use procfs::process::{MMapPath, MemoryMap, Process};
use procfs::ProcError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::{fmt, fs::File, io, os::unix::fs::FileExt, path::Path};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME: u64 = (1 << 55) - 1;
/// Entries of the page map that are read at a time.
const BATCH: u64 = 8192;

/// What there is to say about the memory of a process; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Looked {
    pub(crate) pid: i32,
    pub(crate) name: String,
    /// Never: it says that what follows need not be so any more.
    pub(crate) pinned: bool,
    pub(crate) page_size: u64,
    #[serde(flatten)]
    pub(crate) total: Made,
    pub(crate) run_lengths: Vec<Bucket>,
    pub(crate) footprint: Footprint,
    pub(crate) mappings: Vec<Mapping>,
    #[serde(skip)]
    pub(crate) list: List,
}

/// A mapping of the process, or the part of it that was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: String,
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) made: Made,
}

/// What memory is made of.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Made {
    pub(crate) pages: u64,
    pub(crate) present_pages: u64,
    pub(crate) swapped_pages: u64,
    /// Never touched, or let go again.
    pub(crate) absent_pages: u64,
    /// Stretches of pages that are swapped or absent.
    pub(crate) holes: u64,
    /// Runs of present pages, contiguous in the process and in physical memory.
    pub(crate) runs: u64,
    pub(crate) longest_run_pages: u64,
    /// How many entries of each size map the runs where the process has them.
    #[serde(serialize_with = "by_size")]
    pub(crate) entries: BTreeMap<PageSize, u64>,
}

fn by_size<S: serde::Serializer>(
    entries: &BTreeMap<PageSize, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(|(size, count)| (size.bytes(), count)))
}

/// The runs of a process, in the order of its addresses.
#[derive(Debug)]
pub(crate) struct List {
    sgl: Sgl<Heap>,
    /// Where a run of the list is none of the process, as a hole lies between: offsets in the list.
    cuts: Vec<u64>,
}

impl List {
    pub(crate) fn byte_len(&self) -> u64 {
        self.sgl.byte_len()
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = Segment> + Clone + '_ {
        let whole = self.sgl.whole().into_iter().flatten();
        Cut { runs: whole, cuts: &self.cuts, rest: None, offset: 0 }
    }
}

/// Segments, cut at offsets.
#[derive(Clone)]
struct Cut<'a, I> {
    runs: I,
    cuts: &'a [u64],
    rest: Option<Segment>,
    offset: u64,
}

impl<I: Iterator<Item = Segment>> Iterator for Cut<'_, I> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let mut run = self.rest.take().or_else(|| self.runs.next())?;
        if let Some((cut, cuts)) = self.cuts.split_first() {
            let len = cut - self.offset;
            if len <= run.len {
                self.cuts = cuts;
            }
            if len < run.len {
                let mut rest = run;
                rest.phys = rest.phys.checked_add(len)?;
                rest.len -= len;
                self.rest = Some(rest);
                run.len = len;
            }
        }
        self.offset += run.len;
        Some(run)
    }
}

/// Why the memory of a process cannot be looked at.
#[derive(Debug)]
pub(crate) enum LookError {
    NoSuchProcess {
        pid: i32,
    },
    NotPermitted {
        pid: i32,
    },
    /// This process may not know frames.
    Hidden {
        pid: i32,
    },
    /// While it was looked at, or before; or it became another program.
    Ended {
        pid: i32,
    },
    /// A thread of the kernel, or a process that has ended and is still listed.
    NoMemory {
        pid: i32,
    },
    /// The process has nothing there.
    Outside {
        pid: i32,
        range: Range<u64>,
    },
    Proc {
        pid: i32,
        source: ProcError,
    },
    Read {
        pid: i32,
        addr: u64,
        source: io::Error,
    },
    List(BuildError),
    /// There is no memory for the list.
    Memory(AllocError),
    /// No page is present.
    NothingToDraw {
        pid: i32,
    },
}

impl LookError {
    /// Why a process could not be opened.
    fn of(process: &Process, source: ProcError) -> Self {
        let pid = process.pid;
        match (source, process.stat()) {
            (ProcError::PermissionDenied(_), _) => Self::NotPermitted { pid },
            (_, Err(_)) => Self::Ended { pid },
            (ProcError::Io(error, _), Ok(_)) if no_process(&error) => Self::NoMemory { pid },
            // What was read is cut off where it ended.
            (_, Ok(stat)) if stat.state == 'Z' => Self::NoMemory { pid },
            // Of a process that is just going, one file may be gone before another. (A kernel may be
            // without page maps, too.)
            (ProcError::NotFound(_), _) if Path::new("/proc/self/pagemap").exists() => {
                Self::Ended { pid }
            }
            (source, Ok(_)) => Self::Proc { pid, source },
        }
    }
}

/// Whether this is ESRCH, which comes from files of processes that have no memory any more.
fn no_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(3)
}

impl fmt::Display for LookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchProcess { pid } => write!(f, "there is no process {pid}"),
            Self::NotPermitted { pid } => {
                write!(
                    f,
                    "this process may not look at process {pid}, of another user or privileged"
                )
            }
            Self::Hidden { pid } => write!(
                f,
                "the kernel hides the physical addresses of process {pid}, as from all without \
                 CAP_SYS_ADMIN"
            ),
            Self::Ended { pid } => {
                write!(f, "process {pid} has ended, or has become another program, meanwhile")
            }
            Self::NoMemory { pid } => write!(
                f,
                "process {pid} has no memory of its own: it is a thread of the kernel, or has ended"
            ),
            Self::Outside { pid, range } => {
                write!(f, "process {pid} has nothing mapped in {:x}-{:x}", range.start, range.end)
            }
            Self::Proc { pid, source } => write!(f, "cannot read /proc/{pid}: {source}"),
            Self::Read { pid, addr, source } => {
                write!(f, "cannot read /proc/{pid}/pagemap at {addr:#x}: {source}")
            }
            Self::List(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::NothingToDraw { pid } => {
                write!(f, "no page of process {pid} is present there: there is nothing to draw")
            }
        }
    }
}

impl std::error::Error for LookError {}

impl Looked {
    /// Looks at a process, or at a range of its addresses.
    pub(crate) fn at(pid: i32, range: Option<&Range<u64>>) -> Result<Self, LookError> {
        let process = Process::new(pid).map_err(|error| match error {
            ProcError::NotFound(_) => LookError::NoSuchProcess { pid },
            source => LookError::Proc { pid, source },
        })?;
        let open = || {
            // The page map is opened once: another process may get the number.
            let map = process.open_relative("pagemap")?;
            Ok((process.stat()?.comm, map, process.smaps()?))
        };
        let (name, map, maps) = open().map_err(|error| LookError::of(&process, error))?;
        if maps.iter().next().is_none() {
            return Err(LookError::NoMemory { pid });
        }
        let all = 0..u64::MAX;
        let range = range.unwrap_or(&all);
        let mut look = Look::new(pid, map)?;
        let mut mappings = Vec::new();
        for map in &maps {
            let (start, end) = (map.address.0.max(range.start), map.address.1.min(range.end));
            if start < end {
                let made = look.made(start..end, has_pages(map))?;
                let permissions = map.perms.as_str();
                let name = name_of(&map.pathname);
                mappings.push(Mapping { start, end, permissions, name, made });
            }
        }
        if mappings.is_empty() {
            return Err(LookError::Outside { pid, range: range.clone() });
        }
        let mut total = Made::default();
        mappings.iter().for_each(|mapping| total.add(&mapping.made));
        let page_size = look.page.bytes();
        let sgl = look.builder.finish().map_err(|error| LookError::Memory(error.into_error()))?;
        let list = List { sgl, cuts: look.cuts };
        Ok(Self {
            pid,
            name,
            pinned: false,
            page_size,
            run_lengths: run_lengths(list.runs().map(|run| run.len / page_size)),
            footprint: Footprint::of(&list.sgl, total.runs),
            total,
            mappings,
            list,
        })
    }
}

/// Whether a mapping has memory at all. Address space that is only reserved, of terabytes perhaps,
/// is not read page by page; nor are the registers of devices, which are not memory.
fn has_pages(map: &MemoryMap) -> bool {
    let fields = ["Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb"];
    fields.iter().any(|field| map.extension.map.get(*field).is_some_and(|bytes| *bytes > 0))
}

fn name_of(path: &MMapPath) -> String {
    match path {
        MMapPath::Path(path) => path.display().to_string(),
        MMapPath::Heap => "[heap]".to_owned(),
        MMapPath::Stack => "[stack]".to_owned(),
        MMapPath::TStack(thread) => format!("[stack:{thread}]"),
        MMapPath::Vdso => "[vdso]".to_owned(),
        MMapPath::Vvar => "[vvar]".to_owned(),
        MMapPath::Vsyscall => "[vsyscall]".to_owned(),
        MMapPath::Rollup => "[rollup]".to_owned(),
        MMapPath::Anonymous => String::new(),
        MMapPath::Vsys(key) => format!("/SYSV{key:08x}"),
        MMapPath::Other(name) => format!("[{name}]"),
    }
}

impl Made {
    fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.present_pages += other.present_pages;
        self.swapped_pages += other.swapped_pages;
        self.absent_pages += other.absent_pages;
        self.holes += other.holes;
        self.runs += other.runs;
        self.longest_run_pages = self.longest_run_pages.max(other.longest_run_pages);
        for (size, count) in &other.entries {
            *self.entries.entry(*size).or_default() += count;
        }
    }
}

/// A page, as its entry in the page map says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Present(u64),
    Swapped,
    Absent,
}

impl Page {
    fn of(entry: u64) -> Self {
        match entry {
            _ if entry & PRESENT != 0 => Self::Present(entry & FRAME),
            _ if entry & SWAPPED != 0 => Self::Swapped,
            _ => Self::Absent,
        }
    }
}

/// A run that may grow.
struct Run {
    address: u64,
    start: u64,
    count: u64,
}

struct Look {
    pid: i32,
    map: File,
    page: PageSize,
    sizes: PageSizes,
    builder: SglBuilder<Heap>,
    cuts: Vec<u64>,
    /// The bytes of the list, and the frame that would make its last run longer.
    len: u64,
    next: Option<u64>,
    /// Any segment: there is no other way to make one.
    template: Segment,
}

impl Look {
    fn new(pid: i32, map: File) -> Result<Self, LookError> {
        let page = PageSize::new(procfs::page_size()).unwrap_or(PageSize::SIZE_4K);
        let builder = || SglBuilder::new(page).map_err(LookError::List);
        let mut one = builder()?;
        let any = PageRun::page(Pfn::new(1), MemoryKind::Ram);
        let no_segment = || LookError::Proc { pid, source: ProcError::Other("no segment".into()) };
        one.push_run(any.map_err(|_| no_segment())?).map_err(LookError::List)?;
        let one: Sgl<Heap> = one.finish().map_err(|error| LookError::Memory(error.into_error()))?;
        let template =
            one.whole().ok().and_then(|whole| whole.iter().next()).ok_or_else(no_segment)?;
        let sizes = PageSizes::from(page) | PageSizes::SIZE_2M | PageSizes::SIZE_1G;
        let (builder, cuts) = (builder()?, Vec::new());
        Ok(Self { pid, map, page, sizes, builder, cuts, len: 0, next: None, template })
    }

    /// What is at these addresses, which begin and end with a page.
    fn made(&mut self, range: Range<u64>, has_pages: bool) -> Result<Made, LookError> {
        let (pid, page) = (self.pid, self.page);
        let mut made = Made { pages: (range.end - range.start) >> page.shift(), ..Made::default() };
        if !has_pages {
            (made.absent_pages, made.holes) = (made.pages, 1);
            return Ok(made);
        }
        let mut run: Option<Run> = None;
        let mut in_hole = false;
        let mut bytes = vec![0; BATCH as usize * 8];
        let mut address = range.start;
        while address < range.end {
            let count = BATCH.min((range.end - address) >> page.shift()) as usize;
            let position = (address >> page.shift()) * 8;
            self.map.read_exact_at(&mut bytes[..count * 8], position).map_err(|source| {
                match source.kind() {
                    // The map of a process without memory is at its end everywhere.
                    io::ErrorKind::UnexpectedEof => LookError::Ended { pid },
                    _ if no_process(&source) => LookError::Ended { pid },
                    _ => LookError::Read { pid, addr: address, source },
                }
            })?;
            for entry in bytes[..count * 8].chunks_exact(8) {
                let entry = Page::of(entry.try_into().map_or(0, u64::from_ne_bytes));
                match (entry, &mut run) {
                    // No process has the first page of all memory.
                    (Page::Present(0), _) => return Err(LookError::Hidden { pid }),
                    (Page::Present(frame), Some(run)) if frame == run.start + run.count => {
                        run.count += 1;
                    }
                    (Page::Present(frame), _) => {
                        self.finish(run.take(), &mut made)?;
                        run = Some(Run { address, start: frame, count: 1 });
                    }
                    _ => self.finish(run.take(), &mut made)?,
                }
                let present = matches!(entry, Page::Present(_));
                made.present_pages += u64::from(present);
                made.swapped_pages += u64::from(entry == Page::Swapped);
                made.absent_pages += u64::from(entry == Page::Absent);
                made.holes += u64::from(!present && !in_hole);
                in_hole = !present;
                address += page.bytes();
            }
        }
        self.finish(run, &mut made)?;
        Ok(made)
    }

    /// A run has ended.
    fn finish(&mut self, run: Option<Run>, made: &mut Made) -> Result<(), LookError> {
        let Some(Run { address, start, count }) = run else { return Ok(()) };
        let pages = PageRun::ram(Pfn::new(start), count);
        let phys = Pfn::new(start).phys(self.page);
        // The kernel has no memory whose address does not fit.
        let (Ok(pages), Some(phys)) = (pages, phys) else {
            let source = io::Error::from(io::ErrorKind::InvalidData);
            return Err(LookError::Read { pid: self.pid, addr: address, source });
        };
        if self.next == Some(start) {
            self.cuts.push(self.len);
        }
        self.builder.push_run(pages).map_err(LookError::List)?;
        self.next = Some(start + count);
        let mut segment = self.template;
        (segment.phys, segment.len) = (phys, count << self.page.shift());
        self.len += segment.len;
        for tile in segment.tiles(self.sizes, Iova::new(address)).into_iter().flatten() {
            *made.entries.entry(tile.page_size).or_default() += tile.count;
        }
        made.runs += 1;
        made.longest_run_pages = made.longest_run_pages.max(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A page map that was made up: swapped pages and absent ones between those that are present.
    #[test]
    fn swapped_pages_are_neither_present_nor_absent() {
        let frames = |start: u64, count| (0..count).map(move |page| PRESENT | (start + page));
        let entries = frames(0x200, 512).chain([SWAPPED | 5; 3]).chain([0; 2]).chain(frames(7, 1));
        let path = std::env::temp_dir().join(format!("inspect-map-{}", std::process::id()));
        let map = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let page = procfs::page_size();
        let first = (2 << 20) / page;
        let bytes: Vec<_> = entries.flat_map(u64::to_ne_bytes).collect();
        map.write_all_at(&bytes, first * 8).unwrap();
        let mut look = Look::new(1, map).unwrap();
        let made = look.made(first * page..(first + 518) * page, true).unwrap();
        assert_eq!((made.pages, made.present_pages, made.holes), (518, 513, 1));
        assert_eq!((made.swapped_pages, made.absent_pages), (3, 2));
        assert_eq!((made.runs, made.longest_run_pages), (2, 512));
    }
}
