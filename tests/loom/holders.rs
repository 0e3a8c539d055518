// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever lets go of a region last unpins it: once, after the device has let go, and as dirty if a
//! device could write.

use crate::wire::{pin, Wire};
use loom::{sync::Arc, thread};
use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl::umem::{Attachment, Region};
use pinned_sgl::Iova;

const IOVA: Iova = Iova::new(0x8000);

#[test]
fn the_last_of_two_holders_unpins() {
    loom::model(|| {
        let wire = Arc::new(Wire::new());
        let page = Arc::new(pin(&wire));
        let other = page.clone();
        let thread = thread::spawn(move || drop(other));
        drop(page);
        thread.join().unwrap();
        wire.assert_done(false);
    });
}

#[test]
fn a_mapping_that_goes_last_unpins_after_its_flush() {
    loom::model(|| {
        let wire = Arc::new(Wire::new());
        let page = Arc::new(pin(&wire));
        let mapping = Mapping::map(page.clone(), wire.clone(), IOVA, Prot::WRITE).unwrap();
        let thread = thread::spawn(move || drop(mapping));
        drop(page);
        thread.join().unwrap();
        wire.assert_done(true);
    });
}

#[test]
fn two_mappings_of_one_page_end_in_any_order() {
    loom::model(|| {
        let wire = Arc::new(Wire::new());
        let page = Arc::new(pin(&wire));
        let map = |at: u64| Mapping::map(page.clone(), wire.clone(), Iova::new(at), Prot::READ);
        let (one, two) = (map(0x8000).unwrap(), map(0x9000).unwrap());
        let thread = thread::spawn(move || drop(one));
        drop(page);
        drop(two.unmap().unwrap());
        thread.join().unwrap();
        wire.assert_done(false);
    });
}

/// Counted by hand, without an `Arc` that would put things in order: the region is dropped by the
/// thread that sees the count at zero.
#[test]
fn an_attachment_is_seen_to_be_released() {
    loom::model(|| {
        let wire = Arc::new(Wire::new());
        let page = Arc::new(pin(&wire));
        let device = Attachment::new(page.clone(), true).unwrap();
        let thread = thread::spawn(move || {
            // SAFETY: there is no device.
            drop(unsafe { device.release() });
        });
        if page.attachments() == 0 {
            assert!(page.is_dirty());
        }
        assert!(page.attach(false).is_ok());
        // SAFETY: attached the line before, for no device.
        unsafe { page.detach() };
        drop(page);
        thread.join().unwrap();
        wire.assert_done(true);
    });
}
