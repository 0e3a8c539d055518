// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Outsiders**: whatever safe calls are made, in whatever order, with values of two machines mixed up,
//! swapped, forgotten and failing, no page that an IOMMU or a card leads to is unpinned, and the witness
//! has nothing to say. Where nothing was forgotten, nothing is pinned in the end.
//!
//! ```text
//!  machine 0 ── processes ──► regions, streams ──┬──► mappings, address spaces ──► any of the IOMMUs
//!  machine 1 ── processes ──► regions, streams ──┘    attachments, registrations    of both machines
//! ```

use super::machine::{self, IOVAS, PAGE, STEP};
use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{
    Cuts, DirtyBitmap, DomainId, HeapIoas, IovaRange, Mapping, Placement, Prot, Remains, Stream,
};
use pinned_sgl::rdma::{Access, MemoryRegion};
use pinned_sgl::umem::{
    Account, Attachment, PinFlags, PinRequest, PinnedBatch, RunSlot, Umem, UserRange,
};
use pinned_sgl::{Heap, Iova, PageSize, PageSizes, Pfn, PhysAddr, Storage, UserAddr};
use pinned_sgl_mock::{
    Bus, BusError, Device, FailingAccountant, FailingStorage, Fragmentation, Iommu, Memory, Nic,
    Plan, Process, Vma, Witness, Zone,
};
use std::{
    collections::BTreeSet,
    mem,
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    sync::Arc,
};

type Payer = Arc<FailingAccountant<Account>>;
type Pinned = Umem<Arc<Process>, Payer, FailingStorage<Heap>>;
type Space = HeapIoas<Arc<Pinned>, Arc<Iommu>>;
type Flow = Stream<Arc<Process>, Payer, Arc<Iommu>, Vec<RunSlot>>;
type Card = Arc<Nic<Both>>;

const PAGES: u64 = 24;
const BASE: u64 = 0x10_0000;

/// The memory of both machines: their frames have other numbers.
#[derive(Clone)]
struct Both([Memory; 2]);

impl Both {
    fn of(&self, pfn: Pfn) -> &Memory {
        let [first, second] = &self.0;
        if first.zone(pfn).is_some() {
            first
        } else {
            second
        }
    }
}

impl Bus for Both {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> std::result::Result<(), BusError> {
        self.of(phys.pfn(page())).read(phys, bytes)
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> std::result::Result<(), BusError> {
        self.of(phys.pfn(page())).write(phys, bytes)
    }
}

fn page() -> PageSize {
    PageSize::new(PAGE).unwrap()
}

/// Everything there is, in no order.
struct World {
    plan: Plan,
    witness: Witness,
    memory: Both,
    /// Of both machines, children among them.
    processes: Vec<Arc<Process>>,
    payers: Vec<Payer>,
    iommus: Vec<Arc<Iommu>>,
    cards: Vec<Card>,
    regions: Vec<Arc<Pinned>>,
    attachments: Vec<Attachment<Arc<Pinned>>>,
    /// The pages of attachments that were leaked: they stay pinned.
    leaked: Vec<Pfn>,
    mappings: Vec<Mapping<Arc<Pinned>, Arc<Iommu>>>,
    spaces: Vec<Space>,
    /// Numbers that some space has given, some of them long ago.
    ids: Vec<DomainId>,
    streams: Vec<Flow>,
    registrations: Vec<MemoryRegion<Arc<Pinned>, Card>>,
    forgotten: bool,
}

/// Takes one of the values out, if there is one.
fn any<T>(u: &mut Unstructured<'_>, values: &mut Vec<T>) -> Result<Option<T>> {
    Ok(match values.len().checked_sub(1) {
        Some(last) => Some(values.swap_remove(u.int_in_range(0..=last)?)),
        None => None,
    })
}

/// Whole pages of the first `most`, most of the time.
fn pages(u: &mut Unstructured<'_>, most: u64) -> Result<Range<u64>> {
    let [first, more, odd] = u.arbitrary::<[u8; 3]>()?.map(u64::from);
    if odd < 16 {
        return machine::part(u, most * PAGE);
    }
    let first = first % most;
    let count = 1 + more % (most - first).min(8);
    Ok(first * PAGE..(first + count) * PAGE)
}

/// Bytes of a region, most of the time.
fn part(u: &mut Unstructured<'_>, region: &Pinned) -> Result<Range<u64>> {
    pages(u, (region.len() / PAGE).max(1))
}

fn at(u: &mut Unstructured<'_>) -> Result<Iova> {
    Ok(Iova::new(pages(u, IOVAS / PAGE)?.start))
}

fn iovas(u: &mut Unstructured<'_>) -> Result<IovaRange> {
    let range = pages(u, IOVAS / PAGE)?;
    let some = IovaRange::new(Iova::new(range.start), range.end.saturating_sub(range.start));
    Ok(some.unwrap_or(IovaRange::ALL))
}

/// Flags of pages, some of which are none.
fn flags(u: &mut Unstructured<'_>) -> Result<PinFlags> {
    Ok(match u.arbitrary::<u8>()? {
        bit @ 0..32 => PinFlags::from_bits_retain(1 << bit),
        32..50 => PinFlags::LONGTERM,
        _ => PinFlags::WRITE | PinFlags::LONGTERM,
    })
}

fn prot(u: &mut Unstructured<'_>) -> Result<Prot> {
    Ok(match u.arbitrary::<u8>()? {
        bit @ 0..32 => Prot::from_bits_retain(1 << bit),
        32..60 => Prot::READ,
        _ => Prot::READ | Prot::WRITE,
    })
}

/// A domain of one of the machines, in which most of what is pinned can be mapped.
fn iommu(u: &mut Unstructured<'_>, memory: &Memory) -> Result<Arc<Iommu>> {
    if u.ratio(1, 8)? {
        return machine::iommu(u, 0, memory);
    }
    let sizes = *u.choose(&[0x400, 0x600, 0x1400, 0xc00, 0x1e00])?;
    let cuts = *u.choose(&[Cuts::Anywhere, Cuts::Entries, Cuts::Never])?;
    let config = Iommu::config(PageSizes::from_bits_retain(sizes)).cuts(cuts);
    Ok(Arc::new(config.memory(memory).build()))
}

/// A storage that holds something already, as often as not.
fn storage(u: &mut Unstructured<'_>, plan: &Plan) -> Result<FailingStorage<Heap>> {
    let mut heap = Heap::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let _ = heap.grow(usize::from(u.arbitrary::<u8>()?) * 16);
    }
    for index in 0..heap.pieces() {
        heap.piece_mut(index).fill(u.arbitrary()?);
    }
    Ok(FailingStorage::new(heap, plan.clone()))
}

