// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inputs: memory as a host hands it out, from fixed seeds.

use pinned_sgl::{Heap, PageRun, PageSize, Pfn, Sgl, SglBuilder};

/// A start frame and a count of pages.
pub(crate) type Run = (u64, u64);

/// The host has 1 TiB: 2^28 frames of 4 KiB.
const HOST_BITS: u32 = 28;
/// Frames of a huge page of 2 MiB, as a power of two.
pub(crate) const HUGE: u32 = 9;

/// How large the inputs are.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Pages of a slice that is built from.
    pub(crate) pages: u64,
    /// Places of 2 MiB in the virtual machine.
    pub(crate) slots: u64,
    /// How many addresses are looked up.
    pub(crate) lookups: usize,
}

impl Scale {
    /// A virtual machine of 300 GiB; slices of 16 MiB, more than a second-level cache holds.
    pub(crate) const FULL: Self = Self { pages: 2 << 20, slots: 153_600, lookups: 256 << 10 };
    pub(crate) const TINY: Self = Self { pages: 1 << 13, slots: 400, lookups: 1 << 10 };
}

/// Shuffles the numbers of `bits` bits: a bijection that needs no table.
const fn shuffle(number: u64, bits: u32) -> u64 {
    let mask = (1u64 << bits) - 1;
    let half = bits.div_ceil(2);
    let mut x = number & mask;
    let mut round = 0;
    while round < 3 {
        x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5677) & mask;
        x ^= x >> half;
        round += 1;
    }
    x
}

/// Run `index` of a list of aligned runs of `2^order` frames, each at its own random place.
pub(crate) const fn scattered_run(index: u64, order: u32) -> Run {
    (shuffle(index, HOST_BITS - order) << order, 1 << order)
}

/// `count` aligned runs of `2^order` frames, each at its own random place of the host.
pub(crate) fn scattered(count: u64, order: u32) -> Vec<Run> {
    (0..count).map(|index| scattered_run(index, order)).collect()
}

/// `count` runs of 1 to 7 frames, each at a random place of the host.
pub(crate) fn small_runs(count: u64) -> Vec<Run> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut run = |index| {
        let count = random.u64(1..=7);
        (scattered_run(index, 3).0 + random.u64(0..=8 - count), count)
    };
    (0..count).map(&mut run).collect()
}

/// Transparent huge pages: of `slots` places of 2 MiB, 95 % have a huge page, half of which
/// continue the one before; the others have runs of 1 to 7 frames at random.
pub(crate) fn thp_mix(slots: u64) -> Vec<Run> {
    let mut random = fastrand::Rng::with_seed(300);
    let mut runs: Vec<Run> = Vec::new();
    // Small runs begin at every eighth frame, so that they never overlap.
    let (mut huge, mut small) = (0u64, 0u64);
    let mut after_huge = None;
    for slot in 0..slots {
        if slot % 20 == 7 {
            let mut left = 1u64 << HUGE;
            while left > 0 {
                let count = random.u64(1..=7).min(left);
                runs.push((scattered_run(small, 3).0 + random.u64(0..=8 - count), count));
                small += 1;
                left -= count;
            }
            after_huge = None;
            continue;
        }
        match after_huge {
            Some(next) if random.bool() => {
                runs.last_mut().unwrap().1 += 1 << HUGE;
                after_huge = Some(next + (1 << HUGE));
            }
            _ => {
                let run = scattered_run(huge, HUGE);
                huge += 1;
                runs.push(run);
                after_huge = Some(run.0 + run.1);
            }
        }
    }
    runs
}

/// The frames of `runs`, page by page.
pub(crate) fn frames(runs: &[Run]) -> Vec<Pfn> {
    runs.iter().flat_map(|&(start, count)| (start..start + count).map(Pfn::new)).collect()
}

/// The list of `runs`.
pub(crate) fn list(runs: impl IntoIterator<Item = Run>) -> Sgl<Heap> {
    let mut builder = SglBuilder::new(PageSize::SIZE_4K).unwrap();
    for (start, count) in runs {
        builder.push_run(PageRun::ram(Pfn::new(start), count).unwrap()).unwrap();
    }
    builder.finish().unwrap()
}
