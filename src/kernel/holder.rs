// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own pointers as holders.

use super::kernel;
use crate::umem::{Holder, SharedHolder};
use kernel::alloc::KBox;
use kernel::sync::{
    aref::{ARef, AlwaysRefCounted},
    Arc,
};

// SAFETY:
// - "`deref` gives the same value each time, also after the holder was moved": an `Arc` is a pointer that
//   never changes;
// - "the value lives, at the same place, at least as long as the holder": it is counted, and nothing has it
//   by `&mut` while there are clones.
unsafe impl<T: ?Sized> Holder for Arc<T> {}

// SAFETY: "a clone leads to the value that the original leads to": it is the same pointer.
unsafe impl<T: ?Sized> SharedHolder for Arc<T> {}

// SAFETY:
// - "`deref` gives the same value each time, also after the holder was moved": an `ARef` is a pointer that
//   never changes;
// - "the value lives, at the same place, at least as long as the holder": so promises `AlwaysRefCounted` of an
//   object that is counted, which this one is until the `ARef` is dropped.
unsafe impl<T: AlwaysRefCounted> Holder for ARef<T> {}

// SAFETY: "a clone leads to the value that the original leads to": it is the same pointer.
unsafe impl<T: AlwaysRefCounted> SharedHolder for ARef<T> {}

// SAFETY:
// - "`deref` gives the same value each time, also after the holder was moved": a box is a pointer, and the
//   value does not move with it;
// - "the value lives, at the same place, at least as long as the holder": the box owns it.
unsafe impl<T: ?Sized> Holder for KBox<T> {}
