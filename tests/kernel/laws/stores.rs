// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own memory, in which lists and address spaces are kept.

use kernel::prelude::*;
use pinned_sgl::{
    kernel::{Kmalloc, KmallocSlab},
    store::Slab,
    Storage,
};

/// Far enough for tables of tables.
pub(crate) fn pieces_keep_what_was_written() -> Result {
    const COUNT: usize = 4 + 64 + 16 * 128 + 128 * 3 + 5;
    let mut pieces = Kmalloc::new(GFP_KERNEL);
    check!(pieces.footprint() == 0);
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

/// A slot that was left is used before memory is asked for.
pub(crate) fn slabs_use_slots_again() -> Result {
    let mut slab = KmallocSlab::new(GFP_KERNEL);
    let mut keys = KVec::new();
    for value in 0..4000u64 {
        keys.push(slab.insert(value).map_err(|_| ENOMEM)?, GFP_KERNEL)?;
    }
    for (value, key) in keys.iter().enumerate() {
        check!(slab.get(*key) == Some(&(value as u64)));
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
