// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region that is one run is taken apart, for a caller that keeps it in fewer bytes.

use super::Umem;
use crate::sgl::PageRun;
use crate::store::Storage;
use crate::umem::{AccountantHolder, Charge, PinnerHolder};
use core::mem::ManuallyDrop;

impl<P, A, S> Umem<P, A, S>
where
    P: PinnerHolder,
    A: AccountantHolder,
    S: Storage,
{
    /// Takes a region apart that is one run. Its pins are the caller's then: to be
    /// [unpinned](crate::umem::Pinner::unpin) when no device reaches the pages any more, and before the charge is
    /// dropped.
    ///
    /// ```
    /// # use pinned_sgl::umem::{PinFlags, PinRequest, Pinner as _, Umem, Unaccounted, UserRange};
    /// # use pinned_sgl::UserAddr;
    /// # use pinned_sgl_mock::{Vma, Memory, Process};
    /// # let memory = Memory::with_frames(64);
    /// # let process = std::sync::Arc::new(Process::new(&memory));
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x4000)?;
    /// # process.map(range, Vma::read_write())?;
    /// let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    /// let umem = Umem::pin(process, &Unaccounted, request)?;
    /// let (process, charge, run) = umem.into_run().expect("the pages lie side by side");
    /// assert_eq!((run.count(), charge.pages()), (4, 4));
    /// // SAFETY: the pins are ours, and no device was shown the pages.
    /// unsafe { process.unpin(range.start(), run, false) };
    /// drop(charge);
    /// # memory.assert_no_leak();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The region, if it has more than one run, a device is attached to it, or it was written to: that its pages are to
    /// be marked dirty would be forgotten.
    #[expect(clippy::result_large_err, reason = "the region comes back as it was")]
    pub fn into_run(self) -> Result<(P, Charge<A>, PageRun), Self> {
        let run = match self.sgl.only() {
            Some(run) if self.attachments() == 0 && !self.is_dirty() => run,
            _ => return Err(self),
        };
        let mut this = ManuallyDrop::new(self);
        // SAFETY: "the container is not used again", each of them: `this` is neither used nor dropped again.
        let (pinner, charge) =
            unsafe { (ManuallyDrop::take(&mut this.pinner), ManuallyDrop::take(&mut this.charge)) };
        // SAFETY: as above. It is large, and not moved.
        unsafe { ManuallyDrop::drop(&mut this.sgl) };
        Ok((pinner, charge, run))
    }
}
