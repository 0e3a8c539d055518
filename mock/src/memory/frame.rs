// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Frame`]: the record of a page frame, and the protocol by which pinning and moving it exclude
//! each other without a lock, as in Linux.
//!
//! ```text
//! the word of a folio, in its first frame:  the word of a page, in each frame:
//!
//!   63     62     61             0      63     16 15    8  4    3        2      1       0
//!  ┌──────┬──────┬────────────────┐    ┌─────────┬───────┬────┬────────┬──────┬───────┬───────┐
//!  │FROZEN│ORPHAN│ pins, all pages│    │ pins    │ order │MANY│WRITABLE│IN_USE│WRITTEN│ DIRTY │
//!  └──────┴──────┴────────────────┘    └─────────┴───────┴────┴────────┴──────┴───────┴───────┘
//!
//!      thaw        try_pin                 orphan
//!  FROZEN ──► 0 ◄──────────► n pins ──────────────────► ORPHAN + n pins
//!     ▲       │     unpin                                      │
//!     └───────┘ freeze, or orphan                              │ the last unpin: the folio is free
//!     └────────────────────────────────────────────────────────┘
//! ```
//!
//! A page that may be moved has a word of zero pins. A move takes its page table entries away
//! first and then freezes the word; a pin counts first and then looks at the entry again.
//! Both changes of the word are read-modify-writes, so one of the two comes first, and the other
//! sees it: either the freeze fails, or the pin fails, or the second look finds another entry.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Note, Ordering};
use pinned_sgl::UserAddr;

/// The folio may not be pinned: it is free, on the move, or not the first frame of a folio.
const FROZEN: u64 = 1 << 63;
/// The folio is not mapped any more: the last unpin frees it.
const ORPHAN: u64 = 1 << 62;
const COUNT: u64 = ORPHAN - 1;

/// The page was marked dirty: it is to be written back.
const DIRTY: u64 = 1;
/// The page was written through a pin, and is not marked dirty yet.
const WRITTEN: u64 = 2;
/// The page belongs to a folio that is not free.
const IN_USE: u64 = 4;
/// Among the pins of the page is one for writing, or was one since it was not pinned at all.
const WRITABLE: u64 = 8;
/// The page has had more than one pin since it was not pinned at all.
const MANY: u64 = 16;
const ORDER_SHIFT: u32 = 8;
const ORDER: u64 = 0xff << ORDER_SHIFT;
/// One pin.
const PIN: u64 = 1 << 16;
const PIN_SHIFT: u32 = 16;

/// The record of one page frame: 24 bytes.
#[derive(Debug)]
pub(crate) struct Frame {
    folio: AtomicU64,
    page: AtomicU64,
    /// One more than the user address under which the page was pinned last; zero if it never was.
    user: Note,
}

impl Default for Frame {
    /// A free frame.
    fn default() -> Self {
        Self { folio: AtomicU64::new(FROZEN), page: AtomicU64::new(0), user: Note::new(0) }
    }
}

/// A page was to be unpinned that is not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotPinned;

/// What is wrong with the last pin of a page, which was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Last {
    /// The page was written through a pin, and is not marked dirty.
    pub(crate) lost: bool,
    /// The page has had one pin only, and was pinned at another user address.
    pub(crate) elsewhere: bool,
}

/// The word of a folio: to be called on its first frame.
impl Frame {
    /// Counts `pages` pins, unless the folio is frozen or has no owner.
    pub(crate) fn try_pin(&self, pages: u64) -> bool {
        self.change(|word| word.checked_add(pages).filter(|sum| *sum <= COUNT)).is_some()
    }

    /// Gives `pages` pins back. If this was the last pin of an orphan, the answer is true, the folio
    /// is frozen, and the caller frees it.
    pub(crate) fn unpin(&self, pages: u64) -> bool {
        let rest = self.change(|word| {
            let rest = word.saturating_sub(pages.min(word & COUNT));
            Some(if rest == ORPHAN { FROZEN } else { rest })
        });
        rest == Some(FROZEN)
    }

