// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random questions, small enough for the oracle.

use super::oracle::Question;
use super::{answers, printed};
use fastrand::Rng;
use serde_json::{json, Value};

/// Frames are few, so that neighbours are common, and sometimes far up.
fn question(rng: &mut Rng) -> Question {
    let page_shift = rng.u32(10..=12);
    let size = 1u64 << page_shift;
    let base = match rng.u8(..4) {
        0 => rng.u64(..1 << 40) & !63,
        1 => (u64::MAX >> page_shift) - 63,
        _ => 0,
    };
    let mut runs: Vec<(u64, u64, &str)> = Vec::new();
    for _ in 0..rng.usize(1..=6) {
        let start = match runs.last() {
            Some((start, count, _)) if rng.bool() && start + count - base < 60 => start + count,
            _ => base + (rng.u64(..48) & !((1 << rng.u32(..4)) - 1)),
        };
        let count = 1 << rng.u32(..3);
        let kind = if rng.u8(..5) == 0 { "mmio" } else { "ram" };
        runs.push((start, count, kind));
    }
    let pages: u64 = runs.iter().map(|(_, count, _)| count).sum();
    let offset = if rng.bool() { 0 } else { rng.u64(..size) };
    let rest = pages * size - offset;
    let length = match rng.u8(..4) {
        0 => rng.u64(1..=rest),
        1 if offset == 0 => rng.u64(1..=pages) * size,
        _ => rest,
    };
    let first = runs[0].0 * size + offset;
    let iova = match rng.u8(..6) {
        0 => 0,
        1 => first,
        2 => rng.u64(..),
        3 => 0u64.wrapping_sub(rng.u64(1..=2 * pages) * size),
        4 => (rng.u64(..64) << rng.u32(8..16)) + offset,
        // As memory has it, some aligned distance away.
        _ => first.wrapping_add(rng.u64(..256) << rng.u32(10..16)),
    };
    let page_sizes = match rng.u8(..4) {
        0 => 1 << 12 | 1 << 21 | 1 << 30,
        1 => 1 << 10 | 1 << rng.u32(11..64),
        2 => 1 << rng.u32(..16),
        _ => (rng.u64(1..1 << 10) << 8) | 1 << rng.u32(8..20),
    };
    let max_seg = rng.bool().then(|| rng.u64(1..4 * size));
    let boundary = rng.bool().then(|| 1 << rng.u32(6..16));
    Question { page_shift, runs, offset, length, iova, page_sizes, max_seg, boundary }
}

fn run_texts(question: &Question) -> Vec<String> {
    question.runs.iter().map(|(pfn, count, kind)| format!("{pfn:x}+{count}:{kind}")).collect()
}

/// Leaves out of the answer why there are no tiles, which the oracle does not say.
fn without_reason(mut answer: Value) -> Value {
    if let Some(reason) = answer.get_mut("tiles_error") {
        assert!(reason.take().is_string());
    }
    answer
}

#[test]
fn answers_agree_with_the_oracle() {
    let mut rng = Rng::with_seed(2020);
    let questions: Vec<_> = (0..800).map(|_| question(&mut rng)).collect();
    let requests: Vec<_> = questions
        .iter()
        .map(|q| {
            json!({
                "runs": run_texts(q), "page_shift": q.page_shift, "offset": q.offset,
                "length": q.length, "iova": q.iova, "page_sizes": q.page_sizes,
                "max_seg": q.max_seg, "boundary": q.boundary.map(|boundary| format!("{boundary:#x}")),
            })
        })
        .collect();
    let (mut tiles, mut sizes, mut wraps) = (0, 0, 0);
    for (question, found) in questions.iter().zip(answers(&requests)) {
        match question.answer() {
            Some(expected) => {
                tiles += usize::from(expected.get("tiles").is_some());
                sizes += usize::from(!expected["best_page_size"].is_null());
                assert_eq!(without_reason(found), expected, "{question:x?}");
            }
            None => {
                wraps += 1;
                let error = found["error"].as_str().unwrap_or_default();
                assert!(error.starts_with("iova: "), "{question:x?}: {found}");
            }
        }
    }
    // The questions are worth asking: of each kind of answer there are many.
    assert!(tiles > 100 && tiles < 700, "{tiles} with tiles");
    assert!(sizes > 100 && sizes < 700, "{sizes} with a best page size");
    assert!(wraps > 20 && wraps < 200, "{wraps} that wrap");
}

#[test]
fn the_command_line_agrees_with_the_oracle() {
    let mut rng = Rng::with_seed(12);
    let questions = std::iter::repeat_with(|| question(&mut rng));
    let answered = questions.filter_map(|question| Some((question.answer()?, question)));
    for (expected, question) in answered.take(40) {
        let mut args = vec!["--json".to_owned(), "-".to_owned()];
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        option("page-shift", question.page_shift.to_string());
        option("offset", question.offset.to_string());
        option("length", format!("{:#x}", question.length));
        option("iova", format!("{:#X}", question.iova));
        option("page-sizes", format!("{:#x}", question.page_sizes));
        question.max_seg.iter().for_each(|max| option("max-seg", max.to_string()));
        question.boundary.iter().for_each(|boundary| option("boundary", boundary.to_string()));
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let stdout = printed(&args, &run_texts(&question).join("\n"));
        let found = serde_json::from_str(&stdout).unwrap();
        assert_eq!(without_reason(found), expected, "{question:x?}");
    }
}
