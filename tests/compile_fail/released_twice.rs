// SPDX-License-Identifier: MIT OR Apache-2.0
//! An attachment is released once.

use pinned_sgl_mock::Process;
use pinned_sgl::umem::{Attachment, Umem, Unaccounted};
use pinned_sgl::Heap;

fn mistake(attachment: Attachment<&Umem<&Process, &Unaccounted, Heap>>) {
    unsafe {
        attachment.release();
        attachment.release();
    }
}

fn main() {}
