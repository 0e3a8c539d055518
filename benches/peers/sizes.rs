// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes: computed, not measured, and the same on every machine.

use crate::inputs::{self, Run, HUGE};

/// Pages of 4 KiB of the virtual machine of 300 GiB.
const VM_PAGES: u64 = 300 << 18;
/// Bytes of an entry of Linux's scatterlist; 128 make a page, and the last leads to the next page.
const ENTRY: u64 = 32;

/// `log2(n!)`, by Stirling's series.
fn log2_factorial(n: f64) -> f64 {
    if n < 1.0 {
        return 0.0;
    }
    (n * n.ln() - n + 0.5 * (2.0 * std::f64::consts::PI * n).ln() + 1.0 / (12.0 * n))
        / std::f64::consts::LN_2
}

/// Bytes that say which `count` of `places` were taken, and in which order.
fn drawn(count: u64, places: u64) -> f64 {
    let (count, places) = (count as f64, places as f64);
    (log2_factorial(places) - log2_factorial(places - count)) / 8.0
}

/// Linux's bytes: the entries, and a link for each page but the last.
pub(crate) fn scatterlist(runs: u64) -> u64 {
    (runs + (runs - 1) / 127) * ENTRY
}

fn bytes(count: f64) -> String {
    if count < 100e3 {
        format!("{count:.0} B")
    } else {
        format!("{:.3} MiB", count / f64::from(1 << 20))
    }
}

fn row(name: &str, runs: impl IntoIterator<Item = Run>, bound: f64, target: f64) {
    let list = inputs::list(runs);
    let (ours, runs) = (list.footprint() as f64, list.run_count());
    let verdict = if ours <= target {
        "met".to_owned()
    } else {
        format!("MISSED by {:.1} %", (ours / target - 1.0) * 100.0)
    };
    println!(
        "{name:<24} {runs:>9} {:>13} {:>12} {:>12} {:>12} {:>6.2} {:>12}  {verdict}",
        bytes(scatterlist(runs) as f64),
        bytes((list.page_count() * 8) as f64),
        bytes(bound),
        bytes(ours),
        ours / runs as f64,
        bytes(target),
    );
}

/// Prints the table; the largest list, of 78.6 million runs, only if `test` is not set.
pub(crate) fn print(test: bool) {
    const MIB: f64 = (1 << 20) as f64;
    println!("\nSizes: a virtual machine of 300 GiB on a host of 1 TiB\n");
    println!(
        "{:<24} {:>9} {:>13} {:>12} {:>12} {:>12} {:>6} {:>12}",
        "", "runs", "scatterlist", "page list", "bound", "ours", "B/run", "target"
    );
    let slots = VM_PAGES >> HUGE;
    let scattered = |count, order| (0..count).map(move |at| inputs::scattered_run(at, order));
    row("2 MiB, discontiguous", scattered(slots, HUGE), drawn(slots, 1 << 19), 0.37 * MIB);
    let mix = inputs::thp_mix(slots);
    let bound = mix_bound(&mix);
    row("THP mix", mix, bound, 5.3 * MIB);
    if test {
        println!("{:<24} left out of a test run", "4 KiB, fully fragmented");
    } else {
        let bound = drawn(VM_PAGES, 1 << 28);
        row("4 KiB, fully fragmented", scattered(VM_PAGES, 0), bound, 270.0 * MIB);
    }
    row("1 GiB pages", scattered(300, 18), drawn(300, 1 << 10), 1023.0);
}

/// The small runs: a place of eight frames, one of 1 to 7 lengths, one of `9 - length` offsets.
/// The huge pages: a place for each run, and a coin for each page, whether it continues the last.
fn mix_bound(mix: &[Run]) -> f64 {
    let small = mix.iter().filter(|run| run.1 < 8);
    let huge = mix.iter().filter(|run| run.1 >= 8);
    let inside: f64 = small.clone().map(|run| ((9 - run.1) as f64).log2() + 7f64.log2()).sum();
    let coins: u64 = huge.clone().map(|run| run.1 >> HUGE).sum();
    let places = drawn(small.count() as u64, 1 << 25) + drawn(huge.count() as u64, 1 << 19);
    places + (inside + coins as f64) / 8.0
}
