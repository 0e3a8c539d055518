// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Slots`]: which stretches of a buffer are pinned, and how many pages are held.
//!
//! ```text
//!  buffer   ├───────────────────────────────────────────────────────────┤
//!  slots      ├── 0 ───┤├────── 1 ──────┤      ├─ 2 ─┤                    each in a table of a ring
//!  pins       ████████  ████████   ██████        ███
//!                       ███████████████                                    two pins of one page
//!  held          8             29                 3
//! ```
//!
//! Slots never overlap, so a page belongs to one slot at most, and `held` is exact although nothing
//! remembers which of its pages they are: a page that is pinned again adds to the count of the slot
//! that has it. The kernel pins, and charges, each page once. A slot for which nothing is held any
//! more is unregistered: so a page stays pinned a little longer than it is held, and never shorter.
//!
//! System calls are made with the lock released. Meanwhile the slot is there, [moving](Stage), and
//! a thread that wants its pages waits; a ring is used by one thread at a time to register, as the kernel
//! would make a second one wait. So threads at different places do not wait for each other.

use super::error::PageError;
use super::ring::Ring;
use core::{fmt, ops::Range};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// The slots in the table of a ring: enough for 64 GiB of slots of 64 MiB. The kernel searches the
/// table for each huge page that it pins, so it should not be long.
const TABLE: u16 = 1024;

/// All slots of a buffer, and the rings that have them. Offsets are in bytes of the buffer.
#[derive(Default)]
pub(super) struct Slots {
    state: Mutex<State>,
    /// A slot has stopped moving.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    /// By the first byte. Invariant: they do not overlap.
    slots: BTreeMap<u64, Slot>,
    /// Never shorter: an entry keeps its index.
    rings: Vec<RingState>,
}

/// The bytes up to `end`.
struct Slot {
    end: u64,
    stage: Stage,
}

/// What a slot is about.
enum Stage {
    /// Being registered or unregistered: no page of it is held.
    Moving,
    /// Registered, and pages of `held` bytes are held; a page that is held twice counts twice.
    Pinned { place: TableSlot, held: u64 },
}

/// A slot in the table of a ring.
#[derive(Clone, Copy)]
struct TableSlot {
    ring: usize,
    index: u16,
}

/// A ring, and what is known about its table.
struct RingState {
    ring: Arc<Ring>,
    /// A thread registers memory, or changes the table.
    busy: bool,
    /// Whether the ring has a table.
    table: bool,
    /// Slots of the table that are filled or are about to be: while `busy`, at least one, or the
    /// table is being cleared.
    used: u16,
    /// Slots that are certainly empty. Its memory is enough for all of them.
    free: Vec<u16>,
}

impl RingState {
    fn new(ring: Ring) -> Self {
        let mut entry = Self {
            ring: Arc::new(ring),
            busy: false,
            table: false,
            used: 0,
            free: Vec::with_capacity(TABLE.into()),
        };
        entry.all_free();
        entry
    }

    /// All slots are free, the first one first.
    fn all_free(&mut self) {
        self.free.clear();
        self.free.extend((0..TABLE).rev());
    }
}

impl State {
    /// The slot that has the byte at `offset`, and its first byte.
    fn slot(&mut self, offset: u64) -> Option<(u64, &mut Slot)> {
        let (start, slot) = self.slots.range_mut(..=offset).next_back()?;
        (offset < slot.end).then_some((*start, slot))
    }

    /// Where the next slot after `offset` begins, if there is one.
    fn next(&self, offset: u64) -> Option<u64> {
        self.slots.range(offset..).next().map(|(start, _)| *start)
    }

    /// Takes a free slot of an idle ring, which is busy then.
    fn take_slot(&mut self) -> Option<(TableSlot, Arc<Ring>, bool)> {
        let mut rings = self.rings.iter_mut().enumerate();
        rings.find_map(|(ring, entry)| {
            if entry.busy {
                return None;
            }
            let index = entry.free.pop()?;
            entry.busy = true;
            entry.used = entry.used.saturating_add(1);
            Some((TableSlot { ring, index }, Arc::clone(&entry.ring), entry.table))
        })
    }
}

impl Slots {
    /// Whether a page is held.
    pub(super) fn is_held(&mut self) -> bool {
        // A slot is there as long as something of it is held.
        !self.state.get_mut().unwrap_or_else(PoisonError::into_inner).slots.is_empty()
    }

