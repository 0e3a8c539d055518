// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Address spaces**: whatever is asked of them, they are what a plain list of areas says, and so are
//! the page tables of all their domains, after every step.
//!
//! ```text
//!  Space ── areas: first, last, region and offset, or reserved      a list, searched from the front
//!    └───── domains ──► what each translates: the areas of all spaces that it is attached to
//! ```
//!
//! What the model says can be done is done, unless a failure was planned; what it says cannot be done
//! is refused, and then nothing has changed.

use super::machine::{self, IOVAS, PAGE, STEP};
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{
    Cuts, DirtyBitmap, DirtyDomain as _, Domain, DomainId, Ioas, IoasAccessErrorKind, IoasError,
    IovaRange, MapErrorKind, Placement, Prot, Reservation,
};
use pinned_sgl::store::HeapSlab;
use pinned_sgl::umem::{Account, AttachError, PinFlags, PinRequest, Umem, UserRange};
use pinned_sgl::{Heap, Iova, PageSize, PageSizes, PhysAddr, UserAddr};
use pinned_sgl_mock::{
    Area as UserArea, Device, DmaFault, FailingAccountant, FailingSlab, FailingStorage, Iommu,
    MapFault, Mapped, Memory, Plan, Process,
};
use std::{collections::BTreeMap, sync::Arc};

type Pinned = Umem<Arc<Process>, Arc<FailingAccountant<Account>>, Heap>;
type Real = Ioas<Arc<Pinned>, Arc<Iommu>, FailingStorage<Heap>>;

const PAGES: u64 = 24;
const BASE: u64 = 0x10_0000;
const MOST_STEPS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Mapped { region: usize, offset: u64, prot: Prot },
    Reserved,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    first: u64,
    last: u64,
    kind: Kind,
}

impl Area {
    const fn is_mapped(&self) -> bool {
        matches!(self.kind, Kind::Mapped { .. })
    }

    const fn has(&self, iova: u64) -> bool {
        self.first <= iova && iova <= self.last
    }

    const fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }

    /// The part of it in a range that it overlaps.
    fn within(&self, first: u64, last: u64) -> Self {
        let (from, to) = (self.first.max(first), self.last.min(last));
        let kind = match self.kind {
            Kind::Mapped { region, offset, prot } => {
                Kind::Mapped { region, offset: offset + (from - self.first), prot }
            }
            Kind::Reserved => Kind::Reserved,
        };
        Self { first: from, last: to, kind }
    }
}

/// What an address space should be.
#[derive(Clone)]
struct Space {
    /// In no order.
    areas: Vec<Area>,
    /// The latest first.
    domains: Vec<usize>,
    limit: usize,
    /// What is mapped and cut where there is no domain.
    granule: PageSize,
    /// Whether it is noted what is written.
    notes: bool,
    /// What was written by the CPU, or through a domain that is detached.
    kept: Dirty,
    /// Whether a domain could not say what was written through it: then too much is kept.
    too_much: bool,
}

impl Space {
    fn new(granule: PageSize) -> Self {
        Self {
            areas: vec![],
            domains: vec![],
            limit: usize::MAX,
            granule,
            notes: false,
            kept: Dirty::default(),
            too_much: false,
        }
    }

    fn mappings(&self) -> usize {
        self.areas.iter().filter(|area| area.is_mapped()).count()
    }

    fn at(&self, iova: u64) -> Option<Area> {
        self.areas.iter().copied().find(|area| area.has(iova))
    }

    fn mapped_at(&self, iova: u64) -> Option<Area> {
        self.at(iova).filter(Area::is_mapped)
    }

    fn in_range(&self, range: IovaRange) -> Vec<Area> {
        let (first, last) = (range.first().get(), range.last().get());
        let mut areas = self.areas.clone();
        areas.retain(|area| area.overlaps(first, last));
        areas.sort_by_key(|area| area.first);
        areas
    }

    /// The unused addresses of a range.
    fn gaps(&self, range: IovaRange) -> Vec<(u64, u64)> {
        let mut gaps = vec![];
        let mut next = Some(range.first().get());
        for area in self.in_range(range) {
            if let Some(from) = next.filter(|next| *next < area.first) {
                gaps.push((from, area.first - 1));
            }
            next = area.last.checked_add(1);
        }
        gaps.extend(next.filter(|n| *n <= range.last().get()).map(|n| (n, range.last().get())));
        gaps
    }

    /// The first address of a range where nothing is mapped.
    fn first_hole(&self, range: IovaRange) -> Option<u64> {
        let mut next = range.first().get();
        loop {
            let Some(area) = self.mapped_at(next) else {
                return Some(next);
            };
            if area.last >= range.last().get() {
                return None;
            }
            next = area.last + 1;
        }
    }

    fn cut(&mut self, iova: u64) {
        for index in 0..self.areas.len() {
            let area = self.areas[index];
            if area.is_mapped() && area.first < iova && iova <= area.last {
                self.areas[index] = area.within(area.first, iova - 1);
                self.areas.push(area.within(iova, area.last));
            }
        }
    }
}

struct Region {
    frames: Vec<u64>,
    page_offset: u64,
    len: u64,
    writable: bool,
    handle: Option<Arc<Pinned>>,
    address: *const Pinned,
}

/// What a domain knows of the writes of devices.
#[derive(Clone, Default)]
struct Dirty {
    tracks: bool,
    written: Vec<(u64, u64)>,
}

impl Dirty {
    fn has(&self, first: u64, last: u64) -> bool {
        self.written.iter().any(|(from, to)| *from <= last && first <= *to)
    }

    fn subtract(&mut self, first: u64, last: u64) {
        let mut left = vec![];
        for (from, to) in self.written.drain(..) {
            if to < first || last < from {
                left.push((from, to));
                continue;
            }
            if from < first {
                left.push((from, first - 1));
            }
            if last < to {
                left.push((last + 1, to));
            }
        }
        self.written = left;
    }
}

struct World {
    memory: Memory,
    plan: Plan,
    process: Arc<Process>,
    payer: Arc<FailingAccountant<Account>>,
    /// The bytes of every frame of the process.
    bytes: BTreeMap<u64, Vec<u8>>,
    regions: Vec<Region>,
    reals: Vec<Real>,
    ids: Vec<Vec<DomainId>>,
    reservations: Vec<Vec<Reservation>>,
    spaces: Vec<Space>,
    iommus: Vec<Arc<Iommu>>,
    dirty: Vec<Dirty>,
    first_iova: u64,
}

