// SPDX-License-Identifier: MIT OR Apache-2.0
//! A physical address is not an address of a device.

use pinned_sgl::{Heap, PageSizes, PhysAddr, Sgl};

fn mistake(sgl: &Sgl<Heap>, phys: PhysAddr) {
    let window = sgl.whole().unwrap();
    let _ = window.tiles(PageSizes::SIZE_4K, phys);
}

fn main() {}
