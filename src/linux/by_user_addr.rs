// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ByUserAddr`]: a buffer in a list of user addresses, for interfaces that pin what they map.

use super::buffer::Buffer;
use super::error::PageError;
use crate::addr::{Pfn, UserAddr};
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::sgl::{MemoryKind, PageRun};
use crate::umem::{AddressKind, Location, PageAccess, PinBatch, Pinner};
use core::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

/// A [`Buffer`] by its user addresses: a pinner that pins nothing, and needs no privilege.
///
/// It is for domains whose map call takes a user address and pins the memory itself, as
/// `VFIO_IOMMU_MAP_DMA` and `IOMMU_IOAS_MAP` do; `examples/vfio_container.rs` is one. All of the buffer
/// is one run, so that a region is mapped by as few calls as the page sizes of the domain allow: one, if
/// there is one size. The kernel charges what it pins, so the accountant is
/// [`Unaccounted`](crate::umem::Unaccounted).
///
/// A device that takes physical addresses refuses its regions.
///
/// ```
/// use pinned_sgl::linux::{Buffer, ByUserAddr, Pages};
/// use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
///
/// let memory = Box::new(ByUserAddr::new(Buffer::new(1 << 20, Pages::Base)?));
/// let request = PinRequest::new(memory.buffer().user_range(), PinFlags::WRITE | PinFlags::LONGTERM);
/// let umem = Umem::pin(memory, &Unaccounted, request)?;
/// assert_eq!(umem.sgl().run_count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ByUserAddr {
    // Invariant: not dropped, and mapped, as long as this lives.
    buffer: ManuallyDrop<Buffer>,
    /// Pages that are held.
    held: AtomicU64,
}

impl ByUserAddr {
    /// The memory of `buffer`.
    #[must_use]
    pub const fn new(buffer: Buffer) -> Self {
        Self { buffer: ManuallyDrop::new(buffer), held: AtomicU64::new(0) }
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl Drop for ByUserAddr {
    fn drop(&mut self) {
        // A region or a mapping of it was leaked: then the memory stays mapped.
        if *self.held.get_mut() == 0 {
            // SAFETY: "the container is not used again": the value is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.buffer) };
        }
    }
}

// SAFETY: the address kind is `User`, so that the runs are to be the user pages that were asked for, and
// `pin` pushes these: `wanted` has found them in the buffer. A buffer maps its memory, readable and
// writable, as long as it lives, which is as long as a page is held, also if this is dropped
// before: `held` counts the pages that were pushed and not unpinned. The page size is a field that is never
// written, and all runs are RAM.
unsafe impl Pinner for ByUserAddr {
    type Error = PageError;

    fn page_size(&self) -> PageSize {
        self.buffer.page_size()
    }

    fn address_kind(&self) -> AddressKind {
        AddressKind::User
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), PageError> {
        self.buffer.wanted(batch, AddressKind::User)?;
        let at = batch.next();
        let first = Pfn::new(at.get().shifted_down(self.page_size().shift()));
        let run = PageRun::new(first, batch.left(), MemoryKind::Ram);
        let run = run.map_err(|_| PageError::NotInBuffer { at })?;
        // Pins that are leaked count for ever: more than can be counted would be none.
        let add = |held: u64| held.checked_add(run.count());
        let counted = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        counted.map_err(|_| PageError::TooManyPins)?;
        // SAFETY: "the run is what the contract of `Pinner` says": these are the next pages, by their user
        // addresses, and `held` keeps them mapped.
        if unsafe { batch.push(run) }.is_err() {
            self.held.fetch_sub(run.count(), Ordering::Relaxed);
            return Err(PageError::NoRoom);
        }
        Ok(())
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, _dirty: bool) {
        // Dropping this, which takes it alone, comes after this in whatever order its owner has made.
        self.held.fetch_sub(run.count(), Ordering::Relaxed);
    }
}

impl PageAccess for ByUserAddr {
    type AccessError = PageError;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), PageError> {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, at the user address that the
        // location has, and stay pinned": `pin` has found them in the buffer, by which they are reached, and
        // they stay mapped; a buffer looks at the user address only.
        unsafe { PageAccess::read(&*self.buffer, from, bytes) }
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), PageError> {
        // SAFETY: "the bytes are those of pages that this pinner has pinned, for writing, ..": as for
        // `read`; all of a buffer may be written.
        unsafe { PageAccess::write(&*self.buffer, to, bytes) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::linux::pages::{base_page_size, Pages};
    use crate::umem::{PinFlags, PinRequest, Umem, Unaccounted};

    #[test]
    fn leaked_pins_do_not_wrap_to_none() {
        let page = base_page_size().unwrap().bytes();
        let memory = ByUserAddr::new(Buffer::new(2 * page, Pages::Base).unwrap());
        // As after so many regions that were forgotten.
        memory.held.store(u64::MAX - 1, Ordering::Relaxed);
        let request = PinRequest::new(memory.buffer().user_range(), PinFlags::WRITE);
        assert!(Umem::pin(&memory, &Unaccounted, request).is_err());
        assert_eq!(memory.held.load(Ordering::Relaxed), u64::MAX - 1);
        memory.held.store(0, Ordering::Relaxed);
    }
}
