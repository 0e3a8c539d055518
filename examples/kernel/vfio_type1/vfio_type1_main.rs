// SPDX-License-Identifier: MIT OR Apache-2.0
//! A backend for the containers of vfio that is loaded instead of `vfio_iommu_type1`: the same
//! interface, on scatterlists. See README.md.

// Nothing overflows unseen, and nothing panics: the kernel checks arithmetic, and what it finds ends it.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::integer_division
)]

mod abi;
mod container;
mod dirty;
mod dma;
mod domain;
mod emulated;
mod ffi;
mod groups;
mod mappings;
mod memory;
mod ranges;

use abi::{UserBitmap, Words};
use container::Container;
use domain::GroupPtr;
use kernel::{
    bindings,
    error::{from_result, to_result},
    prelude::*,
    types::ForeignOwnable,
};
use mappings::Request;

module! {
    type: Backend,
    name: "vfio_type1_sgl",
    authors: ["The pinned-sgl project"],
    description: "vfio's type1 IOMMU backend on scatterlists",
    license: "GPL",
}

struct Backend;

impl kernel::Module for Backend {
    fn init(_: &'static ThisModule) -> Result<Self> {
        // SAFETY: the table of functions is a static of `glue.c`; vfio holds the module while it uses it.
        to_result(unsafe { ffi::vfio_type1_register() })?;
        Ok(Self)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: it was registered; vfio holds the module as long as there is a container.
        unsafe { ffi::vfio_type1_unregister() };
    }
}

/// The container that vfio was given by [`vfio_type1_open`].
///
/// # Safety
///
/// `data` was opened, and is not released meanwhile.
unsafe fn container<'a>(data: *mut c_void) -> Pin<&'a Container> {
    // SAFETY: "the pointer came from `into_foreign` and `from_foreign` was not called": it was opened and is
    // not released meanwhile, as the caller promises; "there is no mutable borrow": there is none anywhere.
    unsafe { Pin::<KBox<Container>>::borrow(data) }
}

/// Makes a container.
#[no_mangle]
extern "C" fn vfio_type1_open(kind: usize) -> *mut c_void {
    let v2 = match kind {
        abi::TYPE1 => false,
        abi::TYPE1_V2 | abi::NESTING => true,
        _ => return EINVAL.to_ptr(),
    };
    match Container::new(v2) {
        Ok(container) => container.into_foreign(),
        Err(error) => error.to_ptr(),
    }
}

/// Drops a container.
///
/// # Safety
///
/// It was opened, and nothing uses it.
#[no_mangle]
unsafe extern "C" fn vfio_type1_release(data: *mut c_void) {
    // SAFETY: "the pointer came from `into_foreign`, and was not passed to `from_foreign` before": it was opened,
    // and nothing uses it, as the caller promises, which is vfio and releases what it has opened once.
    drop(unsafe { Pin::<KBox<Container>>::from_foreign(data) });
}

/// What a program asks for; `data` is null where it asks before there is a container.
///
/// # Safety
///
/// `data` was opened, or is null.
#[no_mangle]
unsafe extern "C" fn vfio_type1_ioctl(data: *mut c_void, command: u32, argument: usize) -> isize {
    from_result(|| {
        if data.is_null() {
            return match command {
                abi::CHECK_EXTENSION => Ok(extension(None, argument)),
                _ => Err(ENOTTY),
            };
        }
        // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
        let container = unsafe { container(data) };
        let container = container.get_ref();
        match command {
            abi::CHECK_EXTENSION => return Ok(extension(Some(container), argument)),
            abi::GET_INFO => get_info(container, argument)?,
            abi::MAP_DMA => map(container, argument)?,
            abi::UNMAP_DMA => unmap(container, argument)?,
            abi::DIRTY_PAGES => dirty_pages(container, argument)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    })
}

fn extension(container: Option<&Container>, argument: usize) -> isize {
    let has = match argument {
        abi::TYPE1 | abi::TYPE1_V2 | abi::CAN_UNMAP_ALL => true,
        // Emulated devices pin, and copy, at any time: their memory cannot move.
        abi::CAN_UPDATE_VADDR => container.is_some_and(|container| !container.has_emulated()),
        abi::COHERENT => container.is_some_and(Container::is_coherent),
        _ => false,
    };
    has.into()
}

/// A chain of capabilities. They begin behind the 24 bytes of the answer.
struct Caps {
    bytes: KVec<u8>,
    /// Where the last one says where the next one is.
    link: Option<usize>,
}

impl Caps {
    const BEGIN: usize = 24;

    fn add(&mut self, id: u16, version: u16, parts: &[&[u8]]) -> Result {
        let next = u32::try_from(self.end()?)?.to_ne_bytes();
        let link = self.link.and_then(|at| self.bytes.get_mut(at..)?.first_chunk_mut());
        if let Some(link) = link {
            *link = next;
        }
        let flags = GFP_KERNEL;
        self.bytes.extend_from_slice(&id.to_ne_bytes(), flags)?;
        self.bytes.extend_from_slice(&version.to_ne_bytes(), flags)?;
        self.link = Some(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4], flags)?;
        for part in parts {
            self.bytes.extend_from_slice(part, flags)?;
        }
        let aligned = self.bytes.len().checked_next_multiple_of(8).ok_or(ENOMEM)?;
        self.bytes.resize(aligned, 0, flags)?;
        Ok(())
    }

    /// Where the next one would be.
    fn end(&self) -> Result<usize> {
        self.bytes.len().checked_add(Self::BEGIN).ok_or(ENOMEM)
    }
}

