// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list and its peers, on the same input, in one process and one run.
//!
//! ```text
//! cargo bench                     all of it; the ratios and the sizes stand at the end
//! cargo bench -- picture          draws benches/picture.svg
//! cargo bench -- lookup           only the contests with this word in their title
//! cargo bench -- --test           tiny inputs, everything once: does it run?
//! ```
//!
//! How to read it: `benches/README.md`.

mod build;
mod contest;
mod decode;
mod granules;
mod inputs;
mod lookup;
mod peers;
mod picture;
mod sizes;
mod umem;

use contest::Session;
use inputs::Scale;

fn main() {
    let mut session = Session::from_args();
    let scale = if session.is_test() { Scale::TINY } else { Scale::FULL };
    build::run(&mut session, scale);
    lookup::run(&mut session, scale);
    decode::run(&mut session, scale);
    granules::run(&mut session, scale);
    umem::run(&mut session);
    if session.is_count() {
        return;
    }
    picture::run(&session);
    session.finish();
    sizes::print(session.is_test());
}
