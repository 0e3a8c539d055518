// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree beside an oracle that is slow and obvious: a sorted list of ranges.

use super::*;
use crate::store::{Pool, PoolSlab, SlabSlot};
use std::collections::HashSet;

type Tree<'a> = IovaTree<u32, Pool<'a>>;

fn memory(places: usize) -> Vec<SlabSlot<Node<u32>>> {
    (0..places).map(|_| SlabSlot::new()).collect()
}

fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::inclusive(Iova::new(first), Iova::new(last)).unwrap()
}

/// Numbers that look random: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    range: IovaRange,
    key: u32,
    value: u32,
}

#[derive(Default)]
struct Oracle(Vec<Entry>);

impl Oracle {
    fn overlapping(&self, range: IovaRange) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.range.intersection(&range).is_some())
    }

    fn insert(&mut self, entry: Entry) {
        self.0.push(entry);
        self.0.sort_by_key(|entry| entry.range.first());
    }

    fn remove(&mut self, first: Iova) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.range.first() == first)?;
        Some(self.0.remove(at))
    }

    fn gaps(&self, within: IovaRange, len: u64) -> Vec<IovaRange> {
        let mut gaps = Vec::new();
        let mut first = 0;
        for entry in &self.0 {
            gaps.push((first, u128::from(entry.range.first().get())));
            first = u128::from(entry.range.last().get()) + 1;
        }
        gaps.push((first, 1 << 64));
        let (low, high) = (within.first().get().into(), u128::from(within.last().get()) + 1);
        let cut = gaps.into_iter().map(|(first, end)| (first.max(low), end.min(high)));
        cut.filter(|(first, end)| first < end && end - first >= len.into())
            .map(|(first, end)| range(first as u64, (end - 1) as u64))
            .collect()
    }
}

fn gap_before(entries: &[IovaRange], at: usize) -> u64 {
    let begin = at.checked_sub(1).map_or(0, |at| entries[at].last().get() + 1);
    entries[at].first().get() - begin
}