    /// Holds the pages from the start of `wanted` on, as far as one slot has them: one that is there
    /// already, or a new one, which ends at `cut` at the latest.
    ///
    /// `register` fills a slot with the bytes of a range. It is called without the lock.
    pub(super) fn hold(
        &self,
        wanted: Range<u64>,
        cut: u64,
        register: impl FnOnce(&Ring, u16, Range<u64>) -> Result<(), PageError>,
    ) -> Result<Held<'_>, PageError> {
        let start = wanted.start;
        let mut state = self.lock();
        while let Some((_, slot)) = state.slot(start) {
            match &mut slot.stage {
                Stage::Pinned { held, .. } => {
                    let end = slot.end.min(wanted.end);
                    let more = held.checked_add(end.saturating_sub(start));
                    *held = more.ok_or(PageError::TooManyPins)?;
                    return Ok(Held { slots: self, range: start..end });
                }
                Stage::Moving => {
                    let waited = self.settled.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let end = state.next(start).map_or(wanted.end, |next| next.min(wanted.end)).min(cut);
        state.slots.insert(start, Slot { end, stage: Stage::Moving });
        let taken = state.take_slot();
        drop(state);

        let (place, ring, table) = match taken.map_or_else(|| self.new_ring(), Ok) {
            Ok(taken) => taken,
            Err(fault) => {
                self.lock().slots.remove(&start);
                self.settled.notify_all();
                return Err(fault);
            }
        };
        let set = if table { Ok(()) } else { ring.set_table(TABLE) };
        let table = set.is_ok();
        let registered = set.and_then(|()| register(&ring, place.index, start..end));

        let mut state = self.lock();
        if let Some(entry) = state.rings.get_mut(place.ring) {
            entry.busy = false;
            entry.table = table;
            if registered.is_err() {
                entry.used = entry.used.saturating_sub(1);
                entry.free.push(place.index);
            }
        }
        let held = end.saturating_sub(start);
        if registered.is_ok() {
            let stage = Stage::Pinned { place, held };
            state.slots.insert(start, Slot { end, stage });
        } else {
            state.slots.remove(&start);
        }
        drop(state);
        self.settled.notify_all();
        registered.map(|()| Held { slots: self, range: start..end })
    }

    /// Another ring, of which a slot is taken.
    fn new_ring(&self) -> Result<(TableSlot, Arc<Ring>, bool), PageError> {
        let mut entry = RingState::new(Ring::new()?);
        let index = entry.free.pop().unwrap_or(0);
        (entry.busy, entry.used) = (true, 1);
        let ring = Arc::clone(&entry.ring);
        let mut state = self.lock();
        let place = TableSlot { ring: state.rings.len(), index };
        state.rings.push(entry);
        Ok((place, ring, false))
    }

    /// Lets go of one pin of each page of `range`. Does not allocate.
    pub(super) fn let_go(&self, range: Range<u64>) {
        let mut offset = range.start;
        let mut state = self.lock();
        while offset < range.end {
            // A page that is not held: the caller has broken its promise.
            let Some((start, slot)) = state.slot(offset) else { break };
            let Stage::Pinned { place, held } = &mut slot.stage else { break };
            let place = *place;
            let end = slot.end.min(range.end);
            *held = held.saturating_sub(end.saturating_sub(offset));
            if *held == 0 {
                slot.stage = Stage::Moving;
                state = self.release(state, start, place);
            }
            offset = end;
        }
    }

    /// Unregisters the slot that begins at `start`, which is moving.
    fn release<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        start: u64,
        place: TableSlot,
    ) -> MutexGuard<'a, State> {
        let ring = state.rings.get(place.ring).map(|entry| Arc::clone(&entry.ring));
        drop(state);
        let emptied = ring.as_ref().is_some_and(|ring| ring.unpin(place.index).is_ok());
        state = self.lock();
        let mut last = false;
        if let Some(entry) = state.rings.get_mut(place.ring) {
            entry.used = entry.used.saturating_sub(1);
            if emptied {
                entry.free.push(place.index);
            }
            // Nothing is registered but what could not be unregistered.
            last = entry.used == 0;
            entry.busy |= last;
        }
        if last {
            drop(state);
            if let Some(ring) = &ring {
                ring.clear();
            }
            state = self.lock();
            if let Some(entry) = state.rings.get_mut(place.ring) {
                (entry.busy, entry.table) = (false, false);
                entry.all_free();
            }
        }
        state.slots.remove(&start);
        self.settled.notify_all();
        state
    }

    /// Locks, also where another thread has panicked while it held the lock: between two lines that
    /// change the state, nothing can.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Slots")
            .field("slots", &state.slots.len())
            .field("rings", &state.rings.len())
            .finish()
    }
}

/// Pages that are held, and are let go of when this is dropped.
pub(super) struct Held<'a> {
    slots: &'a Slots,
    range: Range<u64>,
}

impl Held<'_> {
    /// The bytes of the buffer that are held.
    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Hands the first `bytes` of them over to an owner that lets go of them in the end.
    pub(super) fn hand_over(&mut self, bytes: u64) {
        self.range.start = self.range.start.saturating_add(bytes).min(self.range.end);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.slots.let_go(self.range());
    }
}
