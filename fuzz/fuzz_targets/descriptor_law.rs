// SPDX-License-Identifier: MIT OR Apache-2.0
//! The law of the same name, driven by libFuzzer; it stands in `tests/laws/`.
#![no_main]

#[path = "../../tests/laws/mod.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Too few bytes for a case are ignored.
    let _ = laws::descriptor_law::from_bytes(&mut arbitrary::Unstructured::new(bytes));
});
