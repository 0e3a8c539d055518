// SPDX-License-Identifier: MIT OR Apache-2.0
//! Property tests: the laws, on cases made of random bytes.

mod laws;

use arbitrary::Unstructured;
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, TestRunner},
};

/// Runs one law on `cases` random cases; a failure is shrunk, byte by byte.
fn hold(name: &str, cases: u32) {
    let (_, law) = laws::LAWS.iter().find(|(known, _)| *known == name).unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let property = |bytes: Vec<u8>| {
        // Too few bytes are a case that is too short, not a failure.
        let _ = law(&mut Unstructured::new(&bytes));
        Ok(())
    };
    TestRunner::new(config).run(&vec(any::<u8>(), 0..700), property).unwrap();
}

macro_rules! laws {
    ($($name:ident: $cases:expr),* $(,)?) => {$(
        #[test]
        fn $name() {
            hold(stringify!($name), $cases);
        }
    )*};
}

laws! {
    merge_law: 2000,
    packed_roundtrip: 500,
    window_seek: 1000,
    block_law: 6000,
    tile_law: 6000,
    segment_law: 6000,
    descriptor_law: 3000,
    ioas_ops: 400,
    umem_ops: 400,
    outsider_ops: 800,
}
