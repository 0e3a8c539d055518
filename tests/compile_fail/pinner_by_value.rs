// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pinner is passed by a pointer, which a region holds.

use pinned_sgl_mock::Process;
use pinned_sgl::umem::{PinRequest, Umem, Unaccounted};

fn mistake(process: Process, request: PinRequest) {
    let _ = Umem::pin(process, &Unaccounted, request);
}

fn main() {}
