// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists that are long enough for a directory: every run is found, by its first byte, its last, and one
//! between, wherever its cells begin and however high its frames are.

use fastrand::Rng;
use pinned_sgl::{Heap, PageRun, PageSize, Pfn, PhysAddr, Sgl, SglBuilder};

/// A list of runs, and the same as it was made: the first page of each run, and the run.
struct Case {
    list: Sgl<Heap>,
    runs: Vec<(u64, PageRun)>,
}

impl Case {
    fn new(page: PageSize, runs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut builder = SglBuilder::new(page).unwrap();
        let (mut all, mut pages) = (Vec::<(u64, PageRun)>::new(), 0);
        for (start, count) in runs {
            builder.push_run(PageRun::ram(Pfn::new(start), count).unwrap()).unwrap();
            match all.last_mut() {
                Some((_, last)) if last.start().get() + last.count() == start => {
                    *last = PageRun::ram(last.start(), last.count() + count).unwrap();
                }
                _ => all.push((pages, PageRun::ram(Pfn::new(start), count).unwrap())),
            }
            pages += count;
        }
        Self { list: builder.finish().unwrap(), runs: all }
    }

    /// Every run is found by some of its bytes; in no order, so that nothing is as the lookup before it.
    fn is_found(&self, random: &mut Rng) {
        let (shift, window) = (self.list.page_size().shift(), self.list.whole().unwrap());
        assert_eq!(self.list.run_count(), self.runs.len() as u64);
        let mut bytes = Vec::new();
        for &(first, run) in &self.runs {
            let (begin, len) = (first << shift, run.count() << shift);
            let start = run.start().get() << shift;
            for beyond in [0, len - 1, random.u64(..len)] {
                bytes.push((begin + beyond, start + beyond, begin, start));
            }
        }
        random.shuffle(&mut bytes);
        for &(offset, phys, begin, start) in &bytes {
            assert_eq!(window.phys(offset), Some(PhysAddr::new(phys)), "byte {offset:#x}");
            let (at, segment) = window.segment_at(offset).unwrap();
            assert_eq!((at, segment.phys.get()), (begin, start), "byte {offset:#x}");
            let rest = window.iter_at(offset).next().unwrap();
            assert_eq!((rest.phys.get(), rest.len), (phys, segment.len - (offset - begin)));
        }
        let offsets: Vec<_> = bytes.iter().map(|byte| byte.0).collect();
        let mut found = Vec::new();
        window.phys_of_many(&offsets, |phys| found.push(phys.unwrap().get()));
        assert!(found.iter().eq(bytes.iter().map(|byte| &byte.1)));
    }
}

/// Runs of `2^log2` pages where frames are multiples of that, some of which continue the one before, among
/// small ones, as huge pages lie in memory; without the first `cut` pages. Frames are above `above`.
fn mixed(random: &mut Rng, log2: u32, above: u64, mut cut: u64) -> Vec<(u64, u64)> {
    let (huge, mut runs, mut number) = (1u64 << log2, Vec::new(), 0);
    let small_in = random.u64(2..30);
    for _ in 0..random.u64(400..3000) {
        number += 1;
        let start = above + (((number * 7919) % (1 << 14)) << (log2 + 1));
        if random.u64(..small_in) != 0 {
            runs.push((start, huge));
            if random.bool() {
                runs.push((start + huge, huge));
            }
            continue;
        }
        let (mut left, mut at) = (huge, start);
        while left > 0 {
            let count = random.u64(1..=7).min(left);
            runs.push((at, count));
            (left, at) = (left - count, at + count + 1);
        }
    }
    while cut > 0 {
        let (start, count) = runs.remove(0);
        if count > cut {
            runs.insert(0, (start + cut, count - cut));
        }
        cut = cut.saturating_sub(count);
    }
    runs
}

const ROUNDS: u64 = if cfg!(miri) { 0 } else { 40 };

#[test]
fn huge_pages_lie_anywhere() {
    for seed in 0..ROUNDS {
        let random = &mut Rng::with_seed(seed);
        let log2 = random.u32(4..11);
        let cut = random.u64(..1 << (log2 + 1));
        Case::new(PageSize::SIZE_4K, mixed(random, log2, 0, cut)).is_found(random);
    }
}

/// Two thirds of a list with one phase, and a third with another: the majority wins, and all are found.
#[test]
fn regions_of_different_phases() {
    for seed in 0..ROUNDS {
        let random = &mut Rng::with_seed(seed);
        let cuts = [random.u64(..512), random.u64(..512), random.u64(..512)];
        let parts = cuts.map(|cut| mixed(random, 9, 0, cut));
        Case::new(PageSize::SIZE_4K, parts.into_iter().flatten()).is_found(random);
    }
}

/// Addresses that have more bits than an entry, up to the last one that there is.
#[test]
fn frames_anywhere() {
    for seed in 0..ROUNDS {
        let random = &mut Rng::with_seed(seed);
        let page = PageSize::from_shift(random.u32(10..17)).unwrap();
        let last = u64::MAX >> page.shift();
        let above = [0, 1, 1 << 33, last - (1 << 26), random.u64(..last - (1 << 26))];
        let mut runs = mixed(random, 8, above[seed as usize % above.len()], seed % 300);
        // Frame zero, in a list of higher ones, and the last frame.
        runs.push((0, 3000));
        runs.push((last - 999, 1000));
        runs.insert(0, (5, 100));
        Case::new(page, runs).is_found(random);
    }
}

/// A list that has nearly as many bytes as there are numbers.
#[test]
fn as_long_as_can_be() {
    let page = PageSize::SIZE_4K;
    let last = u64::MAX >> page.shift();
    let random = &mut Rng::with_seed(1);
    let mut runs: Vec<_> = (0..3000).map(|at| (at * 4096 + 7, 1 + at % 900)).collect();
    let left = last - runs.iter().map(|run| run.1).sum::<u64>();
    // The same frames again and again: a list has no opinion about that.
    let whole = 1 << 44;
    runs.extend((0..left / whole).map(|at| (at * 512, whole)));
    runs.push((1, left % whole));
    Case::new(page, runs).is_found(random);
}
