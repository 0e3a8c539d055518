// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many ranges are taken out at once.

use super::*;

/// Takes out what lies in one node from the entry at `at` on, up to a value that `unwanted` divides.
fn remove_from(tree: &mut Tree<'_>, oracle: &mut Oracle, at: usize, unwanted: u32) -> usize {
    let spot = tree.near(oracle.0[at].range.first());
    let mut seen = Vec::new();
    let mut removed = Removed::NOTHING;
    tree.remove_from(&spot, &mut removed, |range, value| {
        seen.push((range, *value));
        value % unwanted != 0
    });
    let keys: Vec<_> = removed.collect();
    assert!(seen.len() <= MOST && (keys.len()..=keys.len() + 1).contains(&seen.len()));
    let asked = oracle.0[at..].iter().map(|entry| (entry.range, entry.value));
    assert!(asked.take(seen.len()).eq(seen));
    for (key, gone) in keys.iter().zip(oracle.0.drain(at..at + keys.len())) {
        assert_eq!((*key, gone.value % unwanted != 0), (gone.key, true));
        assert_eq!(tree.remove_kept(*key), Some(gone.value));
    }
    let next = oracle.0.get(at).filter(|_| keys.is_empty());
    assert!(next.is_none_or(|next| next.value % unwanted == 0));
    check_all(tree, oracle);
    keys.len()
}

/// From each entry on, of trees that came in each order.
#[test]
fn all_small_shapes() {
    let mut memory = memory(7);
    for order in orders(7).iter().step_by(if cfg!(miri) { 997 } else { 1 }) {
        for (at, unwanted) in (0..7).zip([2, 3, 5, 7, 11].into_iter().cycle()) {
            let mut tree = memory.tree();
            let mut oracle = Oracle::default();
            for &index in order {
                let first = index * index * 16;
                let value = u32::try_from(index + 1).unwrap();
                insert(&mut tree, &mut oracle, range(first, first + index), value);
            }
            remove_from(&mut tree, &mut oracle, at, unwanted);
        }
    }
}

/// Trees of many levels that grow one by one, and lose many at once.
#[test]
fn random_histories() {
    let mut random = Random(5);
    for round in 0..if cfg!(miri) { 2 } else { 200 } {
        let mut memory = memory(300);
        let mut tree = memory.tree();
        let mut oracle = Oracle::default();
        let many = 20 + random.below(280);
        for step in 1..if cfg!(miri) { 40 } else { 600 } {
            if (oracle.0.len() as u64) < many {
                let first = random.below(5000);
                insert(&mut tree, &mut oracle, range(first, first + random.below(9)), step);
            }
            if step % 50 == round % 50 {
                let at = random.below(oracle.0.len() as u64) as usize;
                remove_from(&mut tree, &mut oracle, at, 2 + round % 9);
            }
        }
        // What is not wanted goes one by one.
        while !oracle.0.is_empty() {
            if remove_from(&mut tree, &mut oracle, 0, 3) == 0 {
                let first = oracle.0[0].range.first();
                remove(&mut tree, &mut oracle, first);
            }
        }
        check_all(&tree, &oracle);
    }
}