fn get_info(container: &Container, argument: usize) -> Result {
    let size = Words::<4>::read(argument)?.u32(0) as usize;
    if size < 16 {
        return Err(EINVAL);
    }
    let mut caps = Caps { bytes: KVec::new(), link: None };
    let state = container.state();
    let sizes = state.size_bits();
    let page = state.page().bytes();
    caps.add(
        abi::info::CAP_MIGRATION,
        1,
        &[&[0; 8], &page.to_ne_bytes(), &abi::BITMAP_BYTES.to_ne_bytes()],
    )?;
    caps.add(abi::info::CAP_AVAIL, 1, &[&state.available().to_ne_bytes()])?;
    let ranges = state.ranges().as_slice();
    if !ranges.is_empty() {
        let mut bytes = KVec::new();
        for (first, last) in ranges {
            bytes.extend_from_slice(&first.to_ne_bytes(), GFP_KERNEL)?;
            bytes.extend_from_slice(&last.to_ne_bytes(), GFP_KERNEL)?;
        }
        let count = u32::try_from(ranges.len())?.to_ne_bytes();
        caps.add(abi::info::CAP_RANGES, 1, &[&count, &[0; 4], &bytes])?;
    }
    drop(state);

    let whole = caps.end()?;
    let (reported, offset) = if size < whole {
        (whole, 0)
    } else {
        abi::write(argument.wrapping_add(Caps::BEGIN), &caps.bytes)?;
        (size, Caps::BEGIN)
    };
    let flags = abi::info::PAGE_SIZES | abi::info::CAPS;
    let [reported, flags, offset] =
        [u32::try_from(reported)?, flags, u32::try_from(offset)?].map(u32::to_ne_bytes);
    let answer =
        abi::structure::<{ Caps::BEGIN }>(&[&reported, &flags, &sizes.to_ne_bytes(), &offset]);
    abi::write(argument, answer.get(..size.min(Caps::BEGIN)).unwrap_or_default())
}

fn map(container: &Container, argument: usize) -> Result {
    let words = Words::<8>::read(argument)?;
    let flags = words.u32(1);
    let known = abi::map::READ | abi::map::WRITE | abi::map::VADDR;
    if words.u32(0) < 32 || flags & !known != 0 {
        return Err(EINVAL);
    }
    let (vaddr, iova) = (abi::size(words.u64(2))?, abi::address(words.u64(4))?);
    let range = abi::range(iova, abi::size(words.u64(6))?)?;
    let more = range.last().get().checked_sub(iova).ok_or(EOVERFLOW)?;
    abi::size(vaddr.checked_add(more).ok_or(EOVERFLOW)?)?;
    // Access, or a new place for memory that is mapped: one of the two.
    let access = flags & (abi::map::READ | abi::map::WRITE) != 0;
    if access == (flags & abi::map::VADDR != 0) {
        return Err(EINVAL);
    }
    container.state().map(&Request { flags, vaddr, range })
}

fn unmap(container: &Container, argument: usize) -> Result {
    let words = Words::<6>::read(argument)?;
    let (size, flags) = (words.u32(0), words.u32(1));
    let known = abi::unmap::DIRTY | abi::unmap::ALL | abi::unmap::VADDR;
    if size < 24 || flags & !known != 0 {
        return Err(EINVAL);
    }
    let (iova, len) = (words.u64(2), words.u64(4));
    let mut bitmap = None;
    if flags & abi::unmap::DIRTY != 0 {
        if flags & (abi::unmap::ALL | abi::unmap::VADDR) != 0 || size < 48 {
            return Err(EINVAL);
        }
        let user = UserBitmap::new(&Words::<6>::read(argument.wrapping_add(24))?, 0);
        user.check(len)?;
        bitmap = Some(user);
    }
    let bytes = container.unmap(flags, iova, len, bitmap)?;
    // All of it, as it was read.
    let [size, flags] = [size, flags].map(u32::to_ne_bytes);
    let [iova, bytes] = [iova, bytes].map(u64::to_ne_bytes);
    abi::write(argument, &abi::structure::<24>(&[&size, &flags, &iova, &bytes]))
}

