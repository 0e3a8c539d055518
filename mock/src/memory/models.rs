// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol of page frames in every order of two threads, for the model checker: run by
//! `tests/run loom`. Whole processes are modelled in `tests/loom/moving.rs`.

use super::frame::Frame;
use super::page_table::{Entry, PageTable};
use loom::{sync::Arc, thread};

#[test]
fn a_folio_is_frozen_or_pinned() {
    loom::model(|| {
        let frame = Arc::new(Frame::default());
        frame.thaw();
        let freezer = thread::spawn({
            let frame = frame.clone();
            move || frame.freeze()
        });
        let pinned = frame.try_pin(1);
        let frozen = freezer.join().unwrap();
        assert_ne!(pinned, frozen);
    });
}

#[test]
fn exactly_one_frees_an_orphan() {
    loom::model(|| {
        let frame = Arc::new(Frame::default());
        frame.thaw();
        assert!(frame.try_pin(1));
        let unmapper = thread::spawn({
            let frame = frame.clone();
            move || frame.orphan()
        });
        let last = frame.unpin(1);
        assert_ne!(unmapper.join().unwrap(), last);
        assert!(!frame.try_pin(1));
    });
}

/// A page is moved from frame 0 to frame 1, and frame 0 gets another page, while it is being pinned.
fn pinning_and_moving(second_look: bool) {
    loom::model(move || {
        let here = Entry::present(0, true);
        let shared = Arc::new((PageTable::new(1), [Frame::default(), Frame::default()]));
        shared.0.set(0, here);
        shared.1[0].thaw();
        let mover = thread::spawn({
            let shared = shared.clone();
            move || {
                let (table, frames) = &*shared;
                table.set(0, Entry::MOVING);
                if frames[0].freeze() {
                    table.set(0, here.moved_to(1));
                    frames[1].thaw();
                    frames[0].thaw();
                } else {
                    table.set(0, here);
                }
            }
        });
        let (table, frames) = &*shared;
        let mut pinned = table.load(0) == here && frames[0].try_pin(1);
        if pinned && second_look && table.load(0) != here {
            frames[0].unpin(1);
            pinned = false;
        }
        mover.join().unwrap();
        assert!(!pinned || table.load(0) == here, "another page's frame is pinned");
        assert_eq!(frames[0].is_folio_pinned(), pinned);
    });
}

#[test]
fn a_pinned_page_is_not_moved() {
    pinning_and_moving(true);
}

#[test]
#[should_panic(expected = "another page's frame is pinned")]
fn without_a_second_look_another_frame_is_pinned() {
    pinning_and_moving(false);
}
