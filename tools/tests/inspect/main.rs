// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect`, run as its users run it: as a process. What it says about real memory takes
//! root, as frame numbers are hidden from everybody else.

mod bad_input;
#[path = "../../src/bin/inspect/bands.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod bands;
mod made_up;
mod picture;
#[path = "../../src/bin/inspect/privilege.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod privilege;
mod privileges;
mod process;

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::{env, fs::File, os::fd::OwnedFd, path::PathBuf};

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_inspect"));
    // Lines are as long as they want to be.
    program.env_remove("COLUMNS");
    program
}

/// What a run of the program leaves behind.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command that is made ready but for its input, which is empty.
fn ended(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let ended = Ended {
        // None: a signal ended it, as an abort would.
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

fn inspect(args: &[&str]) -> Ended {
    ended(program().args(args))
}

/// What the program prints, which must succeed.
fn printed(args: &[&str]) -> String {
    let ended = inspect(args);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{args:?}");
    ended.stdout
}

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("pinned-sgl-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    OwnedFd::from(theirs).into()
}

/// A device that takes nothing.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
