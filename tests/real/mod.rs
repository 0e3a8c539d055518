// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of really pinned memory share: they need root, as frame numbers are hidden from all others.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

pub const MIB: u64 = 1 << 20;

/// The bytes of a page of this machine.
pub fn page() -> u64 {
    // SAFETY: the call takes no pointer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

/// `VmPin` and the pool of huge pages belong to the process and to the machine: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    be_counted();
    alone
}

/// The bytes that the kernel counts as pinned by this process: see [`alone`].
pub fn vm_pin() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).expect("a VmPin line");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Puts this thread, and those that it starts, under a limit of locked memory that is never reached: of those who
/// are above it (`CAP_IPC_LOCK`), newer kernels count nothing. Older ones do, if there can be no such limit.
fn be_counted() {
    let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a whole `rlimit`.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) } != 0 {
        return;
    }
    // The third version of the structures, and this thread.
    let header = [0x2008_0522_u32, 0];
    // Effective, permitted and inheritable capabilities, the lower 32 of each first.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: the pointers are to what is read and written in that version.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    sets[0][0] &= !(1 << 14);
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!((got, set), (0, 0), "{}", io::Error::last_os_error());
}
