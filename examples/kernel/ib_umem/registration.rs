// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Registration`]: pinned memory of a process, as a driver has it: a pointer to a `struct ib_umem`, behind which the
//! rest lies.
//!
//! ```text
//!  driver ──► struct ib_umem │ one entry of a table           One: pages that lie side by side
//!  driver ──► struct ib_umem │ Umem ── list │                 Many
//!                  └────────────────────────┴─► table         unless the driver wants none
//! ```

use crate::{
    abi::IbUmem,
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
    kernel::{pin, Kmalloc},
    umem::{PinRequest, Umem},
};

/// Memory that is pinned and charged as RDMA has it: by the address space itself.
pub(crate) type Pinned = Umem<ARef<Mm>, ARef<Mm>, Kmalloc>;

/// What is kept of pinned pages, whose bytes are counted from the first page on.
pub(crate) trait Memory {
    /// Makes the table that drivers walk, in `to`, which is zero.
    fn make_table(&mut self, to: &mut sg_append_table, max_segment: u32) -> Result;

    /// The physical address of a byte.
    fn phys(&self, offset: u64) -> Option<u64>;

    /// The same, and how many bytes from there on are contiguous.
    fn run(&self, offset: u64) -> Option<(u64, u64)>;

    /// Copies bytes from `offset` on.
    ///
    /// # Safety
    ///
    /// `mm` has pinned the pages, and is held.
    unsafe fn read(&self, mm: *mut mm_struct, offset: u64, to: &mut [u8]) -> Result;

    /// Frees the table, and gives back what dropping this does not.
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

/// Pins memory, and maps it for the device. Without a `table`, the device translates by itself, and there is none but
/// of one entry.
///
/// # Safety
///
/// The device is there until the registration is dropped. It does not reach the memory any more then.
pub(crate) unsafe fn register(request: &Request, table: bool) -> Result<*mut IbUmem> {
    let task = current!();
    let mm: &Mm = task.mm().ok_or(EINVAL)?;
    let owner = ARef::<Mm>::from(mm);
    let to_pin = PinRequest::new(request.pages, request.flags());
    let mut pinned = pin(owner.clone(), owner, GFP_KERNEL, to_pin)?;
    // SAFETY: the device is there, as the caller promises.
    let max_segment = unsafe { ffi::ib_umem_max_segment(request.device) };
    let max_segment = max_segment & (PAGE as u32).wrapping_neg();
    if pinned.sgl().byte_len() <= max_segment.into() {
        match One::new(pinned) {
            // SAFETY: "that of `register`": as the caller promises; "pinned for the request, by `mm`": just now.
            Ok(one) => return unsafe { Registration::make(request, mm, one, Some(max_segment)) },
            Err(many) => pinned = many,
        }
    }
    // SAFETY: "that of `register`": as the caller promises; "pinned for the request, by `mm`": just now.
    unsafe { Registration::make(request, mm, Many(pinned), table.then_some(max_segment)) }
}

impl<M: Memory> Registration<M> {
    /// # Safety
    ///
    /// That of [`register`]; `memory` was pinned for the request, by `mm`.
    unsafe fn make(
        request: &Request,
        mm: &Mm,
        memory: M,
        table: Option<u32>,
    ) -> Result<*mut IbUmem> {
        let Request { device, addr, size, access, .. } = *request;
        let umem = Opaque::zeroed();
        // SAFETY: it is ours alone, and zero.
        unsafe { ffi::ib_umem_init(umem.get(), device, mm.as_raw(), addr, size, access) };
        // INVARIANT: it is that of these pages, with a table of nothing that is not mapped.
        let this = Self { umem, is_mapped: false, is_writable: request.is_writable(), memory };
        let mut this = KBox::new(this, GFP_KERNEL)?;
        if let Some(max_segment) = table {
            let umem = this.umem.get();
            // SAFETY: nothing else has it yet.
            let umem = unsafe { &mut *umem };
            // INVARIANT: the table is that of these pages.
            this.memory.make_table(&mut umem.entries, max_segment)?;
            // SAFETY: the device is there, as the caller promises, and the table was just made.
            to_result(unsafe { ffi::ib_umem_map(device, &mut umem.entries.sgt, umem.dma_attrs) })?;
        }
        // INVARIANT: it is mapped; where the device translates by itself, that is nothing.
        this.is_mapped = true;
        Ok(KBox::into_raw(this).cast())
    }

    /// # Safety
    ///
    /// There is room for as many bytes at `to`.
    unsafe fn read(&self, offset: usize, to: *mut u8, len: usize) -> Result {
        // SAFETY: by the invariant it is a `struct ib_umem`. It is not borrowed: drivers may write its `iova`
        // meanwhile, and nothing else of it.
        let mm = unsafe { (*self.umem.get()).mm };
        // SAFETY: there is room for as many bytes, which the caller lends. They are zeros, and so initialised.
        let to = unsafe {
            ptr::write_bytes(to, 0, len);
            slice::from_raw_parts_mut(to, len)
        };
        // SAFETY: "`mm` has pinned the pages, and is held": by the invariant it is that of the pages, which hold it.
        unsafe { self.memory.read(mm, self.in_pages(offset), to) }
    }

    /// Where a byte lies, counted from the first page on. Those before the first one are in its page, too.
    fn in_pages(&self, offset: usize) -> u64 {
        // SAFETY: by the invariant it is a `struct ib_umem`, whose address never changes.
        let address = unsafe { (*self.umem.get()).address };
        offset.wrapping_add(address & PAGE.wrapping_sub(1)) as u64
    }
}

impl<M: Memory> Drop for Registration<M> {
    fn drop(&mut self) {
        // SAFETY: by `&mut` it is ours alone.
        let umem = unsafe { &mut *self.umem.get() };
        if self.is_mapped && umem.entries.sgt.orig_nents != 0 {
            // SAFETY: by the invariant the table is mapped for this device, with these attributes.
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
        // SAFETY: it was not released, as the caller promises.
        if unsafe { ffi::ib_umem_is_pinned(umem) } {
            // SAFETY: as above.
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
        // SAFETY: it was not released, as the caller promises; its table never moves.
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
    // SAFETY: it was made and not released, as the caller promises. "A valid allocation .. of the right type": that of
    // `register`, which is taken back once.
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
/// many bytes at `to`.
pub(crate) unsafe fn read(umem: *mut IbUmem, offset: usize, to: *mut u8, len: usize) -> Result {
    // SAFETY: as the caller promises.
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

/// The physical address of byte `offset` of the registration, if it has one. In any context.
///
/// # Safety
///
/// `umem` was returned by [`register`], and is not released meanwhile.
pub(crate) unsafe fn phys(umem: *mut IbUmem, offset: usize) -> Option<u64> {
    // SAFETY: as the caller promises.
    unsafe {
        match Form::of_pinned(umem) {
            Form::One(one) => (*one).memory.phys((*one).in_pages(offset)),
            Form::Many(many) => (*many).memory.phys((*many).in_pages(offset)),
            Form::Other => None,
        }
    }
}

/// The same, and how many bytes from there on are contiguous; none, if it was made by the kernel's C.
///
/// # Safety
///
/// `umem` was returned by [`register`], or made by the kernel's C, and is not released meanwhile.
pub(crate) unsafe fn run(umem: *mut IbUmem, offset: usize) -> Option<(u64, u64)> {
    // SAFETY: as the caller promises.
    unsafe {
        match Form::of(umem) {
            Form::One(one) => (*one).memory.run((*one).in_pages(offset)),
            Form::Many(many) => (*many).memory.run((*many).in_pages(offset)),
            Form::Other => None,
        }
    }
}
