// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs, run as their users run them: as processes.

use std::io::Write;
use std::os::{fd::OwnedFd, unix::net::UnixStream};
use std::process::{Command, Output, Stdio};
use std::{env, fs, fs::File, path::PathBuf, thread};

/// A program without input, all of whose output is read. Lines are as long as they want to be.
pub(crate) fn program(path: &str) -> Command {
    let mut program = Command::new(path);
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program.env_remove("COLUMNS");
    program
}

/// What a run of a program leaves behind.
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let ended = Self {
            // None: a signal ended it, as an abort would.
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }
}

impl Ended {
    /// What was printed by a run that must have succeeded.
    pub(crate) fn printed(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""));
        self.stdout
    }
}

pub(crate) fn ended(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}

/// Runs a command with `input` on its standard input.
pub(crate) fn fed(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // From a thread: a program may answer before it has read everything. It need not read at all, so
    // that a broken pipe is not a failure.
    thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap().into()
    })
}

/// A folder that is gone when the test is over.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("pinned-sgl-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A pipe that is not read.
pub(crate) fn closed() -> Stdio {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    OwnedFd::from(theirs).into()
}

/// A device that takes nothing.
pub(crate) fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
