// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said to a process that lacks a privilege: root, too, may lack one.

use super::privilege::{IPC_LOCK, SYS_ADMIN};
use super::run::ended;
use super::without_sys_admin;

const INITIAL: &str = "         0          0 4294967295\n";

/// The lines of `/proc/self/status` that matter.
fn status(uid: u32, effective: u64) -> String {
    format!("Name:\tinspect\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{effective:016x}\n")
}

#[test]
fn the_advice_is_about_what_is_missing() {
    let all = (1u64 << 41) - 1;
    let (admin, lock) = (1 << 21, 1 << 14);
    let cases = [
        (SYS_ADMIN, status(1000, 0), INITIAL, "Run it as root"),
        (SYS_ADMIN, status(1000, lock), INITIAL, "Run it as root"),
        (SYS_ADMIN, status(0, all & !admin), INITIAL, "This is root, but without CAP_SYS_ADMIN"),
        (IPC_LOCK, status(0, all & !lock), INITIAL, "This is root, but without CAP_IPC_LOCK"),
        (SYS_ADMIN, status(0, all), INITIAL, "This process has CAP_SYS_ADMIN, so something else"),
        (SYS_ADMIN, status(1000, admin), INITIAL, "This process has CAP_SYS_ADMIN"),
        // Root of a container, with all capabilities there; a user in it; one without a map.
        (SYS_ADMIN, status(0, all), "0 1000 1\n", "CAP_SYS_ADMIN counts in the initial user"),
        (IPC_LOCK, status(7, 0), "0 100000 65536\n", "CAP_IPC_LOCK counts in the initial user"),
        (SYS_ADMIN, status(65534, all), "", "CAP_SYS_ADMIN counts in the initial user namespace"),
    ];
    for (capability, status, uid_map, expected) in cases {
        let advice = capability.advice_for(&status, uid_map);
        assert!(advice.starts_with(expected), "{status}{uid_map}{advice}");
    }
}

#[test]
fn root_is_not_advised_to_become_root() {
    let ended = ended(without_sys_admin().args(["--size", "4K"]));
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    let expected = "error: the kernel hides physical addresses from this process";
    assert!(ended.stderr.starts_with(expected), "{}", ended.stderr);
    assert!(ended.stderr.contains("root, but without CAP_SYS_ADMIN"), "{}", ended.stderr);
    assert!(ended.stderr.trim_end().ends_with("--mock"), "{}", ended.stderr);
}
