// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs that once broke a law, replayed without a fuzzer: `fuzz/regressions/LAW/*`.

mod laws;

use std::{fs, path::Path};

#[test]
fn what_was_broken_once_holds_now() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for (name, law) in laws::LAWS {
        let mut inputs = 0;
        for file in fs::read_dir(root.join(name)).expect("every law has a folder") {
            let path = file.unwrap().path();
            println!("{}", path.display());
            let bytes = fs::read(&path).unwrap();
            law(&mut arbitrary::Unstructured::new(&bytes)).unwrap();
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no regression");
    }
}

/// A new fuzz target needs a law, and the other way round.
#[test]
fn every_law_has_a_fuzz_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut targets: Vec<String> = fs::read_dir(root)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut laws: Vec<String> = laws::LAWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort();
    laws.sort();
    assert_eq!(targets, laws);
}
