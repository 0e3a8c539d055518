// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a batch holds cannot be taken out of the value that unpins it through its pinner.

use pinned_sgl_mock::Process;
use pinned_sgl::umem::{PinBatch, PinFlags, PinnedBatch, UserRange};

fn mistake(pinner: &Process, other: &Process, range: UserRange) {
    let (mut a, mut b) = ([None; 8], [None; 8]);
    let mut one = PinnedBatch::new(pinner, range, PinFlags::WRITE, &mut a);
    let mut two = PinnedBatch::new(other, range, PinFlags::WRITE, &mut b);
    std::mem::swap::<PinBatch<'_>>(&mut one, &mut two);
}

fn main() {}
