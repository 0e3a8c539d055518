// SPDX-License-Identifier: MIT OR Apache-2.0
//! The peers: other ways to keep runs, and what Linux does.

use crate::inputs::Run;
use pinned_sgl::{Pfn, Window};
use rangemap::RangeMap;
use std::collections::BTreeMap;

const SHIFT: u32 = 12;
const IN_PAGE: u64 = (1 << SHIFT) - 1;

/// Reads every frame number once, and does next to nothing with it.
#[inline(never)]
pub(crate) fn read_once(pages: &[Pfn]) -> u64 {
    pages.iter().fold(0, |acc, pfn| acc ^ pfn.get())
}

/// Finds the runs of `pages`, one page after another.
#[inline]
pub(crate) fn for_each_run(pages: &[Pfn], mut f: impl FnMut(Run)) {
    let mut rest = pages.iter().map(|pfn| pfn.get());
    let Some(mut start) = rest.next() else {
        return;
    };
    let mut end = start + 1;
    for pfn in rest {
        if pfn != end {
            f((start, end - start));
            start = pfn;
        }
        end = pfn + 1;
    }
    f((start, end - start));
}

/// A plain vector of runs.
#[inline(never)]
pub(crate) fn vec_of(pages: &[Pfn]) -> Vec<Run> {
    let mut runs = Vec::new();
    for_each_run(pages, |run| runs.push(run));
    runs
}

/// From the first page of a run to the run.
#[inline(never)]
pub(crate) fn btree_of(pages: &[Pfn]) -> BTreeMap<u64, Run> {
    let (mut map, mut page) = (BTreeMap::new(), 0);
    for_each_run(pages, |run| {
        map.insert(page, run);
        page += run.1;
    });
    map
}

/// From pages to the distance between page and frame, which is what a run has in common.
#[inline(never)]
pub(crate) fn rangemap_of(pages: &[Pfn]) -> RangeMap<u64, u64> {
    let (mut map, mut page) = (RangeMap::new(), 0);
    for_each_run(pages, |(start, count)| {
        map.insert(page..page + count, start.wrapping_sub(page));
        page += count;
    });
    map
}

/// Tables of entries.
pub(crate) type Tables = Vec<Box<[Entry; ENTRIES]>>;

/// An entry of Linux's `struct scatterlist` on a 64-bit machine.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Entry {
    page_link: u64,
    offset: u32,
    length: u32,
    dma_address: u64,
    dma_length: u32,
    dma_flags: u32,
}

/// Entries of a page of memory; the last one leads to the next page.
const ENTRIES: usize = 4096 / size_of::<Entry>();
const LINKED: usize = ENTRIES - 1;

/// As Linux fills a scatterlist (`sg_alloc_append_table_from_pages()`): it counts the runs, then walks the
/// pages once more and writes an entry per run into tables of one page each. No run is longer
/// than what 32 bits count.
///
/// `tables` are used again where there are some: fresh memory costs this peer, which needs the
/// most, several times the work itself.
#[inline(never)]
pub(crate) fn scatterlist_of(pages: &[Pfn], tables: &mut Tables) {
    let most = (u32::MAX as usize) >> SHIFT;
    let ends_at = |from: usize| {
        let mut at = from + 1;
        while at < pages.len() && at - from < most && pages[at].get() == pages[at - 1].get() + 1 {
            at += 1;
        }
        at
    };
    let (mut chunks, mut length) = (1, 1);
    for pair in pages.windows(2) {
        length += 1;
        if length > most || pair[1].get() != pair[0].get() + 1 {
            chunks += 1;
            length = 1;
        }
    }
    let mut from = 0;
    for chunk in 0..chunks {
        let end = ends_at(from);
        // Tables are found through the vector here; the kernel writes a link instead.
        if chunk / LINKED == tables.len() {
            tables.push(Box::new([Entry::default(); ENTRIES]));
        }
        if let Some(table) = tables.get_mut(chunk / LINKED) {
            let entry = &mut table[chunk % LINKED];
            entry.page_link = pages[from].get() << 6;
            entry.offset = 0;
            entry.length = ((end - from) << SHIFT) as u32;
        }
        from = end;
    }
}

/// From a byte of the list to its physical address.
pub(crate) trait Lookup {
    /// Finds the address of byte `offset`.
    fn phys(&self, offset: u64) -> u64;
}

impl Lookup for Window<'_, pinned_sgl::Heap> {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        Window::phys(self, offset).map_or(0, |phys| phys.get())
    }
}

/// The frame of page `page`, as an address.
#[inline]
fn address(offset: u64, page: u64, first: u64, start: u64) -> u64 {
    (start + (page - first)) << SHIFT | (offset & IN_PAGE)
}

impl Lookup for BTreeMap<u64, Run> {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let page = offset >> SHIFT;
        let found = self.range(..=page).next_back();
        found.map_or(0, |(first, run)| address(offset, page, *first, run.0))
    }
}

impl Lookup for RangeMap<u64, u64> {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let page = offset >> SHIFT;
        self.get(&page)
            .map_or(0, |distance| page.wrapping_add(*distance) << SHIFT | (offset & IN_PAGE))
    }
}

/// First page and start frame of each run, in one vector: a binary search.
pub(crate) struct Sorted(Vec<(u64, u64)>);

