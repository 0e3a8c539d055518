// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings of the kernel's events. Those in `traces/` are made up, and all say the same, as different
//! programs write it; `recorded.txt` is a real one.

use super::run::ended;
use super::{plan, printed, program};
use serde_json::{json, Value};
use std::{io::Read, process::Stdio};

const TRACES: [(&str, &str); 6] = [
    ("ftrace", include_str!("traces/ftrace.txt")),
    ("ftrace_old", include_str!("traces/ftrace_old.txt")),
    ("ftrace_tgid", include_str!("traces/ftrace_tgid.txt")),
    ("perf", include_str!("traces/perf.txt")),
    ("perf_old", include_str!("traces/perf_old.txt")),
    ("trace_cmd", include_str!("traces/trace_cmd.txt")),
];

fn answer(args: &[&str], trace: &str) -> Value {
    let args = [&["--trace", "-", "--json"], args].concat();
    serde_json::from_str(&printed(&args, trace)).unwrap()
}

#[test]
fn tables_for_people() {
    let expected = include_str!("traces/ftrace.answer");
    assert_eq!(printed(&["--trace", "-"], TRACES[0].1), expected);
}

#[test]
fn every_format_says_the_same() {
    let mut expected = None;
    for (name, text) in TRACES {
        let mut answer = answer(&[], text);
        // The lines around the events differ.
        assert_eq!(answer["lost_events"].take(), if name == "ftrace" { 2 } else { 0 }, "{name}");
        let skipped = text.lines().filter(|line| !line.contains("IOMMU: iova=")).count();
        assert_eq!(answer["skipped_lines"].take(), skipped, "{name}");
        for mapping in answer["mappings"].as_array_mut().unwrap() {
            let line = mapping["line"].take().as_u64().unwrap() as usize;
            let address = format!("{:016x}", mapping["phys"].as_u64().unwrap());
            assert!(text.lines().nth(line - 1).unwrap().contains(&address), "{name}:{line}");
        }
        assert_eq!(&answer, expected.get_or_insert_with(|| answer.clone()), "{name}");
    }
}

/// Recorded in a real kernel: the example `vfio_container`, which maps 4 MiB, on this crate's backend of
/// vfio and on the kernel's own. The memory was two huge pages: one run the first time, two the second.
#[test]
fn a_recording_of_a_real_kernel() {
    let answer = answer(&[], include_str!("traces/recorded.txt"));
    let processes = answer["processes"].as_array().unwrap();
    let summary = |process: &Value| {
        ["pid", "maps", "mapped_bytes", "unmapped_bytes", "runs", "entries"]
            .map(|key| process[key].clone())
    };
    let expected = |pid: &str, maps: u64| {
        [
            json!(pid),
            json!(maps),
            json!(4 << 20),
            json!(4 << 20),
            json!(maps),
            json!([[2 << 20, 2]]),
        ]
    };
    assert_eq!(
        processes.iter().map(summary).collect::<Vec<_>>(),
        [expected("150", 1), expected("177", 2)]
    );
}

/// A line of ftrace.
fn map(iova: u64, phys: u64, size: u64) -> String {
    format!(
        " a b-c-7 [000] ..... 1.0: map: IOMMU: iova={iova:#018x} paddr={phys:#018x} size={size}\n"
    )
}

/// Page by page: the largest size that divides both addresses and is not longer than what is left.
fn entries(mut iova: u64, mut phys: u64, mut len: u64, sizes: &[u64]) -> Option<Vec<(u64, u64)>> {
    let mut counts = vec![0; sizes.len()];
    while len > 0 {
        let fits = |size: &u64| (iova | phys) % size == 0 && *size <= len;
        let index = sizes.iter().rposition(fits)?;
        (iova, phys, len) = (iova + sizes[index], phys + sizes[index], len - sizes[index]);
        counts[index] += 1;
    }
    Some(sizes.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect())
}

/// Why there is no page of the next size: whether one would fit if only one thing were different.
fn reason(iova: u64, phys: u64, len: u64, largest: Option<u64>, sizes: &[u64]) -> &'static str {
    let Some(next) = sizes.iter().find(|size| largest.is_none_or(|largest| **size > largest))
    else {
        return "domain";
    };
    let has_one = |iova: u64, phys: u64, len: u64| {
        (0..len)
            .step_by(1024)
            .any(|at| (iova + at) % next == 0 && (phys + at) % next == 0 && len - at >= *next)
    };
    assert!(!has_one(iova, phys, len));
    match (iova % next, phys % next) {
        _ if len < *next => "length",
        (iova, phys) if iova == phys => "length",
        (_, 0) => "iova",
        (0, _) => "memory",
        _ => "both",
    }
}

