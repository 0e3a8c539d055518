// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of a recording, as the kernel's ftrace, `trace-cmd report` and `perf script` write it:
//!
//! ```text
//!   qemu-kvm-4321    [002] .....   87.120345: map: IOMMU: iova=0x… - 0x… paddr=0x… size=4096
//!   qemu-kvm  4321 [002]    87.120345: iommu:map: IOMMU: iova=0x… paddr=0x… size=4096
//! ```
//!
//! Older kernels do not write the end of the IOVAs.

use crate::notation::Unexpected;
use crate::number::{from_digits, strip_hex};

/// An event of the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `size` is 0 if the kernel failed to map anything.
    Map { iova: u64, phys: u64, size: u64 },
    /// Asked for `size` bytes, the kernel unmapped `unmapped`.
    Unmap { unmapped: u64 },
}

/// An event, and the thread that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) comm: &'a str,
    pub(crate) pid: &'a str,
    pub(crate) what: What,
}

/// The event of a line, if there is one.
pub(crate) fn parse(line: &str) -> Result<Option<Event<'_>>, Unexpected> {
    let Some((task, name, body)) = split(line) else { return Ok(None) };
    let (comm, pid) = process(task).ok_or_else(|| {
        Unexpected::new(1, "COMM-PID [CPU], or COMM PID, before the event", task.trim())
    })?;
    let mut body = Body { line, rest: body };
    body.literal("IOMMU:")?;
    body.literal("iova=")?;
    let iova_column = body.column();
    let iova = body.address()?;
    body.skip_space();
    let end = match body.rest.strip_prefix('-') {
        Some(rest) => {
            body.rest = rest;
            body.skip_space();
            Some((body.column(), body.address()?))
        }
        None => None,
    };
    let paddr = match name {
        Name::Map => {
            body.literal("paddr=")?;
            body.skip_space();
            Some((body.column(), body.address()?))
        }
        Name::Unmap => None,
    };
    body.literal("size=")?;
    let size = body.number()?;
    let what = match paddr {
        Some((column, phys)) => {
            let last = size.saturating_sub(1);
            for (column, start) in [(iova_column, iova), (column, phys)] {
                if start.checked_add(last).is_none() {
                    let found = format!("{size} bytes at {start:#x}");
                    let expected = "addresses that fit 64 bits";
                    return Err(Unexpected { column, expected, found });
                }
            }
            What::Map { iova, phys, size }
        }
        None => {
            body.literal("unmapped_size=")?;
            What::Unmap { unmapped: body.number()? }
        }
    };
    body.end()?;
    match end {
        Some((at, end)) if end != iova.wrapping_add(size) => {
            let found = format!("{end:#x} instead of {:#x}", iova.wrapping_add(size));
            Err(Unexpected { column: at, expected: "the IOVA and the size, added", found })
        }
        _ => Ok(Some(Event { comm, pid, what })),
    }
}

#[derive(Clone, Copy)]
enum Name {
    Map,
    Unmap,
}

/// What stands before the name of the event, the name, and what stands behind it. Other events may
/// be named `map`, too: the word behind distinguishes them, unless perf names the subsystem.
fn split(line: &str) -> Option<(&str, Name, &str)> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let mut rest = line;
    loop {
        let word_start = rest.trim_start();
        let end = word_start.find(char::is_whitespace)?;
        let (word, behind) = word_start.split_at(end);
        let ours = behind.trim_start().starts_with("IOMMU:");
        let name = match word {
            "iommu:map:" => Name::Map,
            "iommu:unmap:" => Name::Unmap,
            "map:" if ours => Name::Map,
            "unmap:" if ours => Name::Unmap,
            _ => {
                rest = behind;
                continue;
            }
        };
        let (task, _) = line.split_at(line.len().saturating_sub(word_start.len()));
        return Some((task, name, behind));
    }
}

