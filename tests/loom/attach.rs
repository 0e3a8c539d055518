// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device is attached, writes and is detached, while another holder of the region lets go: the
//! last one knows both.

use crate::check;
use crate::frames::{Frames, Region};
use crate::threads::{sync::Arc as Shared, thread};
use pinned_sgl::umem::Attachment;

fn let_go(attachment: Attachment<Shared<Region>>) -> Shared<Region> {
    // SAFETY: there is no device but the thread that calls this.
    unsafe { attachment.release() }
}

/// The page is unpinned once, after the device has written, and marked dirty.
#[test]
fn the_last_holder_knows_that_a_device_wrote() {
    check(|| {
        let frames = Frames::new(1);
        let umem = frames.pin(0, 1);
        let device = thread::spawn({
            let (frames, umem) = (frames.clone(), umem.clone());
            move || {
                let attachment = Attachment::new(umem, true).unwrap();
                frames.set_byte(0, 1);
                drop(let_go(attachment));
            }
        });
        drop(umem);
        device.join().unwrap();
        assert_eq!(frames.unpinned(0), (1, true));
    });
}

/// Attachments of two threads are both counted, and one that only reads leaves the page clean.
#[test]
fn attachments_are_counted() {
    check(|| {
        let frames = Frames::new(1);
        let umem = frames.pin(0, 1);
        let reader = thread::spawn({
            let umem = umem.clone();
            move || {
                let attachment = Attachment::new(umem, false).unwrap();
                assert!(attachment.region().attachments() >= 1);
                drop(let_go(attachment));
            }
        });
        let attachment = Attachment::new(umem, false).unwrap();
        assert!(attachment.region().attachments() >= 1);
        drop(let_go(attachment));
        reader.join().unwrap();
        assert_eq!(frames.unpinned(0), (1, false));
    });
}

/// One that is leaked, by whichever thread, is seen by the last holder, which unpins nothing then.
#[test]
fn a_leaked_attachment_is_seen() {
    check(|| {
        let frames = Frames::new(1);
        let umem = frames.pin(0, 1);
        let device = thread::spawn({
            let umem = umem.clone();
            move || drop(Attachment::new(umem, true).unwrap().leak())
        });
        drop(umem);
        device.join().unwrap();
        assert_eq!(frames.unpinned(0), (0, false));
    });
}

/// A thread that sees that no device is attached any more sees what it did.
fn the_count_orders(detach_first: bool) {
    check(move || {
        let frames = Frames::new(1);
        let umem = frames.pin(0, 1);
        let attachment = Attachment::new(umem.clone(), true).unwrap();
        let device = thread::spawn({
            let frames = frames.clone();
            move || {
                if detach_first {
                    let umem = let_go(attachment);
                    frames.set_byte(0, 1);
                    return umem;
                }
                frames.set_byte(0, 1);
                let_go(attachment)
            }
        });
        if umem.attachments() == 0 {
            assert_eq!(frames.byte(0), 1);
            assert!(umem.is_dirty());
        }
        drop(device.join().unwrap());
        drop(umem);
        assert_eq!(frames.unpinned(0), (1, true));
    });
}

#[test]
fn no_attachment_seen_is_all_accesses_seen() {
    the_count_orders(false);
}

#[test]
#[cfg(any(loom, all(races, not(miri))))]
#[should_panic(expected = "Causality violation")]
fn a_device_that_writes_when_it_is_detached_is_found() {
    the_count_orders(true);
}