#[test]
fn random_mappings_are_as_the_slow_rule_says() {
    let mut rng = fastrand::Rng::with_seed(13);
    let sizes = [4096u64, 16384, 65536];
    let mut reasons = std::collections::BTreeMap::<&str, u32>::new();
    let mut trace = String::new();
    let mut expected = Vec::new();
    for _ in 0..3000 {
        let shift = rng.u32(12..=17);
        let mut at = || rng.u64(0..1 << 8 << (17 - shift)) << shift;
        let (iova, phys) = (at(), at());
        let len = rng.u64(1..60) << 12;
        trace += &map(iova, phys, len);
        let entries = entries(iova, phys, len, &sizes).unwrap();
        let largest = entries.last().map(|(size, _)| *size);
        let why = reason(iova, phys, len, largest, &sizes);
        *reasons.entry(why).or_default() += 1;
        expected.push((entries, why));
    }
    let answer = answer(&["--page-sizes", "4K,16K,64K"], &trace);
    let mappings = answer["mappings"].as_array().unwrap();
    assert_eq!(mappings.len(), expected.len());
    let mut total = std::collections::BTreeMap::<u64, u64>::new();
    for (mapping, (entries, why)) in mappings.iter().zip(&expected) {
        assert_eq!(mapping["entries"], json!(entries), "{mapping}");
        assert_eq!(mapping["why_not_larger"]["reason"], *why, "{mapping}");
        entries.iter().for_each(|(size, count)| *total.entry(*size).or_default() += count);
    }
    let process = &answer["processes"][0];
    assert_eq!((&process["comm"], &process["pid"]), (&json!("a b-c"), &json!("7")));
    assert_eq!(process["entries"], json!(total.into_iter().collect::<Vec<_>>()));
    for (reason, count) in &reasons {
        let found = process["why_not_larger"].as_array().unwrap().iter();
        let found = found.filter(|why| why["why"]["reason"] == *reason);
        let found: u64 = found.map(|why| why["mappings"].as_u64().unwrap()).sum();
        assert_eq!(found, u64::from(*count), "{reason}");
    }
    assert!(reasons.len() == 5 && reasons.values().all(|count| *count > 20), "{reasons:?}");
}

#[test]
fn a_mapping_that_fits_no_page_says_why() {
    let cases = [
        (0x4000, 0x1000, 0x4000, "memory"),
        (0x1000, 0x4000, 0x4000, "iova"),
        (0x1000, 0x1000, 0x4000, "both"),
        (0x4000, 0x4000, 0x5000, "length"),
        (0x4000, 0x4000, 0x1000, "length"),
    ];
    for (iova, phys, len, why) in cases {
        let answer = answer(&["--page-sizes", "16K,2M"], &map(iova, phys, len));
        let mapping = &answer["mappings"][0];
        assert_eq!(mapping["entries"], json!([]));
        let expected = json!({ "reason": why, "largest": null, "next": 16384 });
        assert_eq!(mapping["why_not_larger"], expected, "{mapping}");
    }
}

#[test]
fn what_is_lost_is_said() {
    let event = map(0, 0, 4096);
    let cases = [
        ("", 0),
        ("CPU:3 [LOST 12 EVENTS]\nCPU:1 [LOST 1 EVENTS]\n", 13),
        ("CPU:3 [LOST EVENTS]\n", 1),
        ("# entries-in-buffer/entries-written: 140/250   #P:4\n", 110),
        ("# entries-in-buffer/entries-written: 250/250   #P:4\n", 0),
        ("# entries-in-buffer/entries-written: 1/9   #P:4\nCPU:3 [LOST 3 EVENTS]\n", 8),
        ("qemu 1 [000] 1.0: PERF_RECORD_LOST lost 5\n", 5),
    ];
    for (lines, lost) in cases {
        let trace = format!("{lines}{event}");
        assert_eq!(answer(&[], &trace)["lost_events"], lost, "{lines}");
        let table = printed(&["--trace", "-"], &trace);
        assert_eq!(table.contains("the recording lacks at least"), lost > 0, "{table}");
    }
}

