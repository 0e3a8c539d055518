// SPDX-License-Identifier: MIT OR Apache-2.0
//! KUnit tests of lists, of the memory that they are kept in, and of domains without hardware.

use kernel::prelude::*;

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
mod examples;
mod lists;
mod raw_domain;
mod stores;
mod thread;

#[kunit_tests(rust_pinned_sgl)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal() -> Result {
        lists::runs_are_maximal()
    }

    #[test]
    fn windows_find_every_byte() -> Result {
        lists::windows_find_every_byte()
    }

    #[test]
    fn segments_keep_their_limits() -> Result {
        lists::segments_keep_their_limits()
    }

    #[test]
    fn tiles_are_exact() -> Result {
        lists::tiles_are_exact()
    }

    #[test]
    fn pieces_keep_what_was_written() -> Result {
        stores::pieces_keep_what_was_written()
    }

    #[test]
    fn slabs_use_slots_again() -> Result {
        stores::slabs_use_slots_again()
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
}

struct Tests;

impl kernel::Module for Tests {
    fn init(_: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

module! {
    type: Tests,
    name: "pinned_sgl_kunit",
    authors: ["The authors of pinned-sgl"],
    description: "KUnit tests of pinned_sgl",
    license: "Dual MIT/GPL",
}
