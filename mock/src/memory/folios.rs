// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocating, sharing, moving and freeing folios: what a memory does under its lock.
//!
//! ```text
//!  page tables ◄──── Map ────┐
//!   [ .. 7 8 9 10 .. ]       │ the reverse map: which entries
//!   [ .. 7 8 .. ]     ◄──────┤ show pages of the folio
//!        │                   │
//!        └─────────► folio 7, order 2: [ 7 | 8 | 9 | 10 ]
//! ```
#![forbid(unsafe_code)]

use super::contents::Page;
use super::frame::Frame;
use super::machine::Inner;
use super::page_table::{Entry, PageTable};
use super::zone::{Frames, Pool, Zone};
use std::{collections::BTreeMap, sync::Arc};

/// What is guarded by the lock of a memory.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The free frames of each part of a zone.
    pub(super) pools: Vec<Pool>,
    /// The folios that page tables show, by their first frame.
    folios: BTreeMap<u64, Vec<Map>>,
    /// What was swapped out.
    swap: BTreeMap<u64, Page>,
    next_slot: u64,
    /// The frame of zeros, once it is used.
    zero: Option<u64>,
}

/// Where a page table shows pages of a folio.
#[derive(Debug)]
struct Map {
    table: Arc<PageTable>,
    /// The index of the entry that shows the first page, or would: it may lie below zero.
    base: u64,
    /// How many entries show a page.
    pages: u64,
}

/// Why a folio cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmoved {
    /// It is pinned.
    Busy,
    /// There is no frame to move it to.
    NoMemory,
}

impl State {
    pub(super) fn new(pools: Vec<Pool>) -> Self {
        Self { pools, ..Self::default() }
    }

    /// Says that `table` shows a page of a folio, at `index`.
    pub(super) fn add_map(&mut self, head: u64, pfn: u64, table: &Arc<PageTable>, index: u64) {
        let base = index.wrapping_sub(pfn - head);
        self.add_maps(head, table, base, 1);
    }

    /// Says that `table` shows `pages` pages more of a folio, whose first page belongs at `base`.
    pub(super) fn add_maps(&mut self, head: u64, table: &Arc<PageTable>, base: u64, pages: u64) {
        let maps = self.folios.entry(head).or_default();
        match maps.iter_mut().find(|map| Arc::ptr_eq(&map.table, table) && map.base == base) {
            Some(map) => map.pages = map.pages.saturating_add(pages),
            None => maps.push(Map { table: table.clone(), base, pages }),
        }
    }

    /// Whether no other page table shows a page of the folio.
    pub(super) fn is_only_in(&self, head: u64, table: &Arc<PageTable>) -> bool {
        let maps = self.folios.get(&head);
        maps.is_some_and(|maps| maps.iter().all(|map| Arc::ptr_eq(&map.table, table)))
    }

    /// The first frames of all folios.
    pub(super) fn heads(&self) -> Vec<u64> {
        self.folios.keys().copied().collect()
    }

    /// Keeps the contents of a page; where.
    pub(super) fn swap_in_place(&mut self, page: Page) -> u64 {
        let slot = self.next_slot;
        self.next_slot = slot + 1;
        self.swap.insert(slot, page);
        slot
    }

    /// Another place with the same contents.
    pub(super) fn copy_slot(&mut self, slot: u64) -> u64 {
        let page = self.swap.get(&slot).cloned().flatten();
        self.swap_in_place(page)
    }

    /// What was kept at a place, which is free then.
    pub(super) fn take_slot(&mut self, slot: u64) -> Page {
        self.swap.remove(&slot).flatten()
    }
}

impl Inner {
    /// Takes a free folio of a zone, zeroed; it is not mapped yet.
    pub(super) fn alloc(&self, state: &mut State, zone: Zone, order: u32) -> Option<u64> {
        self.zones
            .iter()
            .zip(&mut state.pools)
            .filter(|(frames, _)| frames.zone == zone)
            .find_map(|(frames, pool)| frames.take(pool, order, self.fragmentation))
    }

    /// Takes this very frame, zeroed, if it is free; it is not mapped yet.
    pub(super) fn alloc_at(&self, state: &mut State, pfn: u64) -> Option<u64> {
        let (frames, pool) = self.pool_of(state, pfn)?;
        frames.take_at(pool, pfn, 0)
    }