fn dirty_pages(container: &Container, argument: usize) -> Result {
    if !container.state().is_v2() {
        return Err(EACCES);
    }
    let words = Words::<2>::read(argument)?;
    let size = words.u32(0);
    if size < 8 {
        return Err(EINVAL);
    }
    match words.u32(1) {
        abi::dirty::START => container.state().start_tracking(),
        abi::dirty::STOP => {
            container.state().stop_tracking();
            Ok(())
        }
        abi::dirty::GET => {
            if size < 48 {
                return Err(EINVAL);
            }
            let words = Words::<10>::read(argument.wrapping_add(8))?;
            let (iova, len) = (abi::address(words.u64(0))?, abi::size(words.u64(2))?);
            let range = abi::range(iova, len)?;
            let user = UserBitmap::new(&words, 4);
            user.check(len)?;
            container.state().read_dirty(range, &user)
        }
        // None, several, or one that is unknown.
        _ => Err(EINVAL),
    }
}

/// Attaches a group.
///
/// # Safety
///
/// `data` was opened; vfio keeps the group until it is detached.
#[no_mangle]
unsafe extern "C" fn vfio_type1_attach(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
    emulated: bool,
) -> c_int {
    // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
    let container = unsafe { container(data) };
    from_result(|| container.state().attach(GroupPtr(group), emulated).map(|()| 0))
}

/// Detaches a group.
///
/// # Safety
///
/// `data` was opened, and the group attached.
#[no_mangle]
unsafe extern "C" fn vfio_type1_detach(data: *mut c_void, group: *mut bindings::iommu_group) {
    // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
    let container = unsafe { container(data) };
    container.state().detach(GroupPtr(group));
}

/// Pins pages for an emulated device; returns how many, which is all of them.
///
/// # Safety
///
/// `data` was opened; there is room for `count` pointers at `pages`.
#[no_mangle]
unsafe extern "C" fn vfio_type1_pin_pages(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
    iova: bindings::dma_addr_t,
    count: c_int,
    prot: c_int,
    pages: *mut *mut bindings::page,
) -> c_int {
    from_result(|| {
        if data.is_null() || pages.is_null() || count <= 0 {
            return Err(EINVAL);
        }
        // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
        let container = unsafe { container(data) };
        // SAFETY: there is room for `count` pointers that nothing else uses meanwhile, as the caller promises;
        // any bits are a pointer.
        let pages = unsafe { core::slice::from_raw_parts_mut(pages, count as usize) };
        container.state().pin_pages(GroupPtr(group), iova, prot as u32, pages)?;
        Ok(count)
    })
}

/// Unpins pages of an emulated device.
///
/// # Safety
///
/// `data` was opened.
#[no_mangle]
unsafe extern "C" fn vfio_type1_unpin_pages(
    data: *mut c_void,
    iova: bindings::dma_addr_t,
    count: c_int,
) {
    // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
    let container = unsafe { container(data) };
    if !kernel::warn_on!(count <= 0) {
        container.state().unpin_pages(iova, count as u64);
    }
}

/// From now on the device is notified of an unmap.
///
/// # Safety
///
/// `data` was opened; the device stays until it is unregistered.
#[no_mangle]
unsafe extern "C" fn vfio_type1_register_device(data: *mut c_void, device: *mut ffi::VfioDevice) {
    // SAFETY: it "was opened, and is not released meanwhile", and "the device stays until it is removed": the
    // caller promises both, which is vfio.
    unsafe { container(data).add_device(device) };
}

/// From now on it is not.
///
/// # Safety
///
/// `data` was opened; the device was registered.
#[no_mangle]
unsafe extern "C" fn vfio_type1_unregister_device(data: *mut c_void, device: *mut ffi::VfioDevice) {
    // SAFETY: it "was opened, and is not released meanwhile", and "the device was added": the caller promises
    // both, which is vfio.
    unsafe { container(data).remove_device(device) };
}

/// Copies bytes for an emulated device.
///
/// # Safety
///
/// `data` was opened; there are `len` bytes at `bytes`.
#[no_mangle]
unsafe extern "C" fn vfio_type1_dma_rw(
    data: *mut c_void,
    iova: bindings::dma_addr_t,
    bytes: *mut c_void,
    len: usize,
    write: bool,
) -> c_int {
    // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
    let container = unsafe { container(data) };
    // SAFETY: "there are `len` bytes at `data`": the caller promises it.
    from_result(|| unsafe { container.state().copy(iova, bytes.cast(), len, write) }.map(|()| 0))
}

/// The domain of a group.
///
/// # Safety
///
/// `data` was opened, or is null.
#[no_mangle]
unsafe extern "C" fn vfio_type1_group_domain(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
) -> *mut bindings::iommu_domain {
    if data.is_null() || group.is_null() {
        return EINVAL.to_ptr();
    }
    // SAFETY: it "was opened, and is not released meanwhile": the caller promises it, which is vfio.
    let container = unsafe { container(data) };
    let domain = container.state().domain_of(GroupPtr(group));
    domain.unwrap_or_else(|error| error.to_ptr())
}
