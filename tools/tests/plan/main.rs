// SPDX-License-Identifier: MIT OR Apache-2.0
//! The planner, `plan`, run as its users run it: as a process.

mod bad_input;
mod batch;
mod golden;
mod oracle;
mod random;
#[path = "../run/mod.rs"]
mod run;
mod trace;
mod vectors;

use run::{fed, Ended};
use serde_json::Value;
use std::process::Command;

fn program() -> Command {
    run::program(env!("CARGO_BIN_EXE_plan"))
}

/// Runs the planner with `input` on its standard input.
fn plan(args: &[&str], input: impl AsRef<[u8]>) -> Ended {
    fed(program().args(args), input.as_ref())
}

/// Runs the planner, which must succeed, and returns what it prints.
fn printed(args: &[&str], input: &str) -> String {
    plan(args, input).printed()
}

/// The answers to a batch of requests.
fn answers(requests: &[Value]) -> Vec<Value> {
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    let stdout = printed(&["--batch"], &lines);
    let answers: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), requests.len());
    answers
}

/// The answer to one request.
fn answer(request: Value) -> Value {
    answers(&[request]).remove(0)
}
