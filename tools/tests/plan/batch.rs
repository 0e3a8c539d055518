// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and answers, line by line.

use super::{answer, answers, plan, printed, program};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

const REQUEST: &str = r#"{"runs":["10+4","20"],"page_shift":12,"offset":0,"length":16384,"iova":4096,"page_sizes":2101248,"max_seg":65536,"boundary":4294967296}"#;
const ANSWER: &str = r#"{"page_shift":12,"pages":5,"runs":[[16,4,"ram"],[32,1,"ram"]],"offset":0,"length":16384,"iova":4096,"page_sizes":2101248,"max_seg":65536,"boundary":4294967296,"segments":[[65536,16384,"ram"]],"best_page_size":4096,"blocks":[65536,69632,73728,77824],"tiles":[[4096,65536,4096,4,"ram"]]}"#;

#[test]
fn a_bad_request_does_not_end_the_batch() {
    let requests = [
        REQUEST,
        "",
        r#"{"runs":["10+4"],"ofset":1}"#,
        "  \t\r",
        r#"{"runs":["10+4","2x"]}"#,
        r#"{"runs":["10+4""#,
        REQUEST,
    ];
    let expected = [
        ANSWER,
        r#"{"error":"column 24: unknown field `ofset`, expected one of `runs`, `page_shift`, `offset`, `length`, `iova`, `page_sizes`, `max_seg`, `boundary`"}"#,
        r#"{"error":"runs[1]: column 1: expected a page frame number in hex, found \"2x\""}"#,
        r#"{"error":"column 15: EOF while parsing a list"}"#,
        ANSWER,
        "",
    ];
    // The last line has no end.
    assert_eq!(printed(&["--batch"], &requests.join("\n")), expected.join("\n"));
    assert_eq!(printed(&["--batch", "--json", "-"], REQUEST), format!("{ANSWER}\n"));
}

