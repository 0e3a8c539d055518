// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinned memory in one call, for tests that are about what comes after the pin.
#![forbid(unsafe_code)]

use super::fault::PinFault;
use super::machine::Memory;
use super::process::Process;
use super::vma::Vma;
use pinned_sgl::umem::{PinError, PinFlags, PinRequest, Umem, Unaccounted, UserRange};
use pinned_sgl::{Failed, Heap};
use std::sync::Arc;

/// What [`Memory::pinned`] returns: a pinned region of a [`Process`], which is its
/// [pinner](Umem::pinner).
pub type PinnedMemory = Arc<Umem<Arc<Process>, &'static Unaccounted, Heap>>;

impl Memory {
    /// Pins the bytes `range` of a new process, to be written and for long: for tests of what comes after
    /// the pin.
    ///
    /// ```
    /// use pinned_sgl::{umem::UserRange, UserAddr};
    /// use pinned_sgl_mock::Memory;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(UserRange::new(UserAddr::new(0x7000_0800), 0x2000)?)?;
    /// assert_eq!((umem.len(), umem.sgl().page_count(), memory.pinned_pages()), (0x2000, 3, 3));
    /// umem.pinner().write(UserAddr::new(0x7000_0800), b"by the process")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PinError`], if there are too few frames or the [plan](Self::plan) lets the call fail.
    pub fn pinned(&self, range: UserRange) -> Result<PinnedMemory, PinError<PinFault>> {
        let process = Arc::new(Process::new(self));
        // Nothing is in the way in a new process.
        let _ = process.map_pages(process.pages_of(range), Vma::read_write());
        let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
        Umem::pin(process, &Unaccounted, request).map(Arc::new).map_err(Failed::into_error)
    }
}
