// SPDX-License-Identifier: MIT OR Apache-2.0
//! What key operations cost, in instructions. `benches/ledger/run` counts them under callgrind, and compares them
//! with the ledger; this program does one operation often enough, and says how often.
//!
//! ```text
//! ledger          the names of all operations
//! ledger NAME     does one of them, within `measured()`; prints how many it did, and of what
//! ```
//!
//! The pinner, the domain and the card do next to nothing: what is counted is this crate.

mod devices;
mod inputs;
mod lists;
mod regions;
mod spaces;

use std::{hint::black_box, process::ExitCode};

/// A name, what is counted, and how many the operation does.
type Operation = (&'static str, &'static str, fn() -> u64);

/// What is counted: callgrind collects inside of this function only.
#[inline(never)]
fn measured<T>(operation: impl FnOnce() -> T) -> T {
    black_box(operation())
}

fn main() -> ExitCode {
    let operations = [lists::OPERATIONS, regions::OPERATIONS, spaces::OPERATIONS];
    let mut operations = operations.into_iter().flatten();
    // `cargo bench` passes its own.
    let Some(name) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        operations.for_each(|(name, ..)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, unit, operation)) = operations.find(|(known, ..)| *known == name) else {
        eprintln!("ledger: there is no operation {name}");
        return ExitCode::FAILURE;
    };
    println!("{} {unit}", operation());
    ExitCode::SUCCESS
}
