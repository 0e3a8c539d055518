// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Registration`]: pinned memory of a process, as a driver has it: a pointer to a `struct ib_umem`, behind which the
//! rest lies.
//!
//! ```text
//!  driver ──► struct ib_umem │ one entry of a table           One: pages that lie side by side
//!  driver ──► struct ib_umem │ recent runs │ Umem ── list │ one entry      Many: the first page, if the driver reads
//!                  └──────────────────────────────────────┴─► table        no table, or the entries of all pages
//! ```

use crate::{
    abi::{IbUmem, Recent},
    ffi,
    many::Many,
    one::One,
    request::{Request, PAGE},
};
use core::{mem::offset_of, ptr, slice};
use kernel::{
    bindings::{mm_struct, sg_append_table},
    error::to_result,
    mm::Mm,
    prelude::*,
    sync::aref::ARef,
    types::Opaque,
};
use pinned_sgl::{
    kernel::{pin, Kmalloc, PAGE_SIZE},
    umem::{PinRequest, Umem},
};

/// Memory that is pinned and charged as RDMA has it: by the address space itself.
pub(crate) type Pinned = Umem<ARef<Mm>, ARef<Mm>, Kmalloc>;

/// What is kept of pinned pages, whose bytes are counted from the first page on.
pub(crate) trait Memory {
    /// Maps the pages without a table, and makes the first entry of one, in `umem`; returns whether it has.
    ///
    /// # Safety
    ///
    /// `umem` is that of the pages, and its device is there until [`let_go`](Self::let_go).
    unsafe fn map_list(&mut self, umem: &mut IbUmem) -> bool;

    /// Makes the table that drivers walk, in `to`, which is zero.
    fn make_table(&mut self, to: &mut sg_append_table, max_segment: u32) -> Result;

    /// Copies bytes from `offset` on.
    ///
    /// # Safety
    ///
    /// `mm` has pinned the pages, and is held.
    unsafe fn read(&self, mm: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result;

    /// Unmaps what `map_list` has mapped, frees the table, and gives back what dropping this does not.
    ///
    /// # Safety
    ///
    /// The last call, with the `struct ib_umem` for which the pages were pinned; no device reaches them.
    unsafe fn let_go(&mut self, umem: &mut IbUmem, dirty: bool);
}

/// Pinned pages, and what a driver sees of them.
///
/// # Invariants
///
/// `umem` is that of the pages in `memory`, and so is its table, which is mapped for the device if `is_mapped`.
#[repr(C)]
pub(crate) struct Registration<M: Memory> {
    umem: Opaque<IbUmem>,
    is_mapped: bool,
    is_writable: bool,
    memory: M,
}

// Where `glue.c` has the recent runs.
const _: () = assert!(offset_of!(Registration<Many>, memory) == 96);

/// Pins memory, and maps it for the device.
///
/// # Safety
///
/// The device is there until the registration is dropped. It does not reach the memory any more then.
pub(crate) unsafe fn register(request: &Request) -> Result<*mut IbUmem> {
    let task = current!();
    let mm: &Mm = task.mm().ok_or(EINVAL)?;
    // SAFETY: "pointers are to what .., which is there": the device is, as the caller promises; "nothing else changes"
    // is asked for what is written, and this reads what the driver has set before.
    let max_segment = unsafe { ffi::ib_umem_max_segment(request.device) };
    let max_segment = max_segment & (PAGE as u32).wrapping_neg();
    if request.pages.page_count(PAGE_SIZE) == 1 && max_segment != 0 {
        let one = One::page(mm, request)?;
        // SAFETY:
        // - "the device is there until the registration is dropped", "does not reach the memory any more then": as the
        //   caller promises;
        // - "`memory` was pinned for the request, by `mm`": just now.
        return unsafe { Registration::make(request, mm, one, max_segment) };
    }
    let owner = ARef::<Mm>::from(mm);
    let to_pin = PinRequest::new(request.pages, request.flags());
    let mut pinned = pin(owner.clone(), owner, GFP_KERNEL, to_pin)?;
    if pinned.sgl().byte_len() <= max_segment.into() {
        match One::new(pinned) {
            // SAFETY: as above, preconditions and who keeps them.
            Ok(one) => return unsafe { Registration::make(request, mm, one, max_segment) },
            Err(many) => pinned = many,
        }
    }
    // SAFETY: as above, preconditions and who keeps them.
    unsafe { Registration::make(request, mm, Many::new(pinned), max_segment) }
}

impl<M: Memory> Registration<M> {
    /// # Safety
    ///
    /// The device is there until the registration is dropped, and does not reach the memory any more then. `memory` was
    /// pinned for the request, by `mm`.
    unsafe fn make(request: &Request, mm: &Mm, memory: M, max_segment: u32) -> Result<*mut IbUmem> {
        let Request { device, addr, size, access, .. } = *request;
        let umem = Opaque::zeroed();
        // SAFETY: "pointers are to what their types say, which is there": the new struct, which is zero; the device, as
        // the caller promises; `mm`, which is borrowed. "Nothing else changes meanwhile": the struct is ours alone.
        unsafe { ffi::ib_umem_init(umem.get(), device, mm.as_raw(), addr, size, access) };
        // INVARIANT: it is that of these pages, with a table of nothing that is not mapped.
        let this = Self { umem, is_mapped: false, is_writable: request.is_writable(), memory };
        let mut this = KBox::new(this, GFP_KERNEL)?;
        let umem = this.umem.get();
        // SAFETY: "a valid pointer to an initialised value, not aliased": it was initialised above, and no driver has it
        // yet; `memory`, which is borrowed beside it, is another member.
        let umem = unsafe { &mut *umem };
        // SAFETY: "`umem` is that of the pages": by the invariant; "its device is there until `let_go`": as the caller
        // promises, for that is called when this is dropped.
        if !request.is_listed() || !unsafe { this.memory.map_list(umem) } {
            // INVARIANT: the table is that of these pages.
            this.memory.make_table(&mut umem.entries, max_segment)?;
            // SAFETY: "pointers are to what their types say, which is there": the device, as the caller promises; the
            // table was just made. "Nothing else changes meanwhile": nothing else has it yet.
            to_result(unsafe { ffi::ib_umem_map(device, &mut umem.entries.sgt, umem.dma_attrs) })?;
        }
        // INVARIANT: it is mapped; where the device translates by itself, that is nothing.
        this.is_mapped = true;
        Ok(KBox::into_raw(this).cast())
    }

