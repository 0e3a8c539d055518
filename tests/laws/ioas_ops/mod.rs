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

mod access;
mod check;
mod dirty;
mod domains;
mod map;
mod model;
mod place;
mod reserve;
mod unmap;

use super::machine::{self, IOVAS, PAGE};
use arbitrary::{Result, Unstructured};
use model::{inclusive, Dirty, Space, Vma};
use pinned_sgl::iommu::{DomainId, Ioas, IovaRange, Reservation};
use pinned_sgl::store::HeapSlab;
use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
use pinned_sgl::{Heap, PageSize, UserAddr};
use pinned_sgl_mock::{
    FailingAccountant, FailingSlab, FailingStorage, Iommu, Memory, Plan, Process, Vma as UserArea,
};
use std::{collections::BTreeMap, sync::Arc};

type Pinned = Umem<Arc<Process>, Arc<FailingAccountant<Account>>, Heap>;
type Real = Ioas<Arc<Pinned>, Arc<Iommu>, FailingStorage<Heap>>;

const PAGES: u64 = 24;
const BASE: u64 = 0x10_0000;

struct Region {
    frames: Vec<u64>,
    page_offset: u64,
    len: u64,
    writable: bool,
    handle: Option<Arc<Pinned>>,
    address: *const Pinned,
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
        self.reals[space].set_mapping_limit(limit);
        Ok(())
    }

    fn forget_region(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if let Some(region) = self.some_region(u)? {
            self.regions[region].handle = None;
        }
        Ok(())
    }

    fn some_iova(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        let areas: Vec<&Vma> = self.spaces.iter().flat_map(|space| &space.areas).collect();
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

    fn some_allowed(&self, u: &mut Unstructured<'_>) -> Result<Vec<IovaRange>> {
        let mut allowed = vec![];
        for _ in 0..u.int_in_range(0..=2)? {
            allowed.push(self.some_range(u)?);
        }
        Ok(allowed)
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    machine::run(u, World::new, World::step, World::check)?.end();
    Ok(())
}
