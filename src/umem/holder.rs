// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Holder`]: what keeps a shared value alive: a reference, a box, an `Rc`, an `Arc`, or a
//! kernel's own `Arc`.

use core::ops::Deref;

/// A pointer that always leads to the same value.
///
/// A region holds its pinner, a mapping holds its region and its domain, each through a holder of
/// the user's choice. What was pinned through a holder is unpinned through it, so it must lead to
/// the same value then.
///
/// # Implementation safety
///
/// - `deref` gives the same value each time, also after the holder was moved;
/// - the value lives, at the same place, at least as long as the holder.
///
/// # Safety
///
/// Using a holder is safe. The trait is unsafe to implement, not to use.
pub unsafe trait Holder: Deref {}

// SAFETY: a reference is one pointer, to a value that it borrows.
unsafe impl<T: ?Sized> Holder for &T {}

// SAFETY: a box owns one value, at a place that does not change when the box is moved.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> Holder for alloc::boxed::Box<T> {}

// SAFETY: all clones of an `Rc` share one value, which lives as long as any of them.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> Holder for alloc::rc::Rc<T> {}

// SAFETY: all clones of an `Arc` share one value, which lives as long as any of them.
#[cfg(all(feature = "alloc", target_has_atomic = "ptr"))]
unsafe impl<T: ?Sized> Holder for alloc::sync::Arc<T> {}

// SAFETY: as that of the standard library, whose model it is.
#[cfg(loom)]
unsafe impl<T> Holder for loom::sync::Arc<T> {}

/// A holder whose clones lead to the same value: all but a box.
///
/// # Implementation safety
///
/// A clone leads to the value that the original leads to.
///
/// # Safety
///
/// Using it is safe. The trait is unsafe to implement, not to use.
pub unsafe trait SharedHolder: Holder + Clone {}

// SAFETY: copies of a reference lead to the same value.
unsafe impl<T: ?Sized> SharedHolder for &T {}

// SAFETY: clones of an `Rc` lead to the same value.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> SharedHolder for alloc::rc::Rc<T> {}

// SAFETY: clones of an `Arc` lead to the same value.
#[cfg(all(feature = "alloc", target_has_atomic = "ptr"))]
unsafe impl<T: ?Sized> SharedHolder for alloc::sync::Arc<T> {}

// SAFETY: as that of the standard library, whose model it is.
#[cfg(loom)]
unsafe impl<T> SharedHolder for loom::sync::Arc<T> {}
