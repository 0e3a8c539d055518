// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that are looked at: this one, whose memory is known, and others that end.

use super::run::{ended, Folder};
use super::{check_unread, inspect, printed, program, without_sys_admin};
use serde_json::Value;
use std::os::unix::{fs::FileExt, process::CommandExt};
use std::process::{Child, Command};
use std::{fs, fs::File, ptr};

const PAGE: usize = 4096;

/// Anonymous memory of this process, of which nothing is there before it is touched.
struct Memory {
    start: *mut u8,
    pages: usize,
}

impl Memory {
    fn new(pages: usize) -> Self {
        let memory = Self::map(pages, libc::MAP_NORESERVE);
        let (start, len) = (memory.start.cast(), pages * PAGE);
        // SAFETY: the addresses are those of the mapping that was just made.
        assert_eq!(unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) }, 0);
        memory
    }

    fn map(pages: usize, flags: i32) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        // SAFETY: the kernel chooses addresses that are free.
        let start = unsafe { libc::mmap(ptr::null_mut(), pages * PAGE, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: start.cast(), pages }
    }

    fn touch(&self, page: usize) {
        assert!(page < self.pages);
        // SAFETY: the page is inside of the mapping, which is writable and used by nothing else.
        unsafe { self.start.add(page * PAGE).write_volatile(1) };
    }

    fn range(&self) -> String {
        let start = self.start.addr();
        format!("{start:x}-{:x}", start + self.pages * PAGE)
    }

    /// The frames, page by page.
    fn frames(&self) -> Vec<Option<u64>> {
        let map = File::open("/proc/self/pagemap").unwrap();
        let frame = |page: usize| {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, ((self.start.addr() / PAGE + page) * 8) as u64).unwrap();
            let entry = u64::from_ne_bytes(entry);
            (entry >> 63 == 1).then_some(entry & ((1 << 55) - 1))
        };
        (0..self.pages).map(frame).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing points into it any more.
        unsafe { libc::munmap(self.start.cast(), self.pages * PAGE) };
    }
}

fn look(memory: &Memory) -> Value {
    let pid = std::process::id().to_string();
    let args = ["--pid", &pid, "--range", &memory.range(), "--json"];
    serde_json::from_str(&printed(&args)).unwrap()
}

/// What the program says while no page moves, and the frames.
fn still(memory: &Memory) -> (Value, Vec<Option<u64>>) {
    for _ in 0..20 {
        let before = memory.frames();
        let found = look(memory);
        if memory.frames() == before {
            return (found, before);
        }
    }
    panic!("the pages do not stand still");
}

/// The lengths of the runs, in pages: a page goes on with a run if it does in both addresses.
fn runs(frames: &[Option<u64>]) -> Vec<u64> {
    let mut runs = Vec::new();
    for (page, frame) in frames.iter().enumerate() {
        let Some(frame) = frame else { continue };
        if page > 0 && frames[page - 1] == Some(frame - 1) {
            *runs.last_mut().unwrap() += 1;
        } else {
            runs.push(1u64);
        }
    }
    runs
}

#[test]
fn memory_is_made_of_what_the_page_map_says() {
    let mut rng = fastrand::Rng::with_seed(9);
    for pages in [1, 7, 600, 20_000] {
        let memory = Memory::new(pages);
        let untouched = rng.usize(0..3);
        for page in (0..pages).filter(|page| (page / 5) % 3 != untouched || pages == 1) {
            memory.touch(page);
        }
        let (found, frames) = still(&memory);
        let runs = runs(&frames);
        let present = frames.iter().flatten().count();
        let holes =
            frames.chunk_by(|a, b| a.is_some() == b.is_some()).filter(|part| part[0].is_none());
        let expected = [
            ("pages", pages),
            ("present_pages", present),
            ("swapped_pages", 0),
            ("absent_pages", pages - present),
            ("holes", holes.count()),
            ("runs", runs.len()),
            ("longest_run_pages", *runs.iter().max().unwrap() as usize),
        ];
        let mappings = found["mappings"].as_array().unwrap();
        for (field, count) in expected {
            assert_eq!(found[field], count, "{field} of {pages}");
            if field != "longest_run_pages" {
                let sum: u64 =
                    mappings.iter().map(|mapping| mapping[field].as_u64().unwrap()).sum();
                assert_eq!(sum, count as u64, "{field} of mappings");
            }
        }
        let mut by_length = 0;
        for bucket in found["run_lengths"].as_array().unwrap() {
            let (min, max) = (bucket["min_pages"].as_u64(), bucket["max_pages"].as_u64());
            let within = runs.iter().filter(|run| (min..=max).contains(&Some(**run)));
            assert_eq!(bucket["runs"], within.clone().count());
            assert_eq!(bucket["pages"], within.sum::<u64>());
            by_length += bucket["runs"].as_u64().unwrap();
        }
        assert_eq!(by_length, runs.len() as u64);
        // Each entry is a page, and large ones are not to be had.
        let entries = found["entries"].as_array().unwrap();
        let bytes: u64 = entries
            .iter()
            .map(|entry| entry[0].as_u64().unwrap() * entry[1].as_u64().unwrap())
            .sum();
        assert_eq!(bytes, (present * PAGE) as u64);
        assert_eq!(found["pinned"], false);
    }
}

