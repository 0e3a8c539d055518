// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists that cross every border of the storage: `laws/borders.rs`.

mod laws;

use laws::borders;

#[test]
fn undone_at_every_piece() {
    borders::undone_at_every_piece();
}

#[test]
fn many_leaves() {
    borders::many_leaves(300_000);
}

#[test]
fn one_run_is_left() {
    borders::one_run_is_left();
}

#[test]
fn many_leaves_in_one_cell() {
    borders::many_leaves_in_one_cell();
}

#[test]
fn bitmaps_of_every_length() {
    borders::bitmaps_of_every_length();
}

#[test]
fn a_page_repeated_many_times() {
    borders::a_page_repeated_many_times();
}

#[test]
fn runs_of_terabytes() {
    borders::runs_of_terabytes();
}

#[test]
fn lists_differ() {
    borders::lists_differ();
}
