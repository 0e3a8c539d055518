// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree beside an oracle that is slow and obvious: a sorted list of ranges.

mod removal;

use super::node::{LEAST, MOST};
use super::*;
use crate::store::{Pool, PoolSlab, SlabSlot};
use std::collections::HashSet;

type Tree<'a> = IovaTree<u32, Pool<'a>>;

/// Room for so many values, and for as many nodes as they may need.
struct Memory(Vec<SlabSlot<u32>>, Vec<SlabSlot<Node>>);

fn memory(places: usize) -> Memory {
    let nodes = SlabSlot::needed_for(places);
    Memory(
        (0..places).map(|_| SlabSlot::new()).collect(),
        (0..nodes).map(|_| SlabSlot::new()).collect(),
    )
}

impl Memory {
    fn tree(&mut self) -> Tree<'_> {
        Tree::new_in(PoolSlab::new(&mut self.0), PoolSlab::new(&mut self.1))
    }
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

/// What every tree keeps: order, fill, one depth, and what each node knows. Returns its nodes.
fn check_links<S: TreeStore<u32>>(tree: &IovaTree<u32, S>) -> usize {
    fn below<S: TreeStore<u32>>(
        tree: &IovaTree<u32, S>,
        link: u32,
        level: usize,
        entries: &mut Vec<(IovaRange, u32)>,
    ) -> usize {
        let node = tree.node(link).unwrap();
        let root = level + 1 == tree.levels;
        let least = if !root { LEAST } else { 2 * usize::from(level > 0) };
        assert!((least..=MOST).contains(&node.len()), "{} at level {level}", node.len());
        assert!(node.entry(node.len()).is_none());
        let mut nodes = 1;
        for entry in (0..node.len()).map(|index| node.entry(index).unwrap()) {
            let begin = entries.len();
            if level == 0 {
                entries.push((entry.range, entry.link));
                assert_eq!(entry.gap, 0);
                continue;
            }
            nodes += below(tree, entry.link, level - 1, entries);
            let (first, last) = (entries[begin].0, entries.last().unwrap().0);
            assert_eq!((entry.range.first(), entry.range.last()), (first.first(), last.last()));
            let gap =
                |pair: &[(IovaRange, u32)]| pair[1].0.first().get() - pair[0].0.last().get() - 1;
            assert_eq!(Some(entry.gap), entries[begin..].windows(2).map(gap).max(), "{node:?}");
        }
        nodes
    }
    let mut entries = Vec::new();
    let nodes =
        tree.levels.checked_sub(1).map_or(0, |top| below(tree, tree.root, top, &mut entries));
    assert!(nodes <= SlabSlot::needed_for(entries.len()));
    assert!(entries.windows(2).all(|pair| pair[0].0.last() < pair[1].0.first()), "{entries:?}");
    let found = tree.iter().map(|(range, value)| (range, *value));
    assert!(found.eq(entries.iter().map(|(range, key)| (*range, *tree.get(*key).unwrap()))));
    assert_eq!(tree.len, entries.len());
    nodes
}

/// The tree has what the oracle has, under the same keys, and no more nodes than it uses.
fn check_all(tree: &Tree<'_>, oracle: &Oracle) {
    assert_eq!(tree.nodes.len(), check_links(tree));
    assert!(tree.iter().eq(oracle.0.iter().map(|entry| (entry.range, &entry.value))));
    assert_eq!(tree.values.len(), oracle.0.len());
    for entry in &oracle.0 {
        assert_eq!(tree.get(entry.key), Some(&entry.value));
    }
}

