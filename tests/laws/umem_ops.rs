// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Pinned regions**: whatever processes, devices and callers do, pins, charges, page tables and
//! bytes are those of a model that knows nothing but pages and their bytes, after every step.
//!
//! ```text
//!  process page ──► cell ◄── page of a region ◄── mapping, stream
//!                    │
//!                   bytes: what the process and the devices see
//! ```
//!
//! Cells are made where Linux would give a process a page of its own; cell 0 is the page of zeros.

use super::machine::{self, IOVAS, PAGE, STEP};
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{
    CutErrorKind, Cuts, Domain, IovaRange, MapErrorKind, Mapping, Prot, Stream, StreamErrorKind,
    UnmapRangeError,
};
use pinned_sgl::umem::{
    Account, AttachError, PinErrorKind, PinFlags, PinRequest, RunSlot, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{Heap, Iova, PhysAddr, UserAddr};
use pinned_sgl_mock::{
    Area, Device, DmaFault, FailingAccountant, FailingStorage, Iommu, MapFault, Memory, PinFault,
    Plan, Process, Zone,
};
use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc};

type Payer = Arc<FailingAccountant<Account>>;
type Pinned = Umem<Arc<Process>, Payer, FailingStorage<Heap>>;
type Mapped = Mapping<Arc<Pinned>, Arc<Iommu>>;
type Slots = Box<[RunSlot]>;

/// Pages of an address space; half of them lie below a multiple of 2 MiB.
const PAGES: usize = 32;
const BASE: u64 = (5 << 21) - PAGES as u64 / 2 * PAGE;
const MOST_STEPS: usize = 64;
/// The cell of zeros, which nobody writes.
const ZEROS: usize = 0;

/// A page of a process.
#[derive(Clone, Copy)]
struct Page {
    cell: usize,
    writable: bool,
    shared: bool,
}

struct Proc {
    real: Arc<Process>,
    pages: [Option<Page>; PAGES],
    interrupted: bool,
}

/// A pinned region: of a list, or of a stream.
struct Region {
    cells: Vec<usize>,
    frames: Vec<u64>,
    page_offset: u64,
    len: u64,
    writable: bool,
    payer: usize,
    handle: Option<Arc<Pinned>>,
    maps: usize,
    dirty: bool,
}

impl Region {
    fn is_alive(&self) -> bool {
        self.handle.is_some() || self.maps != 0
    }
}

enum Real {
    Mapping(Mapped),
    Stream(Stream<Arc<Process>, Payer, Arc<Iommu>, Slots>),
}

/// Bytes of a region that are mapped.
struct Live {
    real: Real,
    region: usize,
    iommu: usize,
    iova: u64,
    offset: u64,
    len: u64,
    prot: Prot,
}

/// What all parts of a mapping that is cut have in common.
#[derive(Clone, Copy)]
struct Parts {
    region: usize,
    iommu: usize,
    iova: u64,
    offset: u64,
    prot: Prot,
}

impl Parts {
    /// The part that begins `from` bytes behind the first byte of the whole.
    fn live(self, mapping: Mapped, from: u64, len: u64) -> Live {
        let Self { region, iommu, iova, offset, prot } = self;
        let (iova, offset) = (iova + from, offset + from);
        Live { real: Real::Mapping(mapping), region, iommu, iova, offset, len, prot }
    }
}

struct World {
    memory: Memory,
    plan: Plan,
    cells: Vec<Vec<u8>>,
    procs: Vec<Proc>,
    payers: Vec<Payer>,
    regions: Vec<Region>,
    lives: Vec<Live>,
    iommus: Vec<Arc<Iommu>>,
    first_iova: u64,
    zero_frame: u64,
    frames: u64,
}

fn user(page: usize) -> UserAddr {
    UserAddr::new(BASE + page as u64 * PAGE)
}

fn user_pages(first: usize, count: usize) -> UserRange {
    UserRange::new(user(first), count as u64 * PAGE).unwrap()
}

/// An area and what the model knows of its pages; a few pages of it.
fn area(u: &mut Unstructured<'_>) -> Result<(Area, bool, bool, bool)> {
    let (mut area, writable, shared, zeros) = match u.int_in_range(0..=7)? {
        0 => (Area::read_only(), false, false, false),
        1 | 2 => (Area::copy_on_write(), true, false, true),
        3 => (Area::shared(), true, true, false),
        _ => (Area::read_write(), true, false, false),
    };
    if u.ratio(1, 3)? {
        area = area.huge(u.int_in_range(1..=3)?);
    }
    if u.ratio(1, 3)? {
        area = area.zone(Zone::Movable);
    }
    Ok((area, writable, shared, zeros))
}

fn some_pages(u: &mut Unstructured<'_>) -> Result<(usize, usize)> {
    let first = u.int_in_range(0..=PAGES - 1)?;
    Ok((first, u.int_in_range(1..=16.min(PAGES - first))?))
}

