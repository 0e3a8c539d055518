// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever is wrong is said, with its position, and the exit status is 2.

use super::run::{closed, fed, full};
use super::{plan, program};

/// The complaint about a bad file, behind its name.
#[track_caller]
fn complaint(args: &[&str], input: impl AsRef<[u8]>) -> String {
    let ended = plan(&[args, &["-"]].concat(), input);
    assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
    ended.stderr.trim_end().to_owned()
}

#[test]
fn a_bad_line_has_a_position() {
    let pfn = "expected a page frame number in hex";
    let count = "expected a page count, decimal or 0x hex";
    let kind = "expected a memory kind: ram, mmio, device or device:NUMBER";
    let large = "expected a number of at most 64 bits";
    let bytes = "expected pages whose byte addresses fit 64 bits";
    let cases = [
        ("zz", 1, pfn, "\"zz\""),
        ("  +4", 3, pfn, "nothing"),
        (":ram", 1, pfn, "nothing"),
        ("0x", 1, pfn, "\"0x\""),
        ("-1", 1, pfn, "\"-1\""),
        ("10+", 4, count, "nothing"),
        ("10+ # four", 4, count, "nothing"),
        ("10 + ff", 6, count, "\"ff\""),
        ("10+-4", 4, count, "\"-4\""),
        ("10++4", 4, count, "nothing"),
        ("10+0", 4, "expected at least one page", "\"0\""),
        ("10+0x0:mmio", 4, "expected at least one page", "\"0x0\""),
        ("10+4:rom", 6, kind, "\"rom\""),
        ("10:", 4, kind, "nothing"),
        ("10 : device:x", 6, kind, "\"device:x\""),
        ("10 20", 4, "expected \"+\", \":\" or the end", "\"20\""),
        ("10+4+5", 5, "expected \":\" or the end", "\"+5\""),
        ("10000000000000000", 1, large, "\"10000000000000000\""),
        ("1+18446744073709551616", 3, large, "\"18446744073709551616\""),
        (" 10000000000000", 2, bytes, "\"10000000000000\""),
        ("fffffffffffff+2", 1, bytes, "\"fffffffffffff+2\""),
        ("ffffffffffffffff", 1, bytes, "\"ffffffffffffffff\""),
        ("ffffffffffffffff+2", 1, bytes, "\"ffffffffffffffff+2\""),
        (
            "0+0x10000000000000",
            1,
            "expected a list whose bytes can be counted in 64 bits",
            "\"0+0x10000000000000\"",
        ),
        ("é", 1, pfn, "\"é\""),
        ("\u{a0}é\u{1}", 2, pfn, "\"é\\u{1}\""),
    ];
    for (line, column, expected, found) in cases {
        let input = format!("10 # fine\n\n{line}\n30\n");
        assert_eq!(complaint(&[], input), format!("<stdin>:3:{column}: {expected}, found {found}"));
    }
    let long = "x".repeat(1000);
    let shown = "x".repeat(40);
    assert_eq!(complaint(&[], long), format!("<stdin>:1:1: {pfn}, found \"{shown}...\""));
}

#[test]
fn a_list_that_grows_too_large_has_a_position() {
    let input = "0+0x8000000000000\n0+0x8000000000000\n";
    let expected = "<stdin>:2:1: expected a list whose bytes can be counted in 64 bits, \
        found \"0+0x8000000000000\"";
    assert_eq!(complaint(&[], input), expected);
}

#[test]
fn a_file_without_runs_has_a_position() {
    let reason = "expected at least one run, found the end";
    assert_eq!(complaint(&[], ""), format!("<stdin>:1:1: {reason}"));
    assert_eq!(complaint(&["--json"], "# a\n\n"), format!("<stdin>:3:1: {reason}"));
}

#[test]
fn bytes_that_are_no_text_have_a_position() {
    let expected = "<stdin>:2:5: expected text in UTF-8, found the byte 0xff";
    assert_eq!(complaint(&[], b"1\n10+\xc3\xa9\xff"), expected);
    // In a comment they do not matter.
    assert_eq!(plan(&["-"], b"10 # \xff\n").status, 0);
}

