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
/// - `deref` returns the same value each time, also after the holder was moved, and does not unwind;
/// - the value lives, at the same place, at least as long as the holder.
///
/// The end of a holder may unwind, and so may that of what it holds.
///
/// # Safety
///
/// Using a holder is safe. The trait is unsafe to implement, not to use.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is passed by value, and must be passed by a pointer",
    label = "pass `&value`, `Box::new(value)` or `Arc::new(value)`",
    note = "what it is used for holds it alive, through a reference, a `Box`, an `Rc` \
            or an `Arc`: see `Holder`"
)]
pub unsafe trait Holder: Deref {}

// SAFETY: "the same value each time": a reference is one pointer; "lives at least as long": it borrows
// the value.
unsafe impl<T: ?Sized> Holder for &T {}

// SAFETY: "the same value each time": a box has one, at a place that does not change when the box is
// moved; "lives at least as long": it owns the value.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> Holder for alloc::boxed::Box<T> {}

// SAFETY: "the same value each time": all clones of an `Rc` share one, at one place; "lives at least as
// long": as any of them.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> Holder for alloc::rc::Rc<T> {}

// SAFETY: "the same value each time": all clones of an `Arc` share one, at one place; "lives at least as
// long": as any of them.
#[cfg(all(feature = "alloc", target_has_atomic = "ptr"))]
unsafe impl<T: ?Sized> Holder for alloc::sync::Arc<T> {}

// SAFETY: "the same value each time .. lives at least as long": it is the model of the standard
// library's, whose clones share one value that lives as long as any of them.
#[cfg(loom)]
unsafe impl<T> Holder for loom::sync::Arc<T> {}

/// A holder whose clones lead to the same value: all but a box.
///
/// # Implementation safety
///
/// A clone leads to the value that the original leads to. Cloning may unwind; then there is no clone.
///
/// # Safety
///
/// Using it is safe. The trait is unsafe to implement, not to use.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cloned to share what it holds",
    note = "a reference, an `Rc` or an `Arc` can; a `Box` cannot"
)]
pub unsafe trait SharedHolder: Holder + Clone {}

// SAFETY: copies of a reference lead to the same value.
unsafe impl<T: ?Sized> SharedHolder for &T {}

// SAFETY: clones of an `Rc` lead to the same value.
#[cfg(feature = "alloc")]
unsafe impl<T: ?Sized> SharedHolder for alloc::rc::Rc<T> {}

// SAFETY: clones of an `Arc` lead to the same value.
#[cfg(all(feature = "alloc", target_has_atomic = "ptr"))]
unsafe impl<T: ?Sized> SharedHolder for alloc::sync::Arc<T> {}

// SAFETY: "a clone leads to the value that the original leads to": clones share one value.
#[cfg(loom)]
unsafe impl<T> SharedHolder for loom::sync::Arc<T> {}
