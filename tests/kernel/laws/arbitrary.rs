// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of the crate `arbitrary` that needs no operating system, from its own sources: bytes are the same case here
//! as on any other machine.

// What its sources call `std` is all in here.
extern crate core as std;

#[path = "vendor/arbitrary/src/error.rs"]
mod error;
#[path = "vendor/arbitrary/src/unstructured.rs"]
pub mod unstructured;
#[path = "vendor/arbitrary/src/foreign/core"]
mod foreign {
    mod bool;
    mod num;
}

pub use error::{Error, Result};
pub use unstructured::Unstructured;

/// Recursion is for what this part leaves out.
#[derive(Clone, Debug)]
pub struct MaxRecursionReached {}

/// What can be made of bytes.
pub trait Arbitrary<'a>: Sized {
    /// Made of the first bytes, which are then used up.
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self>;

    /// How many bytes that needs: at least, and at most.
    fn size_hint(depth: usize) -> (usize, Option<usize>) {
        let _ = depth;
        (0, None)
    }

    /// The same, where types contain themselves.
    fn try_size_hint(depth: usize) -> Result<(usize, Option<usize>), MaxRecursionReached> {
        Ok(Self::size_hint(depth))
    }
}
