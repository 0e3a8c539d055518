// SPDX-License-Identifier: MIT OR Apache-2.0
//! Models with a mistake in them. Each must fail: if loom did not find these, it would find nothing in
//! the others either.

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::{sync::Arc, thread};
use pinned_sgl::umem::{Accountant, Charge, ChargeError};

/// Looks first and adds then, in two steps, as some drivers do.
struct TwoSteps(AtomicUsize);

impl Accountant for TwoSteps {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let charged = self.0.load(Ordering::SeqCst);
        if charged + pages as usize > 1 {
            return Err(ChargeError::new(pages, charged as u64, 1));
        }
        self.0.fetch_add(pages as usize, Ordering::SeqCst);
        Ok(())
    }

    fn uncharge(&self, pages: u64) {
        self.0.fetch_sub(pages as usize, Ordering::SeqCst);
    }
}

#[test]
#[should_panic(expected = "the limit is exceeded")]
fn a_charge_in_two_steps_exceeds_the_limit() {
    loom::model(|| {
        let account = Arc::new(TwoSteps(AtomicUsize::new(0)));
        let other = account.clone();
        let thread = thread::spawn(move || Charge::new(other, 1).ok());
        let charges = (Charge::new(account.clone(), 1).ok(), thread.join().unwrap());
        assert!(account.0.load(Ordering::SeqCst) <= 1, "the limit is exceeded");
        drop(charges);
    });
}

/// Pins the frame that a page table names, without a second look at the table.
#[test]
#[should_panic(expected = "the frame that was pinned is not the page's")]
fn a_pin_without_a_second_look_holds_the_wrong_frame() {
    const FROZEN: usize = usize::MAX / 2;
    loom::model(|| {
        let table = Arc::new(AtomicUsize::new(0));
        let pins = Arc::new([AtomicUsize::new(0), AtomicUsize::new(FROZEN)]);
        let mover = thread::spawn({
            let (table, pins) = (table.clone(), pins.clone());
            move || {
                let free = pins[0].compare_exchange(0, FROZEN, Ordering::SeqCst, Ordering::SeqCst);
                if free.is_ok() {
                    table.store(1, Ordering::SeqCst);
                    pins[1].store(0, Ordering::SeqCst);
                    // The old frame is somebody else's from now on.
                    pins[0].store(0, Ordering::SeqCst);
                }
            }
        });
        let frame = table.load(Ordering::SeqCst);
        let pinned = pins[frame].fetch_add(1, Ordering::SeqCst) < FROZEN;
        mover.join().unwrap();
        assert!(
            !pinned || table.load(Ordering::SeqCst) == frame,
            "the frame that was pinned is not the page's"
        );
    });
}

/// Unpins when the count of attachments was seen at zero, without taking part in the count.
#[test]
#[should_panic(expected = "unpinned twice")]
fn two_who_see_the_last_holder_go_both_unpin() {
    loom::model(|| {
        let holders = Arc::new(AtomicUsize::new(2));
        let unpinned = Arc::new(AtomicUsize::new(0));
        let let_go = |holders: &AtomicUsize, unpinned: &AtomicUsize| {
            holders.fetch_sub(1, Ordering::SeqCst);
            if holders.load(Ordering::SeqCst) == 0 {
                let before = unpinned.fetch_add(1, Ordering::SeqCst);
                assert_eq!(before, 0, "unpinned twice");
            }
        };
        let thread = thread::spawn({
            let (holders, unpinned) = (holders.clone(), unpinned.clone());
            move || let_go(&holders, &unpinned)
        });
        let_go(&holders, &unpinned);
        if thread.join().is_err() {
            panic!("unpinned twice");
        }
    });
}
