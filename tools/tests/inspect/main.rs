// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect`, run as its users run it: as a process. What it says about real memory takes
//! root, as frame numbers are hidden from all others.

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
#[path = "../run/mod.rs"]
#[allow(dead_code, reason = "the tests of the other program use the rest")]
mod run;

use run::{closed, ended, full, Ended};
use std::{io, os::unix::process::CommandExt as _, process::Command};

fn program() -> Command {
    run::program(env!("CARGO_BIN_EXE_inspect"))
}

fn inspect(args: &[&str]) -> Ended {
    ended(program().args(args))
}

/// What the program prints, which must succeed.
fn printed(args: &[&str]) -> String {
    inspect(args).printed()
}

/// An answer that is not read is not a failure; one that cannot be written is.
fn check_unread(args: &[&str]) {
    let gone = ended(program().args(args).stdout(closed()));
    assert_eq!((gone.status, gone.stderr.as_str()), (0, ""), "{args:?}");
    let failed = ended(program().args(args).stdout(full()));
    assert_eq!(failed.status, 1, "{args:?}");
    assert!(failed.stderr.starts_with("error: cannot write: "), "{}", failed.stderr);
}

/// The program as in a container of root: it never gets `CAP_SYS_ADMIN`, which shows frame numbers.
fn without_sys_admin() -> Command {
    let mut command = program();
    // SAFETY: prctl() may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // CAP_SYS_ADMIN has the number 21.
            match libc::prctl(libc::PR_CAPBSET_DROP, 21, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    command
}
