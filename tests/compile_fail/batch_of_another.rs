// SPDX-License-Identifier: MIT OR Apache-2.0
//! A batch of one pinner is not filled by another one: only the batch itself lends it.

use pinned_sgl_mock::Process;
use pinned_sgl::umem::{PinFlags, PinnedBatch, Pinner, UserRange};

fn mistake(one: &Process, two: &Process, range: UserRange) {
    let mut slots = [None; 8];
    let mut batch = PinnedBatch::new(one, range, PinFlags::WRITE, &mut slots);
    two.pin(&mut batch).unwrap();
}

fn main() {}
