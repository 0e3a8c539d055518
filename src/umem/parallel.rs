// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Umem::pin_parallel`]: several threads pin disjoint parts of one region.
//!
//! ```text
//!  range   ├────────── part 0 ───────────┼────────── part 1 ──────────┤   one thread each
//!          cut where no huge page lies across
//!  lists   [ run ][ run ][ run           ][ run        ][ run ][ run  ]   merged at the seam
//! ```

use super::batch::slots_on_the_heap;
use super::charge::AccountantHolder;
use super::error::{PinError, PinErrorKind};
use super::flags::PinFlags;
use super::pin::{charge, PinRequest, Unfinished};
use super::pinned::Umem;
use super::pinner::{Pinner, PinnerHolder};
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::failed::Failed;
use crate::page_size::PageSize;
use crate::store::Heap;
use crate::sync::{AtomicBool, AtomicUsize, Relaxed};
use core::{num::NonZeroUsize, ops::ControlFlow};
use std::{panic, thread, vec::Vec};

impl<P, A> Umem<P, A, Heap>
where
    P: PinnerHolder<Error: Send, Target: Sync>,
    A: AccountantHolder,
{
    /// Pins a region with several threads. The list is the very list that [`pin`](Self::pin) gives.
    ///
    /// The parts are cut at multiples of [`Pinner::cut_size`], so there may be fewer of them than
    /// `threads`, and there are never more than 1024. The progress of the request is called by all threads, with the bytes that are
    /// pinned so far. Where one thread fails, the others stop at their next batch.
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::UserAddr;
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # use std::{num::NonZeroUsize, sync::Arc};
    /// # let process = Arc::new(Process::new(&Memory::with_frames(4096)));
    /// # let range = UserRange::new(UserAddr::new(0x4000_0000), 8 << 20)?;
    /// # process.map(range, Vma::read_write())?;
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let threads = NonZeroUsize::new(4).ok_or("none")?;
    /// let umem = Umem::pin_parallel(process.clone(), &Unaccounted, request, threads)?;
    /// let by_one = Umem::pin(process, &Unaccounted, request)?;
    /// assert_eq!(umem.sgl(), by_one.sgl());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PinError`], with the pinner, for what went wrong in the first part where something did;
    /// nothing is pinned or charged then.
    pub fn pin_parallel<F>(
        pinner: P,
        accountant: A,
        request: PinRequest<F>,
        threads: NonZeroUsize,
    ) -> Result<Self, Failed<PinError<P::Error>, P>>
    where
        F: Fn(u64) -> ControlFlow<()> + Sync,
    {
        let PinRequest { range, flags, progress } = request;
        let mut charge = match charge(&*pinner, accountant, range, flags) {
            Ok(charge) => charge,
            Err(error) => return Err(Failed::new(error, pinner)),
        };
        let (pinned, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let job =
            Job { pinner: &*pinner, flags, progress: &progress, pinned: &pinned, stop: &stop };
        // A page that two parts share would be pinned, and listed, twice.
        let cut = pinner.cut_size().max(pinner.page_size());
        let done = match parts(range, cut, threads).as_deref() {
            Some([]) | None => Err(PinError::new(PinErrorKind::OutOfMemory, range.start())),
            Some([whole]) => job.join(&[*whole], [job.part(*whole)]),
            Some(parts) => job.run(parts),
        };
        let total = pinned.load(Relaxed) as u64;
        let done = done.map_err(|error| PinError { pinned: total.max(error.pinned), ..error });
        // If this fails or unwinds, all has been unpinned when the charge is given back.
        match done.and_then(|unfinished| unfinished.finish(&mut charge)) {
            Ok(sgl) => Ok(Self::of(pinner, charge, sgl, range, flags)),
            Err(error) => Err(Failed::new(error, pinner)),
        }
    }
}

/// More threads than this would only wait for each other, and for memory.
const MOST_THREADS: usize = 1024;

/// The bytes that each thread is to pin: about the same for each; `None` if there is no memory for so
/// many.
fn parts(range: UserRange, cut: PageSize, threads: NonZeroUsize) -> Option<Vec<UserRange>> {
    let first = range.start().get().shifted_down(cut.shift());
    let units = range.page_count(cut);
    let threads = (threads.get().min(MOST_THREADS) as u64).min(units);
    let each = units.checked_div(threads).unwrap_or(units);
    let more = units.checked_rem(threads).unwrap_or(0);
    let (mut unit, mut start) = (first, range.start());
    let part = |index: u64| {
        // Where the last part ends, and only there, this may wrap.
        unit = unit.wrapping_add(each).wrapping_add(u64::from(index < more));
        let end = if index.plus(1) == threads {
            range.last().get()
        } else {
            unit.shifted_up(cut.shift()).minus(1)
        };
        let len = end.minus(start.get()).plus(1);
        let part = UserRange::new(start, len).ok();
        start = UserAddr::new(end.wrapping_add(1));
        part
    };
    let mut parts = Vec::new();
    parts.try_reserve_exact(usize::try_from(threads).ok()?).ok()?;
    parts.extend((0..threads).filter_map(part));
    Some(parts)
}

/// What the threads share.
struct Job<'p, 'a, P: ?Sized, F> {
    pinner: &'p P,
    flags: PinFlags,
    progress: &'a F,
    pinned: &'a AtomicUsize,
    /// Set by the first thread that fails; the others give up when they see it.
    stop: &'a AtomicBool,
}

/// Stops the other threads if this one panics, as `progress` may.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

/// What pinning comes to.
type Pinned<'p, P> = Result<Unfinished<'p, P, Heap>, PinError<<P as Pinner>::Error>>;

/// What one thread has done.
type Part<'p, P> = Result<Unfinished<'p, P, Heap>, Missing<<P as Pinner>::Error>>;

/// Why a part is not there.
enum Missing<E> {
    Failed(PinError<E>),
    /// Because another part failed.
    ByOther,
}

impl<'p, P, F> Job<'p, '_, P, F>
where
    P: Pinner<Error: Send> + Sync + ?Sized,
    F: Fn(u64) -> ControlFlow<()> + Sync,
{
    fn run(&self, parts: &[UserRange]) -> Pinned<'p, P> {
        let results: Vec<_> = thread::scope(|scope| {
            let start = |part: &UserRange| {
                let part = *part;
                // Where a thread was not started, none is started for the parts behind it.
                let started = match self.stop.load(Relaxed) {
                    true => Ok(None),
                    false => thread::Builder::new()
                        .spawn_scoped(scope, move || self.part(part))
                        .map(Some),
                };
                (part, started.inspect_err(|_| self.stop.store(true, Relaxed)))
            };
            let started: Vec<_> = parts.iter().map(start).collect();
            let join = |(part, thread): (UserRange, _)| match thread {
                Ok(Some(thread)) => thread::ScopedJoinHandle::join(thread)
                    .unwrap_or_else(|panic| panic::resume_unwind(panic)),
                Ok(None) => Err(Missing::ByOther),
                Err(source) => {
                    Err(Missing::Failed(PinError::new(PinErrorKind::Thread(source), part.start())))
                }
            };
            started.into_iter().map(join).collect()
        });
        self.join(parts, results)
    }

    /// Joins the parts, or finds the error that stopped them.
    fn join(
        &self,
        parts: &[UserRange],
        results: impl IntoIterator<Item = Part<'p, P>>,
    ) -> Pinned<'p, P> {
        let at = parts.first().map_or(UserAddr::default(), UserRange::start);
        let mut whole: Option<Unfinished<'p, P, Heap>> = None;
        let mut stopped = false;
        for (result, part) in results.into_iter().zip(parts) {
            match (result, &mut whole) {
                (Ok(first), None) => whole = Some(first),
                (Ok(next), Some(whole)) => {
                    let failed = |kind| PinError::new(kind, part.start());
                    if !stopped {
                        whole.append(next).map_err(failed)?;
                    }
                }
                (Err(Missing::Failed(failure)), _) => return Err(failure),
                (Err(Missing::ByOther), _) => stopped = true,
            }
        }
        match whole {
            Some(whole) if !stopped => Ok(whole),
            // A part was stopped, and none says why: its thread ended before it could.
            _ => Err(PinError::new(PinErrorKind::Cancelled, at)),
        }
    }

    /// Pins and lists one part.
    fn part(&self, part: UserRange) -> Part<'p, P> {
        let _guard = StopOnPanic(self.stop);
        let mut by_other = false;
        let mut before = 0u64;
        let progress = |pinned: u64| {
            let bytes = usize::try_from(pinned.minus(before)).unwrap_or(usize::MAX);
            before = pinned;
            let total = self.pinned.fetch_add(bytes, Relaxed);
            let total = total.saturating_add(bytes);
            if self.stop.load(Relaxed) {
                by_other = true;
                return ControlFlow::Break(());
            }
            (self.progress)(total as u64)
        };
        let done = match slots_on_the_heap() {
            Some(mut slots) => {
                Unfinished::new(self.pinner, part, Heap::new()).and_then(|mut unfinished| {
                    unfinished.pin(part, self.flags, &mut slots, progress)?;
                    Ok(unfinished)
                })
            }
            None => Err(PinError::new(PinErrorKind::OutOfMemory, part.start())),
        };
        done.map_err(|error| {
            self.stop.store(true, Relaxed);
            if by_other {
                Missing::ByOther
            } else {
                Missing::Failed(error)
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_range_and_are_cut_at_multiples() {
        let cut = PageSize::SIZE_2M;
        for start in [0, 4096, 5 << 20, (1 << 46) - 8192, u64::MAX - (9 << 20)] {
            for len in [1, 4096, 2 << 20, (2 << 20) + 4096, 7 << 20] {
                for threads in [1, 2, 3, 16, 1000] {
                    let range = UserRange::new(UserAddr::new(start), len).unwrap();
                    let parts = parts(range, cut, NonZeroUsize::new(threads).unwrap()).unwrap();
                    assert!(!parts.is_empty() && parts.len() <= threads);
                    let mut next = start;
                    for part in &parts {
                        assert_eq!(part.start().get(), next);
                        assert!(next == start || part.start().is_aligned(cut));
                        next = part.last().get().plus(1);
                    }
                    assert_eq!(parts.last().unwrap().last(), range.last());
                }
            }
        }
    }
}