    /// # Safety
    ///
    /// There is room for `len` bytes at `to`, which nothing else uses meanwhile.
    unsafe fn read(&self, offset: usize, to: *mut u8, len: usize) -> Result {
        // SAFETY: "valid for reads, initialised": by the invariant it is a `struct ib_umem`, of which drivers write `iova`
        // only; so it is not borrowed, and this member is read by itself.
        let mm = unsafe { (*self.umem.get()).mm };
        // SAFETY: "valid for writes of `len` bytes", "not accessed through any other pointer": as the caller promises;
        // "properly initialized": they are zeros, just written.
        let to = unsafe {
            ptr::write_bytes(to, 0, len);
            slice::from_raw_parts_mut(to, len)
        };
        // SAFETY: "`mm` has pinned the pages, and is held": by the invariant `umem` is that of the pages, whose owner holds
        // it until `let_go`.
        unsafe { self.memory.read(mm, self.in_pages(offset), to) }
    }

    /// Where a byte lies, counted from the first page on. Those before the first one are in its page, too.
    fn in_pages(&self, offset: usize) -> u64 {
        // SAFETY: "valid for reads, initialised": by the invariant it is a `struct ib_umem`, whose address nothing writes.
        let address = unsafe { (*self.umem.get()).address };
        offset.wrapping_add(address & PAGE.wrapping_sub(1)) as u64
    }
}

impl<M: Memory> Drop for Registration<M> {
    fn drop(&mut self) {
        // SAFETY: "a valid pointer to an initialised value": by the invariant; "not aliased": by `&mut self`, and as no
        // driver uses what it releases.
        let umem = unsafe { &mut *self.umem.get() };
        if self.is_mapped && umem.entries.sgt.orig_nents != 0 {
            // SAFETY: "the table is mapped for this device, with these attributes": by the invariant, as `dma_attrs` is
            // written once; "the device does not reach it any more": the promise that `register` was given.
            unsafe { ffi::ib_umem_unmap(umem.device, &mut umem.entries.sgt, umem.dma_attrs) };
        }
        // SAFETY: "the last call, with the `struct ib_umem` for which the pages were pinned": by the invariant, as a
        // value is dropped once; "no device reaches them": they are not mapped any more.
        unsafe { self.memory.let_go(umem, self.is_mapped && self.is_writable) };
    }
}

/// What a driver has.
pub(crate) enum Form {
    One(*mut Registration<One>),
    Many(*mut Registration<Many>),
    /// It was made by the kernel's C: a dma-buf, or on demand.
    Other,
}

impl Form {
    /// # Safety
    ///
    /// `umem` was returned by [`register`], or made by the kernel's C, and is not released yet.
    pub(crate) unsafe fn of(umem: *mut IbUmem) -> Self {
        // SAFETY: "pointers are to what their types say, which is there": as the caller promises; "nothing else changes":
        // both bits are written when it is made.
        if unsafe { ffi::ib_umem_is_pinned(umem) } {
            // SAFETY: "`umem` was returned by `register`": the kernel's C makes none that is neither of a dma-buf nor on
            // demand; "is not released yet": as the caller promises.
            unsafe { Self::of_pinned(umem) }
        } else {
            Self::Other
        }
    }