#[test]
fn memory_that_was_never_touched_is_absent() {
    let memory = Memory::new(300);
    let found = look(&memory);
    assert_eq!((&found["absent_pages"], &found["runs"]), (&300.into(), &0.into()));
    assert_eq!((&found["holes"], &found["entries"]), (&1.into(), &Value::Array(vec![])));
    let pid = std::process::id().to_string();
    let args = ["--pid", &pid, "--range", &memory.range()];
    let report = printed(&args);
    assert!(report.contains("not present    1.17 MiB               300 pages"), "{report}");
    let picture = inspect(&[&args[..], &["--svg", "-"]].concat());
    assert_eq!((picture.status, picture.stdout.as_str()), (1, ""));
    assert!(picture.stderr.contains("there is nothing to draw"), "{}", picture.stderr);
}

/// Two huge pages of a reserved pool, which are no part of the size that a process has elsewhere.
#[test]
fn reserved_huge_pages_are_whole_runs() {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let before: usize = fs::read_to_string(POOL).unwrap().trim().parse().unwrap();
    fs::write(POOL, (before + 2).to_string()).expect("this test reserves two huge pages");
    let memory = Memory::map(1024, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB);
    [0, 512].into_iter().for_each(|page| memory.touch(page));
    let (found, frames) = still(&memory);
    assert_eq!(found["entries"], serde_json::json!([[2 << 20, 2]]), "{found}");
    assert_eq!((&found["present_pages"], &found["swapped_pages"]), (&1024.into(), &0.into()));
    assert_eq!(found["runs"], runs(&frames).len());
    drop(memory);
    fs::write(POOL, before.to_string()).unwrap();
}

/// A terabyte of reserved addresses, with one page: only what has memory is read.
#[test]
fn reserved_addresses_take_no_time() {
    let memory = Memory::new(1 << 28);
    let found = look(&memory);
    assert_eq!(found["absent_pages"], 1 << 28);
}

#[test]
fn a_report_says_that_nothing_is_pinned() {
    let memory = Memory::new(64);
    (0..64).for_each(|page| memory.touch(page));
    let pid = std::process::id().to_string();
    let args = ["--pid", &pid, "--range", &memory.range()];
    let report = printed(&args);
    assert!(report.starts_with(&format!("Memory of process {pid} (")), "{report}");
    for expected in ["Looked at, not pinned: ", "present         256 KiB", "Mappings: 1\n", "rw-p"]
    {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    assert!(printed(&["--help"]).contains("With --pid nothing is pinned"));

    let picture = printed(&[&args[..], &["--svg", "-"]].concat());
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
    assert!(picture.contains("Looked at, not pinned.") && !picture.contains("NaN"));
    let folder = Folder::new("process");
    let path = folder.0.join("layout.svg");
    let with_file = printed(&[&args[..], &["--svg", path.to_str().unwrap()]].concat());
    assert!(with_file.contains("The picture is in "), "{with_file}");
    assert!(fs::read_to_string(path).unwrap().starts_with("<svg "));
}

#[test]
fn lines_are_as_wide_as_the_terminal() {
    let pid = std::process::id().to_string();
    for columns in [60, 79, 100] {
        for args in [&["--pid", &pid, "--all"][..], &["--mock", "--size", "64M"]] {
            let report = ended(program().args(args).env("COLUMNS", columns.to_string())).stdout;
            let widest = report.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns, "{columns}: {widest}\n{report}");
        }
    }
}