/// What every tree keeps: order, balance, links both ways, and what each node knows.
fn check_links<S: Slabs<Node<u32>>>(tree: &IovaTree<u32, S>) {
    fn below<S: Slabs<Node<u32>>>(
        tree: &IovaTree<u32, S>,
        key: u32,
        parent: u32,
        entries: &mut Vec<IovaRange>,
    ) -> u8 {
        let Some(node) = tree.slab.get(key) else {
            assert_eq!(key, NONE);
            return 0;
        };
        assert_eq!(node.link.parent, parent);
        let begin = entries.len();
        let left = below(tree, node.link.left, key, entries);
        entries.push(node.link.range);
        assert_eq!(node.before, gap_before(entries, entries.len() - 1));
        let right = below(tree, node.link.right, key, entries);
        assert!(left.abs_diff(right) <= 1, "{left} and {right} below {node:?}");
        assert_eq!(node.link.height.get(), left.max(right) + 1);
        // Looking at all below each node takes too long where there are many.
        if entries.len() - begin <= 300 {
            let largest = (begin..entries.len()).map(|at| gap_before(entries, at)).max();
            assert_eq!(Some(node.gap), largest, "{node:?}");
        }
        node.link.height.get()
    }
    let mut entries = Vec::new();
    below(tree, tree.root, NONE, &mut entries);
    assert!(entries.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{entries:?}");
    assert!(tree.iter().map(|(range, _)| range).eq(entries.iter().copied()));
    assert_eq!(tree.len, entries.len());
}

/// The tree has what the oracle has, under the same keys.
fn check_all(tree: &Tree<'_>, oracle: &Oracle) {
    check_links(tree);
    assert!(tree.iter().eq(oracle.0.iter().map(|entry| (entry.range, &entry.value))));
    assert_eq!(tree.slab.len(), oracle.0.len());
    for entry in &oracle.0 {
        assert_eq!(tree.slab.get(entry.key).map(|node| &node.value), Some(&entry.value));
        assert_eq!(tree.range_of(entry.key), Some(entry.range));
    }
}

/// Every question about an address.
fn check_address(tree: &mut Tree<'_>, oracle: &Oracle, at: Iova) {
    let pair = |entry: &Entry| (entry.range, entry.value);
    let copied = |(range, value): (IovaRange, &u32)| (range, *value);
    let here = oracle.0.iter().find(|entry| entry.range.contains(at));
    assert_eq!(tree.find(at).map(copied), here.map(pair));
    assert_eq!(tree.find_mut(at).map(|(range, value)| (range, *value)), here.map(pair));
    assert_eq!(tree.key_of(at), here.map(|entry| entry.key));
    let from = oracle.0.iter().position(|entry| entry.range.last() >= at);
    assert_eq!(tree.first_from(at).map(copied), from.map(|index| pair(&oracle.0[index])));
    let key = tree.key_from(at);
    assert_eq!(key, from.map(|index| oracle.0[index].key));
    let after = from.and_then(|index| oracle.0.get(index + 1)).map(|entry| entry.key);
    assert_eq!(key.and_then(|key| tree.next(key)), after);
    let up_to = oracle.0.iter().rfind(|entry| entry.range.first() <= at);
    assert_eq!(tree.last_up_to(at).map(copied), up_to.map(pair));
    assert_eq!(tree.key_up_to(at), up_to.map(|entry| entry.key));
}

/// Every question about a range, and a length.
fn check_range(tree: &mut Tree<'_>, oracle: &mut Oracle, within: IovaRange, len: u64) {
    let there: Vec<_> =
        oracle.overlapping(within).map(|entry| (entry.range, entry.value)).collect();
    let mut entries = tree.overlapping(within);
    let upper = entries.size_hint().1.unwrap();
    let found: Vec<_> = entries.by_ref().map(|(range, value)| (range, *value)).collect();
    assert_eq!(found, there);
    assert!(there.len() <= upper && entries.next().is_none());
    assert_eq!(entries.size_hint(), (0, Some(0)));
    let mut seen = Vec::new();
    tree.for_each_mut(within, |range, value| {
        seen.push((range, *value));
        *value += 1;
    });
    assert_eq!(seen, there);
    for entry in &mut oracle.0 {
        entry.value += u32::from(entry.range.intersection(&within).is_some());
    }
    let gaps = oracle.gaps(within, len);
    let mut seen = Vec::new();
    let refuse = |gap| {
        seen.push(gap);
        None
    };
    assert_eq!(tree.fit(within, len, refuse), None);
    assert_eq!(seen, gaps, "within {within:?}, {len} bytes, {tree:?}");
    let first = gaps.first().map(|gap| gap.first());
    assert_eq!(tree.fit(within, len, |gap| Some(gap.first())), first);
    let last = gaps.last().map(|gap| gap.last());
    assert_eq!(tree.fit(within, len, |gap| (Some(gap.last()) == last).then_some(gap.last())), last);
}

fn insert(tree: &mut Tree<'_>, oracle: &mut Oracle, range: IovaRange, value: u32) {
    let existing = oracle.overlapping(range).next().map(|entry| entry.range);
    match (tree.insert(range, value), existing) {
        (Ok(key), None) => oracle.insert(Entry { range, key, value }),
        (Err(error), Some(existing)) => {
            assert_eq!(error, InsertError::Overlap { existing, value });
        }
        (result, existing) => panic!("{result:?}, {existing:?}"),
    }
}

fn remove(tree: &mut Tree<'_>, oracle: &mut Oracle, first: Iova) {
    let gone = oracle.remove(first);
    assert_eq!(tree.remove(first), gone.map(|entry| (entry.range, entry.value)));
    if let Some(gone) = gone {
        assert!(tree.range_of(gone.key).is_none());
        assert!(tree.remove_key(gone.key).is_none());
    }
}

/// All orders of the numbers below `n`.
fn orders(n: u64) -> Vec<Vec<u64>> {
    let Some(most) = n.checked_sub(1) else {
        return vec![vec![]];
    };
    let mut all = Vec::new();
    for order in orders(most) {
        for at in 0..=order.len() {
            let mut order = order.clone();
            order.insert(at, most);
            all.push(order);
        }
    }
    all
}

/// Four operations in all combinations, on five addresses, two of them the last ones; and every
/// question after each.
#[test]
fn all_short_histories() {
    const ADDRESSES: [u64; 5] = [0, 1, 2, u64::MAX - 1, u64::MAX];
    let pairs = || {
        ADDRESSES
            .iter()
            .enumerate()
            .flat_map(|(at, &a)| ADDRESSES[at..].iter().map(move |&b| (a, b)))
    };
    let ranges: Vec<_> = pairs().map(|(first, last)| range(first, last)).collect();
    let mut memory = memory(5);
    let moves = ranges.len() + ADDRESSES.len();
    for history in (0..moves.pow(4)).step_by(if cfg!(miri) { 4999 } else { 1 }) {
        let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
        let mut oracle = Oracle::default();
        for step in 0..4 {
            let which = history / moves.pow(step) % moves;
            match ranges.get(which) {
                Some(&range) => insert(&mut tree, &mut oracle, range, step),
                None => {
                    remove(&mut tree, &mut oracle, Iova::new(ADDRESSES[which - ranges.len()]));
                }
            }
        }
        // What came before the last operation is the end of another history.
        check_all(&tree, &oracle);
        ADDRESSES.iter().for_each(|&at| check_address(&mut tree, &oracle, Iova::new(at)));
        for (within, len) in ranges.iter().zip([0, 1, 2, u64::MAX].into_iter().cycle()) {
            check_range(&mut tree, &mut oracle, *within, len);
        }
    }
}

/// Seven entries in every order, then two taken out; five in every order, taken out in every order.
#[test]
fn all_small_shapes() {
    let at = |index: u64| range(index * index * 16, index * index * 16 + index);
    let mut memory = memory(7);
    let mut build = |order: &[u64], gone: &[u64]| {
        let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
        let mut oracle = Oracle::default();
        for &index in order {
            insert(&mut tree, &mut oracle, at(index), 7);
        }
        check_all(&tree, &oracle);
        for &index in gone {
            remove(&mut tree, &mut oracle, at(index).first());
            check_all(&tree, &oracle);
        }
    };
    for order in orders(7) {
        for one in 0..7 {
            // Which order comes before which pair hardly matters: each shape comes up many times.
            build(&order, &[one, (one + 1 + order[0] % 6) % 7]);
        }
    }
    let orders = orders(5);
    for order in &orders {
        for gone in &orders {
            build(order, gone);
        }
    }
}

/// Long histories at both ends of the addresses, with every question.
#[test]
fn random_histories() {
    for (seed, spread) in [(1, 40), (2, 300), (3, 2000), (4, 1 << 40)] {
        let mut random = Random(seed);
        let mut memory = memory(400);
        let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
        let mut oracle = Oracle::default();
        for step in (0..6000u32).step_by(if cfg!(miri) { 300 } else { 1 }) {
            let address = |random: &mut Random| match random.below(2) {
                0 => random.below(spread),
                _ => u64::MAX - random.below(spread),
            };
            let first = address(&mut random);
            let most = 1 + random.below(spread / 8);
            let len = 1 + random.below(most);
            // It grows for a while, then shrinks.
            let grows = random.below(8) < if step % 2000 < 1200 { 5 } else { 3 };
            if grows && oracle.0.len() < 400 {
                let last = first.saturating_add(len - 1);
                insert(&mut tree, &mut oracle, range(first, last), step);
            } else if !oracle.0.is_empty() {
                let any = oracle.0[random.below(oracle.0.len() as u64) as usize].range.first();
                remove(&mut tree, &mut oracle, any);
            }
            check_all(&tree, &oracle);
            let (a, b) = (address(&mut random), address(&mut random));
            check_address(&mut tree, &oracle, Iova::new(a));
            let any = oracle.0.first().map_or(Iova::new(b), |entry| entry.range.last());
            check_address(&mut tree, &oracle, any);
            check_range(&mut tree, &mut oracle, range(a.min(b), a.max(b)), len);
            check_range(&mut tree, &mut oracle, IovaRange::ALL, random.below(spread));
        }
        while let Some(entry) = oracle.0.first() {
            let first = entry.range.first();
            remove(&mut tree, &mut oracle, first);
            check_all(&tree, &oracle);
        }
    }
}

#[test]
fn the_whole_space_is_one_range() {
    let mut memory = memory(2);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    let all = IovaRange::ALL;
    assert_eq!(tree.fit(all, u64::MAX, |gap| Some(gap.last())), Some(Iova::new(u64::MAX)));
    assert_eq!(tree.insert(all, 1), Ok(0));
    assert_eq!(tree.insert(range(9, 9), 2), Err(InsertError::Overlap { existing: all, value: 2 }));
    assert_eq!(tree.fit(all, 0, |gap| Some(gap.first())), None);
    assert_eq!(tree.remove(Iova::new(9)), None);
    assert_eq!(tree.remove(Iova::new(0)), Some((all, 1)));
}

#[test]
fn without_memory_nothing_changes() {
    let mut memory = memory(5);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    let mut oracle = Oracle::default();
    for index in 0..5 {
        insert(&mut tree, &mut oracle, range(index * 10, index * 10 + 4), 1);
    }
    assert_eq!(tree.insert(range(5, 5), 9), Err(InsertError::OutOfMemory { value: 9 }));
    // An overlap is reported first, and the first one.
    let existing = range(10, 14);
    assert_eq!(tree.insert(range(9, 49), 9), Err(InsertError::Overlap { existing, value: 9 }));
    check_all(&tree, &oracle);
    remove(&mut tree, &mut oracle, Iova::new(20));
    insert(&mut tree, &mut oracle, range(5, 9), 9);
    check_all(&tree, &oracle);
}

/// A value does not move while others come and go.
#[test]
fn values_stay_where_they_are() {
    const MANY: u64 = if cfg!(miri) { 30 } else { 300 };
    let mut memory = memory(300);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    let mut random = Random(5);
    let mut order: Vec<u64> = (0..MANY).collect();
    order.sort_by_cached_key(|_| random.next());
    let places: Vec<_> = order
        .iter()
        .map(|&index| {
            let key = tree.insert(range(index * 3, index * 3 + 1), 0).unwrap();
            (index, key, core::ptr::from_ref(&tree.slab.get(key).unwrap().value))
        })
        .collect();
    let (gone, rest) = places.split_at(order.len() * 2 / 3);
    let mut left: HashSet<_> = order.iter().copied().collect();
    for &(index, key, _) in gone {
        tree.slab.get_mut(key).unwrap().value = 1;
        assert_eq!(tree.remove_key(key), Some((range(index * 3, index * 3 + 1), 1)));
        left.remove(&index);
        assert!(tree.iter().all(|(range, _)| left.contains(&(range.first().get() / 3))));
        for &(_, key, place) in rest {
            assert_eq!(core::ptr::from_ref(&tree.slab.get(key).unwrap().value), place);
        }
    }
}

#[test]
fn debug_is_short() {
    let mut memory = memory(20);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    tree.insert(range(0x10, 0x1f), 1).unwrap();
    assert_eq!(format!("{tree:?}"), "IovaTree { len: 1, ranges: [IovaRange(0x10..=0x1f)] }");
    assert_eq!(format!("{:?}", tree.iter()), "[IovaRange(0x10..=0x1f)]");
    assert_eq!(format!("{:?}", tree.slab.get(0)), "Some(Node(IovaRange(0x10..=0x1f)))");
    for index in 2..20 {
        tree.insert(range(index * 16, index * 16 + 15), 1).unwrap();
    }
    assert!(format!("{tree:?}").ends_with(", ..] }"));
}

/// A free place costs no flag, and a node little beside its value.
#[test]
fn nodes_are_small() {
    assert_eq!(size_of::<SlabSlot<Node<u64>>>(), size_of::<Node<u64>>());
    assert_eq!(size_of::<Node<u64>>(), 56);
    assert_eq!(size_of::<Link>(), 32);
}

#[cfg(feature = "alloc")]
#[test]
fn many_entries_on_the_heap() {
    use crate::store::HeapSlab;
    const MANY: u64 = if cfg!(miri) { 100 } else { 30_000 };
    let mut random = Random(6);
    let mut tree = IovaTree::<_, crate::Heap>::new_in(HeapSlab::new());
    let mut order: Vec<u64> = (0..MANY).collect();
    order.sort_by_cached_key(|_| random.next());
    for &index in &order {
        tree.insert(range(index * 64, index * 64 + 31), index as u32).unwrap();
    }
    check_links(&tree);
    for &index in &order {
        let found = tree.find(Iova::new(index * 64 + 31));
        assert_eq!(found, Some((range(index * 64, index * 64 + 31), &(index as u32))));
        assert!(tree.find(Iova::new(index * 64 + 32)).is_none());
    }
    assert_eq!(
        tree.fit(IovaRange::ALL, 33, |gap| Some(gap.first())),
        Some(Iova::new(MANY * 64 - 32))
    );
    let (gone, rest) = order.split_at(MANY as usize / 2);
    for &index in gone {
        assert!(tree.remove(Iova::new(index * 64)).is_some());
    }
    check_links(&tree);
    for &index in rest {
        assert_eq!(tree.remove(Iova::new(index * 64)).map(|(_, value)| value), Some(index as u32));
    }
    check_links(&tree);
    assert!(tree.len == 0 && tree.slab.is_empty());
}

/// An entry shrinks and grows back in place, and every gap follows.
#[test]
fn an_entry_can_end_elsewhere() {
    let mut memory = memory(40);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    let keys: Vec<_> =
        (0..40).map(|n| tree.insert(range(n * 100, n * 100 + 49), 0).unwrap()).collect();
    let gap =
        |tree: &Tree<'_>| tree.fit(IovaRange::ALL, 60, |gap| Some(gap.first())).map(Iova::get);
    assert_eq!(gap(&tree), Some(3950));
    assert!(tree.set_last(keys[17], Iova::new(1710)));
    assert_eq!(gap(&tree), Some(1711));
    assert!(tree.find(Iova::new(1711)).is_none());
    assert!(!tree.set_last(keys[17], Iova::new(1800)));
    assert!(!tree.set_last(keys[17], Iova::new(1699)));
    assert!(tree.set_last(keys[17], Iova::new(1799)));
    assert_eq!(tree.find(Iova::new(1799)).map(|(there, _)| there), Some(range(1700, 1799)));
    assert_eq!(gap(&tree), Some(3950));
    assert!(tree.set_last(keys[39], Iova::new(u64::MAX)));
    assert_eq!(gap(&tree), None);
}

/// Beginnings move up; the gap before grows.
#[test]
fn the_beginning_of_an_entry_moves() {
    let mut memory = memory(40);
    let mut tree = Tree::new_in(PoolSlab::new(&mut memory));
    let entries = (0..40).map(|n| range(n * 100, n * 100 + 49));
    let mut oracle = Oracle::default();
    entries.for_each(|range| insert(&mut tree, &mut oracle, range, 0));
    let mut random = Random(11);
    for _ in 0..if cfg!(miri) { 12 } else { 400 } {
        let at = random.below(40) as usize;
        let Entry { range: old, key, .. } = oracle.0[at];
        let first = Iova::new((old.first().get() + random.below(8)).saturating_sub(1));
        let fits = old.contains(first);
        assert_eq!(tree.set_first(key, first), fits);
        assert!(!tree.set_first(key, Iova::new(old.last().get() + 1)));
        if fits {
            oracle.0[at].range = range(first.get(), old.last().get());
        }
        check_all(&tree, &oracle);
        let within = range(random.below(2000), 2000 + random.below(3000));
        check_range(&mut tree, &mut oracle, within, 50 + random.below(60));
        *tree.get_mut(key).unwrap() = 7;
        oracle.0[at].value = 7;
    }
    assert!(!tree.set_first(NONE, Iova::new(0)));
}
