// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every small case: `laws/exhaustive.rs`, with sequences of up to 7 pages, or as many as an emulator
//! or an interpreter has the time for.

mod laws;

use laws::exhaustive;

const LONGEST: usize = if cfg!(miri) {
    2
} else if cfg!(any(target_pointer_width = "32", target_endian = "big")) {
    4
} else {
    7
};

#[test]
fn every_sequence_merges_the_same_way_however_it_arrives() {
    exhaustive::every_sequence_merges_the_same_way_however_it_arrives(LONGEST - 1);
}

#[test]
fn every_slice_merges() {
    exhaustive::every_slice_merges(LONGEST);
}

#[test]
fn every_window_finds_every_half_page() {
    exhaustive::every_window_finds_every_half_page(LONGEST);
}

#[test]
fn every_window_in_segments() {
    exhaustive::every_window_in_segments(LONGEST);
}

#[test]
fn every_window_in_blocks_and_tiles() {
    exhaustive::every_window_in_blocks_and_tiles(LONGEST);
}

#[test]
fn every_window_in_descriptors() {
    laws::descriptor_law::every_window(LONGEST.min(4) as u32);
}

#[test]
fn descriptors_at_their_borders() {
    laws::descriptor_law::borders();
}