#[test]
fn a_bad_event_is_named_with_its_line() {
    let body = "IOMMU: iova=0x1000 - 0x2000 paddr=0x3000 size=4096";
    let cases = [
        (format!("map: {body}"), "1: expected COMM-PID [CPU], or COMM PID, before the event"),
        (format!("qemu [001] 1.0: map: {body}"), "1: expected COMM-PID [CPU]"),
        (format!("-7 [001] 1.0: map: {body}"), "1: expected COMM-PID [CPU]"),
        ("q-1 [0] 1.0: map: IOMMU: device=x".into(), "26: expected iova=, found \"device=x\""),
        ("q-1 [0] 1.0: map: IOMMU: iova=4096".into(), "31: expected an address"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x".into(), "31: expected an address"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x10000000000000000".into(), "31: expected an address"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x1000 size=1".into(), "38: expected paddr=, found"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x1 - x".into(), "37: expected an address"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0x0".into(), "44: expected size=, found nothing"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0x0 size=-1".into(), "50: expected a number"),
        ("q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0x0 size=0x1".into(), "50: expected a number"),
        (
            "q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0x0 size=4096 x".into(),
            "55: expected the end of the line, found \"x\"",
        ),
        (
            "q-1 [0] 1.0: map: IOMMU: iova=0x0 - 0x2000 paddr=0x0 size=4096".into(),
            "37: expected the IOVA and the size, added, found 0x2000 instead of 0x1000",
        ),
        (
            "q-1 [0] 1.0: map: IOMMU: iova=0xfffffffffffff000 paddr=0x0 size=8192".into(),
            "31: expected addresses that fit 64 bits, found 8192 bytes at 0xfffffffffffff000",
        ),
        (
            "q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0xfffffffffffff000 size=8192".into(),
            "41: expected addresses that fit 64 bits",
        ),
        (
            "q-1 [0] 1.0: map: IOMMU: iova=0x0 paddr=0x800 size=4096".into(),
            "1: expected memory in whole pages (--page-shift), found 4096 bytes at 0x800",
        ),
        ("q-1 [0] 1.0: unmap: IOMMU: iova=0x0 size=4096".into(), "46: expected unmapped_size="),
        ("q 1 [0] 1.0: iommu:map: [FAILED TO PARSE] iova=0x0".into(), "25: expected IOMMU:"),
    ];
    for (line, expected) in cases {
        let trace = format!("# fine\n{}{line}\n", map(0, 0, 4096));
        let ended = plan(&["--trace", "-"], trace);
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{line}: {}", ended.stderr);
        let start = format!("<stdin>:3:{expected}");
        assert!(ended.stderr.starts_with(&start), "{line}: {}", ended.stderr);
    }
}

/// The last page of all addresses has its end at 0.
#[test]
fn addresses_reach_to_the_end() {
    let line = "q-1 [0] 1.0: map: IOMMU: iova=0xfffffffffffff000 - 0x0000000000000000 \
        paddr=0xfffffffffffff000 size=4096";
    assert_eq!(answer(&[], line)["processes"][0]["mapped_bytes"], 4096);
}

#[test]
fn a_recording_without_events_is_no_answer() {
    for (trace, line) in [("", 1), ("# tracer: nop\n q-1 [0] 1.0: map: of other things\n", 3)] {
        let ended = plan(&["--trace", "-"], trace);
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""));
        let expected = "expected at least one event iommu:map or iommu:unmap, found the end";
        assert_eq!(ended.stderr, format!("<stdin>:{line}:1: {expected}\n"));
    }
    let missing = plan(&["--trace", "no/such/file"], "");
    assert_eq!(missing.status, 2);
    assert!(missing.stderr.starts_with("no/such/file: cannot open: "), "{}", missing.stderr);
}

#[test]
fn bad_arguments() {
    let event = map(0, 0, 4096) + &map(4096, 8192, 4096);
    let cases: [(&[&str], &str); 6] = [
        (&["--iova", "0"], "--iova"),
        (&["--offset", "0"], "--offset"),
        (&["--batch"], "--batch"),
        (&["runs.txt"], "[FILE]"),
        (&["--page-sizes", "none"], "error: --page-sizes: "),
        (&["--json", "--max-entries", "1"], "error: mappings: 2 are needed, at most 1 are listed"),
    ];
    for (args, expected) in cases {
        let ended = plan(&[&["--trace", "-"], args].concat(), &event);
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
}

/// As `plan ... | head -1` does it.
#[test]
fn whoever_reads_may_stop() {
    let events: String = (0..20_000).map(|page| map(page << 13, page << 13, 4096)).collect();
    for args in [&["--all"][..], &["--json"]] {
        let mut command = program();
        command.args(["--trace", "-"]).args(args).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, events.as_bytes()).unwrap();
        drop(stdin);
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 16]).unwrap();
        drop(stdout);
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr), (Some(0), vec![]), "{args:?}");
    }
}

#[test]
fn tables_are_as_wide_as_the_terminal() {
    for columns in [20, 40, 79, 100] {
        let mut command = program();
        command.args(["--trace", "tests/plan/traces/ftrace.txt"]);
        let text = ended(command.env("COLUMNS", columns.to_string())).printed();
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns && widest > columns - 20, "{columns}: {widest}\n{text}");
        assert!(text.contains('…'));
    }
}
