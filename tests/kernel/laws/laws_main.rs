// SPDX-License-Identifier: MIT OR Apache-2.0
//! The laws of the core, against an oracle of one entry a page, compiled as a kernel compiles: no
//! `alloc`, overflow checks on, and memory from `kmalloc()`.

use arbitrary::Unstructured;
use kernel::prelude::*;
use laws::{borders, exhaustive, vectors};

/// Fails the test, and says where.
macro_rules! check {
    ($what:expr) => {
        if !$what {
            pr_err!("{}:{}: {}\n", file!(), line!(), stringify!($what));
            return Err(EIO);
        }
    };
}

mod accountant;
mod page_structs;
mod raw_domain;
mod stores;
mod thread;

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A few cases where the machine is emulated, with all that finds mistakes: as in User Mode Linux, at
/// the speed of the machine, would take hours.
const CASES: u32 = if cfg!(CONFIG_UML) { 4000 } else { 100 };
/// How many pages the longest of the lists has of which every one is looked at. KASAN looks at each access as well.
const LONGEST: usize = if cfg!(CONFIG_UML) && !cfg!(CONFIG_KASAN) { 6 } else { 3 };

/// Runs one law on cases of random bytes.
fn hold(law: laws::Law) -> Result {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 704];
    let mut held = 0;
    for _ in 0..CASES {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&numbers.next().to_le_bytes());
        }
        let len = numbers.next() as usize % bytes.len();
        // Too few bytes are ignored; that is not a failure.
        held += u32::from(law(&mut Unstructured::new(bytes.get(..len).unwrap_or(&[]))).is_ok());
    }
    pr_info!("{} cases of {}\n", held, CASES);
    check!(held > CASES / 2);
    Ok(())
}

#[kunit_tests(pinned_sgl)]
mod tests {
    use super::*;

    #[test]
    fn merge_law() -> Result {
        hold(laws::merge_law::from_bytes)
    }

    #[test]
    fn packed_roundtrip() -> Result {
        hold(laws::packed_roundtrip::from_bytes)
    }

    #[test]
    fn window_seek() -> Result {
        hold(laws::window_seek::from_bytes)
    }

    #[test]
    fn block_law() -> Result {
        hold(laws::block_law::from_bytes)
    }

    #[test]
    fn tile_law() -> Result {
        hold(laws::tile_law::from_bytes)
    }

    #[test]
    fn segment_law() -> Result {
        hold(laws::segment_law::from_bytes)
    }

    #[test]
    fn descriptor_law() -> Result {
        hold(laws::descriptor_law::from_bytes)
    }

    #[test]
    fn every_window_in_descriptors() {
        laws::descriptor_law::every_window(2);
    }

    #[test]
    fn every_sequence_merges_the_same_way_however_it_arrives() {
        exhaustive::every_sequence_merges_the_same_way_however_it_arrives(LONGEST);
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

    #[test]
    fn undone_at_every_piece() {
        borders::undone_at_every_piece();
    }

    #[test]
    fn many_leaves() {
        borders::many_leaves(if cfg!(CONFIG_UML) { 300_000 } else { 30_000 });
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

    #[test]
    fn page_structs_are_their_frames() -> Result {
        page_structs::are_their_frames(CASES / 10)
    }

    #[test]
    fn page_structs_fail_as_their_frames() -> Result {
        page_structs::fail_as_their_frames(CASES / 10)
    }

    #[test]
    fn pieces_keep_what_was_written() -> Result {
        stores::pieces_keep_what_was_written()
    }

    #[test]
    fn one_of_many_maps_where_the_driver_refuses() -> Result {
        raw_domain::one_of_many_maps(true)
    }

    #[test]
    fn one_of_many_maps_where_the_driver_replaces() -> Result {
        raw_domain::one_of_many_maps(false)
    }

    #[test]
    fn reads_while_unmapping_see_no_freed_table() -> Result {
        raw_domain::reads_while_unmapping()
    }

    #[test]
    fn unknown_bits_reach_no_driver() -> Result {
        raw_domain::unknown_bits_are_refused()
    }

    #[test]
    fn no_accountant_in_a_kernel_thread() -> Result {
        accountant::none_in_a_kernel_thread()
    }

    #[test]
    fn slabs_use_slots_again() -> Result {
        stores::slabs_use_slots_again()
    }
}

struct Laws;

impl kernel::Module for Laws {
    fn init(_: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

module! {
    type: Laws,
    name: "laws",
    authors: ["The authors of pinned-sgl"],
    description: "The laws of pinned-sgl under KUnit",
    license: "Dual MIT/GPL",
}
