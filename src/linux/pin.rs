// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pinned`]: a buffer that is pinned, and the list of its frames.
//!
//! ```text
//!  buffer  ├────────────── part 0 ──────────────┼────── part 1 ──────┤   one thread each
//!  slots   ├── 64M ──┼── 64M ──┼── 64M ──┼ rest ┼── 64M ──┼─ rest ──┤   registered one by one
//!  lists   ├───────────── Sgl ──────────────────┼──────── Sgl ───────┤   joined by push_sgl
//! ```
//!
//! How the buffer is cut is in `cut.rs`.

use super::buffer::{AccessError, Buffer};
use super::cut::{parts, slots};
use super::error::{PinError, PinErrorKind};
use super::pagemap::{FrameError, PageMap};
use super::ring::{why, Ring, MAX_SLOT_BYTES};
use crate::addr::{Pfn, UserAddr};
use crate::sgl::{AllocError, Heap, MemoryKind, Sgl, SglBuilder};
use core::{
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::{panic, thread, time::Instant, vec::Vec};

/// Frames on their way from the page map to the list.
const FRAMES: usize = 2048;

/// A buffer that is pinned: its frames stay where they are until this value is dropped.
///
/// Unpinned exactly once, when it is dropped or by [`unpin`](Self::unpin). A value that is leaked
/// leaks its pins: nothing is unpinned or unmapped early.
///
/// A child made by a bare `fork()` has a copy of this value but not the memory, and shares the
/// ring: it must `exec` or exit and not drop the copy, which would unpin the parent's memory.
#[derive(Debug)]
pub struct Pinned {
    // In the order in which they must be dropped.
    rings: Vec<Ring>,
    buffer: Buffer,
    sgl: Sgl<Heap>,
    steps: Steps,
}

assert_impl_all!(Pinned: Send, Sync);
assert_not_impl_any!(Pinned: Clone);

/// How long the steps of a pin took, each in the thread that needed longest for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Steps {
    /// Faulting in and pinning.
    pub pin: Duration,
    /// Reading frame numbers from the page map.
    pub read: Duration,
    /// Building the lists of the parts.
    pub build: Duration,
    /// Joining the lists; nothing where there is one part.
    pub join: Duration,
}

impl Buffer {
    /// Pins the whole buffer and lists its frames. O(pages).
    ///
    /// # Errors
    ///
    /// [`PinError`], with the buffer; nothing is pinned then.
    pub fn pin(self) -> Result<Pinned, PinError> {
        self.pin_parallel(NonZeroUsize::MIN, |_| ControlFlow::Continue(()))
    }

    /// Pins the whole buffer with several threads, and tells how far it got.
    ///
    /// Each thread pins one part and builds its list; the parts are cut where huge pages end, so
    /// there may be fewer of them than `threads`. The joined list is the one that [`pin`](Self::pin)
    /// would give.
    ///
    /// `progress` is called by all threads, every 64 MiB or so, with the bytes that are pinned so
    /// far; where it says [`ControlFlow::Break`], the work stops.
    ///
    /// # Errors
    ///
    /// [`PinError`], with the buffer, for what went wrong in the first part where something did;
    /// nothing is pinned then.
    pub fn pin_parallel<F>(self, threads: NonZeroUsize, progress: F) -> Result<Pinned, PinError>
    where
        F: Fn(u64) -> ControlFlow<()> + Sync,
    {
        let pinned = AtomicU64::new(0);
        let job = match Job::new(&self, &pinned, &progress) {
            Ok(job) => job,
            Err(kind) => return Err(PinError { kind, pinned: 0, buffer: self }),
        };
        let done = job.run(threads);
        drop(job);
        match done {
            Ok(Done { rings, sgl, steps }) => Ok(Pinned { rings, buffer: self, sgl, steps }),
            Err(kind) => Err(PinError { kind, pinned: pinned.into_inner(), buffer: self }),
        }
    }
}

impl Pinned {
    /// The frames of the buffer, as maximal runs.
    #[must_use]
    pub const fn sgl(&self) -> &Sgl<Heap> {
        &self.sgl
    }

