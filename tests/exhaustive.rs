// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every small case: `laws/exhaustive.rs`, with sequences of up to 7 pages.

mod laws;

use laws::exhaustive;

#[test]
fn every_sequence_merges_the_same_way_however_it_arrives() {
    exhaustive::every_sequence_merges_the_same_way_however_it_arrives(6);
}

#[test]
fn every_slice_merges() {
    exhaustive::every_slice_merges(7);
}

#[test]
fn every_window_finds_every_half_page() {
    exhaustive::every_window_finds_every_half_page(7);
}

#[test]
fn every_window_in_segments() {
    exhaustive::every_window_in_segments(7);
}

#[test]
fn every_window_in_blocks_and_tiles() {
    exhaustive::every_window_in_blocks_and_tiles(7);
}