    /// Freezes the folio, if it is not pinned.
    pub(crate) fn freeze(&self) -> bool {
        self.folio.compare_exchange(0, FROZEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Makes a frozen folio one that can be pinned; all that was done to it before is seen then.
    pub(crate) fn thaw(&self) {
        self.folio.store(0, Ordering::Release);
    }

    /// Records that the folio is not mapped any more. If it is not pinned either, returns true, the
    /// folio is frozen, and the caller frees it.
    pub(crate) fn orphan(&self) -> bool {
        let next = self.change(|word| Some(if word == 0 { FROZEN } else { word | ORPHAN }));
        next == Some(FROZEN)
    }

    /// Whether the folio is pinned. A caller that took its page table entries away before is not
    /// overtaken by one that pins it: this is a change of the word, though to the same value.
    pub(crate) fn is_folio_pinned(&self) -> bool {
        self.folio.fetch_add(0, Ordering::AcqRel) & COUNT != 0
    }

    fn change(&self, next: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        change(&self.folio, next)
    }
}

/// The word of a page.
impl Frame {
    /// Whether the frame belongs to no folio.
    pub(crate) fn is_free(&self) -> bool {
        self.page.load(Ordering::Acquire) & IN_USE == 0
    }

    /// The order of the folio that the frame belongs to.
    pub(crate) fn order(&self) -> u32 {
        let order = self.page.load(Ordering::Acquire) & ORDER;
        (order >> ORDER_SHIFT).try_into().unwrap_or(0)
    }

    /// Makes the frame a page of a folio. It is frozen still.
    pub(crate) fn take(&self, order: u32) {
        let order = (u64::from(order) << ORDER_SHIFT) & ORDER;
        self.page.store(IN_USE | order, Ordering::Release);
    }

    /// Makes the frame free. It is frozen already.
    pub(crate) fn give_back(&self) {
        self.page.store(0, Ordering::Release);
    }

    /// Counts a pin of the page; that of the folio has been counted. The page is at `user`, which is
    /// a multiple of its size.
    pub(crate) fn add_pin(&self, user: UserAddr, writable: bool) {
        let before = self.page.fetch_add(PIN, Ordering::AcqRel);
        let many = if before < PIN { 0 } else { MANY };
        let bits = if writable { many | WRITABLE } else { many };
        if bits & !before != 0 {
            self.page.fetch_or(bits, Ordering::AcqRel);
        }
        // After the pin: a caller that takes the only one back has seen no later address.
        self.user.store(user.get().saturating_add(1), Ordering::Relaxed);
    }

    /// The user address under which the page was pinned last.
    pub(crate) fn user(&self) -> Option<UserAddr> {
        self.user.load(Ordering::Relaxed).checked_sub(1).map(UserAddr::new)
    }

    /// Whether the page was pinned to be written, by any pinner, since it was first pinned.
    pub(crate) fn is_writable(&self) -> bool {
        self.page.load(Ordering::Acquire) & WRITABLE != 0
    }

    /// Takes a pin of the page back, which is at `user`; that of the folio is to follow. The answer
    /// is what is wrong, if this was the last one.
    pub(crate) fn drop_pin(&self, user: UserAddr, dirty: bool) -> Result<Last, NotPinned> {
        let mut word = self.page.load(Ordering::Acquire);
        loop {
            let known = self.user();
            let mut next = word.checked_sub(PIN).ok_or(NotPinned)?;
            if dirty {
                next = (next | DIRTY) & !WRITTEN;
            }
            let mut last = Last::default();
            if next < PIN {
                last.lost = next & WRITTEN != 0;
                last.elsewhere = next & MANY == 0 && known != Some(user);
                next &= !(WRITTEN | WRITABLE | MANY);
            }
            match self.page.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(last),
                Err(other) => word = other,
            }
        }
    }

    /// How often the page is pinned.
    pub(crate) fn pins(&self) -> u64 {
        self.page.load(Ordering::Acquire) >> PIN_SHIFT
    }

    /// Remembers that the page is written through a pin; false if it is not pinned.
    pub(crate) fn note_write(&self) -> bool {
        change(&self.page, |word| (word >= PIN).then_some(word | WRITTEN)).is_some()
    }

    /// Whether the page is to be written back.
    pub(crate) fn is_dirty(&self) -> bool {
        self.page.load(Ordering::Acquire) & DIRTY != 0
    }

    /// Whether the page was written through a pin, and is not marked dirty yet.
    pub(crate) fn is_written(&self) -> bool {
        self.page.load(Ordering::Acquire) & WRITTEN != 0
    }

    /// Forgets that the page is to be written back; whether it was.
    pub(crate) fn clean(&self) -> bool {
        self.page.fetch_and(!DIRTY, Ordering::AcqRel) & DIRTY != 0
    }

    /// Takes over what is remembered of the contents of another page, which move here.
    pub(crate) fn inherit(&self, from: &Self) {
        let bits = from.page.load(Ordering::Acquire) & DIRTY;
        self.page.fetch_or(bits, Ordering::AcqRel);
    }
}

/// Changes a word as one step, unless `next` refuses; the new word.
fn change(word: &AtomicU64, next: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    let mut old = word.load(Ordering::Acquire);
    loop {
        let new = next(old)?;
        match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(new),
            Err(other) => old = other,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_folio_is_pinned_or_frozen() {
        let frame = Frame::default();
        assert!(!frame.try_pin(1) && !frame.freeze());
        frame.thaw();
        assert!(frame.try_pin(2) && frame.is_folio_pinned() && !frame.freeze());
        assert!(!frame.unpin(1) && !frame.unpin(1) && frame.freeze() && !frame.try_pin(1));
    }

    #[test]
    fn the_last_one_frees_an_orphan() {
        let frame = Frame::default();
        frame.thaw();
        assert!(frame.try_pin(3) && !frame.orphan() && !frame.try_pin(1));
        assert!(!frame.unpin(2) && frame.unpin(1) && !frame.try_pin(1));
        frame.thaw();
        assert!(frame.orphan() && !frame.try_pin(1));
    }

    #[test]
    fn a_write_is_reported_or_lost() {
        let frame = Frame::default();
        frame.take(9);
        assert!(!frame.is_free() && frame.order() == 9 && !frame.note_write());
        assert_eq!(frame.user(), None);
        frame.add_pin(UserAddr::new(0), true);
        frame.add_pin(UserAddr::new(0x7000), false);
        assert_eq!((frame.user(), frame.is_writable()), (Some(UserAddr::new(0x7000)), true));
        assert!(frame.note_write() && frame.is_written());
        let (at, fine) = (UserAddr::new(0x7000), Ok(Last::default()));
        assert_eq!(frame.drop_pin(at, true), fine);
        assert!(frame.is_dirty() && !frame.is_written());
        assert!(frame.note_write());
        // With two pins it is unknown which of them is taken back.
        let lost = Ok(Last { lost: true, elsewhere: false });
        assert_eq!((frame.drop_pin(at, false), frame.drop_pin(at, false)), (lost, Err(NotPinned)));
        assert_eq!((frame.pins(), frame.clean(), frame.clean()), (0, true, false));
        frame.add_pin(at, false);
        assert!(!frame.is_writable());
        let elsewhere = Ok(Last { lost: false, elsewhere: true });
        assert_eq!(frame.drop_pin(UserAddr::new(0), false), elsewhere);
        frame.add_pin(at, false);
        assert_eq!(frame.drop_pin(at, false), fine);
    }
}
