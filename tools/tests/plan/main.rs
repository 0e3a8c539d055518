// SPDX-License-Identifier: MIT OR Apache-2.0
//! The planner, `plan`, run as its users run it: as a process.

mod bad_input;
mod batch;
mod golden;
mod oracle;
mod random;
mod trace;
mod vectors;

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_plan"));
    // Lines are as long as they want to be.
    program.env_remove("COLUMNS");
    program
}

/// What a run of the planner leaves behind.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs the planner with `input` on its standard input.
fn plan(args: &[&str], input: impl AsRef<[u8]>) -> Ended {
    let mut child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // From a thread: the planner answers before it has read everything. It need not read at all,
    // so that a broken pipe is no failure.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let ended = Ended {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

/// Runs the planner, which must succeed, and returns what it prints.
fn printed(args: &[&str], input: &str) -> String {
    let ended = plan(args, input);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{args:?}");
    ended.stdout
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
