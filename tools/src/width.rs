// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that fit the terminal.

use std::env;

/// The columns of the terminal on standard output, or as many as `COLUMNS` says; no limit for a
/// file or a pipe.
pub(crate) fn columns() -> usize {
    let asked = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let found = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    // On fewer than this nothing can be read.
    asked.or_else(found).map_or(usize::MAX, |columns: usize| columns.max(20))
}

/// The start of a line without colours; a line that is cut ends in `…`.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    match line.char_indices().nth(columns) {
        None => line.to_owned(),
        Some(_) => line.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Breaks lines between words. Colours take no room; what goes on is indented by four.
pub(crate) fn wrap(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut used = 0usize;
        for part in line.split_inclusive(' ') {
            let part_len = seen(part.trim_end());
            if used > 4 && part_len > 0 && used.saturating_add(part_len) > columns {
                out.truncate(out.trim_end_matches(' ').len());
                out.push_str("\n    ");
                used = 4;
            }
            out.push_str(part);
            used = used.saturating_add(seen(part));
        }
    }
    out
}

/// How many characters of `text` take room: those outside of escape sequences.
fn seen(text: &str) -> usize {
    let mut escaped = false;
    let takes_room = |c: &char| {
        let room = !escaped && *c != '\u{1b}';
        escaped = *c == '\u{1b}' || (escaped && !c.is_ascii_alphabetic());
        room
    };
    text.chars().filter(takes_room).count()
}