    /// The bytes of the buffer.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub const fn len(&self) -> u64 {
        self.buffer.len()
    }

    /// The address of the first byte.
    #[must_use]
    pub fn user_addr(&self) -> UserAddr {
        self.buffer.user_addr()
    }

    /// The buffer, to look at.
    #[must_use]
    pub const fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// How long pinning took.
    #[must_use]
    pub const fn steps(&self) -> Steps {
        self.steps
    }

    /// As [`Buffer::read`].
    ///
    /// # Errors
    ///
    /// As [`Buffer::read`].
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.buffer.read(offset, bytes)
    }

    /// As [`Buffer::write`].
    ///
    /// # Errors
    ///
    /// As [`Buffer::write`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.buffer.write(offset, bytes)
    }

    /// Unpins the buffer and gives it back, mapped and with what was written to it.
    ///
    /// What comes back is unpinned: the list is gone, as the kernel may move the pages from now on.
    #[must_use = "dropping the buffer unmaps it"]
    pub fn unpin(self) -> Buffer {
        let Self { rings, buffer, .. } = self;
        drop(rings);
        buffer
    }
}

/// What the threads share.
struct Job<'a, F> {
    buffer: &'a Buffer,
    progress: &'a F,
    map: PageMap,
    pinned: &'a AtomicU64,
    /// Set by the first thread that fails; the others give up when they see it.
    stop: AtomicBool,
}

/// Stops the other threads if this one panics, as `progress` may.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What one thread has done.
struct Part {
    ring: Ring,
    sgl: Sgl<Heap>,
    steps: Steps,
}

/// What all have done.
struct Done {
    rings: Vec<Ring>,
    sgl: Sgl<Heap>,
    steps: Steps,
}

/// Why a part is not there.
enum Stopped {
    Failed(PinErrorKind),
    /// Because another part failed.
    ByOther,
}

impl From<PinErrorKind> for Stopped {
    fn from(kind: PinErrorKind) -> Self {
        Self::Failed(kind)
    }
}

impl<'a, F: Fn(u64) -> ControlFlow<()> + Sync> Job<'a, F> {
    fn new(
        buffer: &'a Buffer,
        pinned: &'a AtomicU64,
        progress: &'a F,
    ) -> Result<Self, PinErrorKind> {
        // Without the privilege to know frames there is no point in pinning anything.
        let map = PageMap::open().map_err(PinErrorKind::Frames)?;
        Ok(Self { buffer, progress, map, pinned, stop: AtomicBool::new(false) })
    }

    fn run(&self, threads: NonZeroUsize) -> Result<Done, PinErrorKind> {
        let ranges = parts(self.buffer.len(), self.buffer.huge_page_size(), threads);
        let results = match ranges.as_slice() {
            [whole] => Vec::from([self.part(whole.clone())]),
            ranges => thread::scope(|scope| {
                let start = |range: &Range<u64>| {
                    let range = range.clone();
                    let started = thread::Builder::new().spawn_scoped(scope, || self.part(range));
                    started.inspect_err(|_| self.stop.store(true, Ordering::Relaxed))
                };
                let started: Vec<_> = ranges.iter().map(start).collect();
                let join = |thread| match thread {
                    Ok(thread) => thread::ScopedJoinHandle::join(thread)
                        .unwrap_or_else(|panic| panic::resume_unwind(panic)),
                    Err(source) => Err(PinErrorKind::Thread { source }.into()),
                };
                started.into_iter().map(join).collect()
            }),
        };
        self.join(results)
    }

    /// Joins the parts, or finds the error that stopped them.
    fn join(&self, results: Vec<Result<Part, Stopped>>) -> Result<Done, PinErrorKind> {
        let mut rings = Vec::with_capacity(results.len());
        let mut lists = Vec::with_capacity(results.len());
        let mut steps = Steps::default();
        let mut stopped = false;
        for result in results {
            match result {
                Ok(part) => {
                    steps.pin = steps.pin.max(part.steps.pin);
                    steps.read = steps.read.max(part.steps.read);
                    steps.build = steps.build.max(part.steps.build);
                    rings.push(part.ring);
                    lists.push(part.sgl);
                }
                Err(Stopped::Failed(kind)) => return Err(kind),
                Err(Stopped::ByOther) => stopped = true,
            }
        }
        if stopped {
            return Err(PinErrorKind::Cancelled);
        }
        if lists.len() == 1 {
            if let Some(sgl) = lists.pop() {
                return Ok(Done { rings, sgl, steps });
            }
        }
        let started = Instant::now();
        let failed = |source| PinErrorKind::Build { offset: 0, source };
        let mut builder = SglBuilder::new(self.buffer.page_size()).map_err(failed)?;
        for list in &lists {
            let offset = builder.page_count().wrapping_shl(builder.page_size().shift());
            builder.push_sgl(list).map_err(|source| PinErrorKind::Build { offset, source })?;
        }
        let sgl = builder.finish().map_err(|e| PinErrorKind::OutOfMemory(AllocError::from(e)))?;
        steps.join = started.elapsed();
        Ok(Done { rings, sgl, steps })
    }