#[test]
fn output_is_not_read() {
    let pid = std::process::id().to_string();
    for args in [&["--all"][..], &["--json"], &["--svg", "-"]] {
        check_unread(&[&["--pid", &pid], args].concat());
    }
}

#[test]
fn bad_arguments() {
    let addresses = "expected two addresses in hex";
    let cases: [(&[&str], &str); 13] = [
        (&["--pid", "0"], "'--pid <PID>'"),
        (&["--pid", "-1"], "'--pid <PID>'"),
        (&["--pid", "2147483648"], "'--pid <PID>'"),
        (&["--pid", "self"], "'--pid <PID>'"),
        (&["--range", "1000-2000"], "--pid <PID>"),
        (&["--pid", "1", "--range", "1000"], addresses),
        (&["--pid", "1", "--range", "1000-x"], addresses),
        (&["--pid", "1", "--range", "-1000"], addresses),
        (&["--pid", "1", "--range", "10000000000000000-20000000000000000"], addresses),
        (&["--pid", "1", "--range", "2000-1000"], "expected a range that ends behind its start"),
        (&["--pid", "1", "--range", "1000-2001"], "is not made of pages"),
        (&["--pid", "1", "--mock"], "--mock"),
        (&["--pid", "1", "--size", "4K"], "--size"),
    ];
    for (args, expected) in cases {
        let ended = inspect(args);
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

#[test]
fn processes_that_cannot_be_looked_at() {
    let refused = |args: &[&str], expected: &str| {
        let ended = inspect(args);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{args:?}");
        assert!(ended.stderr.starts_with(expected), "{args:?}: {}", ended.stderr);
    };
    // No process has the largest number.
    refused(&["--pid", "2147483647"], "error: there is no process 2147483647\n");

    let mut child = sleeper();
    let pid = child.id().to_string();
    let outside = format!("error: process {pid} has nothing mapped in 1000-2000\n");
    refused(&["--pid", &pid, "--range", "1000-0x2000"], &outside);
    // Dead, but still listed, as it was not waited for.
    child.kill().unwrap();
    let mut info = std::mem::MaybeUninit::uninit();
    // SAFETY: the information goes to a value of its type; the child is left as it is.
    let waited = unsafe {
        let flags = libc::WEXITED | libc::WNOWAIT;
        libc::waitid(libc::P_PID, child.id(), info.as_mut_ptr(), flags)
    };
    assert_eq!(waited, 0);
    refused(&["--pid", &pid], &format!("error: process {pid} has no memory of its own: "));
    child.wait().unwrap();
    refused(&["--pid", &pid], &format!("error: there is no process {pid}\n"));
}

/// A process ends at any moment; that is said, whatever was read before.
#[test]
fn processes_that_end_meanwhile() {
    for round in 0..30 {
        let mut child = sleeper();
        let pid = child.id().to_string();
        let looking = program().args(["--pid", &pid, "--json"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 300));
        child.kill().unwrap();
        child.wait().unwrap();
        let output = looking.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok()),
            Some(1) => assert!(
                ["there is no process", "meanwhile", "has no memory of its own"]
                    .iter()
                    .any(|reason| said.contains(reason)),
                "{said}"
            ),
            other => panic!("{other:?}: {said}"),
        }
    }
}

#[test]
fn frames_are_hidden_without_the_capability() {
    let mut child = sleeper();
    let pid = child.id().to_string();
    let hidden = ended(without_sys_admin().args(["--pid", &pid]));
    // A process of root, for another user.
    let strange = ended(program().args(["--pid", &pid]).uid(65534).gid(65534));
    child.kill().unwrap();
    child.wait().unwrap();
    for (ended, expected) in [
        (hidden, format!("error: the kernel hides the physical addresses of process {pid}")),
        (strange, format!("error: this process may not look at process {pid}")),
    ] {
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
        assert!(ended.stderr.starts_with(&expected), "{}", ended.stderr);
    }
}
