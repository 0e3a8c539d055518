// SPDX-License-Identifier: MIT OR Apache-2.0
//! What real systems answer: `laws/vectors.rs`.

mod laws;

use laws::vectors;

#[test]
fn merge_under_a_maximum_segment() {
    vectors::merge_under_a_maximum_segment();
}

#[test]
fn what_linux_gets_wrong() {
    vectors::what_linux_gets_wrong();
}

#[test]
fn best_page_size_and_blocks() {
    vectors::best_page_size_and_blocks();
}

#[test]
fn exact_tiles() {
    vectors::exact_tiles();
}

#[test]
fn the_last_byte_is_a_byte() {
    vectors::the_last_byte_is_a_byte();
}
