// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the kernel refuses what takes a privilege: root may lack it as well.

use std::fs;

/// A capability, by its number and its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability(u32, &'static str);

/// To know frame numbers.
pub(crate) const SYS_ADMIN: Capability = Capability(21, "SYS_ADMIN");
/// To pin more than `RLIMIT_MEMLOCK`.
pub(crate) const IPC_LOCK: Capability = Capability(14, "IPC_LOCK");

impl Capability {
    /// What to do for this process to have it.
    pub(crate) fn advice(self) -> String {
        let read = |name| fs::read_to_string(name).unwrap_or_default();
        self.advice_for(&read("/proc/self/status"), &read("/proc/self/uid_map"))
    }

    /// The same for a process with this `status` and `uid_map`.
    pub(crate) fn advice_for(self, status: &str, uid_map: &str) -> String {
        let Self(bit, name) = self;
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_ascii_whitespace()
        };
        let effective = field("CapEff:").next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if !uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
            // Whatever a process has in another namespace, even all capabilities.
            format!(
                "CAP_{name} counts in the initial user namespace alone, and this is another, as of \
                 a rootless container: run it outside"
            )
        } else if effective.is_some_and(|effective| effective & 1 << bit != 0) {
            format!(
                "This process has CAP_{name}, so something else forbids it, as a security module"
            )
        } else if field("Uid:").nth(1) == Some("0") {
            format!(
                "This is root, but without CAP_{name}, as in a container: give it that \
                 (docker run --cap-add {name})"
            )
        } else {
            "Run it as root (or through sudo)".to_owned()
        }
    }
}
