// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the front page shows of the driver for Linux is what Kbuild compiles: only it can compile the driver.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::fs;

#[test]
fn lines_of_the_driver_are_the_drivers() {
    let sources = ["edu_main.rs", "paging.rs"]
        .map(|file| fs::read_to_string(format!("examples/kernel/edu/{file}")).unwrap());
    let there: Vec<_> = sources.iter().flat_map(|source| source.lines().map(str::trim)).collect();
    let readme = fs::read_to_string("README.md").unwrap();
    let shown = readme.split("\n### A driver in the Linux kernel\n").nth(1).unwrap();
    let shown = shown.split("```").nth(1).unwrap().trim_start_matches("text\n");
    let lines = shown.lines().filter(|line| !line.starts_with("//"));
    let missing: Vec<_> = lines.clone().filter(|line| !there.contains(line)).collect();
    assert!(missing.is_empty() && lines.count() > 5, "not in the driver: {missing:#?}");
}