/// The name and the number of a thread. Names may have anything in them, spaces and dashes too, so
/// that this is read from its end.
fn process(task: &str) -> Option<(&str, &str)> {
    let task = match cpu(task) {
        Some(at) => task.get(..at)?.trim(),
        // perf has been asked for no CPU: what may stand between is the time.
        None => match task.trim().rsplit_once(char::is_whitespace) {
            Some((task, time)) if time.ends_with(':') => task.trim(),
            _ => task.trim(),
        },
    };
    // The thread group, with the option record-tgid of ftrace.
    let task = match task.rsplit_once('(') {
        Some((before, group)) if is_group(group) => before.trim_end(),
        _ => task,
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((comm, pid)) = task.rsplit_once(char::is_whitespace) {
        // With -F pid,tid perf writes both.
        if pid.split('/').all(digits) {
            return Some((comm.trim(), pid));
        }
    }
    task.rsplit_once('-').filter(|(comm, pid)| !comm.is_empty() && digits(pid))
}

/// Where `[CPU]` stands: the last of its kind, as names are before it.
fn cpu(task: &str) -> Option<usize> {
    task.rmatch_indices('[').map(|(at, _)| at).find(|at| {
        let number = task.get(at.saturating_add(1)..).and_then(|rest| rest.split_once(']'));
        number.is_some_and(|(number, _)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    })
}

/// Whether this is the rest of `(  123)` or `(-------)`.
fn is_group(text: &str) -> bool {
    text.strip_suffix(')').is_some_and(|group| {
        let group = group.trim();
        !group.is_empty()
            && (group.bytes().all(|byte| byte.is_ascii_digit())
                || group.bytes().all(|byte| byte == b'-'))
    })
}

/// What an event says, from left to right.
struct Body<'a> {
    line: &'a str,
    rest: &'a str,
}

impl<'a> Body<'a> {
    /// Where the rest begins, counted in characters from 1.
    fn column(&self) -> usize {
        let before = self.line.len().saturating_sub(self.rest.len());
        let before = self.line.get(..before).unwrap_or_default();
        before.chars().count().saturating_add(1)
    }

    fn unexpected(&self, expected: &'static str) -> Unexpected {
        let found = self.rest.split_ascii_whitespace().next().unwrap_or_default();
        Unexpected::new(self.column(), expected, found)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn literal(&mut self, text: &'static str) -> Result<(), Unexpected> {
        self.skip_space();
        self.rest = self.rest.strip_prefix(text).ok_or_else(|| self.unexpected(text))?;
        Ok(())
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn address(&mut self) -> Result<u64, Unexpected> {
        let unexpected = self.unexpected("an address of at most 64 bits, in 0x hex");
        let digits = strip_hex(self.word());
        digits.and_then(|digits| from_digits(digits, 16).ok()).ok_or(unexpected)
    }

    fn number(&mut self) -> Result<u64, Unexpected> {
        let unexpected = self.unexpected("a number of bytes of at most 64 bits");
        from_digits(self.word(), 10).map_err(|_| unexpected)
    }

    fn end(&mut self) -> Result<(), Unexpected> {
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.unexpected("the end of the line"))
    }
}

/// How many events a line says are missing from the recording.
pub(crate) fn lost(line: &str) -> Lost {
    let number = |text: &str| {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..digits).and_then(|digits| from_digits(digits, 10).ok())
    };
    if let Some((_, counts)) = line.split_once("entries-in-buffer/entries-written: ") {
        let (there, written) = counts.split_once('/').unwrap_or_default();
        let lost = number(written).zip(number(there)).map(|(all, there)| all.saturating_sub(there));
        return Lost::OfAll(lost.unwrap_or(0));
    }
    let after = [("[LOST ", "EVENTS]"), ("PERF_RECORD_LOST", " lost ")];
    let found = after.iter().find_map(|(first, second)| {
        let (_, rest) = line.split_once(first)?;
        let (before, behind) = rest.split_once(second)?;
        // How many is not always known.
        Some(number(before).or_else(|| number(behind)).unwrap_or(1))
    });
    Lost::Here(found.unwrap_or(0))
}

/// Events that were recorded and are not in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// In the whole recording.
    OfAll(u64),
    /// At this line.
    Here(u64),
}
