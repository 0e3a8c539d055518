// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sparse`]: a large table of which little is ever touched; what was touched stays where it is, so
//! it is read without a lock.
#![forbid(unsafe_code)]

use crate::sync::OnceLock;
use std::fmt;

/// A node has at most `2^NODE_BITS` items, or nodes, below it.
const NODE_BITS: u32 = if cfg!(miri) { 3 } else { 9 };
const NODE_MASK: u64 = (1 << NODE_BITS) - 1;

/// A table of the items with the numbers `first..end`: a tree, of which a node comes into being when
/// an item below it is first used.
pub(super) struct Sparse<T> {
    first: u64,
    end: u64,
    /// The number of the first item of the tree. It is a multiple of the size of a node: an aligned
    /// block of items is in one of them.
    base: u64,
    /// How many bits of a place, which is a number less `base`, the nodes below the root decode.
    shift: u32,
    root: OnceLock<Node<T>>,
}

enum Node<T> {
    Items(Box<[T]>),
    Nodes(Box<[OnceLock<Node<T>>]>),
}

impl<T: Default> Node<T> {
    /// A node for the places up to `last`, of which those below it decode `shift` bits.
    fn new(shift: u32, last: u64) -> Self {
        let slots = 0..=(last >> shift).min(NODE_MASK);
        if shift == 0 {
            Self::Items(slots.map(|_| T::default()).collect())
        } else {
            Self::Nodes(slots.map(|_| OnceLock::new()).collect())
        }
    }
}

/// The index, in a node, of what leads to a place.
fn index(place: u64, shift: u32) -> usize {
    usize::try_from((place >> shift) & NODE_MASK).unwrap_or(usize::MAX)
}

impl<T: Default> Sparse<T> {
    /// A table of untouched items.
    pub(super) fn new(first: u64, end: u64) -> Self {
        let base = first & !NODE_MASK;
        let table = Self { first, end, base, shift: 0, root: OnceLock::new() };
        let levels = table.last().checked_ilog2().unwrap_or(0).checked_div(NODE_BITS).unwrap_or(0);
        let table = Self { shift: levels.saturating_mul(NODE_BITS), ..table };
        // The model checker knows all items from the beginning: they are few.
        #[cfg(loom)]
        table.root();
        table
    }

    /// The place of the last item.
    fn last(&self) -> u64 {
        self.end.saturating_sub(1).saturating_sub(self.base)
    }

    fn place(&self, number: u64) -> Option<u64> {
        let inside = (self.first..self.end).contains(&number);
        number.checked_sub(self.base).filter(|_| inside)
    }

    fn root(&self) -> &Node<T> {
        self.root.get_or_init(|| Node::new(self.shift, self.last()))
    }

    /// The item, which is made if need be; `None` outside of the table.
    #[inline]
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let place = self.place(number)?;
        let (mut node, mut shift) = (self.root(), self.shift);
        loop {
            match node {
                Node::Items(items) => return items.get(index(place, 0)),
                Node::Nodes(nodes) => {
                    let slot = nodes.get(index(place, shift))?;
                    shift = shift.saturating_sub(NODE_BITS);
                    node = slot.get_or_init(|| Node::new(shift, u64::MAX));
                }
            }
        }
    }

    /// The item, if it was made.
    #[inline]
    pub(super) fn peek(&self, number: u64) -> Option<&T> {
        self.find(self.place(number)?).ok()
    }

    /// The item at a place; or else the last place up to which none was made.
    fn find(&self, place: u64) -> Result<&T, u64> {
        let mut shift = self.shift;
        let mut node = self.root.get().ok_or(u64::MAX)?;
        loop {
            match node {
                Node::Items(items) => return items.get(index(place, 0)).ok_or(place),
                Node::Nodes(nodes) => {
                    let below = nodes.get(index(place, shift)).and_then(OnceLock::get);
                    node = below.ok_or(place | ((1u64 << shift) - 1))?;
                    shift = shift.saturating_sub(NODE_BITS);
                }
            }
        }
    }

    /// The items of `from..to` that were made, with their numbers.
    pub(super) fn made_in(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &T)> {
        let to = to.min(self.end);
        let mut next = from.max(self.first);
        std::iter::from_fn(move || loop {
            let number = next;
            let place = self.place(number).filter(|_| number < to)?;
            let found = self.find(place);
            let last = found.as_ref().err().copied().unwrap_or(place);
            next = self.base.saturating_add(last).saturating_add(1);
            if let Ok(item) = found {
                return Some((number, item));
            }
        })
    }

    /// All items that were made, with their numbers.
    pub(super) fn made(&self) -> impl Iterator<Item = (u64, &T)> {
        self.made_in(self.first, self.end)
    }
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

    #[test]
    fn a_table_of_all_numbers_costs_what_is_touched() {
        let table = Sparse::<u8>::new(1, u64::MAX);
        let touched = [1, 511, 512, 1 << 40, u64::MAX - 1];
        touched.iter().for_each(|number| assert!(table.get(*number).is_some()));
        assert!(table.get(0).is_none() && table.get(u64::MAX).is_none());
        assert!(table.peek(1 << 40).is_some() && table.peek(1 << 41).is_none());
        // The items beside them were made with them, but for those that are none.
        assert_eq!(table.made().count(), 511 + 512 + 512 + 511);
        let numbers: Vec<_> = table.made().map(|(number, _)| number).collect();
        assert!(touched.iter().all(|touched| numbers.contains(touched)));
    }
}