/// Every question about an address.
fn check_address(tree: &mut Tree<'_>, oracle: &Oracle, at: Iova) {
    let pair = |entry: &Entry| (entry.range, entry.value);
    let copied = |(range, value): (IovaRange, &u32)| (range, *value);
    let here = oracle.0.iter().find(|entry| entry.range.contains(at));
    assert_eq!(tree.find(at).map(copied), here.map(pair));
    let spot = tree.near(at);
    let there = |spot: Option<&Spot>| Some((tree.range_at(spot?)?, tree.entry(spot?)?.link));
    let known = |entry: Option<&Entry>| entry.map(|entry| (entry.range, entry.key));
    let up_to = oracle.0.iter().rfind(|entry| entry.range.first() <= at);
    assert_eq!(there(Some(&spot)), known(up_to.or(oracle.0.first())));
    let from = oracle.0.iter().position(|entry| entry.range.last() >= at);
    assert_eq!(tree.first_from(at).map(copied), from.map(|index| pair(&oracle.0[index])));
    let mut spot = tree.spot_from(at);
    assert_eq!(there(spot.as_ref()), known(from.map(|index| &oracle.0[index])));
    let on = spot.as_mut().and_then(|spot| tree.go_on(spot)).and(spot);
    assert_eq!(there(on.as_ref()), known(from.and_then(|index| oracle.0.get(index + 1))));
    if let Some((spot, index)) = tree.spot_from(at).zip(from) {
        assert_eq!(tree.value_at(&spot).copied(), Some(oracle.0[index].value));
    }
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
    assert!(tree.gaps(within, len).eq(gaps), "within {within:?}, {len} bytes, {tree:?}");
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
        assert!(tree.get(gone.key).is_none());
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
        let mut tree = memory.tree();
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
        let mut tree = memory.tree();
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
        let mut tree = memory.tree();
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
    let mut tree = memory.tree();
    let all = IovaRange::ALL;
    assert_eq!(tree.gaps(all, u64::MAX).next(), Some(all));
    assert_eq!(tree.insert(all, 1), Ok(0));
    assert_eq!(tree.insert(range(9, 9), 2), Err(InsertError::Overlap { existing: all, value: 2 }));
    assert_eq!(tree.gaps(all, 0).next(), None);
    assert_eq!(tree.remove(Iova::new(9)), None);
    assert_eq!(tree.remove(Iova::new(0)), Some((all, 1)));
}

#[test]
fn without_memory_nothing_changes() {
    let mut memory = memory(5);
    let mut tree = memory.tree();
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
    let mut tree = memory.tree();
    let mut random = Random(5);
    let mut order: Vec<u64> = (0..MANY).collect();
    order.sort_by_cached_key(|_| random.next());
    let places: Vec<_> = order
        .iter()
        .map(|&index| {
            let key = tree.insert(range(index * 3, index * 3 + 1), 0).unwrap();
            (index, key, core::ptr::from_ref(tree.get(key).unwrap()))
        })
        .collect();
    let (gone, rest) = places.split_at(order.len() * 2 / 3);
    let mut left: HashSet<_> = order.iter().copied().collect();
    for &(index, key, _) in gone {
        *tree.get_mut(key).unwrap() = 1;
        let gone = range(index * 3, index * 3 + 1);
        assert_eq!(tree.remove(gone.first()), Some((gone, 1)));
        left.remove(&index);
        assert!(tree.iter().all(|(range, _)| left.contains(&(range.first().get() / 3))));
        for &(_, key, place) in rest {
            assert_eq!(core::ptr::from_ref(tree.get(key).unwrap()), place);
        }
    }
}

#[test]
fn debug_is_short() {
    let mut memory = memory(20);
    let mut tree = memory.tree();
    tree.insert(range(0x10, 0x1f), 1).unwrap();
    assert_eq!(format!("{tree:?}"), "IovaTree { len: 1, ranges: [IovaRange(0x10..=0x1f)] }");
    assert_eq!(format!("{:?}", tree.iter()), "[IovaRange(0x10..=0x1f)]");
    assert_eq!(format!("{:?}", tree.node(tree.root).unwrap()), "[IovaRange(0x10..=0x1f)]");
    for index in 2..20 {
        tree.insert(range(index * 16, index * 16 + 15), 1).unwrap();
    }
    assert!(format!("{tree:?}").ends_with(", ..] }"));
}

