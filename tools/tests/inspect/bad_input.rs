// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever is wrong is said; bad arguments are status 2, everything else is 1.

use super::run::{closed, full};
use super::{check_unread, inspect, program};

#[test]
fn bad_arguments_are_named() {
    let size = "'--size <BYTES>': ";
    let number = "expected a number, like 4096, 64K, 2MiB or 0x200000";
    let cases = [
        (["--size", "0"], size, "a buffer has at least one page"),
        (["--size", "-1"], size, number),
        (["--size", "+4K"], size, number),
        (["--size", "0x+1000"], size, number),
        (["--size", "0x"], size, number),
        (["--size", ""], "'--size <BYTES>'", ""),
        (["--size", "1.5G"], size, number),
        (["--size", "M"], size, number),
        (["--size", "4Kb"], size, "expected one of the units K, M, G, T, P, E"),
        (["--size", "16E"], size, "expected a number of at most 64 bits"),
        (["--size", "4095"], "--size 4095 is not a multiple of 4096", ""),
        (["--size", "16T"], "--size 17592186044416 is more than --mock can make up: 1T", ""),
        (["--size", "15E"], "is more than --mock can make up: 1T", ""),
        (["--iova", "-1"], "'--iova <ADDR>': ", number),
        (["--iova", "0x+1000"], "'--iova <ADDR>': ", number),
        (["--iova", "1K"], "--iova 0x400 is not a multiple of 4096", ""),
        (["--iova", "0xfffffffffffff000"], "reach beyond 64 bits", ""),
        (["--seed", "-1"], "'--seed <N>': ", number),
        (["--threads", "0"], "'--threads <N>': ", "expected a number of threads, from 1 to 1024"),
        (["--threads", "1025"], "'--threads <N>': ", "from 1 to 1024"),
        (["--pages", "8k"], "'--pages <PAGES>'", "[possible values: base, thp, 2m, 1g]"),
        (["--svg", ""], "'--svg <FILE>'", ""),
        (["--json", "--svg=-"], "--json and --svg - cannot both", ""),
    ];
    for (args, name, expected) in cases {
        let ended = inspect(&[&["--mock"][..], &args].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{args:?}: {}", ended.stderr);
        let said = ended.stderr;
        assert!(said.contains(name) && said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn numbers_are_written_in_many_ways() {
    let bytes = |size| {
        let found: serde_json::Value =
            serde_json::from_str(&super::printed(&["--mock", "--json", "--size", size])).unwrap();
        found["bytes"].as_u64().unwrap()
    };
    let sizes = ["2097152", "0x200000", "0X200000", "2048K", "2048kB", "2048 KiB", "2M", "2 mB"];
    assert_eq!(sizes.map(bytes), [2 << 20; 8]);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    for path in ["no/such/file.svg", ".", "/dev/full"] {
        let ended = inspect(&["--mock", "--size", "1M", "--svg", path]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{path}");
        assert!(ended.stderr.starts_with(&format!("error: {path}: ")), "{}", ended.stderr);
    }
}

#[test]
fn output_is_not_read() {
    for args in [&["--json"][..], &[], &["--svg", "-"]] {
        check_unread(&[&["--mock", "--size", "1M"], args].concat());
    }
    // The reason is lost: the status says that it failed.
    let failing = ["--mock", "--size", "1M", "--svg", "."];
    for unread in [closed(), full().into()] {
        let status = program().args(failing).stderr(unread).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
}

/// The kernel would kill processes for so much memory, this one among them.
#[test]
fn more_memory_than_there_is() {
    for pages in ["4k", "thp"] {
        let ended = inspect(&["--size", "256T", "--pages", pages]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: 256 TiB are more than the "), "{}", ended.stderr);
    }
}
