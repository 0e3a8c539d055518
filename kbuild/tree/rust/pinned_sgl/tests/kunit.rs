// SPDX-License-Identifier: MIT OR Apache-2.0
//! KUnit tests of lists, of the memory that they are kept in, and of domains without hardware.

use kernel::prelude::*;
use pinned_sgl::{
    kernel::{Kmalloc, KmallocSlab},
    store::Slab,
    Storage,
};

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
mod lists;
mod raw_domain;
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

    /// Far enough for tables of tables.
    #[test]
    fn pieces_keep_what_was_written() -> Result {
        const COUNT: usize = 4 + 64 + 16 * 128 + 128 * 3 + 5;
        let mut pieces = Kmalloc::new(GFP_KERNEL);
        for index in 0..COUNT {
            pieces.grow(8)?;
            pieces.piece_mut(index).copy_from_slice(&(index as u64).to_le_bytes());
        }
        for index in 0..COUNT {
            check!(pieces.piece(index) == (index as u64).to_le_bytes());
        }
        check!(pieces.pieces() == COUNT && pieces.piece(COUNT).is_empty());
        for _ in 0..=COUNT {
            pieces.shrink();
        }
        check!(pieces.pieces() == 0 && pieces.piece(0).is_empty());
        Ok(())
    }

    #[test]
    fn slabs_use_places_again() -> Result {
        let mut slab = KmallocSlab::new(GFP_KERNEL);
        let mut keys = KVec::new();
        for value in 0..4000u64 {
            keys.push(slab.insert(value).map_err(|_| ENOMEM)?, GFP_KERNEL)?;
        }
        for key in keys.iter().step_by(3) {
            check!(slab.remove(*key).is_some() && slab.remove(*key).is_none());
        }
        for _ in keys.iter().step_by(3) {
            check!(slab.insert(7).is_ok_and(|key| keys.contains(&key)));
        }
        check!(slab.len() == keys.len() && slab.get(u32::MAX).is_none());
        Ok(())
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
