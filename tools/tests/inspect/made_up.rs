// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is made up.

use super::run::ended;
use super::{printed, program};
use std::os::unix::process::CommandExt;

/// The JSON object, without how long it took.
fn facts(args: &[&str]) -> serde_json::Value {
    let mut facts: serde_json::Value =
        serde_json::from_str(&printed(&[&["--mock", "--json"], args].concat())).unwrap();
    assert!(facts["steps"].take().is_array());
    assert!(facts["threads"].take().is_u64());
    facts
}

/// Where threads begin, no part ends.
#[test]
fn it_is_the_same_for_each_seed_however_many_threads_list_it() {
    for pages in ["4k", "thp", "2m", "1g"] {
        let args = ["--size", "3G", "--pages", pages, "--seed", "5"];
        let expected = facts(&args);
        assert_eq!(expected["bytes"], 3u64 << 30);
        for threads in ["2", "7", "100"] {
            assert_eq!(facts(&[&args[..], &["--threads", threads]].concat()), expected, "{pages}");
        }
    }
    assert_ne!(facts(&["--size", "8M", "--seed", "1"]), facts(&["--size", "8M", "--seed", "2"]));
}

/// Runs the program with no more than `mebibytes` of address space.
fn printed_within(mebibytes: u64, args: &[&str]) -> String {
    let mut command = program();
    let limit = libc::rlimit { rlim_cur: mebibytes << 20, rlim_max: mebibytes << 20 };
    // SAFETY: setrlimit() may be called between fork and exec, and reads a value of its own.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    ended(command.args(args)).printed()
}

/// A page list of a terabyte would take 2 GiB.
#[test]
fn a_terabyte_takes_little_memory() {
    let report = printed_within(256, &["--mock", "--size", "1T"]);
    assert!(report.contains("pages       268,435,456   of 4 KiB"), "{report}");
    let picture = printed_within(256, &["--mock", "--size", "64G", "--pages", "4k", "--svg", "-"]);
    assert!(picture.ends_with("</svg>\n"));
}