type Operation = fn(&mut World, &mut Unstructured<'_>) -> Result<()>;

impl World {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let plan = Plan::new();
        let memory = machine::memory(u, &plan)?;
        let frames = memory.free_frames(Zone::Normal) + memory.free_frames(Zone::Movable);
        // Somebody looks at the frame of zeros before all others.
        let first = Process::new(&memory);
        first.map(user_pages(0, 1), Area::copy_on_write()).unwrap();
        first.touch(user_pages(0, 1), false).unwrap();
        let zero_frame = first.frame_at(user(0)).unwrap().get();
        drop(first);
        let payer = |limit| Arc::new(FailingAccountant::new(Account::new(limit), plan.clone()));
        let payers = vec![payer(u.int_in_range(0..=64)?), payer(u64::MAX)];
        let first_iova = machine::first_iova(u)?;
        let mut this = Self {
            plan,
            cells: vec![vec![0; PAGE as usize]],
            procs: vec![],
            payers,
            regions: vec![],
            lives: vec![],
            iommus: vec![
                machine::iommu(u, first_iova, &memory)?,
                machine::iommu(u, first_iova, &memory)?,
            ],
            first_iova,
            zero_frame,
            frames,
            memory,
        };
        for _ in 0..u.int_in_range(1..=2)? {
            this.procs.push(Proc {
                real: Arc::new(Process::new(&this.memory)),
                pages: [None; PAGES],
                interrupted: false,
            });
            let mut next = 0;
            while next < PAGES {
                let count = u.int_in_range(1..=12)?.min(PAGES - next);
                this.map_area(u, this.procs.len() - 1, next, count)?;
                next += count + usize::from(u.arbitrary::<u8>()? % 4 / 2);
            }
        }
        Ok(this)
    }

    fn new_cell(&mut self, from: usize) -> usize {
        self.cells.push(self.cells[from].clone());
        self.cells.len() - 1
    }

    fn map_area(
        &mut self,
        u: &mut Unstructured<'_>,
        proc: usize,
        first: usize,
        count: usize,
    ) -> Result<()> {
        let (area, writable, shared, zeros) = area(u)?;
        let free = self.procs[proc].pages[first..first + count].iter().all(Option::is_none);
        let mapped = self.procs[proc].real.map(user_pages(first, count), area);
        assert_eq!(mapped.is_ok(), free);
        for page in (first..first + count).filter(|_| free) {
            let cell = if zeros { ZEROS } else { self.new_cell(ZEROS) };
            self.procs[proc].pages[page] = Some(Page { cell, writable, shared });
        }
        Ok(())
    }

    /// What can happen, and how often beside the rest.
    const OPERATIONS: &[(u32, Operation)] = &[
        (5, Self::pin),
        (5, Self::map),
        (3, Self::stream),
        (2, Self::split),
        (2, Self::unmap_range),
        (1, Self::unmap),
        (1, Self::drop_handle),
        (4, Self::device),
        (2, Self::cpu_write),
        (1, Self::cpu_read),
        (3, Self::access),
        (1, Self::fork),
        (1, Self::unmap_area),
        (1, Self::map_few_pages),
        (1, Self::protect),
        (2, Self::move_pages),
        (1, Self::annoy),
        (1, Self::pin_parallel),
        (3, |world, u| machine::plan_failure(u, &world.plan)),
    ];

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        machine::weighted(u, Self::OPERATIONS)?(self, u)
    }

    fn map_few_pages(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (first, count) = some_pages(u)?;
        let proc = self.some_proc(u)?;
        self.map_area(u, proc, first, count.min(4))
    }

    fn some_proc(&self, u: &mut Unstructured<'_>) -> Result<usize> {
        u.int_in_range(0..=self.procs.len() - 1)
    }

    fn some_handle(&self, u: &mut Unstructured<'_>) -> Result<Option<usize>> {
        let handles: Vec<usize> =
            (0..self.regions.len()).filter(|at| self.regions[*at].handle.is_some()).collect();
        Ok(if handles.is_empty() { None } else { Some(*u.choose(&handles)?) })
    }

    fn some_live(&self, u: &mut Unstructured<'_>) -> Result<Option<usize>> {
        let last = self.lives.len().checked_sub(1);
        last.map(|last| u.int_in_range(0..=last)).transpose()
    }

    /// Bytes of a process that are to be pinned, and how.
    fn some_request(&self, u: &mut Unstructured<'_>) -> Result<(UserRange, PinFlags)> {
        let (first, count) = some_pages(u)?;
        let skip = if u.ratio(1, 3)? { machine::offset(u, PAGE - 1)? } else { 0 };
        let less = if u.ratio(1, 3)? { machine::offset(u, PAGE - 1)? } else { 0 };
        let len = (count as u64 * PAGE - skip).saturating_sub(less).max(1);
        let range = UserRange::new(UserAddr::new(user(first).get() + skip), len).unwrap();
        let flags = match u.arbitrary::<u8>()? % 16 {
            0 => PinFlags::empty(),
            1 => PinFlags::LONGTERM,
            2 => PinFlags::WRITE,
            3 => PinFlags::WRITE | PinFlags::FORCE,
            4 => PinFlags::WRITE | PinFlags::NOFAULT,
            5 => PinFlags::NOFAULT,
            _ => PinFlags::WRITE | PinFlags::LONGTERM,
        };
        Ok((range, flags))
    }

    /// The pages of a range, as numbers of the model.
    fn pages_of(range: UserRange) -> std::ops::RangeInclusive<usize> {
        let page = |at: UserAddr| ((at.get() - BASE) / PAGE) as usize;
        page(range.start())..=page(range.last())
    }

    /// The first page of the range that can never be pinned so.
    fn first_bad(&self, proc: usize, range: UserRange, flags: PinFlags) -> Option<usize> {
        Self::pages_of(range).find(|page| {
            self.procs[proc].pages[*page].is_none_or(|page| {
                let forced = flags.contains(PinFlags::FORCE) && !page.shared;
                flags.contains(PinFlags::WRITE) && !page.writable && !forced
            })
        })
    }

    /// Whether the account can take so many pages.
    fn affords(&self, payer: usize, pages: u64) -> bool {
        let account = self.payers[payer].inner();
        account.charged() + pages <= account.limit()
    }

    /// The error of a pin is one that may be.
    fn check_pin_error(
        &mut self,
        proc: usize,
        (range, flags): (UserRange, PinFlags),
        affordable: bool,
        (fired, cancels): (bool, bool),
        kind: &PinErrorKind<PinFault>,
    ) {
        let bad = self.first_bad(proc, range, flags);
        let number = |at: UserAddr| ((at.get() - BASE) / PAGE) as usize;
        let was_interrupted = self.procs[proc].interrupted;
        match kind {
            PinErrorKind::Charge(_) => {
                assert!(!affordable || fired);
                return;
            }
            PinErrorKind::Pinner(fault) => {
                assert!(bad.is_none_or(|bad| number(fault.at()) <= bad), "{fault} {bad:?}");
                let page = self.procs[proc].pages.get(number(fault.at())).copied().flatten();
                match fault {
                    PinFault::NotMapped(_) => assert!(page.is_none()),
                    PinFault::AccessDenied(at) => assert_eq!(bad, Some(number(*at))),
                    PinFault::NotPresent(_) => assert!(flags.contains(PinFlags::NOFAULT)),
                    PinFault::NoMemory(_) => assert!(
                        !flags.contains(PinFlags::NOFAULT) || flags.contains(PinFlags::LONGTERM)
                    ),
                    PinFault::Busy(_) => assert!(flags.contains(PinFlags::LONGTERM)),
                    PinFault::Interrupted(_) => assert!(was_interrupted),
                    PinFault::Injected(_) => assert!(fired),
                    other => panic!("{other}"),
                }
            }
            PinErrorKind::List(_) | PinErrorKind::OutOfMemory => assert!(fired, "{kind}"),
            PinErrorKind::Cancelled => assert!(cancels),
            other => panic!("{other}"),
        }
        self.procs[proc].interrupted = false;
    }

    /// What is pinned now: the cells of its pages, which the process has of its own.
    fn cells_of(
        &mut self,
        proc: usize,
        (range, flags): (UserRange, PinFlags),
        frames: &[u64],
    ) -> Vec<usize> {
        assert_eq!(self.first_bad(proc, range, flags), None);
        assert!(!self.procs[proc].interrupted);
        let pages = Self::pages_of(range);
        assert_eq!(frames.len(), pages.clone().count());
        let mut cells = vec![];
        for (page, frame) in pages.zip(frames) {
            let real = self.procs[proc].real.frame_at(user(page)).unwrap();
            assert_eq!(real.get(), *frame);
            let mut cell = self.procs[proc].pages[page].unwrap().cell;
            if *frame == self.zero_frame {
                assert!(cell == ZEROS && !flags.intersects(PinFlags::WRITE | PinFlags::LONGTERM));
            } else if cell == ZEROS {
                cell = self.new_cell(ZEROS);
                self.procs[proc].pages[page].as_mut().unwrap().cell = cell;
            }
            cells.push(cell);
        }
        cells
    }

    fn pin(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (range, flags)) = (self.some_proc(u)?, self.some_request(u)?);
        let payer = u.int_in_range(0..=1)?;
        let mut slots = vec![None; u.int_in_range(1..=3)?];
        let cancel_at = u.arbitrary::<u8>()?;
        let storage = FailingStorage::new(Heap::new(), self.plan.clone());
        let affordable = self.affords(payer, Self::pages_of(range).count() as u64);
        let pending = self.plan.is_pending();
        let mut batches = 0u8;
        let request = PinRequest::new(range, flags).with_progress(|bytes| {
            assert!(bytes % PAGE == 0 && bytes / PAGE > batches.into());
            batches += 1;
            if batches == cancel_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let real = self.procs[proc].real.clone();
        let payer_of = self.payers[payer].clone();
        let pinned = Umem::pin_in(real, payer_of, storage, &mut slots, request);
        let fired = pending && !self.plan.is_pending();
        match pinned {
            Ok(umem) => {
                assert!(affordable && !fired);
                let frames = machine::frames(umem.sgl());
                let cells = self.cells_of(proc, (range, flags), &frames);
                assert_eq!(umem.charge().pages(), frames.len() as u64);
                self.regions.push(Region {
                    cells,
                    frames,
                    page_offset: umem.page_offset(),
                    len: umem.len(),
                    writable: flags.contains(PinFlags::WRITE),
                    payer,
                    handle: Some(Arc::new(umem)),
                    maps: 0,
                    dirty: false,
                });
            }
            Err(error) => {
                let whys = (fired, cancel_at != 0);
                self.check_pin_error(proc, (range, flags), affordable, whys, error.kind());
            }
        }
        Ok(())
    }

    /// Whether the bytes can be mapped there, and nothing is in the way.
    fn can_map(&self, iommu: usize, iova: u64, frames: &[u64], from: u64, len: u64) -> bool {
        let domain = &self.iommus[iommu];
        let Ok(range) = IovaRange::new(Iova::new(iova), len) else {
            return false;
        };
        let free = self.lives.iter().filter(|live| live.iommu == iommu).all(|live| {
            let there = IovaRange::new(Iova::new(live.iova), live.len).unwrap();
            there.intersection(&range).is_none()
        });
        free && domain.aperture().covers(&range)
            && machine::fits(domain.page_sizes(), iova, frames, from, len)
    }

    fn some_place(&self, u: &mut Unstructured<'_>) -> Result<(usize, u64, Prot)> {
        let iommu = u.int_in_range(0..=1)?;
        let iova = self.first_iova.wrapping_add(machine::offset(u, IOVAS)?);
        let prot = match u.arbitrary::<u8>()? % 8 {
            0 => Prot::READ,
            1 => Prot::WRITE,
            2 => Prot::CACHE,
            _ => Prot::READ | Prot::WRITE,
        };
        Ok((iommu, iova, prot))
    }

    fn map(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(region) = self.some_handle(u)? else {
            return Ok(());
        };
        let (iommu, iova, prot) = self.some_place(u)?;
        let it = &self.regions[region];
        let range = machine::part(u, it.len)?;
        let len = range.end.saturating_sub(range.start);
        let inside = len != 0 && range.end <= it.len;
        let allowed = prot.intersects(Prot::READ | Prot::WRITE)
            && (it.writable || !prot.contains(Prot::WRITE));
        let from = it.page_offset + range.start;
        let fits = inside && self.can_map(iommu, iova, &it.frames, from, len);
        let umem = it.handle.clone().unwrap();
        let pending = self.plan.is_pending();
        let domain = self.iommus[iommu].clone();
        let mapped = Mapping::map_range(umem, range.clone(), domain, Iova::new(iova), prot);
        let fired = pending && !self.plan.is_pending();
        match mapped {
            Ok(mapping) => {
                assert!(allowed && fits && !fired);
                assert_eq!((mapping.len(), mapping.region_range()), (len, range.clone()));
                let it = &mut self.regions[region];
                it.maps += 1;
                it.dirty |= prot.contains(Prot::WRITE);
                let (real, offset) = (Real::Mapping(mapping), range.start);
                self.lives.push(Live { real, region, iommu, iova, offset, len, prot });
            }
            Err(error) => {
                assert!(!(allowed && fits) || fired, "{error}");
                match error.kind() {
                    MapErrorKind::Domain(MapFault::Injected) => assert!(fired),
                    MapErrorKind::NoAccess => assert!(!prot.intersects(Prot::READ | Prot::WRITE)),
                    MapErrorKind::Attach(AttachError::ReadOnly) => assert!(!allowed),
                    MapErrorKind::Window(_) => assert!(!inside),
                    MapErrorKind::Tiles(_)
                    | MapErrorKind::Aperture { .. }
                    | MapErrorKind::Domain(MapFault::Exists { .. }) => assert!(!fits),
                    other => panic!("{other}"),
                }
            }
        }
        Ok(())
    }

    fn stream(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (range, flags)) = (self.some_proc(u)?, self.some_request(u)?);
        let (iommu, iova, prot) = self.some_place(u)?;
        let payer = u.int_in_range(0..=1)?;
        let slots: Slots = vec![None; u.int_in_range(1..=3)?].into();
        let affordable = self.affords(payer, Self::pages_of(range).count() as u64);
        let allowed = prot.intersects(Prot::READ | Prot::WRITE)
            && (flags.contains(PinFlags::WRITE) || !prot.contains(Prot::WRITE));
        let pending = self.plan.is_pending();
        let (real, domain) = (self.procs[proc].real.clone(), self.iommus[iommu].clone());
        let stream = Stream::map(
            real,
            self.payers[payer].clone(),
            domain,
            slots,
            PinRequest::new(range, flags),
            Iova::new(iova),
            prot,
        );
        let fired = pending && !self.plan.is_pending();
        match stream {
            Ok(stream) => {
                assert!(affordable && allowed && !fired);
                let frame = |page| self.procs[proc].real.frame_at(user(page)).unwrap().get();
                let frames: Vec<u64> = Self::pages_of(range).map(frame).collect();
                let (from, len) = (range.start().get() % PAGE, range.len());
                assert!(self.can_map(iommu, iova, &frames, from, len));
                let cells = self.cells_of(proc, (range, flags), &frames);
                self.regions.push(Region {
                    cells,
                    frames,
                    page_offset: from,
                    len,
                    writable: flags.contains(PinFlags::WRITE),
                    payer,
                    handle: None,
                    maps: 1,
                    dirty: false,
                });
                let (real, region) = (Real::Stream(stream), self.regions.len() - 1);
                self.lives.push(Live { real, region, iommu, iova, offset: 0, len, prot });
            }
            Err(error) => match error.kind() {
                StreamErrorKind::Pin(kind) => {
                    self.check_pin_error(proc, (range, flags), affordable, (fired, false), kind);
                }
                StreamErrorKind::Map(MapErrorKind::Domain(MapFault::Injected)) => {
                    assert!(fired);
                    self.procs[proc].interrupted = false;
                }
                StreamErrorKind::Map(MapErrorKind::Breach(breach)) => panic!("{breach}"),
                StreamErrorKind::Map(kind) => {
                    let before = matches!(
                        kind,
                        MapErrorKind::NoAccess
                            | MapErrorKind::Attach(_)
                            | MapErrorKind::Aperture { .. }
                            | MapErrorKind::Tiles(pinned_sgl::granule::TileError::Wraps { .. })
                    );
                    if !before {
                        self.procs[proc].interrupted = false;
                        let frame = |page| self.procs[proc].real.frame_at(user(page));
                        let frames: Option<Vec<u64>> = Self::pages_of(range)
                            .map(|page| frame(page).map(pinned_sgl::Pfn::get))
                            .collect();
                        // Nothing moves between the failure and this look.
                        if let Some(frames) = frames {
                            let (from, len) = (range.start().get() % PAGE, range.len());
                            assert!(!self.can_map(iommu, iova, &frames, from, len), "{kind}");
                        }
                    }
                }
                other => panic!("{other}"),
            },
        }
        Ok(())
    }

    /// Takes a mapping out of the list, and what its parts have in common; a stream stays there.
    fn take_mapping(&mut self, at: usize) -> Option<(Mapped, Parts)> {
        let live = self.lives.swap_remove(at);
        let Live { region, iommu, iova, offset, prot, .. } = live;
        match live.real {
            Real::Mapping(mapping) => Some((mapping, Parts { region, iommu, iova, offset, prot })),
            Real::Stream(_) => {
                self.lives.push(live);
                None
            }
        }
    }

    /// Whether a live mapping may be cut at an offset; its ends count.
    fn may_cut(&self, at: usize, offset: u64) -> bool {
        let Live { iommu, iova, len, .. } = &self.lives[at];
        offset == 0
            || offset == *len
            || (offset < *len && machine::may_cut(&self.iommus[*iommu], iova + offset, true))
    }

    fn check_cut_error(
        &self,
        iommu: usize,
        iova: u64,
        len: u64,
        offsets: [u64; 2],
        kind: CutErrorKind,
    ) {
        match kind {
            CutErrorKind::InsideEntry { edges } => {
                let domain = &self.iommus[iommu];
                let inside = |offset: &u64| edges.below <= *offset && *offset < edges.above;
                let offset = offsets.into_iter().find(inside).unwrap();
                if domain.cuts() != Cuts::Anywhere {
                    let entry = domain.lookup(Iova::new(iova + offset)).unwrap().range;
                    assert_eq!(entry.first().get(), iova + edges.below);
                    assert_eq!(entry.last().get(), iova + (edges.above - 1));
                }
            }
            CutErrorKind::Outside { len: told } => {
                assert_eq!(told, len);
                let [start, end] = offsets;
                assert!(start >= end || end > len || start == 0 || end >= len);
            }
            CutErrorKind::Indivisible => {
                assert_eq!(self.iommus[iommu].cuts(), Cuts::Never);
            }
            other => panic!("{other}"),
        }
    }

    fn split(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let (len, iommu, iova) = (self.lives[at].len, self.lives[at].iommu, self.lives[at].iova);
        let offset = machine::offset(u, len)?;
        let legal = offset != 0 && offset < len && self.may_cut(at, offset);
        let region = self.lives[at].region;
        let Some((mapping, parts)) = self.take_mapping(at) else {
            return Ok(());
        };
        match mapping.split_at(offset) {
            Ok((head, tail)) => {
                assert!(legal);
                assert_eq!((head.len(), tail.len()), (offset, len - offset));
                self.regions[region].maps += 1;
                self.lives.push(parts.live(head, 0, offset));
                self.lives.push(parts.live(tail, offset, len - offset));
            }
            Err(error) => {
                assert!(!legal, "{error}");
                self.check_cut_error(iommu, iova, len, [offset, offset], error.kind());
                self.lives.push(parts.live(error.into_mapping(), 0, len));
            }
        }
        Ok(())
    }

    fn unmap_range(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let (len, iommu, iova) = (self.lives[at].len, self.lives[at].iommu, self.lives[at].iova);
        let range = machine::part(u, len)?;
        let legal = range.start < range.end
            && range.end <= len
            && self.may_cut(at, range.start)
            && self.may_cut(at, range.end);
        let region = self.lives[at].region;
        let Some((mapping, parts)) = self.take_mapping(at) else {
            return Ok(());
        };
        match mapping.unmap_range(range.clone()) {
            Ok((head, tail)) => {
                assert!(legal);
                assert_eq!((head.is_some(), tail.is_some()), (range.start != 0, range.end != len));
                self.regions[region].maps += usize::from(head.is_some());
                self.regions[region].maps += usize::from(tail.is_some());
                self.regions[region].maps -= 1;
                let head = head.map(|head| parts.live(head, 0, range.start));
                self.lives.extend(head);
                let tail = tail.map(|tail| parts.live(tail, range.end, len - range.end));
                self.lives.extend(tail);
            }
            Err(UnmapRangeError::Cut(error)) => {
                assert!(!legal, "{error}");
                self.check_cut_error(iommu, iova, len, [range.start, range.end], error.kind());
                self.lives.push(parts.live(error.into_mapping(), 0, len));
            }
            Err(error) => panic!("{error}"),
        }
        Ok(())
    }

    fn unmap(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_live(u)? else {
            return Ok(());
        };
        let Live { real, region, .. } = self.lives.swap_remove(at);
        self.regions[region].maps -= 1;
        if u.arbitrary()? {
            match real {
                Real::Mapping(mapping) => drop(mapping.unmap().unwrap()),
                Real::Stream(stream) => drop(stream.unmap().unwrap()),
            }
        }
        Ok(())
    }

    fn drop_handle(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_handle(u)? else {
            return Ok(());
        };
        let maps = self.regions[at].maps;
        let handle = self.regions[at].handle.take().unwrap();
        // It can be unpinned where nobody else has it.
        match Arc::try_unwrap(handle) {
            Ok(umem) => {
                assert_eq!(maps, 0);
                if u.arbitrary()? {
                    drop(umem.unpin().unwrap());
                }
            }
            Err(_) => assert_ne!(maps, 0),
        }
        Ok(())
    }

    /// What a device finds at an address: the mapping, and the offset in it.
    fn at_iova(&self, iommu: usize, iova: u64) -> Option<(usize, u64)> {
        self.lives.iter().enumerate().find_map(|(at, live)| {
            let offset = iova.checked_sub(live.iova).filter(|offset| *offset < live.len)?;
            (live.iommu == iommu).then_some((at, offset))
        })
    }

    fn device(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut iommu = u.int_in_range(0..=1)?;
        let mut iova = self.first_iova.wrapping_add(machine::offset(u, IOVAS)?);
        if let Some(at) = self.some_live(u)?.filter(|_| iova % 4 != 3) {
            // Near a mapping, as often as not in it.
            iommu = self.lives[at].iommu;
            iova = self.lives[at].iova.wrapping_add(u64::from(u.arbitrary::<u16>()?) % 0x1800);
        }
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        if iova.checked_add(bytes.len() as u64).is_none() {
            return Ok(());
        }
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let mut reached = vec![];
        let mut fault = None;
        for at in iova..iova + bytes.len() as u64 {
            let found = self.at_iova(iommu, at);
            let Some((live, offset)) = found else {
                fault = Some(DmaFault::NotMapped { iova: Iova::new(at) });
                break;
            };
            let live = &self.lives[live];
            if !live.prot.contains(needs) {
                fault = Some(DmaFault::NotPermitted { iova: Iova::new(at), write });
                break;
            }
            let region = &self.regions[live.region];
            let byte = region.page_offset + live.offset + offset;
            reached.push((region.cells[(byte / PAGE) as usize], (byte % PAGE) as usize));
        }
        let device = Device::new(self.iommus[iommu].clone(), self.memory.clone());
        let done = if write {
            device.write(Iova::new(iova), &bytes)
        } else {
            device.read(Iova::new(iova), &mut bytes)
        };
        assert_eq!(done.err(), fault);
        for ((cell, at), byte) in reached.into_iter().zip(bytes) {
            if write {
                self.cells[cell][at] = byte;
            } else {
                assert_eq!(self.cells[cell][at], byte);
            }
        }
        Ok(())
    }

    fn cpu_write(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, bytes) = (self.some_proc(u)?, machine::data(u)?);
        let start = u.int_in_range(0..=PAGES as u64 * PAGE - 1)?;
        let at = UserAddr::new(BASE + start);
        let fault = self.procs[proc].real.write(at, &bytes).err();
        let stopped = fault.map(|fault| ((fault.at().get() - BASE) / PAGE) as usize);
        for (index, byte) in bytes.into_iter().enumerate() {
            let byte_at = start + index as u64;
            let page = (byte_at / PAGE) as usize;
            let there = self.procs[proc].pages.get(page).copied().flatten();
            if stopped == Some(page) {
                match fault.unwrap() {
                    PinFault::NotMapped(_) => assert!(there.is_none()),
                    PinFault::AccessDenied(_) => assert!(!there.unwrap().writable),
                    PinFault::NoMemory(_) => assert!(there.unwrap().writable),
                    other => panic!("{other}"),
                }
                return Ok(());
            }
            let mut cell = there.unwrap().cell;
            assert!(there.unwrap().writable);
            if cell == ZEROS {
                cell = self.new_cell(ZEROS);
                self.procs[proc].pages[page].as_mut().unwrap().cell = cell;
            }
            self.cells[cell][(byte_at % PAGE) as usize] = byte;
        }
        assert_eq!(fault, None);
        Ok(())
    }

    fn cpu_read(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, page) = (self.some_proc(u)?, u.int_in_range(0..=PAGES - 1)?);
        let mut bytes = vec![0; PAGE as usize];
        let there = self.procs[proc].pages[page];
        match self.procs[proc].real.read(user(page), &mut bytes) {
            Ok(()) => assert!(bytes == self.cells[there.unwrap().cell]),
            Err(PinFault::NotMapped(_)) => assert!(there.is_none()),
            Err(PinFault::NoMemory(_)) => {}
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    /// Reads or writes through the region itself.
    fn access(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_handle(u)? else {
            return Ok(());
        };
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        let region = &mut self.regions[at];
        let umem = region.handle.clone().unwrap();
        if u.ratio(1, 8)? {
            umem.mark_dirty();
            region.dirty = true;
        }
        let offset = u.int_in_range(0..=region.len)?;
        let inside = offset + bytes.len() as u64 <= region.len;
        let done = if write { umem.write(offset, &bytes) } else { umem.read(offset, &mut bytes) };
        assert_eq!(done.is_ok(), inside && (region.writable || !write), "{done:?}");
        if done.is_err() {
            return Ok(());
        }
        region.dirty |= write;
        for (index, byte) in bytes.into_iter().enumerate() {
            let at = region.page_offset + offset + index as u64;
            let cell = region.cells[(at / PAGE) as usize];
            if write {
                self.cells[cell][(at % PAGE) as usize] = byte;
            } else {
                assert_eq!(self.cells[cell][(at % PAGE) as usize], byte);
            }
        }
        Ok(())
    }

    fn fork(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let proc = self.some_proc(u)?;
        if self.procs.len() >= 4 {
            // One of them ends, which does not unpin anything.
            self.procs[proc].real.exit();
            self.procs[proc].pages = [None; PAGES];
            return Ok(());
        }
        let real = match self.procs[proc].real.fork() {
            Ok(real) => Arc::new(real),
            Err(PinFault::NoMemory(_)) => return Ok(()),
            Err(other) => panic!("{other}"),
        };
        let mut pages = self.procs[proc].pages;
        for page in pages.iter_mut().flatten() {
            if !page.shared && page.cell != ZEROS {
                page.cell = self.new_cell(page.cell);
            }
        }
        self.procs.push(Proc { real, pages, interrupted: false });
        Ok(())
    }

    fn unmap_area(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        self.procs[proc].real.unmap(user_pages(first, count)).unwrap();
        self.procs[proc].pages[first..first + count].fill(None);
        Ok(())
    }

    fn protect(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        let writable = u.arbitrary()?;
        self.procs[proc].real.protect(user_pages(first, count), writable).unwrap();
        for page in self.procs[proc].pages[first..first + count].iter_mut().flatten() {
            page.writable = writable;
        }
        Ok(())
    }

    /// Moves, swaps out, or faults in: nobody may notice, but the page tables.
    fn move_pages(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        let (real, range) = (&self.procs[proc].real, user_pages(first, count));
        let outcome = match u.int_in_range(0..=5)? {
            0 | 1 => real.swap_out(range).err(),
            2 => real.migrate(range, Zone::Movable).err(),
            3 => real.migrate(range, Zone::Normal).err(),
            4 => real.touch(range, false).err(),
            _ => {
                self.memory.compact();
                None
            }
        };
        match outcome {
            None | Some(PinFault::NoMemory(_) | PinFault::Busy(_) | PinFault::NotMapped(_)) => {}
            Some(other) => panic!("{other}"),
        }
        Ok(())
    }

    fn annoy(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let proc = self.some_proc(u)?;
        match u.int_in_range(0..=2)? {
            0 => {
                self.procs[proc].real.interrupt_after(u.int_in_range(0..=3)?);
                self.procs[proc].interrupted = true;
            }
            1 => self.procs[proc].real.set_pin_limit(u.int_in_range(1..=6)?),
            _ => self.payers[0].inner().set_limit(u.int_in_range(0..=64)?),
        }
        Ok(())
    }

    /// Two threads pin what one thread pins. All of it is there before: who comes first does not
    /// matter then.
    fn pin_parallel(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        let (real, range) = (self.procs[proc].real.clone(), user_pages(first, count));
        if self.procs[proc].interrupted || real.touch(range, true).is_err() {
            return Ok(());
        }
        self.plan.succeed();
        let request = PinRequest::new(range, PinFlags::WRITE);
        let umem = Umem::pin(real.clone(), &Unaccounted, request).unwrap();
        let frames = machine::frames(umem.sgl());
        // The pages that were zeros are the process' own now.
        self.cells_of(proc, (range, PinFlags::WRITE), &frames);
        let two = NonZeroUsize::new(2).unwrap();
        let request = request.with_shared_progress(|_| ControlFlow::Continue(()));
        let other = Umem::pin_parallel(real, &Unaccounted, request, two).unwrap();
        assert!(umem.sgl().runs().eq(other.sgl().runs()));
        Ok(())
    }

    /// The model is what is.
    fn check(&self) {
        self.memory.witness().assert_clean();
        let alive = || self.regions.iter().filter(|region| region.is_alive());
        let pages: usize = alive().map(|region| region.cells.len()).sum();
        assert_eq!(self.memory.pinned_pages(), pages as u64);
        for (index, payer) in self.payers.iter().enumerate() {
            let own = alive().filter(|region| region.payer == index);
            let charged: usize = own.map(|region| region.cells.len()).sum();
            assert_eq!(payer.inner().charged(), charged as u64);
        }
        let mut pins = vec![0; self.cells.len()];
        let mut bytes = vec![0; PAGE as usize];
        let mut holds = |frame: u64, cell: usize| {
            self.memory.peek(PhysAddr::new(frame * PAGE), &mut bytes).unwrap();
            bytes == self.cells[cell]
        };
        for region in alive() {
            for (cell, frame) in region.cells.iter().zip(&region.frames) {
                pins[*cell] += 1;
                assert!(holds(*frame, *cell), "what a device sees in {frame:#x}");
            }
            if let Some(umem) = &region.handle {
                assert_eq!(umem.attachments(), region.maps);
                assert!(umem.is_dirty() || !region.dirty);
            }
        }
        for proc in &self.procs {
            for (number, page) in proc.pages.iter().enumerate() {
                let frame = proc.real.frame_at(user(number)).map(pinned_sgl::Pfn::get);
                let Some(page) = page else {
                    assert_eq!(frame, None);
                    continue;
                };
                if let Some(frame) = frame {
                    assert!(holds(frame, page.cell), "page {number}");
                }
                let is_zeros = page.cell == ZEROS && frame != Some(self.zero_frame);
                let expected = if is_zeros { 0 } else { pins[page.cell] };
                assert_eq!(proc.real.pins_at(user(number)), expected, "page {number}");
            }
        }
        for (index, iommu) in self.iommus.iter().enumerate() {
            let lives = || self.lives.iter().filter(|live| live.iommu == index);
            let bytes: u64 = lives().map(|live| live.len).sum();
            assert_eq!(iommu.mapped_bytes(), bytes.into());
            for live in lives() {
                let region = &self.regions[live.region];
                for at in (0..live.len).step_by(STEP as usize) {
                    let iova = Iova::new(live.iova + at);
                    let expected =
                        machine::phys(&region.frames, region.page_offset + live.offset + at);
                    let entry = iommu.lookup(iova).unwrap();
                    let phys = entry.phys.get() + (iova.get() - entry.range.first().get());
                    assert_eq!((phys, entry.prot), (expected, live.prot));
                    let translated = match &live.real {
                        Real::Mapping(mapping) => mapping.translate(iova),
                        Real::Stream(stream) => stream.translate(iova),
                    };
                    assert_eq!(translated, Some(PhysAddr::new(expected)));
                }
            }
        }
    }

    /// Everything goes, and nothing is left.
    fn end(mut self) {
        self.plan.succeed();
        for proc in 0..self.procs.len() {
            for page in 0..PAGES {
                let mut bytes = vec![0; PAGE as usize];
                let there = self.procs[proc].pages[page];
                match self.procs[proc].real.read(user(page), &mut bytes) {
                    Ok(()) => assert!(bytes == self.cells[there.unwrap().cell]),
                    Err(fault) => {
                        assert!(there.is_none() || matches!(fault, PinFault::NoMemory(_)))
                    }
                }
            }
        }
        self.regions.iter_mut().for_each(|region| region.handle = None);
        self.lives.clear();
        self.iommus.clear();
        assert_eq!(self.memory.pinned_pages(), 0);
        assert!(self.payers.iter().all(|payer| payer.inner().charged() == 0));
        self.procs.clear();
        // All but the frame of zeros.
        let free = self.memory.free_frames(Zone::Normal) + self.memory.free_frames(Zone::Movable);
        assert_eq!(free, self.frames - 1);
        self.memory.witness().assert_clean();
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(u)?;
    for _ in 0..MOST_STEPS {
        if u.is_empty() {
            break;
        }
        // A step for which there are not enough bytes is none.
        world.step(u)?;
        world.check();
    }
    world.end();
    Ok(())
}