#[test]
fn every_mistake_is_named() {
    let large = u128::from(u64::MAX) + 1;
    let cases = [
        ("[]".to_owned(), "column 1: expected a JSON object"),
        (" null".to_owned(), "column 2: expected a JSON object"),
        (r#"[["1"],12,0,1,0,1,1,1]"#.to_owned(), "column 1: expected a JSON object"),
        ("{}".to_owned(), "column 2: missing field `runs`"),
        (r#"{"runs":"1"}"#.to_owned(), "column 11: invalid type: string \"1\""),
        (r#"{"runs":[1]}"#.to_owned(), "column 10: invalid type: integer `1`"),
        (r#"{"runs":["1"]} x"#.to_owned(), "column 16: trailing characters"),
        (r#"{"runs":["1"],"runs":["1"]}"#.to_owned(), "column 20: duplicate field `runs`"),
        (r#"{"runs":[]}"#.to_owned(), "runs: expected at least one run, found none"),
        (r#"{"runs":[""]}"#.to_owned(), "runs[0]: column 1: expected a page frame number"),
        (r#"{"runs":["1","1+0"]}"#.to_owned(), "runs[1]: column 3: expected at least one page"),
        (r#"{"runs":["1 # x"]}"#.to_owned(), "runs[0]: column 3: expected \"+\""),
        (
            r#"{"runs":["1","10000000000000"]}"#.to_owned(),
            "runs[1]: column 1: expected pages whose",
        ),
        (r#"{"runs":["0+0x10000000000000"]}"#.to_owned(), "runs[0]: column 1: expected a list"),
        (
            r#"{"runs":["1"],"page_shift":9}"#.to_owned(),
            "page_shift: expected 10 to 30, the base-2 logarithm of the bytes of a page, found 9",
        ),
        (
            r#"{"runs":["1"],"page_shift":4096}"#.to_owned(),
            "page_shift: expected 10 to 30, the base-2 logarithm of the bytes of a page: 12, not \
             the size 0x1000",
        ),
        (r#"{"runs":["1"],"page_shift":4294967308}"#.to_owned(), "page_shift: expected 10 to 30"),
        (r#"{"runs":["1"],"offset":4096}"#.to_owned(), "offset: offset 0x1000 is beyond the first"),
        (r#"{"runs":["1"],"offset":-1}"#.to_owned(), "column 25: invalid type: integer `-1`"),
        (r#"{"runs":["1"],"offset":1.5}"#.to_owned(), "column 26: invalid type: floating point"),
        (format!(r#"{{"runs":["1"],"iova":{large}}}"#), "column 41: invalid type: floating point"),
        (r#"{"runs":["1"],"iova":"10"}"#.to_owned(), "column 25: invalid value: string \"10\""),
        (r#"{"runs":["1"],"iova":"0x"}"#.to_owned(), "column 25: invalid value: string \"0x\""),
        (r#"{"runs":["1"],"length":0}"#.to_owned(), "length: a window of zero bytes"),
        (
            r#"{"runs":["1"],"length":4097}"#.to_owned(),
            "length: 0x1001 bytes from offset 0x0 reach",
        ),
        (r#"{"runs":["1"],"offset":1,"length":"0xffffffffffffffff"}"#.to_owned(), "length: "),
        (r#"{"runs":["1"],"iova":18446744073709551615}"#.to_owned(), "iova: 0x1000 bytes at IOVA"),
        (r#"{"runs":["1"],"page_sizes":0}"#.to_owned(), "page_sizes: no page sizes to choose from"),
        (r#"{"runs":["1"],"max_seg":0}"#.to_owned(), "max_seg: a maximum segment length of zero"),
        (r#"{"runs":["1"],"boundary":3}"#.to_owned(), "boundary: a boundary is a power of two"),
        (r#"{"runs":["1"],"boundary":0}"#.to_owned(), "boundary: a boundary is a power of two"),
        (
            r#"{"runs":["1"],"boundary":"0xffffffff"}"#.to_owned(),
            "boundary: a boundary is a power of two: 0x100000000, not the mask 0xffffffff",
        ),
        (r#"{"runs":["0+0xfffffffffffff"]}"#.to_owned(), "blocks: 17179869184 are needed"),
    ];
    let lines: String = cases.iter().map(|(request, _)| format!("{request}\n")).collect();
    let stdout = printed(&["--batch"], &lines);
    assert_eq!(stdout.lines().count(), cases.len());
    for (line, (request, expected)) in stdout.lines().zip(cases) {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with(expected), "{request}: {error}");
        assert_eq!(answer.as_object().unwrap().len(), 1);
    }
}

#[test]
fn bytes_that_are_no_text_do_not_end_the_batch() {
    let ended = plan(&["--batch"], b"{\"runs\":[\"\xff\"]}\n{\"runs\":[\"1\"]}\n");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!((ended.status, lines.len()), (0, 2));
    assert!(lines[0].starts_with("{\"error\":\"column "), "{}", lines[0]);
    assert!(lines[1].starts_with("{\"page_shift\":12,\"pages\":1,"), "{}", lines[1]);
}

/// A line that does not end is not read into memory.
#[test]
fn a_request_that_is_too_long_does_not_end_the_batch() {
    let mut requests = vec![b' '; 70 << 20];
    requests.extend(format!("{REQUEST}\n{REQUEST}").as_bytes());
    let ended = plan(&["--batch"], requests);
    let refused = r#"{"error":"expected a line of at most 64 MiB"}"#;
    assert_eq!((ended.status, ended.stdout), (0, format!("{refused}\n{ANSWER}\n")));
}

#[test]
fn null_is_absent_and_hex_is_a_number() {
    let answers = answers(&[
        json!({"runs": ["0x10+0x4", "20:ram"]}),
        json!({"runs": ["10+4", "20"], "page_shift": null, "offset": null, "length": null,
            "iova": null, "page_sizes": null, "max_seg": null, "boundary": null}),
        json!({"runs": ["10+4", "20"], "page_shift": "0xc", "offset": "0x0", "length": "0x5000",
            "iova": "0X0", "page_sizes": "0x40201000"}),
    ]);
    assert_eq!(
        answers[0]["tiles"],
        json!([[0, 0x10000, 4096, 4, "ram"], [0x4000, 0x20000, 4096, 1, "ram"]])
    );
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[test]
fn kinds_never_merge() {
    let answer = answer(json!({"runs": ["1", "2:mmio", "3:mmio", "4:device", "5:device:1"]}));
    let expected = json!([[1, 1, "ram"], [2, 2, "mmio"], [4, 1, "device:0"], [5, 1, "device:1"]]);
    assert_eq!(answer["runs"], expected);
}

#[test]
fn a_huge_list_is_answered_at_once() {
    let answer = answer(json!({"runs": ["0+0xfffffffffffff"], "page_sizes": "0x8000000000001000"}));
    assert_eq!(answer["pages"], json!(0xf_ffff_ffff_ffff_u64));
    assert_eq!(answer["segments"], json!([[0, 0xffff_ffff_ffff_f000_u64, "ram"]]));
    assert_eq!(answer["best_page_size"], json!(1u64 << 63));
    assert_eq!(answer["blocks"], json!([0, 1u64 << 63]));
    let rest = (1u64 << 51) - 1;
    assert_eq!(
        answer["tiles"],
        json!([[0, 0, 1u64 << 63, 1, "ram"], [1u64 << 63, 1u64 << 63, 4096, rest, "ram"]])
    );
}

#[test]
fn an_answer_comes_before_the_next_question() {
    let mut child = program().arg("--batch").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for request in [REQUEST, "?", REQUEST] {
        writeln!(stdin, "{request}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let expected = if request == "?" { "{\"error\":" } else { ANSWER };
        assert!(line.starts_with(expected), "{line}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
