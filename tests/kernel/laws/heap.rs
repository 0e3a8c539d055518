// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `alloc` allocates from: the kernel's `kvmalloc()`. Only the laws do, never the crate.
#![no_std]
#![feature(rustc_attrs)]
#![expect(internal_features, reason = "symbols that only the compiler names")]

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{null_mut, NonNull},
};
use kernel::alloc::{allocator::KVmalloc, flags::GFP_KERNEL, Allocator, NumaNode};

struct Heap;

// SAFETY: what `GlobalAlloc` promises, the kernel's allocator promises, too; a null pointer stands for its errors.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        KVmalloc::alloc(layout, GFP_KERNEL, NumaNode::NO_NODE)
            .map_or(null_mut(), |memory| memory.as_ptr().cast())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller has it from `alloc`, with this layout.
            unsafe { KVmalloc::free(memory, layout) }
        }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

/// What the compiler makes up for a program that it links itself.
#[rustc_std_internal_symbol]
fn __rust_no_alloc_shim_is_unstable_v2() {}

/// Without memory there is nothing to test.
#[rustc_std_internal_symbol]
fn __rust_alloc_error_handler(size: usize, _align: usize) -> ! {
    panic!("no memory for {size} bytes")
}
