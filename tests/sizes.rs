// SPDX-License-Identifier: MIT OR Apache-2.0
//! The size law: bytes used for a 300 GiB virtual machine on a host of 1 TiB, four ways.
//!
//! Sizes are deterministic; the inputs are those of the benchmarks.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../benches/peers/inputs.rs"]
mod inputs;

use inputs::{list, scattered_run, thp_mix, HUGE};
use pinned_sgl::{Heap, Pool, Sgl, SglBuilder};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::size_of;

const MIB: f64 = 1048576.0;

/// The allocator of this test, which remembers the largest request of each thread.
struct Largest;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

#[track_caller]
fn assert_size(name: &str, sgl: &Sgl<Heap>, runs: std::ops::Range<u64>, most: f64) {
    let bytes = sgl.footprint();
    let per_run = bytes as f64 / sgl.run_count() as f64;
    println!("{name}: {} runs, {bytes} bytes, {per_run:.3} a run", sgl.run_count());
    assert!(runs.contains(&sgl.run_count()), "{name}: {} runs", sgl.run_count());
    assert!(bytes as f64 <= most, "{name}: {bytes} bytes, at most {most}");
}

#[test]
fn huge_pages_all_discontiguous() {
    let sgl = list((0..153_600).map(|index| scattered_run(index, HUGE)));
    assert_size("2 MiB pages", &sgl, 153_500..153_601, 0.37 * MIB);
}

#[test]
fn transparent_huge_pages_and_small_runs() {
    let sgl = list(thp_mix(153_600));
    assert_eq!(sgl.byte_len(), 300 << 30);
    assert_size("THP mix", &sgl, 1_000_000..1_120_000, 5.16 * MIB);
    // Where runs lie against multiples of 2 MiB of the list makes no difference.
    for shift in [1, 37, 256, 511] {
        let shifted = std::iter::once((1 << 28, shift)).chain(thp_mix(153_600));
        assert_size("THP mix, shifted", &list(shifted), 1_000_000..1_120_000, 5.16 * MIB);
    }
}

#[test]
fn fully_fragmented() {
    LARGEST.set(0);
    let sgl = list((0..78_643_200).map(|index| scattered_run(index, 0)));
    // Order-0 pages are all that a kernel can count on.
    assert_eq!(LARGEST.get(), 4096);
    assert_size("4 KiB pages", &sgl, 78_643_000..78_643_201, 270.0 * MIB);
}

#[test]
fn gigantic_pages() {
    let sgl = list((0..300).map(|index| scattered_run(index, 18)));
    assert_size("1 GiB pages", &sgl, 290..301, 1024.0);
}

/// A list of a few runs lives in its own value.
#[test]
fn a_few_runs_allocate_nothing() {
    for order in [0, HUGE, 18] {
        let sgl = list((0..8).map(|index| scattered_run(index, order)));
        assert_eq!((sgl.run_count(), sgl.footprint()), (8, size_of::<Sgl<Heap>>()));
    }
    // Four anywhere in 2^40 frames; three anywhere at all, of as many pages as a leaf spans.
    let far = |index: u64| ((index.pow(3) << 36) % (1 << 40) + index, index * 1000 + 1);
    assert_eq!(list((0..4).map(far)).footprint(), size_of::<Sgl<Heap>>());
    let farther = |index: u64| ((1 << 51) - 1 + (index << 49), (1 << 31) - 1 + index);
    let sgl = list((0..3).map(farther));
    assert_eq!((sgl.run_count(), sgl.footprint()), (3, size_of::<Sgl<Heap>>()));
}

/// Bytes a run in long lists, and how little a short one can take.
#[test]
fn long_lists_and_short_ones() {
    let per_run = |sgl: Sgl<Heap>| sgl.footprint() as f64 / sgl.run_count() as f64;
    for count in [1000, 3000, 10_000, 100_000] {
        for order in [0, HUGE] {
            let scattered = per_run(list((0..count).map(|index| scattered_run(index, order))));
            assert!((2.0..5.5).contains(&scattered), "{count} runs of order {order}: {scattered}");
        }
        let mixed = per_run(list(thp_mix(count)));
        assert!((2.0..5.6).contains(&mixed), "{count} places with huge pages: {mixed}");
    }
    for count in 1..=100 {
        for order in [0, HUGE, 18] {
            let sgl = list((0..count).map(|index| scattered_run(index, order)));
            assert!((100..900).contains(&sgl.footprint()), "{count} runs of order {order}");
        }
    }
}

/// What a list and a builder weigh before they hold anything.
#[test]
fn values_are_small() {
    println!("Sgl<Heap> {}, Sgl<Pool> {}", size_of::<Sgl<Heap>>(), size_of::<Sgl<Pool<'_>>>());
    assert!(size_of::<Sgl<Heap>>() <= 128);
    assert!(size_of::<Sgl<Pool<'_>>>() <= 136);
    assert!(size_of::<SglBuilder<Heap>>() <= 1408);
}