    /// Pins and lists the bytes `range` of the buffer.
    fn part(&self, range: Range<u64>) -> Result<Part, Stopped> {
        let _guard = StopOnPanic(&self.stop);
        let part = self.pin(range.clone()).and_then(|(ring, pin)| {
            let (sgl, read, build) = self.list(range)?;
            Ok(Part { ring, sgl, steps: Steps { pin, read, build, ..Steps::default() } })
        });
        part.inspect_err(|_| self.stop.store(true, Ordering::Relaxed))
    }

    fn pin(&self, range: Range<u64>) -> Result<(Ring, Duration), Stopped> {
        let started = Instant::now();
        let len = range.end.saturating_sub(range.start);
        let (slot_bytes, slots) = slots(len, self.buffer.huge_page_size())?;
        let mut ring = Ring::new(slots)?;
        let mut offset = range.start;
        for slot in 0..slots {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped::ByOther);
            }
            let len = slot_bytes.min(range.end.saturating_sub(offset));
            let too_large = PinErrorKind::TooLarge { len, limit: MAX_SLOT_BYTES };
            let (Ok(from), Ok(bytes)) = (usize::try_from(offset), usize::try_from(len)) else {
                return Err(too_large.into());
            };
            // SAFETY: the bytes lie in the mapping of the buffer, which outlives the ring: the
            // rings that leave this job go into a `Pinned`, which drops them before its buffer, and
            // those that do not are dropped while the job borrows the buffer. Nobody ever borrows
            // the bytes of a buffer.
            let pinned = unsafe { ring.pin(slot, self.buffer.at(from), bytes) };
            pinned.map_err(|source| why(offset, len, source))?;
            offset = offset.wrapping_add(len);
            let total = self.pinned.fetch_add(len, Ordering::Relaxed).wrapping_add(len);
            if (self.progress)(total).is_break() {
                return Err(PinErrorKind::Cancelled.into());
            }
        }
        Ok((ring, started.elapsed()))
    }

    /// The list of pages that are pinned, and how long reading and building took.
    fn list(&self, range: Range<u64>) -> Result<(Sgl<Heap>, Duration, Duration), PinErrorKind> {
        let page = self.buffer.page_size();
        let mut frames = [Pfn::default(); FRAMES];
        let (mut read, mut build) = (Duration::ZERO, Duration::ZERO);
        let mut offset = range.start;
        let failed = |offset| move |source| PinErrorKind::Build { offset, source };
        let mut builder = SglBuilder::new(page).map_err(failed(offset))?;
        while offset < range.end {
            let started = Instant::now();
            let left = range.end.saturating_sub(offset).wrapping_shr(page.shift());
            let count = usize::try_from(left).unwrap_or(FRAMES).min(FRAMES);
            let frames = frames.get_mut(..count).unwrap_or_default();
            let from = self.buffer.user_addr().get().wrapping_add(offset);
            let hidden = |error: FrameError| PinErrorKind::Frames(error.further(offset));
            self.map.read(UserAddr::new(from), frames).map_err(hidden)?;
            let between = Instant::now();
            builder.push_pages(frames, MemoryKind::Ram).map_err(failed(offset))?;
            read = read.saturating_add(between.duration_since(started));
            build = build.saturating_add(between.elapsed());
            offset = offset.wrapping_add((count as u64).wrapping_shl(page.shift()));
        }
        let started = Instant::now();
        let sgl = builder.finish().map_err(|e| PinErrorKind::OutOfMemory(AllocError::from(e)))?;
        Ok((sgl, read, build.saturating_add(started.elapsed())))
    }
}