type Operation = fn(&mut World, &mut Unstructured<'_>) -> Result<()>;

impl World {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let (plan, witness) = (Plan::new(), Witness::new());
        let memory = |first: u64, seed| {
            Memory::builder()
                .page_size(page())
                .zone(Zone::Normal, first..first + 120)
                .zone(Zone::Movable, first + 0x100..first + 0x120)
                .fragmentation(Fragmentation::Seeded { seed, run_order: 1 })
                .plan(plan.clone())
                .witness(witness.clone())
                .build()
                .unwrap()
        };
        let memory = Both([memory(0x400, 1), memory(0x1000, u.arbitrary::<u8>()?.into())]);
        let [one, two] = &memory.0;
        let processes = vec![Arc::new(Process::new(one)), Arc::new(Process::new(two))];
        let payers = (0..2).map(|_| {
            let account = Account::new(90);
            Arc::new(FailingAccountant::new(account, plan.clone()))
        });
        let mut iommus = vec![];
        for of in [one, one, two, two] {
            iommus.push(iommu(u, of)?);
        }
        let card = || {
            let nic = Nic::new(memory.clone()).with_memory(one);
            Arc::new(nic)
        };
        let cards = vec![card(), card()];
        let this = Self {
            payers: payers.collect(),
            cards,
            plan,
            witness,
            processes,
            iommus,
            memory,
            regions: vec![],
            attachments: vec![],
            leaked: vec![],
            mappings: vec![],
            spaces: vec![Space::new(), Space::new()],
            ids: vec![],
            streams: vec![],
            registrations: vec![],
            forgotten: false,
        };
        for process in &this.processes {
            let all = UserRange::new(UserAddr::new(BASE), PAGES * PAGE).unwrap();
            process.map(all, Vma::read_write().huge(u.int_in_range(0..=2)?)).unwrap();
        }
        Ok(this)
    }

    fn process(&self, u: &mut Unstructured<'_>) -> Result<Arc<Process>> {
        Ok(u.choose(&self.processes)?.clone())
    }

    fn payer(&self, u: &mut Unstructured<'_>) -> Result<Payer> {
        Ok(u.choose(&self.payers)?.clone())
    }

    fn iommu(&self, u: &mut Unstructured<'_>) -> Result<Arc<Iommu>> {
        Ok(u.choose(&self.iommus)?.clone())
    }

    fn region(&self, u: &mut Unstructured<'_>) -> Result<Option<Arc<Pinned>>> {
        Ok(if self.regions.is_empty() { None } else { Some(u.choose(&self.regions)?.clone()) })
    }

    /// Some bytes of a process, not all of them mapped.
    fn user(&self, u: &mut Unstructured<'_>) -> Result<UserRange> {
        let part = pages(u, PAGES)?;
        let len = part.end.saturating_sub(part.start).max(1);
        Ok(UserRange::new(UserAddr::new(BASE + part.start), len).unwrap())
    }

    /// What a process does to its memory, whether or not it is pinned.
    fn live(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let process = self.process(u)?;
        let first = u.int_in_range(0..=PAGES - 1)?;
        let pages = u.int_in_range(1..=PAGES - first)?;
        let range = UserRange::new(UserAddr::new(BASE + first * PAGE), pages * PAGE).unwrap();
        match u.int_in_range(0..=12)? {
            0 => drop(process.unmap(range)),
            1 => drop(process.protect(range, u.arbitrary()?)),
            2 => drop(process.swap_out(range)),
            3 => drop(process.migrate(range, Zone::Normal)),
            4 if self.processes.len() < 5 => self.processes.extend(process.fork().map(Arc::new)),
            5 if u.ratio(1, 4)? => process.exit(),
            6 => drop(process.write(range.start(), &machine::data(u)?)),
            _ => drop(process.map(range, Vma::read_write().zone(Zone::Movable))),
        }
        process.set_pin_limit(u.int_in_range(1..=9)?);
        Ok(())
    }

    fn pin(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (process, payer) = (self.process(u)?, self.payer(u)?);
        let request = PinRequest::new(self.user(u)?, flags(u)?);
        let storage = storage(u, &self.plan)?;
        let mut slots = vec![None; usize::from(u.arbitrary::<u8>()? % 16)];
        let other = self.process(u)?;
        let (range, deed) = (self.user(u)?, u.int_in_range(0..=7)?);
        // The callback does what it likes, to the same process as often as not.
        let request = request.with_progress(|_| {
            match deed {
                0 => return ControlFlow::Break(()),
                1 => drop(other.unmap(range)),
                2 => drop(other.swap_out(range)),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let umem = Umem::pin_in(process, payer, storage, &mut slots, request);
        self.regions.extend(umem.ok().map(Arc::new));
        Ok(())
    }

    /// Pinning that gives nothing to keep: by threads, and by a batch in odd order.
    fn pin_in_passing(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let process = self.process(u)?;
        let (range, flags) = (self.user(u)?, flags(u)?);
        if u.arbitrary()? {
            let threads = NonZeroUsize::new(u.int_in_range(1..=3)?).unwrap();
            let request = PinRequest::new(range, flags);
            drop(Umem::pin_parallel(process, self.payer(u)?, request, threads));
            return Ok(());
        }
        let mut slots = vec![None; u.int_in_range(0..=5)?];
        let mut batch = PinnedBatch::new(&*process, range, flags, &mut slots);
        for _ in 0..u.int_in_range(0..=4)? {
            let _ = batch.fill();
            if u.ratio(1, 4)? {
                self.forgotten |= batch.take_first().is_some();
            }
        }
        if u.ratio(1, 4)? {
            self.forgotten |= !batch.is_empty();
            mem::forget(batch);
        }
        Ok(())
    }

    /// Regions, and holds of them that no device stands for.
    fn hold(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=5)? {
            0 | 1 => drop(any(u, &mut self.regions)?),
            2 => {
                if let Some(Ok(umem)) = any(u, &mut self.regions)?.map(Arc::try_unwrap) {
                    if let Err(umem) = umem.unpin() {
                        self.regions.push(Arc::new(umem));
                    }
                }
            }
            3 => {
                let writable = u.arbitrary()?;
                let region = self.region(u)?;
                self.attachments.extend(region.and_then(|r| Attachment::new(r, writable).ok()));
            }
            4 => {
                if let Some(attachment) = any(u, &mut self.attachments)? {
                    self.forgotten = true;
                    self.leaked.extend(attachment.region().whole().unwrap().pages());
                    if u.arbitrary()? {
                        self.regions.push(attachment.leak());
                    }
                }
            }
            _ => {
                if let Some(region) = self.region(u)? {
                    let offset = machine::offset(u, region.len())?;
                    let _ = region.write(offset, &machine::data(u)?);
                    let _ = region.read(offset, &mut machine::data(u)?);
                }
            }
        }
        Ok(())
    }

    fn map(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (Some(region), iommu) = (self.region(u)?, self.iommu(u)?) else { return Ok(()) };
        let (part, iova) = (part(u, &region)?, at(u)?);
        match Mapping::map_range(region, part, iommu, iova, prot(u)?) {
            Ok(mapping) => self.mappings.push(mapping),
            Err(error) => drop(error.into_parts()),
        }
        Ok(())
    }

    fn cut(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(mapping) = any(u, &mut self.mappings)? else { return Ok(()) };
        let part = pages(u, (mapping.len() / PAGE).max(1))?;
        match u.int_in_range(0..=5)? {
            0 => drop(mapping.unmap()),
            1 => {
                mem::forget(mapping);
                self.forgotten = true;
            }
            2 | 3 => match mapping.split_at(part.start) {
                Ok((head, tail)) => self.mappings.extend([tail, head]),
                Err(error) => self.mappings.push(error.into_value()),
            },
            _ => match mapping.unmap_range(part) {
                Ok((head, tail)) => self.mappings.extend(head.into_iter().chain(tail)),
                Err(error) => match error.into_value() {
                    Remains::Whole(mapping) => self.mappings.push(mapping),
                    around => panic!("{around:?}"),
                },
            },
        }
        Ok(())
    }

    fn space(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let iommu = self.iommu(u)?;
        let (range, iova, prot, region) = (iovas(u)?, at(u)?, prot(u)?, self.region(u)?);
        let within = [iovas(u)?, range];
        let place = match u.int_in_range(0..=3)? {
            0 => Placement::Anywhere,
            1 => Placement::Within(&within),
            _ => Placement::At(iova),
        };
        let other = any(u, &mut self.spaces)?.unwrap_or_default();
        let Some(mut space) = any(u, &mut self.spaces)? else {
            self.spaces.extend([other, Space::new()]);
            return Ok(());
        };
        match u.int_in_range(0..=15)? {
            0 | 1 => self.ids.extend(space.attach(iommu)),
            2 => {
                // A number of any space, given a while ago.
                if let Some(id) = any(u, &mut self.ids)? {
                    drop(space.detach(id));
                }
            }
            3..=6 => {
                if let Some(region) = region {
                    let part = part(u, &region)?;
                    let _ = space.map_range(place, region, part, prot);
                }
            }
            7 | 8 => drop(space.copy_from(&other, range, place, prot)),
            9 => drop(space.unmap(range)),
            10 => drop(space.unmap_cutting(range)),
            11 => drop(space.split(iova)),
            12 => {
                let mine = space.reserve(range);
                let back = mine.map(|mine| {
                    if place == Placement::Anywhere {
                        Ok(())
                    } else {
                        space.unreserve(mine)
                    }
                });
                assert!(back.is_err() || back.is_ok_and(|back| back.is_ok()));
            }
            13 => {
                let _ = space.write(iova, &machine::data(u)?);
                let _ = space.read(iova, &mut machine::data(u)?);
                space.set_mapping_limit(u.int_in_range(0..=9)?);
            }
            14 => {
                let mut words = [0; 4];
                let _ = space.set_dirty_tracking(u.arbitrary()?);
                if let Ok(mut bitmap) = DirtyBitmap::new(&mut words, range, page()) {
                    let _ = space.read_dirty(&mut bitmap, u.arbitrary()?);
                }
            }
            _ => {
                self.forgotten |= u.ratio(1, 4)? && !space.is_empty();
                let last = mem::take(&mut space);
                if self.forgotten {
                    mem::forget(last);
                }
            }
        }
        self.spaces.extend([other, space]);
        Ok(())
    }

    fn stream(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=4)? {
            0 => drop(any(u, &mut self.streams)?),
            1 => drop(any(u, &mut self.streams)?.map(|stream| stream.unmap())),
            2 if u.ratio(1, 4)? => {
                let stream = any(u, &mut self.streams)?;
                self.forgotten |= stream.is_some();
                mem::forget(stream);
            }
            _ => {
                let (process, payer, iommu) = (self.process(u)?, self.payer(u)?, self.iommu(u)?);
                let request = PinRequest::new(self.user(u)?, flags(u)?);
                let slots = vec![None; usize::from(u.arbitrary::<u8>()? % 16)];
                let (iova, prot) = (at(u)?, prot(u)?);
                self.streams.extend(Stream::map(process, payer, iommu, slots, request, iova, prot));
            }
        }
        Ok(())
    }

    fn register(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let card = u.choose(&self.cards)?.clone();
        match u.int_in_range(0..=4)? {
            0 => drop(any(u, &mut self.registrations)?.map(|region| region.deregister())),
            1 => {
                // The key of one card, at any.
                if let Some(region) = any(u, &mut self.registrations)? {
                    let _ = card.write(region.key(), at(u)?, &machine::data(u)?);
                    if u.ratio(1, 4)? {
                        self.forgotten = true;
                        mem::forget(region);
                    } else {
                        self.registrations.push(region);
                    }
                }
            }
            _ => {
                if let Some(region) = self.region(u)? {
                    let access = Access::from_bits_retain(u.arbitrary::<u32>()? & 0x3f);
                    let (part, iova) = (part(u, &region)?, at(u)?);
                    let region = MemoryRegion::register_range(region, part, card, iova, access);
                    self.registrations.extend(region);
                }
            }
        }
        Ok(())
    }

    /// Values trade places with others of their type.
    fn swap(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        fn two<T>(u: &mut Unstructured<'_>, values: &mut [T]) -> Result<()> {
            if let Some(last) = values.len().checked_sub(1) {
                values.swap(u.int_in_range(0..=last)?, u.int_in_range(0..=last)?);
            }
            Ok(())
        }
        two(u, &mut self.mappings)?;
        two(u, &mut self.spaces)?;
        two(u, &mut self.streams)?;
        two(u, &mut self.regions)?;
        two(u, &mut self.processes)?;
        two(u, &mut self.registrations)
    }

    /// What devices and cards do, all the time: wherever they get, it is pinned.
    fn reach(&self, u: &mut Unstructured<'_>) -> Result<()> {
        let device = Device::new(self.iommu(u)?, self.memory.clone());
        let _ = device.write(at(u)?, &machine::data(u)?);
        let _ = device.read(at(u)?, &mut machine::data(u)?);
        for entry in device.iommu().mapped(iovas(u)?) {
            let _ = device.prefetch(entry.range);
        }
        Ok(())
    }

    /// What can happen, and how often beside the rest.
    const OPERATIONS: &[(u32, Operation)] = &[
        (2, Self::live),
        (3, Self::pin),
        (1, Self::pin_in_passing),
        (1, Self::hold),
        (3, Self::map),
        (2, Self::cut),
        (4, Self::space),
        (2, Self::stream),
        (1, Self::register),
        (1, Self::swap),
        (1, |world, u| {
            machine::plan_failure(u, &world.plan)?;
            world.reach(u)
        }),
    ];

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        machine::weighted(u, Self::OPERATIONS)?(self, u)
    }

    fn check(&self) {
        self.witness.assert_clean();
        let mut reached = BTreeSet::new();
        for entry in self.iommus.iter().flat_map(|iommu| iommu.mapped(IovaRange::ALL)) {
            let last = entry.phys.get() + (entry.range.len().unwrap() - 1);
            reached.extend(entry.phys.get() / PAGE..=last / PAGE);
        }
        let held = self.attachments.iter().flat_map(|held| held.region().whole().unwrap().pages());
        let held = held.chain(self.leaked.iter().copied());
        for pfn in reached.into_iter().map(Pfn::new).chain(held) {
            assert_ne!(self.memory.of(pfn).pins(pfn), 0, "{pfn} is held, and not pinned");
        }
        // Wherever a device gets, also by what it remembers.
        for iommu in &self.iommus {
            let device = Device::new(&**iommu, self.memory.clone());
            for iova in (0..IOVAS).step_by(STEP as usize) {
                let _ = device.read(Iova::new(iova), &mut [0]);
            }
        }
        self.witness.assert_clean();
    }

    /// Everything ends, in some order.
    fn end(mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.plan.succeed();
        self.swap(u)?;
        match u.int_in_range(0..=2)? {
            0 => self.regions.clear(),
            1 => self.processes.iter().for_each(|process| process.exit()),
            _ => {}
        }
        self.registrations.clear();
        self.streams.clear();
        self.check();
        self.spaces.clear();
        self.check();
        self.mappings.clear();
        self.check();
        self.regions.clear();
        self.check();
        self.forgotten |= !self.attachments.is_empty();
        if self.forgotten {
            // What is still mapped is not unmapped any more.
            self.iommus.drain(..).for_each(mem::forget);
            self.cards.drain(..).for_each(mem::forget);
            return Ok(());
        }
        assert!(self.iommus.iter().all(|iommu| iommu.mapped_pages() == 0));
        self.memory.0.iter().for_each(Memory::assert_no_leak);
        assert!(self.payers.iter().all(|payer| payer.inner().charged() == 0));
        self.witness.assert_clean();
        Ok(())
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    machine::run(u, World::new, World::step, World::check)?.end(u)
}