#[test]
fn bad_arguments_are_named() {
    let cases = [
        (["--page-shift", "9"], "'--page-shift <N>': expected 10 to 30, the base-2 logarithm"),
        (["--page-shift", "31"], "of the bytes of a page, found 31"),
        (["--page-shift", "4K"], "of the bytes of a page: 12, not the size 0x1000"),
        (["--page-shift", "0xffff"], "of the bytes of a page: 16, not the mask 0xffff"),
        (["--page-sizes", "0x0"], "--page-sizes: no page sizes to choose from"),
        (["--page-sizes", "none"], "--page-sizes: no page sizes to choose from"),
        (["--page-sizes", ""], "'--page-sizes <SIZES>'"),
        (
            ["--page-sizes", "4K,3K"],
            "'--page-sizes <SIZES>': at byte 3: a page size is a power of two, not 0xc00",
        ),
        (
            ["--page-sizes", "4K,2097151"],
            "'--page-sizes <SIZES>': at byte 3: a page size is a power of two: 0x200000, not the \
             mask 0x1fffff",
        ),
        (["--page-sizes", "4K,2X"], "'--page-sizes <SIZES>': at byte 4: expected one of the units"),
        (["--max-seg", "64Q"], "'--max-seg <BYTES>': expected one of the units K, M, G, T, P, E"),
        (["--max-seg", "0x+1"], "'--max-seg <BYTES>': expected a number, like 4096"),
        (["--max-seg", "1.5M"], "'--max-seg <BYTES>': expected a number, like 4096"),
        (["--max-entries", "x"], "'--max-entries <N>': expected a number, like 4096"),
        (["--length", "16777216T"], "'--length <BYTES>': expected a number of at most 64 bits"),
        (["--iova", "0x10000000000000000"], "'--iova <ADDR>': expected a number of at most"),
        (["--offset", "-1"], "'--offset <BYTES>': expected a number, like 4096"),
        (["--ofset", "1"], "unexpected argument '--ofset'"),
        (["--batch", "--all"], "cannot be used with '--all'"),
        (["--offset", "4096"], "--offset: offset 0x1000 is beyond the first page of 4K"),
        (["--length", "0"], "--length: a window of zero bytes"),
        (["--length", "8193"], "--length: 0x2001 bytes from offset 0x0 reach beyond the 0x2000"),
        (["--iova", "0xfffffffffffff000"], "--iova: 0x2000 bytes at IOVA 0xfffffffffffff000 need"),
        (["--boundary", "3000"], "--boundary: a boundary is a power of two, not 0xbb8"),
        (["--boundary", "0"], "--boundary: a boundary is a power of two, not 0x0"),
        (
            ["--boundary", "0xffffffff"],
            "--boundary: a boundary is a power of two: 0x100000000, not the mask 0xffffffff",
        ),
        (
            ["--boundary", "0xffffffffffffffff"],
            "--boundary: a boundary is a power of two; the mask 0xffffffffffffffff is that of none",
        ),
        (["--max-seg", "0"], "--max-seg: a maximum segment length of zero bytes"),
    ];
    for (args, expected) in cases {
        let found = complaint(&args, "10+2\n");
        assert!(found.starts_with("error: ") && found.contains(expected), "{args:?}: {found}");
    }
}

#[test]
fn a_line_that_does_not_end_is_not_read_into_memory() {
    let expected = "<stdin>:2:1: expected a line of at most 64 KiB, found a longer one";
    let comment = "#".repeat(64 << 10);
    assert_eq!(plan(&["-"], format!("1\n{comment}\n")).status, 0);
    assert_eq!(complaint(&[], format!("1\n{comment}#\n")), expected);
    assert_eq!(complaint(&["--json"], vec![0; 1 << 20]), expected.replace(":2:", ":1:"));
}

/// The complaint need not be read: the status says it as well. Nor need the whole answer.
#[test]
fn output_is_not_read() {
    for (args, input, status) in [
        (&["-"][..], "zz", 2),
        (&["--offset", "4K", "-"], "1", 2),
        (&["-"], "1", 0),
        (&["--json", "-"], "1", 0),
        (&["--batch"], "{}\n{}\n", 0),
    ] {
        let mut command = program();
        command.args(args).stdout(closed()).stderr(closed());
        assert_eq!(fed(&mut command, input.as_bytes()).status, status, "{args:?}");
    }
}

/// A device that takes nothing is not a reason to panic.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written() {
    let complaint = program().arg("no/such/file").stderr(full()).status().unwrap();
    assert_eq!(complaint.code(), Some(2));
    for args in [&["-"][..], &["--json", "-"], &["--batch"]] {
        let ended = fed(program().args(args).stdout(full()), b"1\n");
        assert_eq!(ended.status, 1, "{args:?}");
        assert!(ended.stderr.starts_with("error: cannot write: "), "{args:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = plan(&["no/such/file"], "");
    assert_eq!(missing.status, 2);
    assert!(missing.stderr.starts_with("no/such/file: cannot open: "), "{}", missing.stderr);
    let directory = plan(&["--batch", "."], "");
    assert_eq!(directory.status, 2);
    assert!(directory.stderr.starts_with(".: cannot "), "{}", directory.stderr);
    assert_eq!(plan(&[], "10").status, 2, "a file is required");
}

#[test]
fn an_answer_that_would_be_too_long_is_refused() {
    let list = "0+0xfffffffffffff";
    let found = complaint(&["--json"], list);
    assert_eq!(
        found,
        "error: blocks: 17179869184 are needed, at most 1048576 are listed (--max-entries)"
    );
    let found = complaint(&["--all", "--max-seg", "1"], list);
    assert!(found.starts_with("error: segments: 18446744073709547520 are needed"), "{found}");
    assert!(complaint(&["--json", "--max-entries", "1"], "1\n3").contains("2 are needed"));
    // Tables show their first rows, whatever there is.
    let tables = plan(&["--max-seg", "1", "-"], list);
    assert_eq!(tables.status, 0);
    assert!(tables.stdout.contains("Segments: 18446744073709547520"), "{}", tables.stdout);
}