    /// The part of a zone that a frame belongs to, and what is free of it.
    fn pool_of<'a>(&'a self, state: &'a mut State, pfn: u64) -> Option<(&'a Frames, &'a mut Pool)> {
        let mut zones = self.zones.iter().zip(&mut state.pools);
        zones.find(|(frames, _)| (frames.start..frames.end).contains(&pfn))
    }

    /// The frame of zeros.
    pub(super) fn zero(&self, state: &mut State) -> Option<u64> {
        if state.zero.is_none() {
            state.zero = self.alloc(state, Zone::Normal, 0);
        }
        state.zero
    }

    /// Frees a folio that is frozen.
    pub(super) fn free(&self, state: &mut State, head: u64) {
        if let Some((frames, pool)) = self.pool_of(state, head) {
            let pages = 1u64.checked_shl(self.order_of(head)).unwrap_or(0);
            self.contents.forget(head, head.saturating_add(pages));
            frames.give_back(pool, head);
        }
    }

    /// Frees a folio that is not mapped; if it is pinned, the last unpin does it.
    pub(super) fn let_go(&self, state: &mut State, head: u64) {
        if self.frame(head).is_some_and(Frame::orphan) {
            self.free(state, head);
        }
    }

    /// Says that `table` shows a page of a folio no more: the entry is gone already.
    pub(super) fn drop_map(&self, state: &mut State, pfn: u64, table: &Arc<PageTable>, index: u64) {
        let Some(head) = self.head_of(pfn) else { return };
        let base = index.wrapping_sub(pfn - head);
        let Some(maps) = state.folios.get_mut(&head) else { return };
        for map in maps.iter_mut() {
            if Arc::ptr_eq(&map.table, table) && map.base == base {
                map.pages = map.pages.saturating_sub(1);
            }
        }
        maps.retain(|map| map.pages != 0);
        if maps.is_empty() {
            state.folios.remove(&head);
            self.let_go(state, head);
        }
    }

    /// Empties an entry, and frees what only it kept.
    pub(super) fn clear(&self, state: &mut State, table: &Arc<PageTable>, index: u64) {
        let old = table.set(index, Entry::EMPTY);
        if let Some(slot) = old.slot() {
            state.take_slot(slot);
        }
        if let Some(pfn) = old.own_pfn() {
            self.drop_map(state, pfn, table, index);
        }
    }

    /// Copies the contents of one page to another.
    pub(super) fn copy_page(&self, from: u64, to: u64) {
        let page = self.contents.copy(from);
        self.contents.put(to, page);
    }

    /// Takes the place of a folio of `order`: one of the same order, or else single pages.
    fn alloc_targets(&self, state: &mut State, zone: Zone, order: u32) -> Option<Targets> {
        if let Some(head) = self.alloc(state, zone, order) {
            return Some(Targets::Whole(head));
        }
        let pages = 1u64.checked_shl(order)?;
        let mut singles = Vec::new();
        while order != 0 && (singles.len() as u64) < pages {
            let Some(pfn) = self.alloc(state, zone, 0) else { break };
            singles.push(pfn);
        }
        let targets = Targets::Singles(singles);
        if targets.heads().count() as u64 == pages {
            return Some(targets);
        }
        self.give_back(state, &targets);
        None
    }

    fn give_back(&self, state: &mut State, targets: &Targets) {
        for head in targets.heads() {
            self.let_go(state, head);
        }
    }

    /// Moves a folio to `zone`, contents and page tables; how many pages that are. If the zone has
    /// no folio of this size, the pages go to single frames.
    pub(super) fn migrate(&self, state: &mut State, head: u64, zone: Zone) -> Result<u64, Unmoved> {
        let frame = self.frame(head).ok_or(Unmoved::Busy)?;
        if !state.folios.contains_key(&head) || frame.is_folio_pinned() {
            return Err(Unmoved::Busy);
        }
        let order = frame.order();
        let pages = 1u64.checked_shl(order).unwrap_or(0);
        let targets = self.alloc_targets(state, zone, order).ok_or(Unmoved::NoMemory)?;
        // First the entries, then the freeze: a pinner that has seen an entry and comes after the
        // freeze is refused; one that came before it makes the freeze fail.
        let hidden = hide(state, head, pages);
        if !frame.freeze() {
            for (table, index, entry) in hidden {
                table.set(index, entry);
            }
            self.give_back(state, &targets);
            return Err(Unmoved::Busy);
        }
        state.folios.remove(&head);
        for page in 0..pages {
            let from = head.saturating_add(page);
            let Some(to) = targets.page(page) else { continue };
            let contents = self.contents.take(from);
            self.contents.put(to, contents);
            if let (Some(from), Some(to)) = (self.frame(from), self.frame(to)) {
                to.inherit(from);
            }
        }
        for (table, index, entry) in hidden {
            let page = entry.own_pfn().and_then(|pfn| pfn.checked_sub(head));
            let Some(to) = page.and_then(|page| targets.page(page)) else { continue };
            state.add_map(targets.head(to), to, &table, index);
            table.set(index, entry.moved_to(to));
        }
        for target in targets.heads() {
            // Nothing else would ever free the copy of a page that no table maps.
            if !state.folios.contains_key(&target) {
                self.let_go(state, target);
            }
        }
        self.free(state, head);
        Ok(pages)
    }
}

/// Takes the entries that show pages of a folio away, and remembers them.
fn hide(state: &State, head: u64, pages: u64) -> Vec<(Arc<PageTable>, u64, Entry)> {
    let mut hidden = Vec::new();
    for map in state.folios.get(&head).into_iter().flatten() {
        for page in 0..pages {
            let index = map.base.wrapping_add(page);
            let entry = map.table.load(index);
            if entry.own_pfn() == head.checked_add(page) {
                map.table.set(index, Entry::MOVING);
                hidden.push((map.table.clone(), index, entry));
            }
        }
    }
    hidden
}

/// Where the pages of a folio go.
enum Targets {
    Whole(u64),
    Singles(Vec<u64>),
}

impl Targets {
    fn page(&self, page: u64) -> Option<u64> {
        match self {
            Self::Whole(head) => head.checked_add(page),
            Self::Singles(pages) => pages.get(usize::try_from(page).ok()?).copied(),
        }
    }

    fn head(&self, pfn: u64) -> u64 {
        match self {
            Self::Whole(head) => *head,
            Self::Singles(_) => pfn,
        }
    }

    fn heads(&self) -> impl Iterator<Item = u64> + '_ {
        let (whole, singles) = match self {
            Self::Whole(head) => (Some(*head), None),
            Self::Singles(pages) => (None, Some(pages)),
        };
        whole.into_iter().chain(singles.into_iter().flatten().copied())
    }
}
