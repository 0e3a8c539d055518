// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every iterator promises: `next` and `fold` agree, `size_hint` is true, the end is the end.

use super::alloc::vec::Vec;
use core::fmt::Debug;

/// Walks `iterator`, whose items `plain` makes comparable, against `expected`.
///
/// Its size is looked at before every step; from the first few steps, the rest is folded.
pub fn check<I, T>(iterator: I, plain: fn(I::Item) -> T, expected: &[T])
where
    I: Iterator + Clone,
    T: PartialEq + Debug,
{
    let mut rest = iterator;
    for index in 0..=expected.len() {
        let left = expected.len() - index;
        let (least, most) = rest.size_hint();
        assert!(least <= left && most.is_none_or(|most| most >= left), "{least} {left} {most:?}");
        if index < 4 {
            let mut after = Vec::new();
            rest.clone().for_each(|item| after.push(plain(item)));
            assert_eq!(after, expected[index..]);
        }
        assert_eq!(rest.next().map(plain).as_ref(), expected.get(index));
    }
    assert!(rest.next().is_none());
    assert_eq!(rest.size_hint(), (0, Some(0)));
}
