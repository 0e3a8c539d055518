// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes: their areas and pages, and whatever happens to those.

use super::super::machine::{self, PAGE};
use super::model::{Page, Proc};
use super::{some_pages, user, user_pages, World, BASE, PAGES, ZEROS};
use arbitrary::{Result, Unstructured};
use pinned_sgl::UserAddr;
use pinned_sgl_mock::{PinFault, Vma, Zone};
use std::sync::Arc;

/// An area and what the model knows of its pages; a few pages of it.
fn area(u: &mut Unstructured<'_>) -> Result<(Vma, bool, bool, bool)> {
    let (mut area, writable, shared, zeros) = match u.int_in_range(0..=7)? {
        0 => (Vma::read_only(), false, false, false),
        1 | 2 => (Vma::copy_on_write(), true, false, true),
        3 => (Vma::shared(), true, true, false),
        _ => (Vma::read_write(), true, false, false),
    };
    if u.ratio(1, 3)? {
        area = area.huge(u.int_in_range(1..=3)?);
    }
    if u.ratio(1, 3)? {
        area = area.zone(Zone::Movable);
    }
    Ok((area, writable, shared, zeros))
}

impl World {
    pub(super) fn map_area(
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

    pub(super) fn map_few_pages(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (first, count) = some_pages(u)?;
        let proc = self.some_proc(u)?;
        self.map_area(u, proc, first, count.min(4))
    }

    pub(super) fn cpu_write(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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

    pub(super) fn cpu_read(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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

    pub(super) fn fork(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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

    pub(super) fn unmap_area(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        self.procs[proc].real.unmap(user_pages(first, count)).unwrap();
        self.procs[proc].pages[first..first + count].fill(None);
        Ok(())
    }

    pub(super) fn protect(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (proc, (first, count)) = (self.some_proc(u)?, some_pages(u)?);
        let writable = u.arbitrary()?;
        self.procs[proc].real.protect(user_pages(first, count), writable).unwrap();
        for page in self.procs[proc].pages[first..first + count].iter_mut().flatten() {
            page.writable = writable;
        }
        Ok(())
    }

    /// Moves, swaps out, or faults in: only the page tables may show it.
    pub(super) fn move_pages(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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

    pub(super) fn annoy(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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
}
