// SPDX-License-Identifier: MIT OR Apache-2.0
//! An accountant is passed by a pointer, also the one that counts nothing.

use pinned_sgl_mock::Process;
use pinned_sgl::umem::{PinRequest, Umem, Unaccounted};

fn mistake(process: &Process, request: PinRequest) {
    let _ = Umem::pin(process, Unaccounted, request);
}

fn main() {}
