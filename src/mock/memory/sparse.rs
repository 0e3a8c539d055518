// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sparse`]: a large table of which little is ever touched; what was touched stays where it is, so
//! it is read without a lock.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
use crate::sync::OnceLock;
use core::fmt;
use std::{boxed::Box, vec::Vec};

/// Items that come into being together. The model checker pays for each of them, and has few.
const CHUNK_SHIFT: u32 = if cfg!(loom) { 0 } else { 9 };
const CHUNK: u64 = 1 << CHUNK_SHIFT;

#[cfg(not(loom))]
type Chunk<T> = OnceLock<Box<[T]>>;
#[cfg(loom)]
type Chunk<T> = Box<[T]>;

/// A table of the items with the numbers `first..end`, made in chunks when they are first used.
pub(super) struct Sparse<T> {
    first: u64,
    end: u64,
    chunks: Vec<Chunk<T>>,
}

impl<T: Default> Sparse<T> {
    /// A table of untouched items.
    pub(super) fn new(first: u64, end: u64) -> Self {
        // Chunks begin at multiples of their size: an aligned block of items is in one of them.
        let chunks = match end.checked_sub(1) {
            Some(last) if first < end => {
                chunk_of(last).saturating_sub(chunk_of(first)).saturating_add(1)
            }
            _ => 0,
        };
        Self { first, end, chunks: (0..chunks).map(|_| empty()).collect() }
    }

    fn chunk(&self, number: u64) -> Option<&Chunk<T>> {
        if number < self.first || number >= self.end {
            return None;
        }
        let chunk = chunk_of(number).checked_sub(chunk_of(self.first))?;
        self.chunks.get(usize::try_from(chunk).ok()?)
    }

    /// The item, which is made if need be; `None` outside of the table.
    #[inline]
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        #[cfg(not(loom))]
        let items = self.chunk(number)?.get_or_init(made);
        #[cfg(loom)]
        let items = self.chunk(number)?;
        items.get(place_of(number))
    }

    /// The item, if it was made.
    #[inline]
    pub(super) fn peek(&self, number: u64) -> Option<&T> {
        let items = made_before(self.chunk(number)?)?;
        items.get(place_of(number))
    }

    /// The items of `from..to` that were made, with their numbers.
    pub(super) fn made_in(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &T)> {
        let to = to.min(self.end);
        let mut next = from.max(self.first);
        core::iter::from_fn(move || loop {
            if next >= to {
                return None;
            }
            let number = next;
            match self.peek(number) {
                Some(item) => {
                    next = next.saturating_add(1);
                    return Some((number, item));
                }
                None => next = next_chunk(number),
            }
        })
    }

    /// All items that were made, with their numbers.
    pub(super) fn made(&self) -> impl Iterator<Item = (u64, &T)> {
        self.made_in(self.first, self.end)
    }
}

#[cfg(not(loom))]
fn empty<T>() -> Chunk<T> {
    OnceLock::new()
}

#[cfg(loom)]
fn empty<T: Default>() -> Chunk<T> {
    made()
}

#[cfg(not(loom))]
fn made_before<T>(chunk: &Chunk<T>) -> Option<&[T]> {
    chunk.get().map(|items| &**items)
}

#[cfg(loom)]
fn made_before<T>(chunk: &Chunk<T>) -> Option<&[T]> {
    Some(chunk)
}

fn made<T: Default>() -> Box<[T]> {
    (0..CHUNK).map(|_| T::default()).collect()
}

const fn chunk_of(number: u64) -> u64 {
    number.wrapping_shr(CHUNK_SHIFT)
}

const fn next_chunk(number: u64) -> u64 {
    (number | CHUNK.wrapping_sub(1)).saturating_add(1)
}

fn place_of(number: u64) -> usize {
    usize::try_from(number & CHUNK.wrapping_sub(1)).unwrap_or(usize::MAX)
}

impl<T> fmt::Debug for Sparse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sparse({:#x}..{:#x})", self.first, self.end)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_touched_is_made() {
        let table = Sparse::<u8>::new(511, 1 << 20);
        assert!(table.get(510).is_none() && table.get(1 << 20).is_none());
        assert!(table.peek(511).is_none() && table.made().next().is_none());
        assert!(table.get(511).is_some() && table.get(5 << 9).is_some());
        assert_eq!(table.made().map(|(number, _)| number).next(), Some(511));
        assert_eq!(table.made().count(), 513);
        assert_eq!(table.made_in(5 << 9, (5 << 9) + 7).count(), 7);
        assert_eq!(Sparse::<u8>::new(3, 3).made().count(), 0);
    }
}
