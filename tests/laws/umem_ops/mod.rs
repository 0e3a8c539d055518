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

mod access;
mod check;
mod cut;
mod map;
mod model;
mod pin;
mod process;

use super::machine::{self, PAGE};
use arbitrary::{Result, Unstructured};
use model::{Live, Proc, Region};
use pinned_sgl::umem::{Account, Umem, UserRange};
use pinned_sgl::{Heap, UserAddr};
use pinned_sgl_mock::{FailingAccountant, FailingStorage, Iommu, Memory, Plan, Process, Vma, Zone};
use std::sync::Arc;

type Payer = Arc<FailingAccountant<Account>>;
type Pinned = Umem<Arc<Process>, Payer, FailingStorage<Heap>>;

/// Pages of an address space; half of them lie below a multiple of 2 MiB.
const PAGES: usize = 32;
const BASE: u64 = (5 << 21) - PAGES as u64 / 2 * PAGE;
/// The cell of zeros, which is never written.
const ZEROS: usize = 0;

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
        // The frame of zeros is read before all others.
        let first = Process::new(&memory);
        first.map(user_pages(0, 1), Vma::copy_on_write()).unwrap();
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
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    machine::run(u, World::new, World::step, World::check)?.end();
    Ok(())
}
