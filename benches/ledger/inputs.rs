// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operations work on: the same in every run.
#![forbid(unsafe_code)]

use pinned_sgl::{PageRun, Pfn};

/// Numbers below 2^48 in no order.
pub(crate) fn numbers(count: u64) -> impl Iterator<Item = u64> {
    let mut state = 0x5eed_u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state >> 16
    })
}

/// Frames one behind the other.
pub(crate) fn together(count: u64) -> Vec<Pfn> {
    (0x10_0000..0x10_0000 + count).map(Pfn::new).collect()
}

/// Frames of 64 GiB, of which no two lie together.
pub(crate) fn apart(count: u64) -> Vec<Pfn> {
    numbers(count).map(|number| Pfn::new(number & 0xff_ffff | 1)).collect()
}

/// 60,000 runs: of three, one is a huge page, and the others have one to seven pages.
pub(crate) fn huge_and_small() -> Vec<PageRun> {
    let run = |(index, number): (u64, u64)| {
        let frame = number & 0xfff_ffff;
        let (start, count) =
            if index % 3 == 0 { (frame & !511, 512) } else { (frame | 1, 1 + index % 7) };
        PageRun::ram(Pfn::new(start), count).expect("a run has pages")
    };
    (0..).zip(numbers(60_000)).map(run).collect()
}

/// 10,000 places of 2 MiB: of twenty, one has runs of one to seven pages, and the others a huge page, each
/// where it happens to lie.
pub(crate) fn huge_pages() -> Vec<PageRun> {
    let mut runs = Vec::new();
    for (place, number) in (0..).zip(numbers(10_000)) {
        let (mut start, mut left) = (number & 0xfff_fe00, 512);
        while left > 0 {
            let count = if place % 20 == 7 { (1 + left % 7).min(left) } else { left };
            runs.push(PageRun::ram(Pfn::new(start), count).expect("a run has pages"));
            (start, left) = (start + count + 1, left - count);
        }
    }
    runs
}
