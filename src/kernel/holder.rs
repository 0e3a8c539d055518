// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own pointers as holders.

use crate::umem::{Holder, SharedHolder};
use kernel::alloc::KBox;
use kernel::sync::{
    aref::{ARef, AlwaysRefCounted},
    Arc,
};

// SAFETY: all clones of an `Arc` share one value, which lives, where it is, as long as any of them.
unsafe impl<T: ?Sized> Holder for Arc<T> {}

// SAFETY: clones of an `Arc` lead to the same value.
unsafe impl<T: ?Sized> SharedHolder for Arc<T> {}

// SAFETY: all clones of an `ARef` lead to one object, which lives as long as it is counted.
unsafe impl<T: AlwaysRefCounted> Holder for ARef<T> {}

// SAFETY: clones of an `ARef` lead to the same object.
unsafe impl<T: AlwaysRefCounted> SharedHolder for ARef<T> {}

// SAFETY: a box owns one value, at a place that does not change when the box is moved.
unsafe impl<T: ?Sized> Holder for KBox<T> {}