/// Four nodes are a page.
#[test]
fn nodes_are_small() {
    assert_eq!(size_of::<SlabSlot<Node>>(), 1024);
}

#[cfg(feature = "alloc")]
#[test]
fn many_entries_on_the_heap() {
    use crate::store::HeapSlab;
    const MANY: u64 = if cfg!(miri) { 100 } else { 3000 };
    let mut random = Random(6);
    let mut tree = IovaTree::<_, crate::Heap>::new_in(HeapSlab::new(), HeapSlab::new());
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
    assert_eq!(tree.gaps(IovaRange::ALL, 33).next(), Some(range(MANY * 64 - 32, u64::MAX)));
    let (gone, rest) = order.split_at(MANY as usize / 2);
    for &index in gone {
        assert!(tree.remove(Iova::new(index * 64)).is_some());
    }
    check_links(&tree);
    for &index in rest {
        assert_eq!(tree.remove(Iova::new(index * 64)).map(|(_, value)| value), Some(index as u32));
    }
    check_links(&tree);
    assert!(tree.len == 0 && tree.values.is_empty() && tree.nodes.len() == 1);
}

/// An entry shrinks and grows back in place, and every gap follows.
#[test]
fn an_entry_can_end_elsewhere() {
    let mut memory = memory(40);
    let mut tree = memory.tree();
    for n in 0..40 {
        tree.insert(range(n * 100, n * 100 + 49), 0).unwrap();
    }
    let set_last = |tree: &mut Tree<'_>, n: u64, last| {
        tree.set_last(&tree.near(Iova::new(n * 100)), Iova::new(last))
    };
    let gap = |tree: &Tree<'_>| tree.gaps(IovaRange::ALL, 60).next().map(|gap| gap.first().get());
    assert_eq!(gap(&tree), Some(3950));
    assert!(set_last(&mut tree, 17, 1710));
    assert_eq!(gap(&tree), Some(1711));
    assert!(tree.find(Iova::new(1711)).is_none());
    assert!(!set_last(&mut tree, 17, 1800));
    assert!(!set_last(&mut tree, 17, 1699));
    assert!(set_last(&mut tree, 17, 1799));
    assert_eq!(tree.find(Iova::new(1799)).map(|(there, _)| there), Some(range(1700, 1799)));
    assert_eq!(gap(&tree), Some(3950));
    assert!(set_last(&mut tree, 39, u64::MAX));
    assert_eq!(gap(&tree), None);
}

/// Beginnings move up; the gap before grows.
#[test]
fn the_beginning_of_an_entry_moves() {
    let mut memory = memory(40);
    let mut tree = memory.tree();
    let entries = (0..40).map(|n| range(n * 100, n * 100 + 49));
    let mut oracle = Oracle::default();
    entries.for_each(|range| insert(&mut tree, &mut oracle, range, 0));
    let mut random = Random(11);
    for _ in 0..if cfg!(miri) { 12 } else { 400 } {
        let at = random.below(40) as usize;
        let Entry { range: old, key, .. } = oracle.0[at];
        let first = Iova::new((old.first().get() + random.below(8)).saturating_sub(1));
        let fits = old.contains(first);
        let spot = tree.near(old.first());
        assert_eq!(tree.set_first(&spot, first), fits);
        assert!(!tree.set_first(&spot, Iova::new(old.last().get() + 1)));
        if fits {
            oracle.0[at].range = range(first.get(), old.last().get());
        }
        check_all(&tree, &oracle);
        let within = range(random.below(2000), 2000 + random.below(3000));
        check_range(&mut tree, &mut oracle, within, 50 + random.below(60));
        *tree.get_mut(key).unwrap() = 7;
        oracle.0[at].value = 7;
    }
}