impl Sorted {
    pub(crate) fn new(runs: &[Run]) -> Self {
        let begins = runs.iter().scan(0, |page, &(start, count)| {
            let first = *page;
            *page += count;
            Some((first, start))
        });
        Self(begins.collect())
    }
}

impl Lookup for Sorted {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let page = offset >> SHIFT;
        let after = self.0.partition_point(|run| run.0 <= page);
        let (first, start) = self.0[after - 1];
        address(offset, page, first, start)
    }
}

/// A vector of runs, and the first page of every 64th of them: a binary search, then a walk.
pub(crate) struct Sampled {
    every: Vec<u64>,
    runs: Vec<Run>,
}

impl Sampled {
    pub(crate) fn new(runs: &[Run]) -> Self {
        let (mut every, mut page) = (Vec::new(), 0);
        for (index, run) in runs.iter().enumerate() {
            if index % 64 == 0 {
                every.push(page);
            }
            page += run.1;
        }
        Self { every, runs: runs.to_vec() }
    }
}

impl Lookup for Sampled {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let page = offset >> SHIFT;
        let sample = self.every.partition_point(|first| *first <= page) - 1;
        let mut first = self.every[sample];
        for &(start, count) in &self.runs[sample * 64..] {
            if page - first < count {
                return address(offset, page, first, start);
            }
            first += count;
        }
        0
    }
}

/// Entries of a scatterlist, which say how long each of them is: a byte is found by walking them.
pub(crate) struct Scatterlist(Tables);

impl Scatterlist {
    pub(crate) fn new(pages: &[Pfn]) -> Self {
        let mut tables = Tables::new();
        scatterlist_of(pages, &mut tables);
        Self(tables)
    }
}

impl Lookup for Scatterlist {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let mut left = offset;
        for entry in self.0.iter().flat_map(|table| &table[..LINKED]) {
            if left < entry.length.into() {
                return (entry.page_link >> 6 << SHIFT) + left;
            }
            left -= u64::from(entry.length);
        }
        0
    }
}

/// Keys of a node: a line of the cache.
const KEYS: usize = 16;

/// A static B+-tree, as fast as searches in order get (an S+-tree): every layer is an array of nodes of one line, and has the
/// first key of each node of the layer below, so that no pointer is read, and no comparison is a branch. It has
/// page numbers of 32 bits.
pub(crate) struct StaticTree {
    /// From the root down; the last has the first page of each run.
    layers: Vec<Vec<[u32; KEYS]>>,
    starts: Vec<u64>,
}

impl StaticTree {
    pub(crate) fn new(runs: &[Run]) -> Self {
        let mut keys: Vec<u32> = runs
            .iter()
            .scan(0, |page, run| {
                let first = *page;
                *page += run.1;
                Some(u32::try_from(first).unwrap())
            })
            .collect();
        let mut layers = Vec::new();
        loop {
            let node = |keys: &[u32]| {
                let mut node = [u32::MAX; KEYS];
                node[..keys.len()].copy_from_slice(keys);
                node
            };
            let layer: Vec<_> = keys.chunks(KEYS).map(node).collect();
            keys = layer.iter().map(|node| node[0]).collect();
            layers.push(layer);
            if keys.len() == 1 {
                break;
            }
        }
        layers.reverse();
        Self { layers, starts: runs.iter().map(|run| run.0).collect() }
    }
}

impl Lookup for StaticTree {
    #[inline]
    fn phys(&self, offset: u64) -> u64 {
        let page = (offset >> SHIFT) as u32;
        let (mut index, mut first) = (0, 0);
        for layer in &self.layers {
            let node = &layer[index];
            let before = node.iter().map(|key| u32::from(*key <= page)).sum::<u32>() as usize - 1;
            (index, first) = (index * KEYS + before, node[before]);
        }
        address(offset, page.into(), first.into(), self.starts[index])
    }
}

/// Runs as iommufd has them on their way (`struct pfn_batch`): an array of frames, and one of how many
/// follow each. It is filled for some runs at a time, and not kept.
#[derive(Default)]
pub(crate) struct Batches {
    frames: Vec<u64>,
    counts: Vec<u32>,
}

impl Batches {
    pub(crate) fn of(runs: &[Run]) -> Self {
        let counts = runs.iter().map(|run| u32::try_from(run.1).unwrap());
        Self { frames: runs.iter().map(|run| run.0).collect(), counts: counts.collect() }
    }

    #[inline(never)]
    pub(crate) fn fold(&self) -> u64 {
        let runs = self.frames.iter().zip(&self.counts);
        runs.fold(0, |acc, (frame, count)| acc ^ frame ^ u64::from(*count))
    }

    /// As `batch_add_pfn()` fills it, page by page, if it is large enough for all.
    #[inline(never)]
    pub(crate) fn fill(&mut self, pages: &[Pfn]) {
        self.frames.clear();
        self.counts.clear();
        for pfn in pages {
            if let (Some(frame), Some(count)) = (self.frames.last(), self.counts.last_mut()) {
                if frame + u64::from(*count) == pfn.get() {
                    *count += 1;
                    continue;
                }
            }
            self.frames.push(pfn.get());
            self.counts.push(1);
        }
    }
}
