// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Written`]: addresses that were written, and that no domain notes.
#![forbid(unsafe_code)]

use crate::iova_range::IovaRange;

/// How many ranges there are at most, and one to be added.
const MOST: usize = 32;

/// Ranges of addresses that were written: by the CPU, or by devices of a domain that is gone.
///
/// It takes no more memory than this, and never fails: where there are more ranges than places, the two
/// that lie closest become one, with what lies between. So it may have too many addresses, and has none
/// too few. Up to 31 ranges that do not touch are exact.
pub(super) struct Written {
    // Invariant: in order, disjoint, not touching each other, with the free places behind them; the
    // last place is free.
    ranges: [Option<IovaRange>; MOST],
}

impl Written {
    pub(super) const NOTHING: Self = Self { ranges: [None; MOST] };

    /// The ranges, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.ranges.iter().map_while(|range| *range)
    }

    /// Adds the addresses of `range`.
    pub(super) fn add(&mut self, range: IovaRange) {
        if self.iter().any(|known| known.covers(&range)) {
            return;
        }
        let mut whole = range;
        for place in &mut self.ranges {
            if let Some(joined) = place.and_then(|known| joined(known, whole)) {
                whole = joined;
                *place = None;
            }
        }
        self.lay(Some(whole));
    }

    /// Removes the addresses of `range`; some may stay if that makes one range two, and there is no place
    /// for it.
    pub(super) fn remove(&mut self, range: IovaRange) {
        if self.iter().all(|known| known.intersection(&range).is_none()) {
            return;
        }
        let mut behind = None;
        for place in &mut self.ranges {
            let Some(known) = place.filter(|known| known.intersection(&range).is_some()) else {
                continue;
            };
            let head = range.first().checked_sub(1);
            let tail = range.last().checked_add(1);
            let head = head.and_then(|last| IovaRange::inclusive(known.first(), last).ok());
            let tail = tail.and_then(|first| IovaRange::inclusive(first, known.last()).ok());
            *place = head.or(tail);
            // Only a range around the other one leaves two.
            behind = behind.or(head.and(tail));
        }
        self.lay(behind);
    }

    /// Lays the ranges in order again, with one more that touches none of them.
    fn lay(&mut self, more: Option<IovaRange>) {
        let old = core::mem::replace(&mut self.ranges, [None; MOST]);
        let known = || old.iter().flatten();
        let below = known().filter(|it| more.is_none_or(|more| it.first() < more.first()));
        let above = known().filter(|it| more.is_some_and(|more| it.first() > more.first()));
        let all = below.chain(&more).chain(above);
        self.ranges.iter_mut().zip(all).for_each(|(place, range)| *place = Some(*range));
        if self.ranges.iter().all(Option::is_some) {
            self.join_nearest();
        }
    }

    /// Makes one range of the two between which there are the fewest addresses.
    fn join_nearest(&mut self) {
        let between = |pair: &[Option<IovaRange>]| match pair {
            [Some(one), Some(next)] => next.first().checked_offset_from(one.last()),
            _ => None,
        };
        let pairs = self.ranges.windows(2).zip(0..MOST);
        let nearest = pairs.filter_map(|(pair, at)| Some((between(pair)?, at))).min();
        let pair = nearest.and_then(|(_, at)| self.ranges.get_mut(at..)?.first_chunk_mut::<2>());
        if let Some([first @ Some(_), second @ Some(_)]) = pair {
            let ends = first.zip(*second).map(|(one, next)| (one.first(), next.last()));
            *first = ends.and_then(|(first, last)| IovaRange::inclusive(first, last).ok());
            *second = None;
            self.lay(None);
        }
    }
}

/// Both ranges as one, if they overlap or touch.
fn joined(one: IovaRange, other: IovaRange) -> Option<IovaRange> {
    let apart = |below: IovaRange, above: IovaRange| {
        below.last().checked_add(1).is_some_and(|behind| behind < above.first())
    };
    if apart(one, other) || apart(other, one) {
        return None;
    }
    IovaRange::inclusive(one.first().min(other.first()), one.last().max(other.last())).ok()
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use crate::Iova;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap()
    }

    fn check(written: &Written) -> Vec<IovaRange> {
        let ranges: Vec<_> = written.iter().collect();
        assert!(ranges.windows(2).all(|pair| joined(pair[0], pair[1]).is_none()), "{ranges:?}");
        assert!(ranges.windows(2).all(|pair| pair[0].first() < pair[1].first()), "{ranges:?}");
        assert!(written.ranges[MOST - 1].is_none());
        ranges
    }

    /// Beside a set of addresses: exact as long as there is room, and never less.
    #[test]
    fn nothing_is_lost() {
        for (base, len) in [(0, 40), (u64::MAX - 40, 40), (1000, 300)] {
            let (mut written, mut oracle) = (Written::NOTHING, BTreeSet::new());
            let mut seed = base ^ len;
            let mut random = || {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                seed >> 33
            };
            let mut exact = true;
            for step in 0..4000 {
                let first = base + random() % len;
                let last = first.saturating_add(random() % 3).min(base + len);
                if random() % 5 < 3 {
                    written.add(range(first, last));
                    oracle.extend(first..=last);
                } else {
                    written.remove(range(first, last));
                    oracle.retain(|at| !(first..=last).contains(at));
                }
                let ranges = check(&written);
                let has = |at: &u64| ranges.iter().any(|range| range.contains(Iova::new(*at)));
                assert!(oracle.iter().all(has), "step {step}");
                exact &= ranges.len() + 1 < MOST;
                if exact {
                    assert!((base..=base + len).all(|at| oracle.contains(&at) == has(&at)));
                }
            }
            assert_eq!(exact, len == 40);
            written.remove(IovaRange::ALL);
            assert_eq!(check(&written), []);
        }
    }

    /// What is added when it is full costs the smallest gap there is.
    #[test]
    fn the_nearest_become_one() {
        let mut written = Written::NOTHING;
        let exact: Vec<_> = (0..31).map(|at| range(at * 1000, at * 1000 + 10 + at)).collect();
        exact.iter().for_each(|range| written.add(*range));
        assert_eq!(check(&written), exact);
        written.add(range(u64::MAX, u64::MAX));
        let mut expected = exact;
        // The longest ranges have the smallest gaps before the next one.
        expected.splice(29..31, [range(29_000, 30_040), range(u64::MAX, u64::MAX)]);
        assert_eq!(check(&written), expected);
        written.remove(range(5, 5));
        assert_eq!(check(&written).len(), 31);
        written.add(IovaRange::ALL);
        written.remove(range(7, u64::MAX));
        assert_eq!(check(&written), [range(0, 6)]);
    }
}