    /// # Safety
    ///
    /// `umem` was returned by [`register`], and is not released yet.
    unsafe fn of_pinned(umem: *mut IbUmem) -> Self {
        let entry = umem.cast::<u8>().wrapping_add(offset_of!(Registration<One>, memory));
        // SAFETY: "valid for reads, initialised": it is not released yet, as the caller promises; `sgl` is written when it
        // is made.
        if unsafe { (*umem).entries.sgt.sgl }.cast() == entry {
            Self::One(umem.cast())
        } else {
            Self::Many(umem.cast())
        }
    }
}

/// Releases what a driver has.
///
/// # Safety
///
/// `umem` was returned by [`register`], or made by the kernel's C; this is the first call for it, nothing uses it, and no
/// device reaches the memory.
pub(crate) unsafe fn release(umem: *mut IbUmem) {
    // SAFETY:
    // - of `Form::of`, "returned by `register`, or made by the kernel's C, and is not released yet": as the caller
    //   promises;
    // - of `KBox::from_raw`, "a valid allocation, from `into_raw`, of which there is no other owner": that of `register`,
    //   whose form is known; this is the first call for it, as the caller promises;
    // - of `ib_umem_release_other`, "made by the kernel's C, and this is the last use of it": by the form, and as the
    //   caller promises.
    unsafe {
        match Form::of(umem) {
            Form::One(one) => drop(KBox::from_raw(one)),
            Form::Many(many) => drop(KBox::from_raw(many)),
            Form::Other => ffi::ib_umem_release_other(umem),
        }
    }
}

/// Copies bytes from byte `offset` of the registration on.
///
/// # Safety
///
/// `umem` was returned by [`register`], or made by the kernel's C, and is not released meanwhile; there is room for as
/// many bytes at `to`, which nothing else uses meanwhile.
pub(crate) unsafe fn read(umem: *mut IbUmem, offset: usize, to: *mut u8, len: usize) -> Result {
    // SAFETY: "returned by `register`, or made by the kernel's C, and is not released yet", so that it is there, in its
    // form; "there is room for `len` bytes at `to`, which nothing else uses meanwhile": as the caller promises.
    unsafe {
        match Form::of(umem) {
            Form::One(one) => (*one).read(offset, to, len),
            Form::Many(many) => (*many).read(offset, to, len),
            // Memory that is not pinned here has no pages that the CPU could read.
            Form::Other if len == 0 => Ok(()),
            Form::Other => Err(EINVAL),
        }
    }
}

/// The run that holds byte `at` of a list, as `glue.h` has it; how many runs these are. In any context.
///
/// # Safety
///
/// `umem` was returned by [`register`], and is not released meanwhile.
pub(crate) unsafe fn find(umem: *mut IbUmem, at: u64, go_on: bool, found: &mut Recent) -> usize {
    // SAFETY: "`umem` was returned by `register`, and is not released yet", so that it is there, in its form: as the caller
    // promises, also for as long as it is used here.
    unsafe {
        match Form::of_pinned(umem) {
            Form::Many(many) => (*many).memory.find(at, go_on, found).unwrap_or(0),
            Form::One(_) | Form::Other => 0,
        }
    }
}

/// Where the device sees byte `offset`, and how many bytes from there on continue it; none, if there is a table.
///
/// # Safety
///
/// `umem` was returned by [`register`], or made by the kernel's C, and is not released meanwhile.
pub(crate) unsafe fn dma_run(umem: *mut IbUmem, offset: usize) -> Option<(u64, u64)> {
    // SAFETY: "returned by `register`, or made by the kernel's C, and is not released yet", so that it is there, in its
    // form: as the caller promises, also for as long as it is used here.
    unsafe {
        match Form::of(umem) {
            Form::Many(many) => (*many).memory.dma_run((*many).in_pages(offset)),
            Form::One(_) | Form::Other => None,
        }
    }
}
