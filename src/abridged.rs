// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Abridged`]: the first of many, for `Debug`: a list can have millions of runs, a log line cannot.
#![forbid(unsafe_code)]

use core::fmt;

const SHOWN: usize = 16;

/// Writes the first items of an iterator, and `..` if there are more.
pub(crate) struct Abridged<I>(pub(crate) I);

impl<I: Iterator<Item: fmt::Debug> + Clone> fmt::Debug for Abridged<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = self.0.clone();
        let mut list = f.debug_list();
        list.entries(items.by_ref().take(SHOWN));
        if items.next().is_some() {
            list.finish_non_exhaustive()
        } else {
            list.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_cut() {
        assert_eq!(format!("{:?}", Abridged(0..2)), "[0, 1]");
        assert!(!format!("{:?}", Abridged(0..16)).contains(".."));
        assert!(format!("{:?}", Abridged(0..17)).ends_with("15, ..]"));
    }
}
