// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`SlabSlot`]: room for one value of a slab, free or full.
#![forbid(unsafe_code)]

use core::fmt;

/// The key of nothing.
pub(crate) const NONE: u32 = u32::MAX;

/// Room for one value of a slab: the memory that a [`PoolSlab`](super::PoolSlab) is lent.
///
/// ```
/// use pinned_sgl::store::SlabSlot;
/// let memory: [SlabSlot<u64>; 8] = [const { SlabSlot::new() }; 8];
/// ```
pub struct SlabSlot<T>(State<T>);

enum State<T> {
    /// The free places of a slab form a list.
    Free {
        next: u32,
    },
    Full(T),
}

impl<T> SlabSlot<T> {
    /// A free place.
    #[must_use]
    pub const fn new() -> Self {
        Self::before(NONE)
    }

    /// A free place, and the free place after it.
    pub(crate) const fn before(next: u32) -> Self {
        Self(State::Free { next })
    }

    #[inline]
    pub(crate) const fn value(&self) -> Option<&T> {
        match &self.0 {
            State::Full(value) => Some(value),
            State::Free { .. } => None,
        }
    }

    #[inline]
    pub(crate) fn value_mut(&mut self) -> Option<&mut T> {
        match &mut self.0 {
            State::Full(value) => Some(value),
            State::Free { .. } => None,
        }
    }

    /// Puts a value in a free place and returns the free place after it; gives it back if the place
    /// is full.
    pub(crate) fn fill(&mut self, value: T) -> Result<u32, T> {
        match self.0 {
            State::Free { next } => {
                self.0 = State::Full(value);
                Ok(next)
            }
            State::Full(_) => Err(value),
        }
    }

    /// Takes the value out of a full place, which then comes before `next`; a free place stays as
    /// it is.
    pub(crate) fn empty(&mut self, next: u32) -> Option<T> {
        if let State::Free { .. } = self.0 {
            return None;
        }
        match core::mem::replace(&mut self.0, State::Free { next }) {
            State::Full(value) => Some(value),
            State::Free { .. } => None,
        }
    }
}

impl<T> Default for SlabSlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for SlabSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Free { .. } => "SlabSlot(free)",
            State::Full(_) => "SlabSlot(full)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_places_stay_full() {
        let mut place = SlabSlot::before(7);
        assert!(place.value().is_none() && place.value_mut().is_none());
        assert_eq!(place.empty(3), None);
        assert_eq!(place.fill('a'), Ok(7));
        assert_eq!(place.fill('b'), Err('b'));
        assert_eq!(
            format!("{place:?} {:?}", SlabSlot::<u8>::default()),
            "SlabSlot(full) SlabSlot(free)"
        );
        assert_eq!((place.value().copied(), place.empty(3)), (Some('a'), Some('a')));
        assert_eq!(place.fill('c'), Ok(3));
    }
}
