// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning and unpinning: which pages, and why not.

use super::super::machine::{self, PAGE};
use super::model::Region;
use super::{some_pages, user, user_pages, Pinned, World, BASE, ZEROS};
use arbitrary::{Result, Unstructured};
use pinned_sgl::umem::{
    PinErrorKind, PinFlags, PinRequest, SplitError, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{Heap, UserAddr};
use pinned_sgl_mock::{FailingStorage, PinFault};
use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc};

impl World {
    /// Bytes of a process that are to be pinned, and how.
    pub(super) fn some_request(&self, u: &mut Unstructured<'_>) -> Result<(UserRange, PinFlags)> {
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
    pub(super) fn pages_of(range: UserRange) -> std::ops::RangeInclusive<usize> {
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
    pub(super) fn affords(&self, payer: usize, pages: u64) -> bool {
        let account = self.payers[payer].inner();
        account.charged() + pages <= account.limit()
    }

    /// The error of a pin is one that may be.
    pub(super) fn check_pin_error(
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
    pub(super) fn cells_of(
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

    pub(super) fn pin(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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
                self.check_pin_error(proc, (range, flags), affordable, whys, &error.error().kind);
            }
        }
        Ok(())
    }

    pub(super) fn drop_handle(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.some_handle(u)? else {
            return Ok(());
        };
        let maps = self.regions[at].maps;
        let handle = self.regions[at].handle.take().unwrap();
        // It can be unpinned where nothing else has it.
        match Arc::try_unwrap(handle) {
            Ok(umem) => {
                assert_eq!(maps, 0);
                match u.arbitrary::<u8>()? & 3 {
                    0 => drop(umem),
                    2 => self.split_region(u, at, umem)?,
                    _ => drop(umem.unpin().unwrap()),
                }
            }
            Err(_) => assert_ne!(maps, 0),
        }
        Ok(())
    }

    /// Region `at` becomes two, or stays as it was.
    fn split_region(&mut self, u: &mut Unstructured<'_>, at: usize, umem: Pinned) -> Result<()> {
        let (skip, len) = (umem.page_offset(), umem.len());
        let offset = if u.ratio(3, 4)? {
            (u.int_in_range(0..=16)? * PAGE).saturating_sub(skip)
        } else {
            machine::offset(u, len)?
        };
        let storage = || FailingStorage::new(Heap::new(), self.plan.clone());
        let pending = self.plan.is_pending();
        let split = umem.split_at_in(offset, (storage(), storage()));
        let fired = pending && !self.plan.is_pending();
        let fits = 0 < offset && offset < len && (skip + offset) % PAGE == 0;
        let whole = &mut self.regions[at];
        match split {
            Ok((head, tail)) => {
                assert!(fits && !fired);
                let pages = ((skip + offset) / PAGE) as usize;
                let rest = Region {
                    cells: whole.cells.split_off(pages),
                    frames: whole.frames.split_off(pages),
                    page_offset: 0,
                    len: len - offset,
                    handle: Some(Arc::new(tail)),
                    ..*whole
                };
                (whole.len, whole.handle) = (offset, Some(Arc::new(head)));
                self.regions.push(rest);
            }
            Err(refused) => {
                match refused.error() {
                    SplitError::List(_) => assert!(fits && fired),
                    SplitError::Outside { .. } | SplitError::InsidePage { .. } => assert!(!fits),
                    other => panic!("{other}"),
                }
                whole.handle = Some(Arc::new(refused.into_value()));
            }
        }
        Ok(())
    }

    /// Two threads pin what one thread pins. All of it is there before: which comes first does not
    /// matter then.
    pub(super) fn pin_parallel(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
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
}