fn inclusive(first: u64, last: u64) -> IovaRange {
    IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap()
}

fn prot(u: &mut Unstructured<'_>) -> Result<Prot> {
    Ok(match u.arbitrary::<u8>()? % 8 {
        0 => Prot::READ,
        1 => Prot::WRITE,
        2 => Prot::CACHE,
        _ => Prot::READ | Prot::WRITE,
    })
}

type Operation = fn(&mut World, &mut Unstructured<'_>, usize) -> Result<()>;

impl World {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let plan = Plan::new();
        let memory = machine::memory(u, &plan)?;
        let process = Arc::new(Process::new(&memory));
        let pages = PAGES.min(memory.free_frames(pinned_sgl_mock::Zone::Normal));
        let all = UserRange::new(UserAddr::new(BASE), pages * PAGE).unwrap();
        let area = UserArea::read_write().huge(u.int_in_range(0..=3)?);
        process.map(all, area).unwrap();
        process.touch(all, true).unwrap();
        let frame = |page| process.frame_at(UserAddr::new(BASE + page * PAGE)).unwrap().get();
        let bytes = (0..pages).map(|page| (frame(page), vec![0; PAGE as usize])).collect();
        let first_iova = machine::first_iova(u)?;
        let iommus =
            vec![machine::iommu(u, first_iova, &memory)?, machine::iommu(u, first_iova, &memory)?];
        let mut this = Self {
            payer: Arc::new(FailingAccountant::new(Account::new(64), plan.clone())),
            process,
            bytes,
            regions: vec![],
            reals: vec![],
            ids: vec![],
            reservations: vec![],
            spaces: vec![],
            iommus,
            dirty: vec![Dirty::default(); 2],
            first_iova,
            plan,
            memory,
        };
        for _ in 0..u.int_in_range(1..=2)? {
            // One byte, half a page or a page; sometimes what is a matter of course elsewhere.
            let granule = PageSize::from_shift(*u.choose(&[0, 9, 10, 12])?).unwrap();
            this.reals.push(this.new_space(granule));
            this.ids.push(vec![]);
            this.reservations.push(vec![]);
            this.spaces.push(Space::new(granule));
        }
        for _ in 0..2 {
            this.pin(u)?;
        }
        for space in 0..this.spaces.len() {
            this.attach_to(u, space)?;
            if u.arbitrary()? {
                this.track(u, space)?;
            }
        }
        Ok(this)
    }

    fn new_space(&self, granule: PageSize) -> Real {
        let mut space = Real::new_in(
            FailingSlab::new(HeapSlab::new(), &self.plan),
            FailingSlab::new(HeapSlab::new(), &self.plan),
        );
        if granule != PageSize::SIZE_4K {
            space.set_granule(granule);
        }
        space
    }

    /// What can happen, and how often beside the rest.
    const OPERATIONS: &[(u32, Operation)] = &[
        (15, Self::map),
        (2, Self::unmap),
        (2, Self::unmap_cutting),
        (2, Self::split),
        (1, Self::unmap_all),
        (2, Self::attach_to),
        (1, Self::detach),
        (2, Self::reserve),
        (2, Self::unreserve),
        (2, Self::copy),
        (3, Self::cpu),
        (4, |world, u, _| world.device(u)),
        (1, Self::track),
        (2, Self::read_dirty),
        (1, Self::set_limit),
        (2, |world, u, _| world.pin(u)),
        (1, |world, u, _| world.forget_region(u)),
        (3, |world, u, _| machine::plan_failure(u, &world.plan)),
    ];

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let space = u.int_in_range(0..=self.spaces.len() - 1)?;
        machine::weighted(u, Self::OPERATIONS)?(self, u, space)
    }

    fn set_limit(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let limit = u.int_in_range(0..=12)?;
        self.spaces[space].limit = limit;
        self.reals[space].set_entry_limit(limit);
        Ok(())
    }

    fn forget_region(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if let Some(region) = self.some_region(u)? {
            self.regions[region].handle = None;
        }
        Ok(())
    }

    fn some_iova(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        let areas: Vec<&Area> = self.spaces.iter().flat_map(|space| &space.areas).collect();
        if !areas.is_empty() && u.arbitrary()? {
            let area = *u.choose(&areas)?;
            return Ok(match u.int_in_range(0..=4)? {
                0 => area.last,
                1 => area.last.wrapping_add(1),
                2 => area.first,
                _ => area.first.wrapping_add(machine::offset(u, area.last - area.first)?),
            });
        }
        Ok(self.first_iova.wrapping_add(machine::offset(u, IOVAS)?))
    }

    fn some_range(&self, u: &mut Unstructured<'_>) -> Result<IovaRange> {
        let first = self.some_iova(u)?;
        let more = match u.int_in_range(0..=3)? {
            0 => self.some_iova(u)?.wrapping_sub(first).wrapping_sub(1),
            _ => machine::offset(u, 24 * PAGE)?.max(1) - 1,
        };
        Ok(inclusive(first, first.saturating_add(more)))
    }

    fn some_region(&self, u: &mut Unstructured<'_>) -> Result<Option<usize>> {
        let handles: Vec<usize> =
            (0..self.regions.len()).filter(|at| self.regions[*at].handle.is_some()).collect();
        Ok(if handles.is_empty() { None } else { Some(*u.choose(&handles)?) })
    }

    /// Whether the call fails by plan: what `act` gives, and whether a planned failure has happened.
    fn planned<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> (R, bool) {
        let pending = self.plan.is_pending();
        let result = act(self);
        (result, pending && !self.plan.is_pending())
    }

    fn pin(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let pages = self.bytes.len() as u64;
        let part = machine::part(u, pages * PAGE)?;
        let writable = !u.ratio(1, 5)?;
        let Ok(range) = UserRange::new(
            UserAddr::new(BASE + part.start),
            part.end.min(pages * PAGE).saturating_sub(part.start),
        ) else {
            return Ok(());
        };
        let flags = if writable { PinFlags::WRITE } else { PinFlags::empty() };
        let charged = self.payer.inner().charged() + range.page_count(self.memory.page_size());
        let (pinned, fired) = self.planned(|this| {
            let request = PinRequest::new(range, flags | PinFlags::LONGTERM);
            Umem::pin(this.process.clone(), this.payer.clone(), request)
        });
        assert_eq!(pinned.is_ok(), charged <= 64 && !fired);
        if let Ok(umem) = pinned {
            let handle = Arc::new(umem);
            self.regions.push(Region {
                frames: machine::frames(handle.sgl()),
                page_offset: handle.page_offset(),
                len: handle.len(),
                writable,
                address: Arc::as_ptr(&handle),
                handle: Some(handle),
            });
        }
        Ok(())
    }

    /// All that a domain translates.
    fn occupied(&self, domain: usize) -> Vec<Area> {
        let mut areas = vec![];
        for space in &self.spaces {
            if space.domains.contains(&domain) {
                areas.extend(space.areas.iter().copied().filter(Area::is_mapped));
            }
        }
        areas
    }

    /// Whether an area can be mapped in a domain.
    fn can_install(&self, domain: usize, area: Area) -> bool {
        if !area.is_mapped() {
            return true;
        }
        let iommu = &self.iommus[domain];
        iommu.aperture().covers(&inclusive(area.first, area.last))
            && self.fits(iommu.page_sizes(), area)
            && self.occupied(domain).iter().all(|there| !there.overlaps(area.first, area.last))
    }

    /// Whether memory can be mapped there in pages of `sizes`.
    fn fits(&self, sizes: PageSizes, area: Area) -> bool {
        let Kind::Mapped { region, offset, .. } = area.kind else { panic!("{area:?}") };
        let region = &self.regions[region];
        let (from, len) = (region.page_offset + offset, area.last - area.first + 1);
        machine::fits(sizes, area.first, &region.frames, from, len)
    }

    /// Whether an area can be mapped in every domain of a space.
    fn can_place(&self, space: usize, area: Area) -> bool {
        let it = &self.spaces[space];
        it.areas.iter().all(|there| !there.overlaps(area.first, area.last))
            && it.domains.iter().all(|domain| self.can_install(*domain, area))
            && (!it.domains.is_empty() || self.fits(it.granule.into(), area))
    }

    /// What every address that can be mapped is a multiple of, and the addresses of all domains.
    fn common(&self, space: usize) -> (u64, Option<IovaRange>) {
        let domains = self.spaces[space].domains.iter().map(|domain| &self.iommus[*domain]);
        let smallest = domains.clone().filter_map(|domain| domain.page_sizes().smallest());
        let mut apertures = domains.map(|domain| domain.aperture());
        let aperture =
            apertures.try_fold(IovaRange::ALL, |all, aperture| all.intersection(&aperture));
        let smallest = smallest.max().unwrap_or(self.spaces[space].granule);
        (smallest.bytes(), aperture)
    }

    /// Whether there is room.
    fn has_room(&self, space: usize, len: u64, allowed: &[IovaRange]) -> bool {
        let (smallest, aperture) = self.common(space);
        let Some(aperture) = aperture else {
            return false;
        };
        let within = allowed.iter().filter_map(|allowed| allowed.intersection(&aperture));
        let mut gaps = within.flat_map(|within| self.spaces[space].gaps(within));
        gaps.any(|(first, last)| {
            let first = first.max(1).checked_next_multiple_of(smallest);
            let end = first.and_then(|first| first.checked_add(len - 1));
            end.is_some_and(|end| end <= last)
        })
    }

    /// Whether all domains can map the memory somewhere.
    fn can_map(&self, space: usize, kind: Kind, len: u64) -> bool {
        let somewhere = Area { first: 0, last: len - 1, kind };
        let it = &self.spaces[space];
        let mut sizes = it.domains.iter().map(|domain| self.iommus[*domain].page_sizes());
        sizes.all(|sizes| self.fits(sizes, somewhere))
            && (!it.domains.is_empty() || self.fits(it.granule.into(), somewhere))
    }

    /// Whether a place is one that may be given.
    fn check_place(&self, space: usize, place: IovaRange, allowed: &[IovaRange]) {
        let aperture = self.common(space).1.unwrap();
        assert!(place.first().get() != 0 && aperture.covers(&place));
        assert!(allowed.iter().any(|allowed| allowed.covers(&place)));
        assert!(self.spaces[space].in_range(place).is_empty());
    }

    fn some_allowed(&self, u: &mut Unstructured<'_>) -> Result<Vec<IovaRange>> {
        let mut allowed = vec![];
        for _ in 0..u.int_in_range(0..=2)? {
            allowed.push(self.some_range(u)?);
        }
        Ok(allowed)
    }

    fn map(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let Some(region) = self.some_region(u)? else {
            return Ok(());
        };
        let (bytes, prot) = (machine::part(u, self.regions[region].len)?, prot(u)?);
        let len = bytes.end.saturating_sub(bytes.start);
        let inside = len != 0 && bytes.end <= self.regions[region].len;
        let may = prot.intersects(Prot::READ | Prot::WRITE);
        let writable = self.regions[region].writable || !prot.contains(Prot::WRITE);
        let limited = self.spaces[space].mappings() >= self.spaces[space].limit;
        let legal = inside && may && writable && !limited;
        let handle = self.regions[region].handle.clone().unwrap();
        let area = |first: u64| {
            let last = first.checked_add(len.checked_sub(1)?)?;
            Some(Area { first, last, kind: Kind::Mapped { region, offset: bytes.start, prot } })
        };
        let (at, allowed) = match u.int_in_range(0..=5)? {
            0 => (None, vec![IovaRange::ALL]),
            1 => (None, self.some_allowed(u)?),
            2 if inside => {
                // Where large pages fit.
                let first = self.regions[region].page_offset + bytes.start;
                let phys = machine::phys(&self.regions[region].frames, first);
                (Some(self.some_iova(u)? & !0x1fff | phys & 0x1fff), vec![])
            }
            3 | 4 => (Some(self.some_iova(u)? & !(PAGE - 1)), vec![]),
            _ => (Some(self.some_iova(u)?), vec![]),
        };
        let (result, fired) = self.planned(|this| {
            let placement = match at {
                Some(at) => Placement::At(Iova::new(at)),
                None if allowed == [IovaRange::ALL] => Placement::Anywhere,
                None => Placement::Within(&allowed),
            };
            this.reals[space].map_range(placement, handle, bytes.clone(), prot)
        });
        match result {
            Ok(place) => {
                assert!(legal && !fired);
                match at {
                    Some(at) => assert_eq!(place.first().get(), at),
                    None => self.check_place(space, place, &allowed),
                }
                let area = area(place.first().get()).unwrap();
                assert_eq!(area.last, place.last().get());
                assert!(self.can_place(space, area));
                self.spaces[space].areas.push(area);
            }
            Err(error) => {
                if let Some(at) = at {
                    let can = inside && area(at).is_some_and(|area| self.can_place(space, area));
                    assert!(!(legal && can) || fired, "{error}");
                }
                let there = at
                    .and_then(area)
                    .map(|area| self.spaces[space].in_range(inclusive(area.first, area.last)));
                let there = there.and_then(|there| there.first().copied());
                let overlaps = there.is_some();
                match error.kind() {
                    IoasError::Map(MapErrorKind::NoAccess) => assert!(!may),
                    IoasError::EntryLimit { .. } => assert!(limited),
                    IoasError::Map(MapErrorKind::Attach(AttachError::ReadOnly)) => {
                        assert!(!writable);
                    }
                    IoasError::Map(MapErrorKind::Window(_)) => assert!(!inside),
                    IoasError::NoRoom { .. } => {
                        assert!(at.is_none() && !self.has_room(space, len, &allowed));
                    }
                    IoasError::Overlap { existing: range } | IoasError::Reserved { range } => {
                        let there = there.unwrap();
                        let reserved = matches!(error.kind(), IoasError::Reserved { .. });
                        assert_eq!(there.is_mapped(), !reserved);
                        let whole = inclusive(there.first, there.last);
                        assert!(if reserved { whole.covers(range) } else { whole == *range });
                    }
                    IoasError::OutOfMemory => assert!(fired),
                    IoasError::Map(MapErrorKind::Domain(MapFault::Injected)) => assert!(fired),
                    IoasError::Map(MapErrorKind::Tiles(_)) => {
                        let kind = Kind::Mapped { region, offset: bytes.start, prot };
                        assert!(!overlaps && (at.is_some() || !self.can_map(space, kind, len)));
                    }
                    IoasError::Map(MapErrorKind::Aperture { .. }) => {
                        assert!(!overlaps && at.is_some());
                    }
                    // Where a place was found, another space may have mapped something.
                    IoasError::Map(MapErrorKind::Domain(MapFault::Exists { .. })) => {
                        assert!(!overlaps);
                    }
                    other => panic!("{other}"),
                }
            }
        }
        Ok(())
    }

    /// What was written where nothing is mapped any more is nobody's.
    fn forget_unmapped(&mut self) {
        for domain in 0..self.dirty.len() {
            let occupied = self.occupied(domain);
            let written = std::mem::take(&mut self.dirty[domain].written);
            for (first, last) in written {
                for area in occupied.iter().filter(|area| area.overlaps(first, last)) {
                    let here = area.within(first, last);
                    self.dirty[domain].written.push((here.first, here.last));
                }
            }
        }
    }

    fn removed(&mut self, space: usize, range: IovaRange) -> u64 {
        self.spaces[space].kept.subtract(range.first().get(), range.last().get());
        let gone: Vec<Area> =
            self.spaces[space].in_range(range).into_iter().filter(Area::is_mapped).collect();
        self.spaces[space].areas.retain(|area| !gone.contains(area));
        self.forget_unmapped();
        gone.iter().map(|area| area.last - area.first + 1).sum()
    }

    fn unmap(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let mut there = self.spaces[space].in_range(range);
        there.retain(Area::is_mapped);
        let cut = |area: &Area| area.first < range.first().get() || area.last > range.last().get();
        match self.reals[space].unmap(range) {
            Ok(bytes) => {
                assert!(!there.is_empty() && !there.iter().any(cut));
                assert_eq!(bytes, self.removed(space, range));
            }
            Err(IoasError::NotMapped { .. }) => assert!(there.is_empty()),
            Err(IoasError::CutsMapping { edge, mapping }) => {
                let area = self.spaces[space].mapped_at(edge.get()).unwrap();
                assert_eq!((area.first, area.last), (mapping.first().get(), mapping.last().get()));
                assert!(cut(&area));
            }
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    /// Whether a mapping may be cut before an address: in all domains, which may split an entry.
    fn may_cut(&self, space: usize, iova: u64, may_split: bool) -> bool {
        let inside = self.spaces[space].mapped_at(iova).filter(|area| area.first != iova);
        let mut domains = self.spaces[space].domains.iter();
        let may_cut = |domain: &usize| machine::may_cut(&self.iommus[*domain], iova, may_split);
        let granule = self.spaces[space].granule;
        inside.is_none()
            || domains.len() == 0 && Iova::new(iova).is_aligned(granule)
            || domains.len() > 0 && domains.all(may_cut)
    }

    fn is_cut(&self, space: usize, iova: u64) -> bool {
        self.spaces[space].mapped_at(iova).is_none_or(|area| area.first == iova)
    }

    /// Whether a domain of the space may have split entries, which the list does not know.
    fn has_split(&self, space: usize) -> bool {
        let mut domains = self.spaces[space].domains.iter();
        domains.any(|domain| self.iommus[*domain].cuts() == Cuts::Anywhere)
    }

    fn check_entry(&self, space: usize, edge: Iova, entry: IovaRange, may_split: bool) {
        assert!(!self.may_cut(space, edge.get(), may_split) || !may_split && self.has_split(space));
        assert!(entry.first() < edge && edge <= entry.last());
        let area = self.spaces[space].mapped_at(edge.get()).unwrap();
        assert!(area.first <= entry.first().get() && entry.last().get() <= area.last);
        for end in [Some(entry.first()), entry.last().checked_add(1)].into_iter().flatten() {
            assert!(self.may_cut(space, end.get(), may_split), "{entry} at {edge}");
        }
    }

    fn check_indivisible(&self, space: usize, edge: Iova, mapping: IovaRange) {
        let mut domains = self.spaces[space].domains.iter();
        assert!(domains.any(|domain| self.iommus[*domain].cuts() == Cuts::Never));
        let area = self.spaces[space].mapped_at(edge.get()).unwrap();
        assert_eq!((area.first, area.last), (mapping.first().get(), mapping.last().get()));
        assert!(mapping.first() < edge);
    }

    fn split(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let iova = self.some_iova(u)?;
        let is_mapped = self.spaces[space].mapped_at(iova).is_some();
        let limited = self.spaces[space].mappings() >= self.spaces[space].limit;
        let is_cut = self.is_cut(space, iova);
        let legal = is_mapped && (is_cut || self.may_cut(space, iova, false) && !limited);
        let (result, fired) = self.planned(|this| this.reals[space].split(Iova::new(iova)));
        match result {
            Ok(()) => {
                assert!(legal && !fired);
                self.spaces[space].cut(iova);
            }
            Err(IoasError::NotMapped { .. }) => assert!(!is_mapped),
            Err(IoasError::CutsEntry { edge, entry }) => {
                self.check_entry(space, edge, entry, false);
            }
            Err(IoasError::CutsMapping { edge, mapping }) => {
                self.check_indivisible(space, edge, mapping);
            }
            Err(IoasError::EntryLimit { .. }) => assert!(limited && !is_cut),
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    fn unmap_cutting(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let edges: Vec<u64> = [Some(range.first()), range.last().checked_add(1)]
            .into_iter()
            .flatten()
            .map(Iova::get)
            .collect();
        let legal = edges.iter().all(|edge| self.may_cut(space, *edge, true));
        // Only where one becomes two there is one more afterwards.
        let inside = self.spaces[space]
            .mapped_at(range.first().get())
            .is_some_and(|area| area.first < range.first().get() && range.last().get() < area.last);
        let limited = inside && self.spaces[space].mappings() >= self.spaces[space].limit;
        let is_mapped = self.spaces[space].in_range(range).iter().any(Area::is_mapped);
        let (result, fired) = self.planned(|this| this.reals[space].unmap_cutting(range));
        match result {
            Ok(bytes) => {
                assert!(legal && is_mapped && !fired && !limited);
                for edge in edges {
                    self.spaces[space].cut(edge);
                }
                assert_eq!(bytes, self.removed(space, range));
            }
            Err(IoasError::NotMapped { .. }) => assert!(legal && !is_mapped),
            Err(IoasError::CutsEntry { edge, entry }) => self.check_entry(space, edge, entry, true),
            Err(IoasError::CutsMapping { edge, mapping }) => {
                self.check_indivisible(space, edge, mapping);
            }
            Err(IoasError::EntryLimit { .. }) => assert!(limited),
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    fn unmap_all(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let all = self.removed(space, IovaRange::ALL);
        if u.arbitrary()? {
            assert_eq!(self.reals[space].unmap_all(), all);
        } else {
            let granule = self.spaces[space].granule;
            self.reals[space] = self.new_space(granule);
            self.ids[space].clear();
            self.reservations[space].clear();
            self.spaces[space] = Space::new(granule);
        }
        Ok(())
    }

    fn attach_to(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let domain = u.int_in_range(0..=1)?;
        let areas = self.spaces[space].areas.clone();
        let iommu = self.iommus[domain].clone();
        let (aperture, others) = (iommu.aperture(), self.common(space).1.unwrap());
        let refusal = if let Some(index) =
            self.spaces[space].domains.iter().position(|there| *there == domain)
        {
            Some(IoasError::Attached { id: self.ids[space][index] })
        } else if iommu.page_sizes().is_empty() {
            Some(IoasError::NoPageSizes)
        } else if aperture.intersection(&others).is_none() {
            Some(IoasError::NoCommonAperture { aperture, others })
        } else {
            None
        };
        let can = refusal.is_none() && areas.iter().all(|area| self.can_install(domain, *area));
        let (result, fired) = self.planned(|this| this.reals[space].attach(iommu));
        match result {
            Ok(id) => {
                assert!(can && !fired);
                self.ids[space].insert(0, id);
                self.spaces[space].domains.insert(0, domain);
                self.dirty[domain].tracks |= self.spaces[space].notes;
            }
            Err(error) => {
                assert!(!can || fired, "{error}");
                assert!(!matches!(error.kind(), IoasError::Breach(_)));
                if let Some(refusal) = refusal {
                    assert_eq!(*error.kind(), refusal);
                } else if matches!(error.kind(), IoasError::Domain(_)) {
                    assert!(self.spaces[space].notes);
                } else {
                    // It was told before anything was mapped.
                    self.dirty[domain].tracks |= self.spaces[space].notes;
                }
            }
        }
        Ok(())
    }

    fn detach(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let Some(last) = self.ids[space].len().checked_sub(1) else {
            return Ok(());
        };
        let index = u.int_in_range(0..=last)?;
        let id = self.ids[space].remove(index);
        let domain = self.spaces[space].domains.remove(index);
        let (back, fired) = self.planned(|this| this.reals[space].detach(id).unwrap());
        assert!(Arc::ptr_eq(&back, &self.iommus[domain]));
        let it = &mut self.spaces[space];
        if it.notes {
            for (first, last) in &self.dirty[domain].written {
                let areas = it.areas.iter().filter(|area| area.is_mapped());
                for area in areas.filter(|area| area.overlaps(*first, *last)) {
                    let part = area.within(*first, *last);
                    it.kept.written.push((part.first, part.last));
                }
            }
            it.too_much |= fired;
        }
        self.forget_unmapped();
        Ok(())
    }

    fn reserve(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let range = self.some_range(u)?;
        let mut taken = self.spaces[space].in_range(range);
        taken.retain(Area::is_mapped);
        let (result, fired) = self.planned(|this| this.reals[space].reserve(range));
        match result {
            Ok(reservation) => {
                assert!(taken.is_empty() && !fired);
                assert_eq!(reservation.range(), range);
                self.reservations[space].push(reservation);
                self.lay_reservations(space);
            }
            Err(IoasError::Overlap { existing }) => {
                assert_eq!(inclusive(taken[0].first, taken[0].last), existing);
            }
            Err(IoasError::OutOfMemory) => assert!(fired),
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }

    /// What is reserved is what the reservations have, and nothing else.
    fn lay_reservations(&mut self, space: usize) {
        let mut ranges: Vec<_> = self.reservations[space]
            .iter()
            .map(|it| (it.range().first().get(), it.range().last().get()))
            .collect();
        ranges.sort_unstable();
        let areas = &mut self.spaces[space].areas;
        areas.retain(Area::is_mapped);
        let mut last: Option<Area> = None;
        for (from, to) in ranges {
            match &mut last {
                Some(area) if from <= area.last.saturating_add(1) => area.last = area.last.max(to),
                other => {
                    areas.extend(*other);
                    *other = Some(Area { first: from, last: to, kind: Kind::Reserved });
                }
            }
        }
        areas.extend(last);
    }

    fn unreserve(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let owner = u.int_in_range(0..=self.spaces.len() - 1)?;
        let Some(last) = self.reservations[owner].len().checked_sub(1) else {
            return Ok(());
        };
        let index = u.int_in_range(0..=last)?;
        let range = self.reservations[owner][index].range();
        if owner != space && self.reservations[space].iter().any(|it| it.range() == range) {
            return Ok(());
        }
        let reservation = self.reservations[owner].swap_remove(index);
        match self.reals[space].unreserve(reservation) {
            Ok(()) => assert_eq!(owner, space),
            Err(reservation) => {
                assert!(owner != space);
                self.reservations[owner].push(reservation);
            }
        }
        self.lay_reservations(space);
        Ok(())
    }

    fn copy(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        if self.spaces.len() < 2 {
            return Ok(());
        }
        let (from, prot) = (self.some_range(u)?, prot(u)?);
        let hole = self.spaces[1 - space].first_hole(from);
        let Some(len) = from.len() else {
            return Ok(());
        };
        let (at, allowed) = match u.int_in_range(0..=2)? {
            0 => (None, vec![IovaRange::ALL]),
            1 => (None, self.some_allowed(u)?),
            _ => (Some(self.some_iova(u)?), vec![]),
        };
        let (result, fired) = self.planned(|this| {
            let placement = match at {
                Some(at) => Placement::At(Iova::new(at)),
                None if allowed == [IovaRange::ALL] => Placement::Anywhere,
                None => Placement::Within(&allowed),
            };
            let (first, second) = this.reals.split_at_mut(1);
            let (to, source) =
                if space == 0 { (&mut first[0], &second[0]) } else { (&mut second[0], &first[0]) };
            to.copy_from(source, from, placement, prot)
        });
        let before = self.spaces[space].clone();
        // Each of them in turn, as far as it goes; all of them are taken back if one cannot.
        let can = |this: &mut Self, first: u64| {
            let (source, mut can) = (this.spaces[1 - space].in_range(from), true);
            for area in source {
                let part = area.within(from.first().get(), from.last().get());
                let Kind::Mapped { region, offset, .. } = part.kind else { panic!("{part:?}") };
                let at = |iova: u64| first.checked_add(iova - from.first().get());
                let (Some(first), Some(last)) = (at(part.first), at(part.last)) else {
                    return false;
                };
                let copied = Area { first, last, kind: Kind::Mapped { region, offset, prot } };
                let it = &this.spaces[space];
                can &= it.mappings() < it.limit
                    && prot.intersects(Prot::READ | Prot::WRITE)
                    && (this.regions[region].writable || !prot.contains(Prot::WRITE))
                    && this.can_place(space, copied);
                this.spaces[space].areas.push(copied);
            }
            can
        };
        match result {
            Ok(place) => {
                assert!(hole.is_none() && !fired);
                assert_eq!(place.len(), Some(len));
                match at {
                    Some(at) => assert_eq!(place.first().get(), at),
                    None => self.check_place(space, place, &allowed),
                }
                assert!(can(self, place.first().get()));
            }
            Err(IoasError::NotMapped { iova }) => assert_eq!(hole, Some(iova.get())),
            Err(IoasError::NoRoom { .. }) => {
                assert!(at.is_none() && !self.has_room(space, len, &allowed));
            }
            Err(other) => {
                assert!(hole.is_none());
                assert!(!matches!(other, IoasError::Breach(_)));
                if let Some(at) = at {
                    assert!(!can(self, at) || fired, "{other}");
                } else if matches!(other, IoasError::Map(MapErrorKind::Tiles(_))) {
                    let areas = self.spaces[1 - space].in_range(from);
                    assert!(areas.iter().any(|area| {
                        let part = area.within(from.first().get(), from.last().get());
                        !self.can_map(space, part.kind, part.last - part.first + 1)
                    }));
                }
                self.spaces[space] = before;
            }
        }
        Ok(())
    }

    /// The byte of memory that lies at an address of an area.
    fn byte(&self, area: Area, iova: u64) -> (u64, usize) {
        let Kind::Mapped { region, offset, .. } = area.kind else { panic!("{area:?}") };
        let region = &self.regions[region];
        let at = region.page_offset + offset + (iova - area.first);
        (region.frames[(at / PAGE) as usize], (at % PAGE) as usize)
    }

    fn allows(area: Area, needs: Prot) -> bool {
        matches!(area.kind, Kind::Mapped { prot, .. } if prot.contains(needs))
    }

    /// Bytes were read or written there: compares them, or keeps them.
    fn transfer(&mut self, places: &[(u64, usize)], bytes: &[u8], write: bool) {
        for ((frame, at), byte) in places.iter().zip(bytes) {
            let known = &mut self.bytes.get_mut(frame).unwrap()[*at];
            if write {
                *known = *byte;
            }
            assert_eq!(known, byte);
        }
    }

    fn cpu(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let (first, write, mut bytes) =
            (self.some_iova(u)?, u.arbitrary::<bool>()?, machine::data(u)?);
        let iova = Iova::new(first);
        let done = if write {
            self.reals[space].write(iova, &bytes)
        } else {
            self.reals[space].read(iova, &mut bytes)
        };
        let needs = if write { Prot::WRITE } else { Prot::READ };
        // Byte for byte, up to the first that is not there.
        let mut places = vec![];
        let expected = (0..bytes.len() as u64).try_for_each(|distance| {
            let failed = |at, kind| Err((Iova::new(at), kind));
            let Some(at) = first.checked_add(distance) else {
                return failed(u64::MAX, IoasAccessErrorKind::Wraps);
            };
            match self.spaces[space].mapped_at(at) {
                None => failed(at, IoasAccessErrorKind::NotMapped),
                Some(area) if !Self::allows(area, needs) => {
                    failed(at, IoasAccessErrorKind::NotPermitted)
                }
                Some(area) => {
                    places.push(self.byte(area, at));
                    Ok(())
                }
            }
        });
        assert_eq!(done.map_err(|error| (error.iova, error.kind)), expected);
        if expected.is_ok() {
            if write && self.spaces[space].notes {
                let last = first + (bytes.len() as u64 - 1);
                self.spaces[space].kept.written.push((first, last));
            }
            self.transfer(&places, &bytes, write);
        }
        Ok(())
    }

    fn device(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (mut domain, mut first) = (u.int_in_range(0..=1)?, self.some_iova(u)?);
        if self.occupied(domain).is_empty() {
            domain = 1 - domain;
        }
        let areas = self.occupied(domain);
        if !areas.is_empty() && !u.ratio(1, 4)? {
            let area = u.choose(&areas)?;
            first = area.first + machine::offset(u, area.last - area.first)?;
        }
        let (write, mut bytes) = (u.arbitrary::<bool>()?, machine::data(u)?);
        let Some(last) = first.checked_add(bytes.len() as u64 - 1) else {
            return Ok(());
        };
        let needs = if write { Prot::WRITE } else { Prot::READ };
        let occupied = self.occupied(domain);
        let (mut places, mut fault) = (vec![], None);
        for at in first..=last {
            let area = occupied.iter().find(|area| area.has(at));
            let iova = Iova::new(at);
            match area {
                Some(area) if Self::allows(*area, needs) => places.push(self.byte(*area, at)),
                Some(_) => fault = Some(DmaFault::NotPermitted { iova, write }),
                None => fault = Some(DmaFault::NotMapped { iova }),
            }
            if fault.is_some() {
                break;
            }
        }
        let iommu = &self.iommus[domain];
        if write && self.dirty[domain].tracks && !places.is_empty() {
            let reached = inclusive(first, first + (places.len() as u64 - 1));
            for entry in iommu.mapped(reached) {
                let (from, to) = (entry.range.first().get(), entry.range.last().get());
                self.dirty[domain].subtract(from, to);
                self.dirty[domain].written.push((from, to));
            }
        }
        let device = Device::new(iommu.clone(), self.memory.clone());
        let done = if write {
            device.write(Iova::new(first), &bytes)
        } else {
            device.read(Iova::new(first), &mut bytes)
        };
        assert_eq!(done.err(), fault);
        self.transfer(&places, &bytes, write);
        Ok(())
    }

    fn track(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let on = !u.ratio(1, 4)?;
        let (result, fired) = self.planned(|this| this.reals[space].set_dirty_tracking(on));
        assert_eq!(result.is_err(), fired);
        if on && !self.spaces[space].notes {
            // A new session begins clean. One that could not may have forgotten what was noted before.
            let mapped: Vec<Area> =
                self.spaces[space].areas.iter().copied().filter(Area::is_mapped).collect();
            for domain in self.spaces[space].domains.clone() {
                for area in &mapped {
                    for entry in self.iommus[domain].mapped(inclusive(area.first, area.last)) {
                        assert!(fired || !entry.dirty);
                        if !entry.dirty {
                            let (first, last) =
                                (entry.range.first().get(), entry.range.last().get());
                            self.dirty[domain].subtract(first, last);
                        }
                    }
                }
            }
            if !fired {
                self.spaces[space].kept = Dirty::default();
                self.spaces[space].too_much = false;
            }
        }
        for domain in self.spaces[space].domains.clone() {
            if !fired {
                self.dirty[domain].tracks = on;
            } else if self.spaces.iter().filter(|it| it.domains.contains(&domain)).count() > 1 {
                // Another space knows nothing of what this one has tried.
                self.iommus[domain].set_dirty_tracking(self.dirty[domain].tracks).unwrap();
            } else {
                // The first start of a space, if it fails, stops what others have started.
                self.check_notes(domain, self.spaces[space].notes || !on);
            }
        }
        if !fired {
            self.spaces[space].notes = on;
        }
        Ok(())
    }

    /// A domain that was noting what devices write still does. One that was not may have begun to.
    fn check_notes(&mut self, domain: usize, must: bool) {
        let iommu = self.iommus[domain].clone();
        let written = |entry: &Mapped| !entry.dirty && entry.prot.contains(Prot::WRITE);
        let entry = iommu.mapped(IovaRange::ALL).into_iter().find(written);
        if let Some(entry) = entry.filter(|_| must && self.dirty[domain].tracks) {
            let first = entry.range.first();
            let mut byte = [0];
            self.memory.peek(entry.phys, &mut byte).unwrap();
            Device::new(iommu.clone(), self.memory.clone()).write(first, &byte).unwrap();
            assert!(iommu.lookup(first).unwrap().dirty);
            self.dirty[domain].written.push((first.get(), entry.range.last().get()));
        }
        iommu.set_dirty_tracking(self.dirty[domain].tracks).unwrap();
    }

    fn read_dirty(&mut self, u: &mut Unstructured<'_>, space: usize) -> Result<()> {
        let (mut range, clear) = (self.some_range(u)?, u.arbitrary::<bool>()?);
        let known = self.dirty.iter().chain(self.spaces.iter().map(|space| &space.kept));
        let written: Vec<_> = known.flat_map(|dirty| dirty.written.clone()).collect();
        if !written.is_empty() && u.arbitrary()? {
            // A part of what was written.
            let (first, last) = *u.choose(&written)?;
            let from = first + machine::offset(u, last - first)?;
            range = inclusive(from, from + machine::offset(u, last - from)?);
        }
        let size = PageSize::from_shift(u.int_in_range(8..=13)?).unwrap();
        let mut words = vec![0; DirtyBitmap::words_for(range, size).min(1 << 6) as usize];
        let Ok(mut bitmap) = DirtyBitmap::new(&mut words, range, size) else {
            return Ok(());
        };
        let mut areas = self.spaces[space].in_range(range);
        areas.retain(Area::is_mapped);
        let parts: Vec<Area> =
            areas.iter().map(|area| area.within(range.first().get(), range.last().get())).collect();
        let domains = self.spaces[space].domains.clone();
        let (result, fired) = self.planned(|this| this.reals[space].read_dirty(&mut bitmap, clear));
        match result {
            Err(IoasError::Domain(MapFault::Injected)) => assert!(fired),
            Err(other) => panic!("{other}"),
            Ok(()) => assert!(!fired),
        }
        let written = |this: &Self, first: u64, last: u64| {
            domains.iter().any(|domain| this.dirty[*domain].has(first, last))
        };
        // Each page of the bitmap: set if a byte of it, which is mapped here, was written.
        let mut page = range.first().get() & !size.mask();
        loop {
            let (first, last) = (page, page | size.mask());
            let here = parts.iter().filter(|part| part.overlaps(first, last));
            let here = here.map(|part| part.within(first, last));
            let noted = here.clone().any(|here| written(self, here.first, here.last));
            // What is kept is told whatever the domains do.
            let it = &self.spaces[space];
            let kept = here.clone().any(|here| it.kept.has(here.first, here.last));
            let is_set = bitmap.is_set(Iova::new(page.max(range.first().get())));
            assert!(is_set || !kept && (!noted || fired), "{page:#x} is lost");
            assert!(!is_set || kept || noted || it.too_much, "{page:#x} was not written");
            if last >= range.last().get() {
                break;
            }
            page = last + 1;
        }
        if clear {
            self.spaces[space].kept.subtract(range.first().get(), range.last().get());
        }
        // An entry that was told, and lies whole in what was asked for, is clean now; but near the ends,
        // what a page of the largest size would hold may still be dirty. An entry that does not lie
        // whole in it is as it was.
        for domain in domains.iter().filter(|_| clear) {
            let largest = self.iommus[*domain].page_sizes().largest().map_or(0, PageSize::mask);
            for part in &parts {
                for entry in self.iommus[*domain].mapped(inclusive(part.first, part.last)) {
                    let (first, last) = (entry.range.first().get(), entry.range.last().get());
                    let whole = part.first <= first && last <= part.last;
                    let inside = part.first <= first & !largest && last | largest <= part.last;
                    // After a failure it may be clean, if it was told.
                    let told = bitmap.is_set(entry.range.first());
                    if whole && (!fired && inside || (!fired || told) && !entry.dirty) {
                        self.dirty[*domain].subtract(first, last);
                    }
                }
            }
        }
        Ok(())
    }

    /// The model is what is.
    fn check(&self) {
        self.memory.witness().assert_clean();
        let uses = |index: usize, area: &Area| matches!(area.kind, Kind::Mapped { region, .. } if region == index);
        let mut pages = 0;
        for (index, region) in self.regions.iter().enumerate() {
            let areas = self.spaces.iter().flat_map(|space| &space.areas);
            let maps = areas.filter(|area| uses(index, area)).count();
            if let Some(umem) = &region.handle {
                assert_eq!(umem.attachments(), maps);
            }
            if region.handle.is_some() || maps != 0 {
                pages += region.frames.len() as u64;
            }
        }
        assert_eq!(self.memory.pinned_pages(), pages);
        assert_eq!(self.payer.inner().charged(), pages);
        for (index, (real, space)) in self.reals.iter().zip(&self.spaces).enumerate() {
            self.check_space(real, space);
            let (smallest, aperture) = self.common(index);
            let free = real.free_ranges().map(|range| (range.first().get(), range.last().get()));
            assert!(free.eq(aperture.map_or(vec![], |within| space.gaps(within))));
            assert_eq!(real.alignment().bytes(), smallest);
        }
        for domain in 0..self.iommus.len() {
            self.check_domain(domain);
        }
    }

    fn check_space(&self, real: &Real, space: &Space) {
        assert_eq!((real.len(), real.is_empty()), (space.mappings(), space.mappings() == 0));
        let mut found: Vec<Area> = real
            .mappings(IovaRange::ALL)
            .map(|mapping| {
                let address = Arc::as_ptr(mapping.region());
                // The latest one: an older one at the same address has ended.
                let region = self.regions.iter().rposition(|it| it.address == address).unwrap();
                let (offset, prot) = (mapping.offset(), mapping.prot());
                let (first, last) = (mapping.range().first().get(), mapping.range().last().get());
                Area { first, last, kind: Kind::Mapped { region, offset, prot } }
            })
            .collect();
        found.extend(real.reserved().map(|reserved| Area {
            first: reserved.first().get(),
            last: reserved.last().get(),
            kind: Kind::Reserved,
        }));
        found.sort_by_key(|area| area.first);
        assert_eq!(found, space.in_range(IovaRange::ALL));
        for area in found {
            let middle = area.first + (area.last - area.first) / 2 / STEP * STEP;
            let around = [area.first.wrapping_sub(1), area.last.wrapping_add(1)];
            for iova in [area.first, middle, area.last].into_iter().chain(around) {
                let expected = space.mapped_at(iova).map(|area| {
                    let (frame, at) = self.byte(area, iova);
                    PhysAddr::new(frame * PAGE + at as u64)
                });
                assert_eq!(real.translate(Iova::new(iova)), expected, "{iova:#x}");
            }
        }
    }

    fn check_domain(&self, domain: usize) {
        let (iommu, occupied) = (&self.iommus[domain], self.occupied(domain));
        let bytes: u64 = occupied.iter().map(|area| area.last - area.first + 1).sum();
        assert_eq!(iommu.mapped_bytes(), bytes.into());
        for entry in iommu.mapped(IovaRange::ALL) {
            let (first, last) = (entry.range.first().get(), entry.range.last().get());
            for iova in [first, first + (last - first) / 2, last] {
                let area = *occupied.iter().find(|area| area.has(iova)).unwrap();
                let (frame, at) = self.byte(area, iova);
                assert_eq!(frame * PAGE + at as u64, entry.phys.get() + (iova - first));
                assert!(Self::allows(area, entry.prot));
            }
            let known = &self.dirty[domain].written;
            let dirty = known.iter().any(|(from, to)| *from <= last && first <= *to);
            assert_eq!(entry.dirty, dirty, "{first:#x}");
        }
    }

    /// Everything goes, and nothing is left.
    fn end(mut self) {
        self.plan.succeed();
        for (frame, bytes) in &self.bytes {
            let mut there = vec![0; PAGE as usize];
            self.memory.peek(PhysAddr::new(frame * PAGE), &mut there).unwrap();
            assert!(there == *bytes);
        }
        self.reals.clear();
        self.regions.clear();
        assert!(self.iommus.iter().all(|iommu| iommu.mapped_bytes() == 0));
        self.iommus.clear();
        assert_eq!(self.memory.pinned_pages(), 0);
        assert_eq!(self.payer.inner().charged(), 0);
        self.memory.witness().assert_clean();
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(u)?;
    for _ in 0..MOST_STEPS {
        if u.is_empty() {
            break;
        }
        world.step(u)?;
        world.check();
    }
    world.end();
    Ok(())
}
